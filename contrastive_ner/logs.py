"""Messages of long-running work, logged under the package's name. Results go to standard output."""

import logging
import sys
from typing import Any, TextIO

log = logging.getLogger("contrastive_ner")


class StderrHandler(logging.StreamHandler):
    """Writes to the current `sys.stderr`, as `logging.lastResort` does."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(logging.Formatter("%(message)s"))

    @property
    def stream(self) -> TextIO:
        """The current `sys.stderr`."""
        return sys.stderr

    @stream.setter
    def stream(self, _: Any) -> None:
        """Ignore attempts to set the stream."""


def is_shown() -> bool:
    """Whether `show_messages` was called: by the command line, not by a user of the library."""
    return any(isinstance(handler, StderrHandler) for handler in log.handlers)


def show_messages(level: int = logging.INFO) -> None:
    """Show the package's messages from `level` up on standard error, as the command line does."""
    if not is_shown():
        log.addHandler(StderrHandler())
    log.setLevel(level)
    log.propagate = False


def quiet_libraries() -> None:
    """Hide the libraries' loading bars and advice under the command line.

    Training progress stays visible. The settings of a user of the library are left alone.
    """
    if not is_shown():
        return
    from transformers.utils import logging as library_logging

    library_logging.set_verbosity_error()
    library_logging.disable_progress_bar()
