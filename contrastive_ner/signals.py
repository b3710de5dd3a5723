"""SIGTERM and Ctrl-C: what is in hand is finished and saved, then work stops."""

import signal
import threading
from types import FrameType
from typing import Self

from contrastive_ner.logs import log

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Work was asked to stop, by the signal of this number, and has saved what it had; the message says where."""

    def __init__(self, number: int, saved: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; {saved}")
        self.number = number


class StopSignals:
    """A context manager in which SIGTERM and Ctrl-C are only noted, in `received`; a second one stops at once.

    Args:
        in_hand: what is finished first, for the person who asked.
    """

    def __init__(self, in_hand: str) -> None:
        self.in_hand = in_hand
        self.received: int | None = None

    def __enter__(self) -> Self:
        # Python lets only the main thread handle signals; elsewhere they do what they always do.
        is_main = threading.current_thread() is threading.main_thread()
        self.previous = {
            number: signal.signal(number, self.receive) for number in SIGNALS if is_main
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number
        log.warning("\n%s; once more to stop at once", self.in_hand)
