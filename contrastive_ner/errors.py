"""Errors that the user can fix. The command line prints each as one line and exits with 2.

Any other exception is a bug and shows its traceback, except `OSError` (missing file, full disk).
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from contrastive_ner.models.windows_ner import InputError


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
