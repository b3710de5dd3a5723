"""Measure how well scores are calibrated on test, before and after fitting them to dev.

python -m benchmarks.calibration runs/weibo-nerco-0 [...] --results results/calibration

Writes one JSON file per complete run: the fitted parameters, and expected calibration error and
Brier score on test without and with them.
"""

import argparse
import sys
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

from contrastive_ner.files import read_json, write_json
from contrastive_ner.training.config import RunConfig

ROOT = Path(__file__).resolve().parent.parent

NEUTRAL = {"score_temperature": 1.0, "score_slope": 1.0, "score_intercept": 0.0}


def measure(run_dir: Path) -> dict[str, Any]:
    """Measure a run's model on test with neutral scores and with scores fitted to dev.

    Raises:
        SystemExit: fitting changed the predicted mentions.
    """
    from contrastive_ner.provenance import provenance
    from contrastive_ner.serving.inference import evaluate_records, load_pipeline
    from contrastive_ner.training.calibration import calibrate_run
    from contrastive_ner.training.loading import load_data
    from contrastive_ner.training.task import prepare_task

    saved = read_json(run_dir / "config.json")
    with tempfile.TemporaryDirectory() as scratch:
        known = {item.name for item in fields(RunConfig)}
        config = RunConfig(
            **{
                **{key: value for key, value in saved.items() if key in known},
                "output_dir": scratch,
            }
        )
        data = load_data(config)
        task, _ = prepare_task(config, data)
        pipeline = load_pipeline(run_dir / "model")
        for name, value in NEUTRAL.items():
            if hasattr(pipeline.model.config, name):
                setattr(pipeline.model.config, name, value)
        before = evaluate_records(pipeline, data.records["test"])
        fitted = calibrate_run(pipeline.model, task)
        after = evaluate_records(pipeline, data.records["test"])
    if before["micro"] != after["micro"]:
        raise SystemExit(
            f"{run_dir}: expected the same mentions before and after fitting the scores"
        )
    return {
        "run": run_dir.name,
        "method": saved["method"],
        "train_file": saved["train_file"],
        "seed": saved["seed"],
        "fitted": fitted,
        "mentions": before["micro"]["predicted"],
        **{
            name: {key: scores["calibration"][key] for key in ("ece", "brier")}
            for name, scores in (("before", before), ("after", after))
        },
        **provenance(),
    }


def main() -> int:
    """Measure the runs named on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.calibration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, help="directories of complete runs with test data"
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=ROOT / "results" / "calibration",
        help="folder for the results",
    )
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    for run_dir in arguments.runs:
        measured = measure(run_dir)
        print({key: measured[key] for key in ("run", "fitted", "before", "after")})
        write_json(measured, arguments.results / f"{run_dir.name}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
