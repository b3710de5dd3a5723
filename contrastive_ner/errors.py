"""Errors that the user can fix. The command line prints each as one line and exits with 2.

Any other exception is a bug and shows its traceback, except `OSError` (missing file, full disk).
"""

from collections.abc import Iterable
from pathlib import Path

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
