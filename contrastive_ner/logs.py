"""Messages of long work: `logging` under the name of the package. Results go to standard output."""

import logging
import sys
from typing import Any, TextIO

log = logging.getLogger("contrastive_ner")


class StderrHandler(logging.StreamHandler):
    """Writes to what `sys.stderr` is at the moment of writing, as `logging.lastResort` does."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(logging.Formatter("%(message)s"))

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _: Any) -> None: ...


def show_messages(level: int = logging.INFO) -> None:
    """Show the package's messages of at least this level on standard error, as the command line does."""
    if not any(isinstance(handler, StderrHandler) for handler in log.handlers):
        log.addHandler(StderrHandler())
    log.setLevel(level)
    log.propagate = False


def quiet_libraries() -> None:
    """Training progress stays visible; the libraries' loading bars and advice do not."""
    from transformers.utils import logging as library_logging

    library_logging.set_verbosity_error()
    library_logging.disable_progress_bar()
