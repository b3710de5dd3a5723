"""Errors that the user can fix. The command line prints each as one line and exits with 2.

Any other exception is a bug and shows its traceback, except `OSError` (missing file, full disk).
"""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from contrastive_ner.models.windows_ner import InputError

MOST_CHANGES = 8  # shown of a difference between settings


class UserError(InputError):
    """Unusable input; the message says what was expected, what was found and how to fix it.

    Its base `InputError`, a `ValueError`, is raised by the code that is saved with the weights and
    cannot import this file.
    """


class ConfigError(UserError):
    """An option or a configuration that cannot be used."""


class DataError(UserError):
    """A file that cannot be read as annotated text; the message names file and line."""


def shown(value: Any) -> str:
    """A value for an error message: its repr, shortened.

    >>> shown("x" * 100)
    "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx..."
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # thousands of digits, or nested too deeply
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= 60 else f"{text[:57]}..."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question after an unknown name, if a known one is like it.

    >>> did_you_mean("stage1_epoch", ["stage1_epochs", "seed"])
    ' (did you mean stage1_epochs?)'
    """
    close = get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs between two settings, keys inside others included: the first ones of many.

    >>> difference({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2})
    'a.b: 1 there, 3 now'
    """
    before, after = flattened(old), flattened(new)
    changed = [
        f"{key}: {shown(before.get(key))} there, {shown(after.get(key))} now"
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    ]
    more = f"; and {len(changed) - MOST_CHANGES} more" if len(changed) > MOST_CHANGES else ""
    return "; ".join(changed[:MOST_CHANGES]) + more


def flattened(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without nesting; the names of inner ones are those of outer and inner."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{key}.{inner}": own for inner, own in flattened(value).items()}
        else:
            flat[key] = value
    return flat


def is_storable(text: str) -> bool:
    """Whether a text can be a file name or stand in a UTF-8 file: no NUL, no lone surrogate."""
    return re.search("[\0\ud800-\udfff]", text) is None


def is_user_error(error: BaseException) -> bool:
    """Whether the user can fix an error: a `UserError`, an `InputError` or an `OSError`.

    `InputError` is recognized by name, since a saved model has its own copy of the class.
    """
    return isinstance(error, OSError) or any(
        kind.__name__ == InputError.__name__ for kind in type(error).__mro__
    )


class RepositoryError(UserError):
    """A model repository that is damaged, incomplete, or contains something it must not.

    `faults` lists everything that was found.
    """

    def __init__(self, where: str | Path, faults: Iterable[str]) -> None:
        self.faults = list(faults)
        super().__init__(f"{where}: " + "; ".join(self.faults))
