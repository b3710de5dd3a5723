"""Values of a configuration, from YAML or the command line, as the types of their fields."""

import re
import types
import typing
from typing import Any

from contrastive_ner.errors import ConfigError, is_storable, shown
from contrastive_ner.training.mixtures import check_sets


def convert(key: str, value: Any, kind: Any) -> Any:
    """A value from YAML or the command line as the type of its field; ConfigError otherwise."""
    if isinstance(kind, types.UnionType):
        if value is None or value == "":
            return None
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    if typing.get_origin(kind) is dict:
        return check_sets(value)
    try:
        if typing.get_origin(kind) is tuple:
            items = re.split(r"[,\s]+", value) if isinstance(value, str) else value
            if not isinstance(items, list | tuple):
                raise TypeError
            inner = typing.get_args(kind)[0]
            return tuple(convert(key, item, inner) for item in items if item != "")
        if kind is bool:
            return {"true": True, "false": False}[str(value).lower()]
        if kind is str:
            if not isinstance(value, str | int | float | None) or not is_storable(str(value)):
                raise TypeError
            return (
                str(value).lower()
                if isinstance(value, bool)
                else ("" if value is None else str(value))
            )
        if isinstance(value, bool):  # float would make a number of it
            raise TypeError
        return int(str(value)) if kind is int else float(value)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        wanted = "true or false" if kind is bool else getattr(kind, "__name__", str(kind))
        raise ConfigError(f"{key} is {shown(value)}: expected {wanted}") from error
