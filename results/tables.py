"""Write the result tables of README.md from the measurements in results/*.json.

python results/tables.py            writes
python results/tables.py --check    fails if README.md is not up to date
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- results: written by results/tables.py -->", "<!-- /results -->"
METHODS = ("ce", "crf", "nerco")


def table(measurements: list[dict[str, Any]]) -> str:
    """A row per data set and method: mean (and deviation over seeds) of micro F1, in percent."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for metrics in measurements:
        place = str(Path(metrics["config"]["train_file"]).parent).removeprefix("${NER_DATA}/")
        groups[place, metrics["method"]].append(metrics)
    lines = ["| data | method | dev F1 | test P | test R | test F1 | seeds | epochs |", "|---|---|---|---|---|---|---|---|"]
    for name, method in sorted(groups, key=lambda key: (key[0], METHODS.index(key[1]))):
        runs = groups[name, method]

        def percent(split: str, key: str, runs: list[dict[str, Any]] = runs) -> str:
            values = [100 * run[split]["micro"][key] for run in runs]
            return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")

        epochs = mean(sum(phase["epochs"] for phase in run["phases"].values()) for run in runs)
        cells = [name, method, percent("dev", "f1"), percent("test", "precision"), percent("test", "recall"), percent("test", "f1")]
        cells += [", ".join(str(run["seed"]) for run in sorted(runs, key=lambda run: run["seed"])), f"{epochs:g}"]
        lines.append("| " + " | ".join(cells) + " |")
    machines = sorted({metrics["machine"] for metrics in measurements})
    versions = sorted({f"torch {m['versions']['torch']}, transformers {m['versions']['transformers']}" for m in measurements})
    return "\n".join([*lines, "", f"Measured on {'; '.join(machines)}; {'; '.join(versions)}."])


def main() -> int:
    files = [json.loads(path.read_text("utf-8")) for path in sorted(HERE.glob("*.json"))]
    measurements = [values for values in files if "method" in values]  # speed.json is of another kind
    text = README.read_text("utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{README.name}: the markers {BEGIN} and {END} are missing")
    new = f"{before}{BEGIN}\n{table(measurements)}\n{END}{after}"
    if "--check" in sys.argv[1:]:
        return int(new != text)
    README.write_text(new, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
