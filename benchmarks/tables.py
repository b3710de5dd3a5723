"""Write the tables of README.md and docs/ from the measurements in results/.

python -m benchmarks.tables            write the tables
python -m benchmarks.tables --check    fail if a document is out of date
"""

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
METHODS = ("ce", "crf", "nerco", "binder")
RESAMPLES = 10_000
FOLDS = ("weibo",)  # data sets of `benchmarks.folds`
HEADLINES = (("weibo", "nerco"), ("bc5cdr", "binder"), ("germeval2014", "binder"))
NAMES = {"nerco": "NerCo", "binder": "BINDER"}
HELD_OUT_VARIANTS = {
    "plain": "descriptions",
    "texts": "name or description, drawn",
    "drawn": "10 types a batch, drawn",
    "both": "both drawn",
    "mixture": "both drawn, seven data sets",
}

Groups = dict[tuple[str, str], list[dict[str, Any]]]


def row_of(*cells: str) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def header(*names: str) -> list[str]:
    """The first two rows of a Markdown table."""
    return [row_of(*names), "|" + "---|" * len(names)]


def grouped(measurements: list[dict[str, Any]]) -> Groups:
    """Group runs by data set and method, ordered by seed."""
    groups: Groups = defaultdict(list)
    for metrics in sorted(measurements, key=lambda metrics: metrics["seed"]):
        groups[place_of(metrics["config"]["train_file"]), metrics["method"]].append(metrics)
    return groups


def score_table(groups: Groups) -> list[str]:
    """One row per data set and method: mean and deviation of micro scores, in percent."""
    lines = header("data", "method", "dev F1", "test P", "test R", "test F1", "seeds", "epochs")
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
        lines.append(row_of(*cells, seeds_of(runs), f"{epochs:g}"))
    return lines


def nested_table(groups: Groups) -> list[str]:
    """One row per data set and method: scores on all, outer and inner mentions, in percent."""
    scores = ["dev F1", "test P", "test R", "test F1", "outer F1", "inner P", "inner R"]
    lines = header("data", "method", *scores, "inner mentions", "seeds", "epochs")
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
        # A tagger's mentions never nest: only its correct ones can be recognised as inner, so their
        # precision is meaningless.
        cells.append(
            spread([run["test"]["inner"]["precision"] for run in runs])
            if inner and method == "binder"
            else "-"
        )
        cells.append(spread([run["test"]["inner"]["recall"] for run in runs]) if inner else "-")
        epochs = mean(sum(phase["epochs"] for phase in run["phases"].values()) for run in runs)
        lines.append(row_of(*cells, str(inner or "-"), seeds_of(runs), f"{epochs:g}"))
    return lines


def difference_table(groups: Groups) -> list[str]:
    """Test F1 of a method minus its control over shared seeds, with paired bootstrap intervals.

    Both on all test texts and on those that do not occur in train.
    """
    scores = ["test F1", "95 % interval", "without texts of train", "95 % interval"]
    lines = header("data", "difference", *scores, "seeds")
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
            lines.append(row_of(*cells, ", ".join(map(str, shared))))
    return lines


def held_out_table(measurements: list[dict[str, Any]]) -> list[str]:
    """One row per held-out domain and variant: scores on types unseen in training, in percent."""
    groups: Groups = defaultdict(list)
    for metrics in sorted(measurements, key=lambda metrics: metrics["seed"]):
        groups[metrics["domain"], metrics["variant"]].append(metrics)
    chosen = ["limits without labels, F1"]
    chosen += [f"least score chosen on {where}, F1" for where in ("20 texts", "dev")]
    lines = header(
        "held out", "types", "mentions", "trained with", "P", "R", "F1", *chosen, "seeds"
    )
    order, keys = list(HELD_OUT_VARIANTS), ("precision", "recall", "f1")
    for domain, variant in sorted(groups, key=lambda key: (key[0], order.index(key[1]))):
        runs = groups[domain, variant]
        counts = [str(len(runs[0]["held_out"])), str(runs[0]["micro"]["gold"])]
        plain = [spread([run["micro"][key] for run in runs]) for key in keys]
        limited = [
            spread([run[part]["f1"] for run in runs]) if all(part in run for run in runs) else "-"
            for part in ("unlabelled", "few", "chosen")
        ]
        cells = [domain, *counts, HELD_OUT_VARIANTS[variant], *plain, *limited]
        lines.append(row_of(*cells, seeds_of(runs)))
    return lines


def add_type_table(measurements: list[dict[str, Any]]) -> list[str]:
    """One row per held-out domain and number of texts: F1 on types added from examples."""
    kinds = ("F1 on texts left out", "F1 with the new types alone", "F1 beside the other types")
    lines = header("held out", "types", "texts per type", *kinds, "samples")
    for measured in sorted(measurements, key=lambda measured: measured["domain"]):
        by_size: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for row in measured["rows"]:
            by_size[row["texts"]].append(row)
        for size, rows in sorted(by_size.items()):
            promised = [own for row in rows if (own := row["left_out_f1"]) is not None]
            scores = [
                spread(promised) if promised else "-",
                *(spread([row[kind]["f1"] for row in rows]) for kind in ("alone", "beside")),
            ]
            cells = [measured["domain"], str(len(measured["held_out"])), str(size)]
            lines.append(row_of(*cells, *scores, str(len(rows))))
    return lines


def calibration_table(measurements: list[dict[str, Any]]) -> list[str]:
    """One row per run: calibration on test before and after fitting to dev, in percent."""
    errors = ["calibration error", "fitted", "Brier", "fitted"]
    lines = header("data", "method", "fitted", "mentions", *errors, "seed")
    for measured in sorted(
        measurements,
        key=lambda measured: (place_of(measured["train_file"]), METHODS.index(measured["method"])),
    ):
        values = measured["fitted"].items()
        fitted = ", ".join(f"{name.removeprefix('score_')} {value:.2f}" for name, value in values)
        errors = [
            f"{100 * measured[when][key]:.1f}"
            for key in ("ece", "brier")
            for when in ("before", "after")
        ]
        cells = [place_of(measured["train_file"]), measured["method"], fitted or "-"]
        lines.append(row_of(*cells, str(measured["mentions"]), *errors, str(measured["seed"])))
    return lines


def runtimes_table(measurements: list[dict[str, Any]]) -> list[str]:
    """One row per run and runtime: F1 on dev, speed relative to torch float32."""
    lines = header("data", "method", "way", "dev F1", "speed", "quartiles")
    for measured in measurements:
        for way, row in measured["ways"].items():
            quartiles = " to ".join(f"{value:.2f}" for value in row["quartiles"])
            cells = [place_of(measured["train_file"]), measured["method"], way]
            scores = [f"{100 * row['f1']:.2f}", f"{row['speed']:.2f}"]
            lines.append(row_of(*cells, *scores, quartiles))
    return lines


def windows_table(measurements: list[dict[str, Any]]) -> list[str]:
    """One row per run and window length: test F1 and agreement with training, in percent."""
    lines = header("data", "method", "documents", "characters", "window", "test F1", "agreement")
    for measured in measurements:
        for size, row in measured["sizes"].items():
            cells = [
                place_of(measured["train_file"]),
                measured["method"],
                str(measured["documents"]),
                f"{measured['mean_characters']:.0f}",
            ]
            cells += [f"{size} tokens" + " (training)" * (int(size) == measured["trained"])]
            lines.append(row_of(*cells, f"{100 * row['f1']:.1f}", f"{100 * row['agreement']:.1f}"))
    return lines


Runs = list[dict[str, Any]]


def complete_folds(measurements: Runs) -> dict[tuple[str, str], dict[int, Runs]]:
    """{(data set, configuration): {seed: its runs}}, where all folds of a seed are there."""
    found: dict[tuple[str, str], dict[int, dict[int, dict[str, Any]]]] = defaultdict(dict)
    for run in measurements:
        name = Path(run["config"]["output_dir"]).name
        _, data, config, fold, _ = name.split("-")
        found[data, config].setdefault(run["seed"], {})[int(fold[1:])] = run
    complete: dict[tuple[str, str], dict[int, Runs]] = {}
    for key, seeds in sorted(found.items()):
        train = next(run["config"]["train_file"] for r in seeds.values() for run in r.values())
        folds = int(Path(train).parent.parent.name.rpartition("-")[2])  # runs/folds/DATA-5/0/
        own = {s: [r[f] for f in sorted(r)] for s, r in sorted(seeds.items()) if len(r) == folds}
        if own:
            complete[key] = own
    return complete


def pooled_counts(seeds: Mapping[int, Runs]) -> dict[int, np.ndarray]:
    """{seed: counts of the texts of all folds (texts, 3)}, of the seeds that were tested."""
    return {
        seed: np.concatenate(list(map(counts_of, runs)))
        for seed, runs in seeds.items()
        if all("test" in run for run in runs)
    }


def pooled_f1(pooled: Mapping[int, np.ndarray]) -> list[float]:
    """F1 over all folds, of each seed."""
    sums = [counts.sum(0) for counts in pooled.values()]
    return [2 * correct / max(predicted + gold, 1) for correct, predicted, gold in sums]


def folds_table(measurements: Runs) -> list[str]:
    """Configurations over all folds of a data set: pooled scores, and differences to `crf`.

    Of `benchmarks.folds`. Runs without test have scores on dev alone. A configuration changed by
    keys, such as `nerco_long`, is compared with `crf_long` where that was measured; one with a
    share of the training texts, such as `nerco_25`, with `crf_25`.
    """
    lines = header(
        "data", "configuration", "dev F1", "dev F1, last epoch", "F1", "minutes a run", "seeds"
    )
    complete = complete_folds(measurements)
    pooled = {key: pooled_counts(seeds) for key, seeds in complete.items()}
    for key, own in complete.items():
        f1 = pooled_f1(pooled[key])
        dev = [mean(dev_f1(run) for run in runs) for runs in own.values()]
        minutes = mean(minutes_of(run) for runs in own.values() for run in runs)
        last = [mean(map(last_epoch, runs)) for runs in own.values() if all(map(last_epoch, runs))]
        cells = [*key, spread(dev), spread(last) if last else "-", spread(f1) if f1 else "-"]
        cells += [f"{minutes:.1f}", listed(own)]
        lines.append(row_of(*cells))
    lines += ["", *header("data", "difference", "F1", "95 % interval", "seeds")]
    for (data, config), ours in pooled.items():
        base = re.sub("^[^_]+", "crf", config)
        if (data, base) not in pooled:
            base = "crf" + "".join(re.findall(r"_\d+$", config))
        control = pooled.get((data, base), {})
        shared = [seed for seed in ours if seed in control]
        if config != base and shared:
            a, b = (np.stack([counts[seed] for seed in shared]) for counts in (ours, control))
            lines.append(row_of(data, f"{config} - {base}", *interval(a, b), listed(shared)))
    return lines


def last_epoch(run: dict[str, Any]) -> float:
    """F1 on dev after the last epoch, of the mentions that match token boundaries; 0: not known."""
    return (run["phases"]["full"].get("by_epoch") or [0.0])[-1]


def minutes_of(run: dict[str, Any]) -> float:
    """Minutes that the phases of a run took."""
    return sum(phase["seconds"] for phase in run["phases"].values()) / 60


def listed(seeds: Iterable[int]) -> str:
    """Seeds, separated by commas."""
    return ", ".join(map(str, seeds))


def place_of(train_file: str) -> str:
    """Name of a data set in the tables: the folder of its training file."""
    return str(Path(train_file).parent).removeprefix("${NER_DATA}/").removeprefix("runs/")


def counts_of(run: dict[str, Any]) -> np.ndarray:
    """Correct, predicted and gold counts per test text (texts, 3), including nested mentions."""
    return np.reshape(run["test"].get("all_counts", run["test"]["counts"]), (-1, 3))


def interval(ours: np.ndarray, theirs: np.ndarray, resamples: int = RESAMPLES) -> list[str]:
    """Mean difference of micro F1 in points, and its 95 % interval.

    A paired bootstrap over texts and seeds: a resample draws texts and seeds with replacement, the
    same ones for both methods. With one seed it is over texts alone.

    ours, theirs: (seeds, texts, 3) counts.
    """
    seeds, texts = ours.shape[:2]
    generator = np.random.default_rng(0)
    # How often each text is drawn: (resamples, texts); and each seed: (resamples, seeds).
    drawn = generator.multinomial(texts, np.full(texts, 1 / texts), size=resamples)
    drawn_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)

    def f1(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
        sums = np.einsum("rt,stk->rsk", weights, counts)
        correct, predicted, gold = np.moveaxis(sums, -1, 0)  # each (resamples, seeds)
        return 2 * correct / np.maximum(predicted + gold, 1)

    def differences(weights: np.ndarray) -> np.ndarray:
        return 100 * (f1(ours, weights) - f1(theirs, weights))  # (resamples, seeds)

    low, high = np.percentile((differences(drawn) * drawn_seeds).sum(1) / seeds, [2.5, 97.5])
    mean_difference = differences(np.ones((1, texts))).mean()
    return [f"{mean_difference:+.1f}", f"{low:+.1f} to {high:+.1f}"]


def spread(values: list[float]) -> str:
    """Mean and standard deviation in percent."""
    percent = [100 * value for value in values]
    return f"{mean(percent):.1f}" + (f" ± {stdev(percent):.1f}" if len(percent) > 1 else "")


def seeds_of(runs: list[dict[str, Any]]) -> str:
    """Seeds of runs, separated by commas."""
    return ", ".join(str(run["seed"]) for run in runs)


def machines(measurements: list[dict[str, Any]]) -> str:
    """The line under a table: machines and versions of its measurements."""
    places = sorted({metrics["machine"] for metrics in measurements})
    versions = sorted(
        {
            f"torch {m['versions']['torch']}, transformers {m['versions']['transformers']}"
            for m in measurements
        }
    )
    return f"Measured on {'; '.join(places)}; {'; '.join(versions)}."


def between(text: str, begin: str, end: str, content: str) -> str:
    """Replace the content between two markers of a document.

    Raises:
        SystemExit: a marker is missing.
    """
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"the markers {begin} and {end} are missing")
    return f"{before}{begin}\n{content}\n{end}{after}"


def ablation_table(groups: Groups, measurements: list[dict[str, Any]]) -> list[str]:
    """One row per configuration of configs/ablation: dev scores, and the difference to NerCo.

    The difference is over shared seeds. The Weibo runs of `groups` give the base (nerco) and the
    row without stage one (crf).
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
    lines = header(
        "what changes", "dev F1", "difference to nerco", "k-NN F1 after stage one", "seeds"
    )
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
        lines.append(row_of(*cells, spread(found) if found else "-", ", ".join(map(str, own))))
    return lines


def dev_f1(run: dict[str, Any]) -> float:
    """Micro F1 of a run on dev."""
    return run["dev"]["micro"]["f1"]


def signed(values: list[float]) -> str:
    """Mean with its sign, and standard deviation, in percent."""
    return f"{100 * mean(values):+.1f}" + (
        f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    )


def segmentation_table(measured: dict[str, Any]) -> list[str]:
    """One row per moment of training: cosine distances, ratio, alignment, uniformity, k-NN."""
    figures = ["B-I", "types", "ratio", "alignment", "uniformity", "k-NN accuracy", "k-NN F1"]
    lines = header("dev tokens", *figures)
    for name, row in measured["rows"].items():
        cells = [
            f"{row[key][0]:.3f} ± {row[key][1]:.3f}"
            for key in ("b_i", "types", "ratio", "alignment", "uniformity")
        ]
        cells += [
            f"{100 * row[key][0]:.1f} ± {100 * row[key][1]:.1f}"
            for key in ("knn_accuracy", "knn_f1")
        ]
        lines.append(row_of(name, *cells))
    seeds = "; ".join(
        f"{method} {', '.join(map(str, sorted(numbers)))}"
        for method, numbers in sorted(measured["seeds"].items())
    )
    return [*lines, "", f"Mean and deviation over seeds ({seeds}); {measured['machine']}."]


def speed_table(report: dict[str, Any]) -> list[str]:
    """One row per comparison of benchmarks.speed."""
    lines = header("section", "ratio", "median", "quartiles", "target", "met", "repetitions")
    for name, section in report["sections"].items():
        for row in section["comparisons"]:
            met = {True: "yes", False: "no", None: ""}[row["met"]]
            quartiles = " to ".join(f"{value:.2f}" for value in row["quartiles"])
            cells = [name, row["name"], f"{row['ratio']:.2f}", quartiles, row["target"] or ""]
            lines.append(row_of(*cells, met, str(row["repetitions"])))
    threads = f"{report['threads']} thread" + "s" * (report["threads"] > 1)
    return [*lines, "", f"`{report['command']}`, {threads}. {machines([report])}"]


def peers_table(report: dict[str, Any]) -> list[str]:
    """One row per tagger of benchmarks.peers."""
    speeds = ["texts/s", "of the encoder's speed", "start", "peak memory", "mentions a text"]
    lines = header("tagger", "batch", *speeds, "of a long text read", "warns")
    for row in report["peers"]:
        reads = f"{100 * row['read']:.0f} % ({row['long_texts']})"
        warns = "-" if row["read"] == 1 else "yes" if row["says_so"] else "no"
        cells = [
            row["title"],
            str(row["batch_size"]),
            f"{row['texts_per_second']:.1f}",
            f"{100 * row['share_of_encoder']:.0f} %",
            f"{row['start']:.1f} s",
            f"{row['peak_bytes'] / 1e6:.0f} MB",
            f"{row['mentions'] / report['texts']:.1f}",
        ]
        lines.append(row_of(*cells, reads, warns))
    threads = f"{report['threads']} thread" + "s" * (report["threads"] > 1)
    versions = dict.fromkeys(
        ", ".join(f"{name} {number}" for name, number in sorted(row["versions"].items()))
        for row in report["peers"]
    )
    processes = f"{report['repetitions']} process" + "es" * (report["repetitions"] > 1)
    sizes = f"{report['texts']} texts ({report['source']}), {processes} each, {threads}"
    return [
        *lines,
        "",
        f"`{report['command']}`: {sizes}. Measured on {report['machine']}; {'; '.join(versions)}.",
    ]


def peers_trained_table(measurements: list[dict[str, Any]]) -> list[str]:
    """One row per setting and tagger of benchmarks.peers --train: means over seeds."""
    groups: Groups = defaultdict(list)
    for run in sorted(measurements, key=lambda run: run["seed"]):
        groups[run["setting"], run["title"]].append(run)
    lines = header(
        "data", "texts", "epochs", "tagger", "P", "R", "F1", "training", "texts/s", "seeds"
    )
    for (name, title), every in groups.items():
        runs = [run for run in every if "failed" not in run]
        start = [name, str(every[0]["train_texts"]), str(every[0]["epochs"]), title]
        if not runs:
            lines.append(row_of(*start, "-", "-", f"fails: {every[0]['failed'][:80]}", "", "", ""))
            continue
        scores = [spread([run[key] for run in runs]) for key in ("precision", "recall", "f1")]
        seconds = f"{mean(run['seconds'] for run in runs):.0f} s"
        speed = f"{mean(run['texts_per_second'] for run in runs):.1f}"
        seeds = ", ".join(str(run["seed"]) for run in runs)
        lines.append(row_of(*start, *scores, seconds, speed, seeds))
    return lines


def read(folder: Path) -> list[dict[str, Any]]:
    """The JSON files of a folder, ordered by name."""
    return [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]


def decoder_table(measured: dict[str, Any]) -> list[str]:
    """One row per job of `benchmarks/crf_decoder.py`: speed compared with version 0.1.0."""
    lines = ["| job | speed | quartiles |", "|---|---|---|"]
    for name, row in measured["rows"].items():
        quartiles = " to ".join(f"{value:.2f}" for value in row["quartiles"])
        lines.append(f"| {name} | {row['ratio']:.2f} | {quartiles} |")
    sizes = ", ".join(f"{value} {name}" for name, value in measured["sizes"].items())
    return [*lines, "", f"`{measured['command']}`: {sizes}. {machines([measured])}"]


def reading_table(measured: dict[str, Any]) -> list[str]:
    """One row per job of `benchmarks/reading.py`."""
    lines = header("job", "file, MB", "CPU seconds", "peak memory, MB")
    for name, row in measured["rows"].items():
        size = f"{row['file_megabytes']:.1f}" if row["file_megabytes"] else "-"
        lines.append(row_of(name, size, f"{row['seconds']:.2f}", f"{row['megabytes']:.0f}"))
    times = measured["repetitions"]
    return [*lines, "", f"`{measured['command']}`, medians of {times}. {machines([measured])}"]


def audit_table(measured: dict[str, Any]) -> list[str]:
    """One row per ranking of `benchmarks.insight audit`: precision, errors among the first 200."""
    places = (50, 100, 200, 500)
    lines = header("ranking", *(f"precision at {k}" for k in places), "errors in the first 200")
    names = {"audit": "`audit`, mentions"}
    for key in (key for key in measured if key.startswith("cleanlab_")):
        ranking = key.removeprefix("cleanlab_").removesuffix("_joined")
        kind = "adjacent tokens joined" if key.endswith("_joined") else "tokens"
        names[key] = f"cleanlab, `{ranking}`, {kind}"
    for key, name in names.items():
        row = measured[key]
        shares = [f"{100 * row[f'at_{k}']:.1f}" if f"at_{k}" in row else "-" for k in places]
        lines.append(row_of(name, *shares, f"{row['errors_in_200']:.0f}"))
    facts = (
        f"{measured['texts']:,} texts with {measured['planted']} planted errors, "
        f"{measured['folds']} folds, one seed"
    )
    return [*lines, "", f"`{measured['command']}`: {facts}. {machines([measured])}"]


def select_table(measured: dict[str, Any]) -> list[str]:
    """One row per step of `benchmarks.insight select`: share of train, F1 on test of both ways."""
    lines = header("texts", "`select`: characters", "test F1", "by chance: characters", "test F1")
    whole = measured["all"]
    pairs = zip(measured["select"], measured["random"], strict=True)
    for rows in [*pairs, (whole, whole)]:
        cells = [
            f"{100 * row[key]:.{digits}f}{unit}"
            for row in rows
            for key, digits, unit in (("share_of_characters", 0, " %"), ("test_f1", 1, ""))
        ]
        lines.append(row_of(f"{100 * rows[0]['share_of_texts']:.0f} %", *cells))
    return [*lines, "", f"`{measured['command']}`: one seed. {machines([measured])}"]


def headline_table(groups: Groups, folds: Runs) -> list[str]:
    """One row per headline: a method compared with the CRF tagger, in percent; folds first."""
    scores = ["dev F1", "test F1", "CRF tagger: dev F1", "test F1", "test difference, 95 %"]
    lines = header("data", "method", *scores, "seeds")
    complete = complete_folds(folds)
    for name in FOLDS:
        seeds = [complete[name, kind] for kind in ("nerco", "crf")]
        pooled = [pooled_counts(own) for own in seeds]
        shared = [seed for seed in pooled[0] if seed in pooled[1]]
        scores = [
            spread(values)
            for own, counts in zip(seeds, pooled, strict=True)
            for values in (
                [mean(dev_f1(run) for run in own[seed]) for seed in shared],
                pooled_f1({seed: counts[seed] for seed in shared}),
            )
        ]
        a, b = (np.stack([counts[seed] for seed in shared]) for counts in pooled)
        difference = "{} ({})".format(*interval(a, b))
        lines.append(row_of(f"{name}, folds", "NerCo", *scores, difference, listed(shared)))
    for name, method in HEADLINES:
        ours, theirs = (groups[name, kind] for kind in (method, "crf"))
        part = "micro" if method == "nerco" else "all_mentions"
        scores = [
            spread([run[split][part]["f1"] for run in runs])
            for runs in (ours, theirs)
            for split in ("dev", "test")
        ]
        a, b = (np.stack([counts_of(run) for run in runs]) for runs in (ours, theirs))
        difference = "{} ({})".format(*interval(a, b))
        lines.append(row_of(name, NAMES[method], *scores, difference, seeds_of(ours)))
    return lines


def documents() -> dict[Path, str]:
    """The current content of each document that holds tables."""
    names = ("runs", "folds", "binder", "held_out", "add_type", "ablation", "segmentation")
    runs, folds, binder, held_out, added, ablations, representations = (
        read(RESULTS / name) for name in names
    )
    groups, nested = grouped(runs), grouped(binder)
    reports = [json.loads(path.read_text("utf-8")) for path in sorted(RESULTS.glob("speed*.json"))]
    readme, results, method, about_binder, about_serving, speed, insight = (
        ROOT / "README.md",
        *(
            ROOT / "docs" / f"{name}.md"
            for name in ("results", "method", "binder", "serving", "speed", "insight")
        ),
    )
    tables = {
        readme: {
            "headline": [
                *headline_table({**groups, **nested}, folds),
                "",
                machines([*runs, *folds, *binder]),
            ]
        },
        results: {
            "results": [*score_table(groups), "", *difference_table(groups), "", machines(runs)],
            "binder": [*nested_table(nested), "", *difference_table(nested), "", machines(binder)],
            "folds": [*folds_table(folds), "", machines(folds)],
        },
        method: {
            "ablation": [*ablation_table(groups, ablations), "", machines(ablations)],
            "segmentation": [row for m in representations for row in segmentation_table(m)],
        },
        about_binder: {
            "held out": [*held_out_table(held_out), "", machines(held_out)],
            "add type": [*add_type_table(added), "", machines(added)],
        },
        insight: {
            "audit": audit_table(json.loads((RESULTS / "insight_audit.json").read_text("utf-8"))),
            "select": select_table(
                json.loads((RESULTS / "insight_select.json").read_text("utf-8"))
            ),
        },
        speed: {
            "speed": ["\n\n".join("\n".join(speed_table(report)) for report in reports)],
            "decoder": decoder_table(json.loads((RESULTS / "crf_decoder.json").read_text("utf-8"))),
            "reading": reading_table(json.loads((RESULTS / "reading.json").read_text("utf-8"))),
        },
    }
    pages = {about_serving: serving(about_serving.read_text("utf-8"))}
    for path, parts in tables.items():
        text = path.read_text("utf-8")
        for name, lines in parts.items():
            text = between(text, *markers(name), "\n".join(lines))
        pages[path] = text
    return pages


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
    text = between(text, *markers("peers"), "\n".join(rows))
    trained = read(RESULTS / "peers_trained")
    rows = (
        [*peers_trained_table(trained), "", machines(trained)] if trained else ["Not measured yet."]
    )
    return between(text, *markers("peers trained"), "\n".join(rows))


def markers(name: str) -> tuple[str, str]:
    return f"<!-- {name}: written by benchmarks/tables.py -->", f"<!-- /{name} -->"


def main() -> int:
    """Write the documents; with --check, only return 1 if one is out of date."""
    pages = documents()
    if "--check" in sys.argv[1:]:
        return int(any(path.read_text("utf-8") != text for path, text in pages.items()))
    for path, text in pages.items():
        path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
