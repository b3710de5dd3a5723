"""The fields of a row besides its text, which predictions carry through."""

import json
import math
from collections.abc import Mapping
from typing import Any

DEEPEST = 50
RECORD_FIELDS = ("id", "text", "entities", "doc", "tokens", "coverage")


def other_fields(row: Mapping[Any, Any], text_column: str) -> dict[str, Any]:
    """The fields of a row that a record does not have itself, as values that JSON can hold.

    The text column is left out, and so is an object in "label", CLUENER's mentions.
    """
    return {
        str(name): plain(value)
        for name, value in row.items()
        if name not in (*RECORD_FIELDS, text_column)
        and not (name == "label" and isinstance(value, Mapping))
    }


def plain(value: Any, depth: int = 0) -> Any:
    """A value that JSON can hold; of other values (a time, bytes, a decimal number) their text.

    So it is with what is nested more than `DEEPEST` deep, which other code could not handle.

    >>> plain({"when": b"2020", 3: [float("nan"), 1]})
    {'when': '2020', '3': [None, 1]}
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping | list | tuple) and depth == DEEPEST:
        return json.dumps(value, default=str)
    if isinstance(value, Mapping):
        return {str(name): plain(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, depth + 1) for item in value]
    if hasattr(value, "tolist"):  # of NumPy or torch
        return plain(value.tolist(), depth + 1) if depth < DEEPEST else str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def as_text(value: Any) -> str:
    """A value in a cell of text: strings as they are, others as JSON, nothing for none."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)
