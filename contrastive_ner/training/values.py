"""Values of a configuration: from YAML or the command line to their types, and their ranges."""

import re
import types
import typing
from collections.abc import Callable
from typing import Any

from contrastive_ner.errors import ConfigError, is_storable, shown
from contrastive_ner.training.mixtures import check_sets

MAY_BE_ZERO = {
    "stage1_epochs",
    "stage1_chunk_size",
    "head_epochs",
    "stage1_freeze_layers",
    "stage1_projection",
    "lora_rank",
    "stage2_unfreeze_epoch",
    "types_per_batch",
    "max_span_width",
    "width_embedding_size",
    "window_overlap",
    "documents_of",
    "train_texts",
    "seed",
    "token_column",
}
LARGEST = {
    "projection_size": 2**16,
    "width_embedding_size": 2**16,
    "stage1_projection": 2**16,
    "rank": 2**16,
    "batch_size": 2**20,
    "": 2**32 - 1,
}  # by the end of a key
RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {  # by the end of a key
    "learning_rate": ("(0, 1]", lambda x: 0 < x <= 1),
    "temperature": ("(0, 100]", lambda x: 0 < x <= 100),
    "weight_decay": ("[0, 1]", lambda x: 0 <= x <= 1),
    "threshold_weight": ("[0, 1]", lambda x: 0 <= x <= 1),
    "_weight": ("[0, 1000000]", lambda x: 0 <= x <= 1e6),
    "clip_value": ("[0, 1000000]", lambda x: 0 <= x <= 1e6),
    "class_weight_power": ("[0, 1]", lambda x: 0 <= x <= 1),
    "absent": ("[0, 1)", lambda x: 0 <= x < 1),
    "dropout": ("[0, 1)", lambda x: 0 <= x < 1),
    "warmup": ("[0, 1)", lambda x: 0 <= x < 1),
}


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


def check_range(name: str, value: Any) -> None:
    """Raise ConfigError for a number out of its range, NaN and infinity included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    for end, (interval, holds) in RANGES.items():
        if name.endswith(end):
            if not holds(value):
                raise ConfigError(f"{name} is {shown(value)}: expected a number in {interval}")
            return
    low = 0 if name in MAY_BE_ZERO else 1
    high = next(limit for end, limit in LARGEST.items() if name.endswith(end))
    if not value >= low:
        raise ConfigError(f"{name} is {shown(value)}: expected at least {low}")
    if value > high:
        raise ConfigError(f"{name} is {shown(value)}: expected at most {high}")
