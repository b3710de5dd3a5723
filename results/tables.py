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

import numpy as np

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- results: written by results/tables.py -->", "<!-- /results -->"
METHODS = ("ce", "crf", "nerco")
RESAMPLES = 10_000

Groups = dict[tuple[str, str], list[dict[str, Any]]]


def grouped(measurements: list[dict[str, Any]]) -> Groups:
    """Runs by data set and method, in the order of their seeds."""
    groups: Groups = defaultdict(list)
    for metrics in sorted(measurements, key=lambda metrics: metrics["seed"]):
        place = str(Path(metrics["config"]["train_file"]).parent).removeprefix("${NER_DATA}/")
        groups[place, metrics["method"]].append(metrics)
    return groups


def score_table(groups: Groups) -> list[str]:
    """A row per data set and method: mean and standard deviation over seeds of micro scores, in percent."""
    lines = ["| data | method | dev F1 | test P | test R | test F1 | seeds | epochs |", "|---|---|---|---|---|---|---|---|"]
    for name, method in sorted(groups, key=lambda key: (key[0], METHODS.index(key[1]))):
        runs = groups[name, method]

        def percent(split: str, key: str, runs: list[dict[str, Any]] = runs) -> str:
            return spread([run[split]["micro"][key] for run in runs])

        epochs = mean(sum(phase["epochs"] for phase in run["phases"].values()) for run in runs)
        cells = [name, method, percent("dev", "f1"), percent("test", "precision"), percent("test", "recall"), percent("test", "f1")]
        lines.append("| " + " | ".join([*cells, seeds_of(runs), f"{epochs:g}"]) + " |")
    return lines


def difference_table(groups: Groups) -> list[str]:
    """NerCo minus each control on test, over the seeds that both have, with a paired bootstrap interval; also without recurring texts."""
    lines = [
        "| data | difference | test F1 | 95 % interval | without texts of train | 95 % interval | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in sorted({name for name, _ in groups}):
        for control in METHODS[:-1]:
            ours = {run["seed"]: run for run in groups.get((name, "nerco"), [])}
            theirs = {run["seed"]: run for run in groups.get((name, control), [])}
            shared = sorted(set(ours) & set(theirs))
            if not shared:
                continue
            a = np.stack([counts_of(ours[seed]) for seed in shared])  # (seeds, texts, 3)
            b = np.stack([counts_of(theirs[seed]) for seed in shared])
            recurring = ours[shared[0]]["test"]["recurring_texts"]
            cells = [name, f"nerco - {control}", *interval(a, b)]
            cells += interval(np.delete(a, recurring, axis=1), np.delete(b, recurring, axis=1)) if recurring else ["-", "-"]
            lines.append("| " + " | ".join([*cells, ", ".join(map(str, shared))]) + " |")
    return lines


def counts_of(run: dict[str, Any]) -> np.ndarray:
    """(texts, 3): correct, predicted, gold of each test text."""
    return np.reshape(run["test"]["counts"], (-1, 3))


def interval(ours: np.ndarray, theirs: np.ndarray, resamples: int = RESAMPLES) -> list[str]:
    """Mean difference of micro F1 in points, and its 95 % interval when the test texts are drawn anew (paired bootstrap).

    ours, theirs: (seeds, texts, 3) counts. A resample draws texts with replacement, the same ones for both methods and all seeds; the
    difference is averaged over the seeds.
    """
    texts = ours.shape[1]
    generator = np.random.default_rng(0)
    drawn = generator.multinomial(texts, np.full(texts, 1 / texts), size=resamples)  # (resamples, texts) how often

    def f1(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
        correct, predicted, gold = np.moveaxis(np.einsum("rt,stk->rsk", weights, counts), -1, 0)  # each (resamples, seeds)
        return 2 * correct / np.maximum(predicted + gold, 1)

    def difference(weights: np.ndarray) -> np.ndarray:
        return 100 * (f1(ours, weights) - f1(theirs, weights)).mean(1)  # (resamples,)

    low, high = np.percentile(difference(drawn), [2.5, 97.5])
    return [f"{difference(np.ones((1, texts)))[0]:+.1f}", f"{low:+.1f} to {high:+.1f}"]


def spread(values: list[float]) -> str:
    """Mean and standard deviation in percent."""
    percent = [100 * value for value in values]
    return f"{mean(percent):.1f}" + (f" ± {stdev(percent):.1f}" if len(percent) > 1 else "")


def seeds_of(runs: list[dict[str, Any]]) -> str:
    return ", ".join(str(run["seed"]) for run in runs)


def machines(measurements: list[dict[str, Any]]) -> str:
    places = sorted({metrics["machine"] for metrics in measurements})
    versions = sorted({f"torch {m['versions']['torch']}, transformers {m['versions']['transformers']}" for m in measurements})
    return f"Measured on {'; '.join(places)}; {'; '.join(versions)}."


def between(text: str, begin: str, end: str, content: str) -> str:
    """A document with other content between two markers."""
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"the markers {begin} and {end} are missing")
    return f"{before}{begin}\n{content}\n{end}{after}"


def main() -> int:
    measurements = [json.loads(path.read_text("utf-8")) for path in sorted(HERE.glob("*.json"))]
    groups = grouped(measurements)
    content = "\n".join([*score_table(groups), "", *difference_table(groups), "", machines(measurements)])
    text = README.read_text("utf-8")
    new = between(text, BEGIN, END, content)
    if "--check" in sys.argv[1:]:
        return int(new != text)
    README.write_text(new, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
