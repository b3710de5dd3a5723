"""Run the command line and interrupt it just before the N-th call of a method.

python tests/interrupted_worker.py MODULE:CLASS.METHOD N BLOW train CONFIG ...

BLOW is SIGKILL, SIGTERM, SIGINT or full-disk.
"""

import importlib
import os
import resource
import signal
import sys


def strike_at(place: str, call: int, blow: str) -> None:
    """Wrap a function or method so that its `call`-th call is interrupted, then continues."""
    module, _, attribute = place.partition(":")
    *owners, name = attribute.split(".")
    owner = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    plain = getattr(owner, name)
    calls = 0

    def struck(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == call:
            if blow == "full-disk":  # no file can exceed a few kilobytes
                resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
            else:
                os.kill(os.getpid(), getattr(signal, blow))
        return plain(*args, **kwargs)

    setattr(owner, name, struck)


if __name__ == "__main__":
    from contrastive_ner import cli

    strike_at(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    sys.exit(cli.main(sys.argv[4:]))
