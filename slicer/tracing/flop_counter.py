"""Count floating-point operations with torch's own formulas: matmul, convolution, attention; elementwise work is free.

Only shapes are looked at, so counting works on the meta device, where nothing is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums the FLOPs (one multiply-add is two) of every operator that runs inside the ``with`` block, on this thread.

    torch's FlopCounterMode counts the same but also tracks modules, by global hooks that would get in the tracer's way.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = cast("dict[Any, Callable[..., int]]", flop_registry).get(func._overloadpacket)
        if formula is not None:
            self.flops += int(formula(*args, **kwargs, out_val=out))
        return out
