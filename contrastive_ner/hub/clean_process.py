"""Loading a model repository in a clean process, and repeating its stored predictions."""

import json
import os
import signal
import site
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from contrastive_ner.errors import RepositoryError
from contrastive_ner.files import read_json
from contrastive_ner.hub import walls
from contrastive_ner.hub.repository import check_code
from contrastive_ner.hub.weights import names_of_weights
from contrastive_ner.models.checks_ner import size_fault

# The environment variables that the process inherits: where programs and libraries are, how texts
# are encoded, how many threads compute. No other one: any could hold a secret.
INHERITED = (
    "PATH",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "SYSTEMROOT",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "OPENBLAS_CORETYPE",
    "OPENBLAS_L2_SIZE",
)
SAME_SCORE = 1e-4  # largest difference between scores computed on different machines
SECONDS = 300  # that loading may take, and for every gigabyte of weights
MEMORY = 3 * 2**30  # bytes that it may use, and more for the weights
COPIES = 4  # of the weights that may lie in memory
PAGE = 4096


class Loaded(NamedTuple):
    """What came of loading: the mentions in each text, and whether the process had walls."""

    mentions: list[list[dict[str, Any]]]
    walls: bool


def check_loads(folder: Path, *, trust_remote_code: bool = False) -> bool:
    """Load a repository as a stranger would, and repeat its stored predictions.

    This happens in a new process, in another working directory, with little of the environment,
    and behind walls where the system allows; see `walls`. Returns whether it does.

    Raises:
        RepositoryError: the repository does not load, takes too much time or memory, or finds other
            mentions than `examples.json` holds; its code is not this project's and
            `trust_remote_code` is false.
    """
    check_code(folder, trust_remote_code=trust_remote_code)
    examples = read_examples(folder)
    found = load_elsewhere(folder)
    for example, mentions in zip(examples, found.mentions, strict=True):
        if not same_mentions(example["mentions"], mentions):
            raise RepositoryError(
                folder,
                [
                    f"the model finds {mentions} in {example['text']!r}, but examples.json holds "
                    f"{example['mentions']}"
                ],
            )
    return found.walls


def load_elsewhere(folder: Path) -> Loaded:
    """Load a model in a process of its own, and find the mentions of its examples.

    Raises:
        RepositoryError: it does not load, or not within its limits, which the error names.
    """
    size = sum((folder / name).stat().st_size for name in names_of_weights(folder))
    seconds, memory = SECONDS * (1 + size / 2**30), MEMORY + COPIES * size
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryDirectory() as outputs:
        files = [str(folder.resolve()), str((folder / "examples.json").resolve())]
        command = [sys.executable, "-B", walls.__file__, *files, scratch, str(2 * memory)]
        out, err = Path(outputs) / "out", Path(outputs) / "err"
        with out.open("wb") as out_file, err.open("wb") as err_file:
            process = subprocess.Popen(
                command,
                cwd=scratch,
                env=environment_of(scratch),
                stdin=subprocess.DEVNULL,  # nothing in it may ask
                stdout=out_file,
                stderr=err_file,
                start_new_session=True,
            )
            met = limit_met(process, seconds, memory)
        if met:
            raise RepositoryError(folder, [f"does not load in a clean process: {met}"])
        said = (last_bytes(err).strip().splitlines() or ["?"])[-1]
        if process.returncode:
            if "MemoryError" in said or "alloc" in said:
                said = f"it met its limit of {2 * memory / 2**30:.0f} GiB of memory ({said})"
            raise RepositoryError(folder, [f"does not load in a clean process: {said:.2000}"])
        lines = last_bytes(out).splitlines()
        try:
            found = json.loads(lines[-1])
            if len(found) != len(read_examples(folder)):
                raise ValueError("another number of texts")
        except (ValueError, IndexError, TypeError, RecursionError) as error:
            raise RepositoryError(folder, [f"loading prints no predictions ({error})"]) from error
        return Loaded(found, lines[0] == "walls: yes")


def environment_of(scratch: str) -> dict[str, str]:
    """The environment of the process: `INHERITED`, and `scratch` wherever something is kept."""
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    places = ("HOME", "USERPROFILE", "HF_HOME", "XDG_CACHE_HOME", "TMPDIR", "TEMP", "TMP")
    if site.ENABLE_USER_SITE:  # packages may be installed in the user's own folder
        kept["PYTHONUSERBASE"] = site.getuserbase()
    return {
        **kept,
        **dict.fromkeys(places, scratch),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "PYTHONSAFEPATH": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
    }


def limit_met(process: subprocess.Popen, seconds: float, memory: float) -> str | None:
    """Wait for a process; end it and say so if it takes too much time or memory."""
    end, met = time.monotonic() + seconds, None
    try:
        while process.poll() is None and met is None:
            time.sleep(0.05)
            if time.monotonic() > end:
                met = f"it met its limit of {seconds:.0f} seconds"
            elif memory_of(process.pid) > memory:
                met = f"it met its limit of {memory / 2**30:.1f} GiB of memory"
    finally:
        if process.poll() is None:
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()
    return met


def memory_of(pid: int) -> int:
    """Bytes of memory that a process and its children hold; 0 where the system does not tell."""
    try:
        own = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, ValueError, IndexError):
        return 0
    return own + sum(memory_of(int(child)) for child in children)


def last_bytes(path: Path, most: int = 2**20) -> str:
    """The text of a file; of a long one, the first line and the end."""
    with path.open("rb") as file:
        begin = file.readline(1000)
        file.seek(max(file.tell(), path.stat().st_size - most))
        return (begin + file.read()).decode("utf-8", "replace")


def read_examples(folder: Path) -> list[dict[str, Any]]:
    """Texts and the mentions found in them, from examples.json.

    Raises:
        RepositoryError: the file holds something else, or no example.
    """
    try:
        if fault := size_fault(folder / "examples.json"):
            raise ValueError(fault)
        examples = read_json(folder / "examples.json")
        well_formed = isinstance(examples, list) and all(
            isinstance(example["text"], str)
            and all(isinstance(mention["score"], float) for mention in example["mentions"])
            for example in examples
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        examples, well_formed = [], False
    if not examples or not well_formed:
        raise RepositoryError(
            folder,
            [
                "examples.json holds no predictions to repeat: expected a list of texts with "
                "their mentions"
            ],
        )
    return examples


def same_mentions(expected: list[dict[str, Any]], found: list[dict[str, Any]]) -> bool:
    """Whether two lists hold the same mentions with the same scores, up to rounding."""
    if len(expected) != len(found):
        return False
    return all(
        {**a, "score": 0} == {**b, "score": 0} and abs(a["score"] - b["score"]) <= SAME_SCORE
        for a, b in zip(expected, found, strict=True)
    )
