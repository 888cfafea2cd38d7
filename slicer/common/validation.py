"""What is read from YAML as typed objects, and pydantic's complaints in our words."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from slicer.core.common.error_text import nearest as nearest
from slicer.core.common.error_text import shown

#: Lines of one message.
_MOST = 10

#: Characters of one line that pydantic or a check wrote.
_LONGEST = 600

#: Keys whose values are never printed.
_SECRET = frozenset({"token"})


class Strict(BaseModel):
    """Base of what is read from YAML: frozen, unknown keys refused, numbers finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


def explain(error: ValidationError | TypeError, where: str, model: type[BaseModel]) -> str:
    """Why `model` could not be made: one bounded line per wrong key, with its value; `where` begins each, if given."""
    before = f"{where}: " if where else ""
    if isinstance(error, TypeError):
        return f"{before}keys must be words ({shown(str(error))})"
    found = error.errors(include_url=False)
    lines = [_line(dict(item), before, model) for item in found[:_MOST]]
    if len(found) > _MOST:
        lines.append(f"{before}and {len(found) - _MOST} more")
    return "\n".join(lines)


def _line(item: dict[str, Any], before: str, model: type[BaseModel]) -> str:
    loc = item["loc"]
    place = shown(".".join(str(part) for part in loc))
    kind, message = item["type"], str(item["msg"]).removeprefix("Value error, ")
    if kind == "extra_forbidden":
        known = {name for owner in _owners(model, loc[:-1]) for name in owner.model_fields}
        message = "unknown key" + (nearest(loc[-1], known) or "; remove it or check its spelling")
    elif kind == "missing":
        message = "missing; give it a value"
    elif kind != "value_error":
        # A mapping or list in place of another thing is not shown: it may hold the token.
        secret = any(part in _SECRET for part in loc) or isinstance(item["input"], dict | list)
        message += "" if secret else f" (got {_value(item['input'])})"
        if kind == "literal_error":
            message += nearest(item["input"], _words(str(item["ctx"]["expected"])))
        elif kind == "string_type" and isinstance(item["input"], bool | int | float):
            message += "; put it in quotes if text is meant"
    if len(message) > _LONGEST:
        message = f"{message[:_LONGEST]}..."
    message = " ".join(message.split())
    return f"{before}{place}: {message}" if place else f"{before}{message}"


def _value(value: Any) -> str:
    return shown(repr(value[:500])) if isinstance(value, str) else shown(value)


def _words(expected: str) -> list[str]:
    """Of ``'auto', 'cuda' or 'cpu'``."""
    return expected.split("'")[1::2]


def _owners(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[type[BaseModel]]:
    """The models that the place `loc` may belong to; pydantic tells the place only."""
    owners = [model]
    for part in loc:
        inner = [found for owner in owners if part in owner.model_fields for found in _inside(owner, str(part))]
        owners = inner or owners
    return owners


def _inside(owner: type[BaseModel], field: str) -> list[type[BaseModel]]:
    found, todo = [], [owner.model_fields[field].annotation]
    while todo:
        kind = todo.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found.append(kind)
        todo += get_args(kind)
    return found
