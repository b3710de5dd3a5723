"""SIGTERM and Ctrl-C: finish and save the current work, or clean up, then stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, Self

from contrastive_ner.logs import log

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Work stopped on signal `number` after saving its state; the message says where."""

    def __init__(self, number: int, saved: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; {saved}")
        self.number = number


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the work as Ctrl-C does, at once: what is half done is cleaned up first."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise Interrupted(number, "run the same command again")

    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals only in the main thread
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class StopSignals:
    """Context manager that stores SIGTERM and Ctrl-C in `received`; a second one stops at once.

    Args:
        in_hand: message about the work that is finished first.
    """

    def __init__(self, in_hand: str) -> None:
        self.in_hand = in_hand
        self.received: int | None = None

    def __enter__(self) -> Self:
        # Python handles signals only in the main thread; in other threads nothing changes.
        is_main = threading.current_thread() is threading.main_thread()
        self.previous = {
            number: signal.signal(number, self.receive) for number in SIGNALS if is_main
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Signal handler: store the first signal, stop at once on the second."""
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number
        log.warning("\n%s; repeat to stop at once", self.in_hand)
