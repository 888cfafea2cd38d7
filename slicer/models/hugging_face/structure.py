"""A model of transformers out of a spec alone: its class, its config and how it computes attention."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from slicer.core.common.error_text import named_line, shown
from slicer.errors import ModelError
from slicer.models.hugging_face import families

#: How attention is computed: torch's fused function, which is transformers' default, or matrix products one by one.
ATTENTIONS: tuple[str, ...] = ("sdpa", "eager")

#: Of the spec's kwargs.
KEYS: tuple[str, ...] = ("class", "config", "attention", "output", "transformers")


class HuggingFaceModel(nn.Module):
    """A model of transformers that takes pixels and returns one tensor, a row per image.

    Attributes:
        model: of transformers.
        config: its config.
    """

    def __init__(self, model: nn.Module, output: str) -> None:
        super().__init__()
        self.model = model
        self.config = model.config
        self._output = output

    def forward(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """The chosen field of the model's ModelOutput."""
        answer: torch.Tensor = families.take(self.model(pixels_BCHW), self._output)
        return answer

    def forward_outputs(self, pixels_BCHW: torch.Tensor, names: Sequence[str]) -> list[torch.Tensor]:
        """The chosen field, and further outputs (`slicer.models.outputs`) of the same pass."""
        tower = families.tower_of(self.model)
        seen: list[Mapping[str, Any]] = []
        mine = threading.get_ident()

        def keep(_: nn.Module, __: Any, result: Mapping[str, Any]) -> None:
            if threading.get_ident() == mine:  # the hook is the module's, which other threads may be running
                seen.append(result)

        handle = tower.register_forward_hook(keep)
        try:
            result = self.model(pixels_BCHW)
        finally:
            handle.remove()
        further = [families.further(tower, seen[-1], result, name) for name in names]
        return [families.take(result, self._output), *further]


def transformers() -> Any:
    """The library. Raises ModelError where it is not installed."""
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ModelError(
            f"models of Hugging Face need transformers ({named_line(error)}): pip install 'headtail[hf]'"
        ) from error


def find_class(class_name: str) -> Any:
    """The class of that name. Raises ModelError."""
    made = getattr(transformers(), class_name, None) if families.is_known(class_name) else None
    if made is None:
        raise ModelError(f"transformers {transformers().__version__} has no image model {shown(class_name)}")
    return made


def make_config(made: Any, config: Mapping[str, Any]) -> Any:
    """The config of a class as an object. Raises ModelError."""
    try:
        with quiet():
            return made.config_class.from_dict(dict(config))
    except Exception as error:  # each config validates in its own way
        raise ModelError(f"the config of {made.__name__} is not valid: {shown(named_line(error))}") from error


def pools(made: Any) -> bool:
    """Whether a class has a pooling layer with weights, which it can be built without."""
    return "add_pooling_layer" in inspect.signature(made.__init__).parameters


def build(kwargs: Mapping[str, Any], state: Mapping[str, torch.Tensor] | None = None) -> tuple[nn.Module, Any]:
    """The model with random weights, or with those of `state`; and what transformers says of how `state` fitted.

    Raises:
        ModelError: it cannot be built.
    """
    class_name = str(kwargs["class"])
    made = find_class(class_name)
    config = make_config(made, kwargs["config"])
    given: dict[str, Any] = {"attn_implementation": kwargs["attention"], "dtype": torch.float32}
    if pools(made):
        given["add_pooling_layer"] = kwargs["output"] == "pooler_output"
    try:
        with quiet():
            if state is None:
                model, info = made._from_config(config, **given), {}
            else:
                model, info = made.from_pretrained(
                    None,
                    config=config,
                    state_dict=dict(state),
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,
                    **given,  # the info names them, where an error would not
                )
    except Exception as error:  # whatever a model's constructor raises for this config
        raise ModelError(f"{class_name} cannot be built: {shown(named_line(error))}") from error
    for part in model.modules():
        vars(part).pop("_is_hf_initialized", None)  # the loader's notes, which a model without weights has not
        if (own := vars(part).get("config")) is not None:
            own.name_or_path, own.dtype = "", torch.float32
        if "name_or_path" in vars(part):
            part.name_or_path = ""
    _without_caches(model)
    return HuggingFaceModel(model, str(kwargs["output"])), info


def _without_caches(model: nn.Module) -> None:
    """Let the model's code compute its tables of indices each time, for the whole process.

    transformers keeps some in a cache of the process. What a trace on the meta device leaves there has no values, and
    every later model of that size would read it.
    """
    for name in {type(part).__module__ for part in model.modules()}:
        if not name.startswith("transformers."):
            continue
        code = sys.modules[name]
        for holder in [code, *(one for one in vars(code).values() if inspect.isclass(one) and one.__module__ == name)]:
            for key, value in list(vars(holder).items()):
                function = value.__func__ if isinstance(value, staticmethod) else value
                if inspect.isfunction(function) and _is_cached(function):
                    plain = inspect.unwrap(function)
                    setattr(holder, key, staticmethod(plain) if isinstance(value, staticmethod) else plain)


def _is_cached(function: Any) -> bool:
    """Whether it is what `transformers.pytorch_utils.compile_compatible_method_lru_cache` makes."""
    held = []
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # not assigned yet
            held.append(cell.cell_contents)
    return hasattr(function, "__wrapped__") and any(hasattr(value, "cache_info") for value in held)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No bars, configs and load reports on the terminal: what matters in them is an error here."""
    log: Any = importlib.import_module("transformers.utils.logging")
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
