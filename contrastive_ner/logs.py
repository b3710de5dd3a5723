"""Messages of long-running work, logged under the package's name. Results go to standard output."""

import logging
import os
import sys
from typing import Any, TextIO

log = logging.getLogger("contrastive_ner")


COLOURS = {"red": "31;1", "yellow": "33"}  # of a terminal


def coloured(text: str, colour: str) -> str:
    """A text for standard error, in colour if that is a terminal and NO_COLOR is not set."""
    is_plain = not sys.stderr.isatty() or os.environ.get("NO_COLOR")
    if is_plain or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{COLOURS[colour]}m{text}\033[0m"


class StderrHandler(logging.StreamHandler):
    """Writes to the current `sys.stderr`, as `logging.lastResort` does.

    Warnings are coloured on a terminal. A progress bar there makes way for the message.
    """

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    def format(self, record: logging.LogRecord) -> str:
        """The message."""
        text = record.getMessage()
        return coloured(text, "yellow") if record.levelno >= logging.WARNING else text

    def emit(self, record: logging.LogRecord) -> None:
        """Write the message, above a progress bar if one is shown."""
        bars = sys.modules.get("tqdm")
        if bars is None or not sys.stderr.isatty():
            super().emit(record)
            return
        with bars.tqdm.external_write_mode(file=sys.stderr):
            super().emit(record)

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
