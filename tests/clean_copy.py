"""A clean copy of the tracked files, and commands in it, as after `git clone`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import ROOT


def clean_copy(folder: Path) -> Path:
    """The tracked files in a directory of their own, with this environment as .venv."""
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for name in filter(None, files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    return folder


def run(command: list[str], clone: Path, **variables: str) -> str:
    """Run a command in the clone, by the clone's code, with its environment active.

    It has the threads that `conftest` leaves to a worker: two processes with two threads each take
    several times as long on two processors.
    """
    environment = dict(os.environ)
    path = f"{Path(sys.prefix) / 'bin'}{os.pathsep}{environment['PATH']}"
    environment |= {"PATH": path, "PYTHONPATH": str(clone), "HF_HOME": str(clone / "hf-cache")}
    done = subprocess.run(
        command, cwd=clone, env={**environment, **variables}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout
