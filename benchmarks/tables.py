"""Write the tables of README.md and docs/ from the measurements in results/.

python -m benchmarks.tables            writes
python -m benchmarks.tables --check    fails if a document is not up to date
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
METHODS = ("ce", "crf", "nerco", "binder")
RESAMPLES = 10_000
HELD_OUT_VARIANTS = {
    "plain": "descriptions",
    "texts": "name or description, drawn",
    "drawn": "10 types a batch, drawn",
    "both": "both drawn",
}

Groups = dict[tuple[str, str], list[dict[str, Any]]]


def grouped(measurements: list[dict[str, Any]]) -> Groups:
    """Runs by data set and method, in the order of their seeds."""
    groups: Groups = defaultdict(list)
    for metrics in sorted(measurements, key=lambda metrics: metrics["seed"]):
        groups[place_of(metrics["config"]["train_file"]), metrics["method"]].append(metrics)
    return groups


def score_table(groups: Groups) -> list[str]:
    """A row per data set and method: mean and standard deviation over seeds of micro scores, in percent."""
    lines = [
        "| data | method | dev F1 | test P | test R | test F1 | seeds | epochs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, method in sorted(groups, key=lambda key: (key[0], METHODS.index(key[1]))):
        runs = groups[name, method]

        def percent(split: str, key: str, runs: list[dict[str, Any]] = runs) -> str:
            return spread([run[split]["micro"][key] for run in runs])

        epochs = mean(sum(phase["epochs"] for phase in run["phases"].values()) for run in runs)
        cells = [
            name,
            method,
            percent("dev", "f1"),
            percent("test", "precision"),
            percent("test", "recall"),
            percent("test", "f1"),
        ]
        lines.append("| " + " | ".join([*cells, seeds_of(runs), f"{epochs:g}"]) + " |")
    return lines


def nested_table(groups: Groups) -> list[str]:
    """A row per data set and method: scores on all mentions, the outer ones apart, the inner ones apart (with their number), in percent."""
    lines = [
        "| data | method | dev F1 | test P | test R | test F1 | outer F1 | inner P | inner R | inner mentions | seeds | epochs |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, method in sorted(groups, key=lambda key: (key[0], METHODS.index(key[1]))):
        runs = groups[name, method]
        test = [("test", "all_mentions", key) for key in ("precision", "recall", "f1")]
        places = [("dev", "all_mentions", "f1"), *test, ("test", "outer", "f1")]
        cells = [
            name,
            method,
            *(spread([run[split][part][key] for run in runs]) for split, part, key in places),
        ]
        inner = runs[0]["test"]["inner"]["gold"]
        # A tagger's mentions never nest: only its right ones can be told to be inner, so that their precision says nothing.
        cells.append(
            spread([run["test"]["inner"]["precision"] for run in runs])
            if inner and method == "binder"
            else "-"
        )
        cells.append(spread([run["test"]["inner"]["recall"] for run in runs]) if inner else "-")
        epochs = mean(sum(phase["epochs"] for phase in run["phases"].values()) for run in runs)
        lines.append(
            "| " + " | ".join([*cells, str(inner or "-"), seeds_of(runs), f"{epochs:g}"]) + " |"
        )
    return lines


def difference_table(groups: Groups) -> list[str]:
    """A method minus its control on test, over the seeds that both have, with a paired bootstrap interval; also without recurring texts."""
    lines = [
        "| data | difference | test F1 | 95 % interval | without texts of train | 95 % interval | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in sorted({name for name, _ in groups}):
        for method, control in (("nerco", "ce"), ("nerco", "crf"), ("binder", "crf")):
            ours, theirs = (
                {run["seed"]: run for run in groups.get((name, m), []) if "counts" in run["test"]}
                for m in (method, control)
            )
            shared = sorted(set(ours) & set(theirs))
            if not shared:
                continue
            a = np.stack([counts_of(ours[seed]) for seed in shared])  # (seeds, texts, 3)
            b = np.stack([counts_of(theirs[seed]) for seed in shared])
            recurring = ours[shared[0]]["test"]["recurring_texts"]
            cells = [name, f"{method} - {control}", *interval(a, b)]
            cells += (
                interval(np.delete(a, recurring, axis=1), np.delete(b, recurring, axis=1))
                if recurring
                else ["-", "-"]
            )
            lines.append("| " + " | ".join([*cells, ", ".join(map(str, shared))]) + " |")
    return lines


def held_out_table(measurements: list[dict[str, Any]]) -> list[str]:
    """A row per held-out domain and way of training: scores on mentions of types that training lacks, in percent."""
    groups: Groups = defaultdict(list)
    for metrics in sorted(measurements, key=lambda metrics: metrics["seed"]):
        groups[metrics["domain"], metrics["variant"]].append(metrics)
    lines = [
        "| held out | types | mentions | trained with | P | R | F1 | least score chosen on dev | P | R | F1 | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (domain, variant), runs in sorted(
        groups.items(), key=lambda item: (item[0][0], list(HELD_OUT_VARIANTS).index(item[0][1]))
    ):
        cells = [
            domain,
            str(len(runs[0]["held_out"])),
            str(runs[0]["micro"]["gold"]),
            HELD_OUT_VARIANTS[variant],
        ]
        cells += [
            spread([run["micro"][key] for run in runs]) for key in ("precision", "recall", "f1")
        ]
        cells.append(", ".join(f"{run['chosen']['min_score']:.1g}" for run in runs))
        cells += [
            spread([run["chosen"][key] for run in runs]) for key in ("precision", "recall", "f1")
        ]
        lines.append("| " + " | ".join([*cells, seeds_of(runs)]) + " |")
    return lines


def calibration_table(measurements: list[dict[str, Any]]) -> list[str]:
    """A row per run: errors of its scores on test, as they are and fitted to dev, in percent."""
    lines = [
        "| data | method | fitted | mentions | calibration error | fitted | Brier | fitted | seed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for measured in sorted(
        measurements,
        key=lambda measured: (place_of(measured["train_file"]), METHODS.index(measured["method"])),
    ):
        fitted = (
            ", ".join(
                f"{name.removeprefix('score_')} {value:.2f}"
                for name, value in measured["fitted"].items()
            )
            or "-"
        )
        errors = [
            f"{100 * measured[when][key]:.1f}"
            for key in ("ece", "brier")
            for when in ("before", "after")
        ]
        cells = [
            place_of(measured["train_file"]),
            measured["method"],
            fitted,
            str(measured["mentions"]),
            *errors,
            str(measured["seed"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def runtimes_table(measurements: list[dict[str, Any]]) -> list[str]:
    """A row per run and way to run it: F1 on dev, speed beside float32 in torch."""
    lines = ["| data | method | way | dev F1 | speed | quartiles |", "|---|---|---|---|---|---|"]
    for measured in measurements:
        for way, row in measured["ways"].items():
            quartiles = " to ".join(f"{value:.2f}" for value in row["quartiles"])
            cells = [
                place_of(measured["train_file"]),
                measured["method"],
                way,
                f"{100 * row['f1']:.2f}",
                f"{row['speed']:.2f}",
                quartiles,
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def windows_table(measurements: list[dict[str, Any]]) -> list[str]:
    """A row per run and length of windows: F1 on test documents, agreement with the mentions at the length of training, in percent."""
    lines = [
        "| data | method | documents | characters | window | test F1 | agreement |",
        "|---|---|---|---|---|---|---|",
    ]
    for measured in measurements:
        for size, row in measured["sizes"].items():
            cells = [
                place_of(measured["train_file"]),
                measured["method"],
                str(measured["documents"]),
                f"{measured['mean_characters']:.0f}",
            ]
            cells += [f"{size} tokens" + " (training)" * (int(size) == measured["trained"])]
            lines.append(
                "| "
                + " | ".join([*cells, f"{100 * row['f1']:.1f}", f"{100 * row['agreement']:.1f}"])
                + " |"
            )
    return lines


def place_of(train_file: str) -> str:
    """What the tables call a data set: the folder of its training file."""
    return str(Path(train_file).parent).removeprefix("${NER_DATA}/").removeprefix("runs/")


def counts_of(run: dict[str, Any]) -> np.ndarray:
    """(texts, 3): correct, predicted, gold of each test text; gold are all mentions where some nest."""
    return np.reshape(run["test"].get("all_counts", run["test"]["counts"]), (-1, 3))


def interval(ours: np.ndarray, theirs: np.ndarray, resamples: int = RESAMPLES) -> list[str]:
    """Mean difference of micro F1 in points, and its 95 % interval when the test texts are drawn anew (paired bootstrap).

    ours, theirs: (seeds, texts, 3) counts. A resample draws texts with replacement, the same ones for both methods and all seeds; the
    difference is averaged over the seeds.
    """
    texts = ours.shape[1]
    generator = np.random.default_rng(0)
    drawn = generator.multinomial(
        texts, np.full(texts, 1 / texts), size=resamples
    )  # (resamples, texts) how often

    def f1(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
        correct, predicted, gold = np.moveaxis(
            np.einsum("rt,stk->rsk", weights, counts), -1, 0
        )  # each (resamples, seeds)
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
    versions = sorted(
        {
            f"torch {m['versions']['torch']}, transformers {m['versions']['transformers']}"
            for m in measurements
        }
    )
    return f"Measured on {'; '.join(places)}; {'; '.join(versions)}."


def between(text: str, begin: str, end: str, content: str) -> str:
    """A document with other content between two markers."""
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"the markers {begin} and {end} are missing")
    return f"{before}{begin}\n{content}\n{end}{after}"


def ablation_table(groups: Groups, measurements: list[dict[str, Any]]) -> list[str]:
    """A row per configuration of configs/ablation: scores of dev, and the difference to NerCo over the seeds of both.

    `groups`: the runs on Weibo are the table's base (nerco) and its row without stage one (crf).
    """
    names = {"nerco": "nothing (nerco)", "crf": "no stage one, no head-only phase (crf)"}
    runs: dict[str, dict[int, dict[str, Any]]] = {
        names[m]: {run["seed"]: run for run in groups["weibo", m]} for m in names
    }
    base = runs[names["nerco"]]
    for metrics in measurements:
        name = (
            Path(metrics["config"]["output_dir"])
            .name.removeprefix("ablation-")
            .removesuffix("-{seed}")
            .replace("_", " ")
        )
        runs.setdefault(name, {})[metrics["seed"]] = metrics
    lines = [
        "| what changes | dev F1 | beside nerco | k-NN F1 after stage one | seeds |",
        "|---|---|---|---|---|",
    ]
    seeds = {metrics["seed"] for metrics in measurements}
    for name, every in runs.items():
        own = {seed: run for seed, run in sorted(every.items()) if seed in seeds}
        beside = [dev_f1(run) - dev_f1(base[seed]) for seed, run in own.items() if seed in base]
        found = [
            run["phases"]["stage1"]["best"] for run in own.values() if "stage1" in run["phases"]
        ]
        cells = [
            name,
            spread([dev_f1(run) for run in own.values()]),
            "" if every is base else signed(beside),
        ]
        lines.append(
            "| "
            + " | ".join([*cells, spread(found) if found else "-", ", ".join(map(str, own))])
            + " |"
        )
    return lines


def dev_f1(run: dict[str, Any]) -> float:
    return run["dev"]["micro"]["f1"]


def signed(values: list[float]) -> str:
    return f"{100 * mean(values):+.1f}" + (
        f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    )


def segmentation_table(measured: dict[str, Any]) -> list[str]:
    """A row per moment of training: distances in cosine, ratio, alignment, uniformity, k-NN."""
    lines = [
        "| dev tokens | B-I | types | ratio | alignment | uniformity | k-NN accuracy | k-NN F1 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in measured["rows"].items():
        cells = [
            f"{row[key][0]:.3f} ± {row[key][1]:.3f}"
            for key in ("b_i", "types", "ratio", "alignment", "uniformity")
        ]
        cells += [
            f"{100 * row[key][0]:.1f} ± {100 * row[key][1]:.1f}"
            for key in ("knn_accuracy", "knn_f1")
        ]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    seeds = "; ".join(
        f"{method} {', '.join(map(str, sorted(numbers)))}"
        for method, numbers in sorted(measured["seeds"].items())
    )
    return [*lines, "", f"Mean and deviation over seeds ({seeds}); {measured['machine']}."]


def speed_table(report: dict[str, Any]) -> list[str]:
    """A row per comparison of benchmarks/speed.py."""
    lines = [
        "| section | ratio | median | quartiles | target | met | repetitions |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, section in report["sections"].items():
        for row in section["comparisons"]:
            met = {True: "yes", False: "no", None: ""}[row["met"]]
            quartiles = " to ".join(f"{value:.2f}" for value in row["quartiles"])
            cells = [
                name,
                row["name"],
                f"{row['ratio']:.2f}",
                quartiles,
                row["target"] or "",
                met,
                str(row["repetitions"]),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    threads = f"{report['threads']} thread" + "s" * (report["threads"] > 1)
    return [*lines, "", f"`{report['command']}`, {threads}. {machines([report])}"]


def peers_table(report: dict[str, Any]) -> list[str]:
    """A row per tagger of benchmarks/peers.py."""
    lines = [
        "| tagger | batch | texts/s | of the encoder's speed | start | peak memory | mentions a text | of a long text read | warns |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in report["peers"]:
        reads = f"{100 * row['read']:.0f} % ({row['long_texts']})"
        warns = "-" if row["read"] == 1 else "yes" if row["says_so"] else "no"
        cells = [
            row["title"],
            str(row["batch_size"]),
            f"{row['texts_per_second']:.1f}",
            f"{100 * row['share_of_encoder']:.0f} %",
        ]
        cells += [
            f"{row['start']:.1f} s",
            f"{row['peak_bytes'] / 1e6:.0f} MB",
            f"{row['mentions'] / report['texts']:.1f}",
            reads,
            warns,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    threads = f"{report['threads']} thread" + "s" * (report["threads"] > 1)
    versions = dict.fromkeys(
        ", ".join(f"{name} {number}" for name, number in sorted(row["versions"].items()))
        for row in report["peers"]
    )
    sizes = f"{report['texts']} texts ({report['source']}), {report['repetitions']} process{'es' * (report['repetitions'] > 1)} each, {threads}"
    return [
        *lines,
        "",
        f"`{report['command']}`: {sizes}. Measured on {report['machine']}; {'; '.join(versions)}.",
    ]


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]


def documents() -> dict[Path, str]:
    """What each document should hold."""
    main_runs, ablations, representations = (
        read(RESULTS / "runs"),
        read(RESULTS / "ablation"),
        read(RESULTS / "segmentation"),
    )
    groups = grouped(main_runs)
    readme, method = ROOT / "README.md", ROOT / "docs" / "method.md"
    content = "\n".join(
        [*score_table(groups), "", *difference_table(groups), "", machines(main_runs)]
    )
    text = between(readme.read_text("utf-8"), *markers("results"), content)
    binder_runs = read(RESULTS / "binder")
    binder = grouped(binder_runs)
    content = (
        "\n".join([*nested_table(binder), "", *difference_table(binder), "", machines(binder_runs)])
        if binder_runs
        else "Not run yet."
    )
    pages = {readme: between(text, *markers("binder"), content)}
    held_out = read(RESULTS / "held_out")
    content = (
        "\n".join([*held_out_table(held_out), "", machines(held_out)])
        if held_out
        else "Not run yet."
    )
    page = ROOT / "docs" / "binder.md"
    pages[page] = between(page.read_text("utf-8"), *markers("held out"), content)
    page = ROOT / "docs" / "serving.md"
    pages[page] = serving(page.read_text("utf-8"))
    ablation = (
        [*ablation_table(groups, ablations), "", machines(ablations)]
        if ablations
        else ["Not run yet."]
    )
    table = [line for measured in representations for line in segmentation_table(measured)] or [
        "Not measured yet."
    ]
    text = between(method.read_text("utf-8"), *markers("ablation"), "\n".join(ablation))
    pages[method] = between(text, *markers("segmentation"), "\n".join(table))
    speed = ROOT / "docs" / "speed.md"
    reports = [json.loads(path.read_text("utf-8")) for path in sorted(RESULTS.glob("speed*.json"))]
    rows = "\n\n".join("\n".join(speed_table(report)) for report in reports) or "Not measured yet."
    return {**pages, speed: between(speed.read_text("utf-8"), *markers("speed"), rows)}


def serving(text: str) -> str:
    """docs/serving.md with its tables."""
    for name, table in {
        "calibration": calibration_table,
        "runtimes": runtimes_table,
        "windows": windows_table,
    }.items():
        measurements = read(RESULTS / name)
        content = (
            [*table(measurements), "", machines(measurements)]
            if measurements
            else ["Not measured yet."]
        )
        text = between(text, *markers(name), "\n".join(content))
    peers = RESULTS / "peers.json"
    rows = (
        peers_table(json.loads(peers.read_text("utf-8")))
        if peers.is_file()
        else ["Not measured yet."]
    )
    return between(text, *markers("peers"), "\n".join(rows))


def markers(name: str) -> tuple[str, str]:
    return f"<!-- {name}: written by benchmarks/tables.py -->", f"<!-- /{name} -->"


def main() -> int:
    pages = documents()
    if "--check" in sys.argv[1:]:
        return int(any(path.read_text("utf-8") != text for path, text in pages.items()))
    for path, text in pages.items():
        path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
