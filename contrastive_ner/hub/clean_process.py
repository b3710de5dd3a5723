"""Loading a model repository in a clean process, and repeating its stored predictions."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from contrastive_ner.errors import RepositoryError
from contrastive_ner.files import read_json
from contrastive_ner.hub.repository import check_code

# Prefixes of the environment variables that the process does not inherit: they hold tokens, or
# name caches with code and places of modules.
NOT_FOR_STRANGERS = ("HF_", "HUGGING", "TRANSFORMERS_", "PYTHON")
SAME_SCORE = 1e-4  # largest difference between scores computed on different machines
LOADING = """
import json, sys
from transformers import AutoModel, pipeline
folder, examples = sys.argv[1], json.load(open(sys.argv[2], encoding="utf-8"))
AutoModel.from_pretrained(folder, trust_remote_code=True)
ner = pipeline("ner", model=folder, trust_remote_code=True)
print("\\n" + json.dumps([ner(example["text"]) for example in examples]))
"""


def check_loads(folder: Path, *, trust_remote_code: bool = False) -> None:
    """Load a repository as a stranger would, and repeat its stored predictions.

    This happens in a new process, in another working directory, with the network off.

    Raises:
        RepositoryError: the repository does not load, or finds other mentions than `examples.json`
            holds; its code is not this project's and `trust_remote_code` is false.
    """
    check_code(folder, trust_remote_code=trust_remote_code)
    examples = read_examples(folder)
    with tempfile.TemporaryDirectory() as elsewhere:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(NOT_FOR_STRANGERS)
        }
        environment = {**kept, "HF_HOME": elsewhere, "HF_HUB_OFFLINE": "1", "PYTHONSAFEPATH": "1"}
        files = [str(folder.resolve()), str((folder / "examples.json").resolve())]
        done = subprocess.run(
            [sys.executable, "-c", LOADING, *files],
            cwd=elsewhere,
            env=environment,
            stdin=subprocess.DEVNULL,  # nothing in it may ask
            capture_output=True,
            text=True,
        )
    if done.returncode:
        last_line = (done.stderr.strip().splitlines() or ["?"])[-1]
        raise RepositoryError(folder, [f"does not load in a clean process: {last_line}"])
    found = json.loads(done.stdout.strip().splitlines()[-1])
    for example, mentions in zip(examples, found, strict=True):
        if not same_mentions(example["mentions"], mentions):
            raise RepositoryError(
                folder,
                [
                    f"the model finds {mentions} in {example['text']!r}, but examples.json holds "
                    f"{example['mentions']}"
                ],
            )


def read_examples(folder: Path) -> list[dict[str, Any]]:
    """Texts and the mentions found in them, from examples.json.

    Raises:
        RepositoryError: the file holds something else, or no example.
    """
    try:
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
