"""Errors that the user can fix. The command line prints one line for each and exits with 2.

Anything else that is raised is a bug, and shows its traceback (`OSError` aside: a missing file, a full disk).
"""

from collections.abc import Iterable
from pathlib import Path

from contrastive_ner.models.windows_ner import InputError


class UserError(InputError):
    """What the user gave cannot be used; the message says what was expected, what was found and how to fix it.

    Its base, `InputError`, a `ValueError`, is raised by the code that travels with the weights, which cannot import this file.
    """


class ConfigError(UserError):
    """An option or a configuration that cannot be used."""


class DataError(UserError):
    """A file that cannot be read as annotated text; the message names file and line."""


def is_user_error(error: BaseException) -> bool:
    """Whether the user can fix it: a `UserError`, an `InputError` (a model's own copy of the class included), an `OSError`."""
    return isinstance(error, OSError) or any(
        kind.__name__ == InputError.__name__ for kind in type(error).__mro__
    )


class RepositoryError(UserError):
    """A model repository that is damaged, incomplete, or holds what it must not. `faults` lists everything that was found."""

    def __init__(self, where: str | Path, faults: Iterable[str]) -> None:
        self.faults = list(faults)
        super().__init__(f"{where}: " + "; ".join(self.faults))
