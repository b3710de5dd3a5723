"""Serving sections of benchmarks.speed: `contrastive-ner predict`, and time to the first mention.

For `predict`: many texts, two processes, two actors of Ray, memory.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import partial
from itertools import count, cycle, islice
from pathlib import Path

from benchmarks.fuzz import tiny_models
from benchmarks.measuring import Section, compare, in_turns
from benchmarks.sections import (
    ENCODER,
    encode,
    forward_batches,
    ready_pipeline,
    weibo_or_sample_texts,
)
from contrastive_ner.data.layout import Layout
from contrastive_ner.data.streams import read_rows
from contrastive_ner.serving.predict import Job, predict

COLD_START = """
import sys, time, json
began = time.perf_counter()
import torch
from transformers import pipeline
imported = time.perf_counter()
found = pipeline("ner", model=sys.argv[1], trust_remote_code=True)(sys.argv[2])
print("\\n" + json.dumps([imported - began, time.perf_counter() - imported, len(found)]))
"""


# Prints the peak memory since the process started; `resource` mixes it with that of its parent.
PREDICT = """
import re, sys
from pathlib import Path
from contrastive_ner.cli import main
code = main(["predict", *sys.argv[1:]])
print(int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024)
sys.exit(code)
"""


@contextmanager
def model_folder(model_dir: str | None, encoder: str) -> Iterator[Path]:
    """Folder of the given model, or of an untrained tagger with Weibo's types."""
    if model_dir is not None:
        yield Path(model_dir)
        return
    with tempfile.TemporaryDirectory() as folder:
        ner = ready_pipeline(None, encoder)
        ner.model.save_pretrained(folder)
        ner.tokenizer.save_pretrained(folder)
        yield Path(folder)


def write_texts(path: Path, number: int) -> list[str]:
    """Write `number` texts of the benchmark data, one per line, repeated as needed."""
    texts = [text.replace("\n", " ") for text in islice(cycle(weibo_or_sample_texts()[1]), number)]
    path.write_text("".join(text + "\n" for text in texts), "utf-8")
    return texts


def measure_predict(
    *,
    model_dir: str | None = None,
    encoder: str = ENCODER,
    texts: int = 20_000,
    repetitions: int = 1,
) -> Section:
    """From a file of texts to a file of records, including loading the model.

    Competitor: the bare encoder on the same batches.
    """
    with model_folder(model_dir, encoder) as model, tempfile.TemporaryDirectory() as scratch:
        source, outputs = Path(scratch) / "in.txt", count()
        lines = write_texts(source, texts)
        ner = ready_pipeline(str(model), encoder)
        batches = forward_batches(ner, lines)

        def job() -> None:
            with open(os.devnull, "w") as quiet, redirect_stderr(quiet):
                output = Path(scratch) / f"{next(outputs)}.jsonl"
                predict(
                    read_rows(str(source), Layout(format="text")), {}, Job(str(model)), str(output)
                )

        seconds = in_turns(
            {"encoder": partial(encode, ner.model.nerco.encoder, batches), "predict": job},
            repetitions,
            warmup=0,
        )
        setting = {
            "texts": texts,
            "bytes": source.stat().st_size,
            "model": model_dir or "untrained",
        }
    return Section(setting, [compare(seconds, "encoder", "predict", at_least=0.85)])


def run_predict(
    model: Path, source: Path, output: Path, *options: str, cores: set[int] | None = None
) -> int:
    """Run `predict` in a separate process on the given cores; its peak bytes (Linux)."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-c",
        PREDICT,
        str(model),
        str(source),
        "--output",
        str(output),
        *options,
    ]
    pin = None if cores is None else partial(os.sched_setaffinity, 0, cores)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, preexec_fn=pin)
    if done.returncode:
        raise SystemExit(f"predict failed: {done.stderr[-500:]}")
    return int(done.stdout.split()[-1])


def measure_predict_processes(
    *, model_dir: str | None = None, encoder: str = ENCODER, texts: int = 8000, repetitions: int = 2
) -> Section:
    """Two processes on two cores against one on one core, for the whole command."""
    ways = {"two processes on two cores": ("--num_processes", "2")}
    return measure_two_cores(ways, model_dir, encoder, texts, repetitions, at_least=1.5)


def measure_predict_ray(
    *,
    model_dir: str | None = None,
    encoder: str = ENCODER,
    texts: int = 16_000,
    repetitions: int = 2,
) -> Section:
    """Two actors of Ray on two cores against one process on one core; needs ray.

    For comparison also two processes without Ray. Starting Ray counts.
    """
    two = ("--num_processes", "2")
    ways = {
        "two actors of Ray on two cores": (*two, "--engine", "ray"),
        "two processes on two cores": two,
    }
    return measure_two_cores(ways, model_dir, encoder, texts, repetitions, at_least=1.7)


def measure_two_cores(
    ways: Mapping[str, Sequence[str]],
    model_dir: str | None,
    encoder: str,
    texts: int,
    repetitions: int,
    *,
    at_least: float,
) -> Section:
    """`predict` on two cores, with the options of each way, against one process on one core.

    Args:
        ways: {name: options}.
        at_least: the ratio that is aimed at.
    """
    cores = sorted(os.sched_getaffinity(0))[:2]
    with model_folder(model_dir, encoder) as model, tempfile.TemporaryDirectory() as scratch:
        source, outputs = Path(scratch) / "in.txt", count()
        write_texts(source, texts)

        def job(*options: str, on: set[int]) -> None:
            run_predict(model, source, Path(scratch) / f"{next(outputs)}.jsonl", *options, cores=on)

        base = "one process on one core"
        competitors = {base: partial(job, on=set(cores[:1]))}
        competitors |= {name: partial(job, *own, on=set(cores)) for name, own in ways.items()}
        seconds = in_turns(competitors, repetitions, warmup=0)
    ratios = [compare(seconds, base, name, at_least=at_least) for name in ways]
    return Section({"texts": texts, "cores": len(cores)}, ratios)


def measure_predict_memory(
    *, few: int = 2000, many: int = 200_000, repetitions: int = 1
) -> Section:
    """Peak memory of `predict` with a tiny tagger, on many texts against few."""
    peaks: dict[str, list[float]] = {f"{many:,} texts": [], f"{few:,} texts": []}
    with tempfile.TemporaryDirectory() as scratch:
        model = tiny_models(Path(scratch))["nerco"]
        for repetition in range(repetitions):
            for name, number in zip(peaks, (many, few), strict=True):
                source = Path(scratch) / "in.txt"
                write_texts(source, number)
                peaks[name].append(
                    float(
                        run_predict(model, source, Path(scratch) / f"{repetition}-{number}.jsonl")
                    )
                )
    return Section({}, [compare(peaks, *peaks, at_most=1.1, unit="bytes")])


def measure_cold_start(
    *, model_dir: str | None = None, encoder: str = ENCODER, repetitions: int = 5
) -> Section:
    """From `pipeline("ner", model=DIR)` to the first mention.

    Competitor: the import of torch and transformers.

    Raises:
        SystemExit: the model finds no mention.
    """
    seconds: dict[str, list[float]] = {"first mention": [], "imports": []}
    with model_folder(model_dir, encoder) as model:
        for _ in range(repetitions):
            command = [
                sys.executable,
                "-c",
                COLD_START,
                str(model.resolve()),
                "昨天下午，李明远教授在南京大学讲课。",
            ]
            done = subprocess.run(
                command, capture_output=True, text=True, check=True, cwd=tempfile.gettempdir()
            )
            imports, first, mentions = json.loads(done.stdout.strip().splitlines()[-1])
            if not mentions:
                raise SystemExit("no mention found: pass a trained model with --model")
            seconds["imports"].append(imports)
            seconds["first mention"].append(first)
    return Section({}, [compare(seconds, "first mention", "imports", at_most=2)])


MEASURE: dict[str, Callable[..., Section]] = {
    "predict": measure_predict,
    "predict_processes": measure_predict_processes,
    "predict_ray": measure_predict_ray,
    "predict_memory": measure_predict_memory,
    "cold_start": measure_cold_start,
}
