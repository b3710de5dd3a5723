"""Locks between processes; damaged data sets."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import corpus

from contrastive_ner.data.readers import read_records
from contrastive_ner.data.writers import write_records
from contrastive_ner.errors import DataError
from contrastive_ner.files import LockFile

# Takes and releases a lock until its time is over; a file that only a holder may have shows a
# second one. Prints how often it held the lock, and how often another process did at that time.
CONTENDER = """
import os, sys, time
from pathlib import Path
from contrastive_ner.files import LockFile

path, witness, end = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
held = doubled = 0
while time.time() < end:
    lock = LockFile(path)
    if not lock.acquire():
        continue
    held += 1
    try:
        os.close(os.open(witness, os.O_CREAT | os.O_EXCL))
        time.sleep(0)
        witness.unlink()
    except FileExistsError:
        doubled += 1
    if sys.argv[4] == "check":
        lock.release()
    else:
        lock.lock.release()
        path.unlink(missing_ok=True)
print(held, doubled)
"""


@pytest.mark.parametrize("folder_goes_too", [False, True])
def test_a_lock_has_one_holder(tmp_path: Path, folder_goes_too: bool):
    path = tmp_path / "locked" / ".lock"
    code = CONTENDER
    if folder_goes_too:
        code = code.replace("        lock.release()\n", "        lock.release(); leave()\n")
        code = f"""
def leave():
    try:
        path.parent.rmdir()
    except OSError:
        pass
{code}"""
    end = str(time.time() + 1.5)
    contenders = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path), str(tmp_path / "witness"), end, "check"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    counts = [tuple(map(int, contender.communicate()[0].split())) for contender in contenders]
    assert all(contender.returncode == 0 for contender in contenders)
    assert sum(held for held, _ in counts) > 100, "the premise: the lock changes hands"
    assert [doubled for _, doubled in counts] == [0] * 4
    assert not path.exists()


def test_a_lock_is_refused_while_held_and_leaves_nothing(tmp_path: Path):
    first, second = LockFile(tmp_path / ".lock"), LockFile(tmp_path / ".lock")
    assert first.acquire()
    assert not second.acquire()
    second.release()  # not its own
    assert (tmp_path / ".lock").exists()
    first.release()
    assert second.acquire()
    first.release()
    assert (tmp_path / ".lock").exists()
    second.release()
    assert os.listdir(tmp_path) == []


def test_a_lock_that_a_killed_process_left_is_free(tmp_path: Path):
    code = (
        "import os, sys, pathlib; from contrastive_ner.files import LockFile;"
        "assert LockFile(pathlib.Path(sys.argv[1])).acquire(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path / ".lock"]).returncode == -9
    assert (tmp_path / ".lock").exists()
    assert LockFile(tmp_path / ".lock").acquire()


@pytest.mark.parametrize("harm", ["cut", "offsets"])
def test_a_damaged_data_set_is_refused(tmp_path: Path, harm: str):
    """Arrow would read beyond its memory where an offset is wrong."""
    write_records(corpus(40), tmp_path / "data", "datasets", "BIO")
    assert os.listdir(tmp_path) == ["data"]
    assert len(read_records(tmp_path / "data")[0]) == 40
    (file,) = (tmp_path / "data").glob("*.arrow")
    raw = bytearray(file.read_bytes())
    if harm == "cut":
        del raw[-2000:]
    else:
        for at in range(1000, len(raw) - 1000, 101):
            raw[at] ^= 64
    file.write_bytes(raw)
    with pytest.raises(DataError):
        read_records(tmp_path / "data")
