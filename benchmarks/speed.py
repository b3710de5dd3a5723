"""Measure speed and memory on the CPU, as ratios of competitors that take turns within one run.

pip install -r benchmarks/requirements.txt
python -m benchmarks.speed                       all sections, into results/speed.json
python -m benchmarks.speed loss crf --threads 2 --output runs/speed.json

Absolute speed drifts and differs between machines; a ratio of two neighbouring measurements hardly
does. A ratio that misses its target is reported and is not an error.
"""

import argparse
import importlib.util
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
if TYPE_CHECKING:
    from benchmarks.measuring import Comparison, Section

SERVING = ("predict", "predict_processes", "predict_ray", "predict_memory", "cold_start")
SECTIONS = (
    "loss",
    "crf",
    "step",
    "stage1",
    "pipeline",
    "binder",
    "binder_memory",
    "binder_step",
    *SERVING,
)
WITH_MODEL = ("pipeline", "predict", "predict_processes", "predict_ray", "cold_start")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the chosen sections and write the report."""
    argv = sys.argv[1:] if argv is None else argv
    parser = build_parser()
    arguments = parser.parse_args(argv)
    chosen = [name for name in SECTIONS if name in (arguments.sections or SECTIONS)]
    for name, module in (("crf", "torchcrf"), ("predict_ray", "ray")):
        if name in chosen and importlib.util.find_spec(module) is None:
            parser.error(
                f"section {name} needs {module}: pip install -r benchmarks/requirements.txt"
            )
    prepare_environment(arguments.threads)
    from contrastive_ner.logs import quiet_libraries

    quiet_libraries()
    measured = measure(chosen, arguments)
    write_report(measured, arguments, argv)
    every = [comparison for section in measured.values() for comparison in section.comparisons]
    verdicts = [comparison.met for comparison in every if comparison.met is not None]
    met = f"{sum(verdicts)} of {len(verdicts)} targets met"
    print(f"\n{table(every)}\n\n{met}; written to {arguments.output}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed", description="Speed and memory on the CPU, as ratios."
    )
    # Not `choices`: argparse would reject the empty list, which means all sections.
    parser.add_argument(
        "sections",
        nargs="*",
        type=section_name,
        metavar="SECTION",
        help=f"what to measure: {', '.join(SECTIONS)} [all]",
    )
    parser.add_argument("--threads", type=positive, default=1, help="threads of torch [1]")
    parser.add_argument(
        "--repetitions",
        type=positive,
        help="measurements of each competitor [depends on the section]",
    )
    parser.add_argument(
        "--model",
        help=f"model folder for {', '.join(WITH_MODEL)} "
        "[an untrained tagger with the bundled encoder]",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "results" / "speed.json",
        help="JSON file to write [results/speed.json]",
    )
    return parser


def section_name(text: str) -> str:
    """Parse the name of a section."""
    if text not in SECTIONS:
        raise argparse.ArgumentTypeError(f"{text!r}: expected one of {', '.join(SECTIONS)}")
    return text


def positive(text: str) -> int:
    """Parse a positive integer."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a positive integer")
    return int(text)


def prepare_environment(threads: int) -> None:
    """Set the number of threads and hide accelerators.

    Call it before importing torch and tokenizers, which read these variables once.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # Silence the profiler, which measures memory and would log its start and stop.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def measure(chosen: Sequence[str], arguments: argparse.Namespace) -> dict[str, "Section"]:
    """Measure sections in turn; print the table of each as soon as it is complete."""
    from benchmarks.sections import MEASURE as OF_TAGGERS
    from benchmarks.sections_binder import MEASURE as OF_BINDER
    from benchmarks.sections_predict import MEASURE as OF_SERVING

    repetitions = {} if arguments.repetitions is None else {"repetitions": arguments.repetitions}
    measured = {}
    for name in chosen:
        print(f"-- {name}", flush=True)
        model = {"model_dir": arguments.model} if name in WITH_MODEL else {}
        measured[name] = {**OF_TAGGERS, **OF_BINDER, **OF_SERVING}[name](**repetitions, **model)
        print(table(measured[name].comparisons), flush=True)
    return measured


def write_report(
    measured: dict[str, "Section"], arguments: argparse.Namespace, argv: Sequence[str]
) -> None:
    """Write ratios, medians and quartiles as JSON, with the circumstances they depend on."""
    from contrastive_ner.files import write_json
    from contrastive_ner.provenance import provenance

    report = {
        "sections": {name: asdict(section) for name, section in measured.items()},
        "threads": arguments.threads,
        "command": shlex.join(["python", "-m", "benchmarks.speed", *argv]),
        **provenance(),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(report, arguments.output)


def table(comparisons: Sequence["Comparison"]) -> str:
    """One row per comparison: ratio, quartiles, target, verdict, medians."""
    lines = [f"{'':<42}{'ratio':>7}{'quartiles':>16}{'target':>9}        medians"]
    for c in comparisons:
        quartiles = f"{c.quartiles[0]:.2f} to {c.quartiles[1]:.2f}"
        verdict = {True: "pass", False: "FAIL", None: ""}[c.met]
        medians = ", ".join(
            f"{name} {readable(m.median, c.unit)}" for name, m in c.measured.items()
        )
        numbers = f"{c.ratio:>7.2f}{quartiles:>16}{c.target or '-':>9}"
        lines.append(f"{c.name:<42}{numbers}  {verdict:<4}  {medians}")
    return "\n".join(lines)


def readable(value: float, unit: str) -> str:
    """Format seconds as ms or s, bytes as MB."""
    if unit == "bytes":
        return f"{value / 1e6:.1f} MB"
    return f"{value:.2f} s" if value >= 1 else f"{1e3 * value:.2f} ms"


if __name__ == "__main__":
    sys.exit(main())
