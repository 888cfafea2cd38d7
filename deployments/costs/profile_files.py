"""Cost profiles as files: YAML, shipped ones by their name (`deployments/costs/shipped/`), others by their path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from deployments.costs.cost_model import CostModel, from_dict
from slicer.common.validation import nearest
from slicer.common.yaml_files import read_yaml
from slicer.core.common.error_text import shown
from slicer.errors import ConfigError

_SHIPPED = Path(__file__).parent / "shipped"


def shipped() -> list[str]:
    """Names of the profiles that this package brings; all of them say in their source whether they are hypothetical."""
    return sorted(path.stem for path in _SHIPPED.glob("*.yaml"))


def load_cost_profile(name_or_path: str | Path) -> CostModel:
    """Read a profile.

    Raises:
        ConfigError: there is no such file, or something in it is wrong; the message names the file.
    """
    path = Path(name_or_path)
    if str(name_or_path) in shipped():
        path = _SHIPPED / f"{name_or_path}.yaml"
    try:
        data = read_yaml(path)
    except ConfigError as error:
        near = nearest(name_or_path, shipped())
        raise ConfigError(f"cost profile {error}{near}; shipped are {', '.join(shipped())}") from None
    try:
        return from_dict(data)
    except ConfigError as error:
        raise ConfigError(f"cost profile {shown(path)}: {error}") from None


def load_cost_profile_of(model: str, num_slices: int, name_or_path: str | Path) -> CostModel:
    """Read the profile of a model that is cut into so many slices.

    Raises:
        ConfigError: as `load_cost_profile`, or it was made for another number of slices.
    """
    table = load_cost_profile(name_or_path)
    if table.num_slices != num_slices:
        raise ConfigError(
            f"profile {str(name_or_path)!r} of {model!r} has {table.num_slices} slices, the model {num_slices}; "
            "measure it again (leave profile out), or cut the model as it was then"
        )
    return table


def save_profiles(tables: Mapping[str, CostModel], folder: Path) -> None:
    """Write the table of each model to ``folder/MODEL.yaml``; the folder is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for model, table in tables.items():
        table.name = table.name or model
        save_cost_profile(table, folder / f"{model}.yaml")


def save_cost_profile(costs: CostModel, path: str | Path) -> None:
    """Write a profile; `load_cost_profile` reads it back.

    Raises:
        ConfigError: its source does not say where it comes from, so nobody could trust it later.
    """
    data = costs.to_dict()
    from_dict(data)
    Path(path).write_text(yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=120), encoding="utf-8")
