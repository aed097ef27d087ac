"""The configuration's keys, as the configuration itself describes them."""

from typing import Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from common.config import RunConfig


def described() -> list[tuple[str, str, str]]:
    """Return each key with its default and what it may be, in the order of the configuration."""
    defaults, fields = RunConfig().to_flat(), _fields(RunConfig, "")
    return [(key, _shown(value), _allowed(fields[key])) for key, value in defaults.items()]


def _fields(section: type[BaseModel], prefix: str) -> dict[str, FieldInfo]:
    found: dict[str, FieldInfo] = {}
    for name, field in section.model_fields.items():
        key, kind = prefix + name.replace("_", "-"), field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= _fields(kind, f"{key}.")
        else:
            found[key] = field
    return found


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value) or '""'


def _allowed(field: FieldInfo) -> str:
    """Return a field's choices, else its kind and bounds, and the remark that stands beside it."""
    kind = field.annotation
    if get_origin(kind) is Literal:
        what = " | ".join(map(str, get_args(kind)))
    else:
        kinds: dict[object, str] = {bool: "true | false", int: "whole number", float: "number"}
        what = kinds.get(kind, "")
        bounds = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
        what += "".join(
            f" {sign} {getattr(rule, name):.10g}"
            for rule in field.metadata
            for name, sign in bounds.items()
            if getattr(rule, name, None) is not None
        )
    return "; ".join(part for part in (what.strip(), field.description or "") if part)
