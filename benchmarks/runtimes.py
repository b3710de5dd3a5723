"""Compare runtimes of a trained model: F1 on dev and relative speed.

Runtimes are torch in float32 and bfloat16, each also with a compiled encoder, and ONNX in float32
and int8.

pip install -r requirements-onnx.txt
python -m benchmarks.runtimes runs/resume-nerco-0 [...] --threads 1 --results results/runtimes

Writes one JSON file per complete run. A runtime's speed is the median ratio of neighbouring
measurements of torch float32 and of it, without loading.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from contrastive_ner.data.readers import read_records
from contrastive_ner.data.records import Record
from contrastive_ner.files import expand, read_json, write_json
from contrastive_ner.training.config import layout_of

ROOT = Path(__file__).resolve().parent.parent

BASE = "torch float32"


def ways(model_dir: Path, exported: Path, threads: int) -> dict[str, Any]:
    """Pipelines, or objects that are called like them, by name of the runtime."""
    from contrastive_ner.serving.export import Runner, export
    from contrastive_ner.serving.inference import load_pipeline
    from contrastive_ner.serving.runtime_onnx import OnnxPipeline

    export(model_dir, exported)
    base = load_pipeline(model_dir)
    torch_ways = {
        BASE: base,
        "torch bfloat16": load_pipeline(model_dir, precision="bfloat16"),
        "torch float32, compiled": load_pipeline(model_dir, compile_encoder=True),
        "torch bfloat16, compiled": load_pipeline(
            model_dir, precision="bfloat16", compile_encoder=True
        ),
    }
    graphs = {
        f"ONNX {name}": OnnxPipeline(exported, precision=name, threads=threads)
        for name in ("float32", "int8")
    }
    return {**torch_ways, **{name: Runner(base.model, run) for name, run in graphs.items()}}


def measure(run_dir: Path, threads: int, repetitions: int) -> dict[str, Any]:
    """F1 and speed of every runtime on a run's dev part."""
    from benchmarks.measuring import compare, in_turns
    from contrastive_ner.provenance import provenance
    from contrastive_ner.serving.inference import evaluate_records

    config = read_json(run_dir / "config.json")
    records, _ = read_records(expand(config["dev_file"]), layout_of(argparse.Namespace(**config)))
    with tempfile.TemporaryDirectory() as scratch:
        runners = ways(run_dir / "model", Path(scratch) / "onnx", threads)
        rows: dict[str, dict[str, Any]] = {}
        for name, runner in runners.items():  # also compiles
            scores = evaluate_records(runner, records)
            rows[name] = {"f1": scores["micro"]["f1"], "mentions": scores["micro"]["predicted"]}
        competitors = {name: tag(runner, records) for name, runner in runners.items()}
        seconds = in_turns(competitors, repetitions, warmup=1)
    for name, row in rows.items():
        ratio = compare(seconds, BASE, name)
        row |= {
            "seconds": ratio.measured[name].median,
            "speed": ratio.ratio,
            "quartiles": ratio.quartiles,
        }
    setting = {
        "run": run_dir.name,
        "method": config["method"],
        "train_file": config["train_file"],
        "texts": len(records),
    }
    return {**setting, "threads": threads, "repetitions": repetitions, "ways": rows, **provenance()}


def tag(runner: Any, records: list[Record]) -> Callable[[], object]:
    """A call that tags the texts of records."""
    return partial(runner, [record.text for record in records])


def main() -> int:
    """Measure the runs named on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.runtimes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, help="directories of complete runs")
    parser.add_argument(
        "--threads", type=int, default=1, help="threads of torch and onnxruntime [1]"
    )
    parser.add_argument(
        "--repetitions", type=int, default=5, help="measurements of each runtime [5]"
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=ROOT / "results" / "runtimes",
        help="folder for the results",
    )
    arguments = parser.parse_args()
    from benchmarks.speed import prepare_environment

    prepare_environment(arguments.threads)
    for run_dir in arguments.runs:
        measured = measure(run_dir, arguments.threads, arguments.repetitions)
        for name, row in measured["ways"].items():
            print(
                f"{run_dir.name:<20} {name:<26} F1 {100 * row['f1']:.2f}  speed {row['speed']:.2f}",
                flush=True,
            )
        arguments.results.mkdir(parents=True, exist_ok=True)
        write_json(measured, arguments.results / f"{run_dir.name}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
