"""Measure `audit` against cleanlab, and `select` against random choice.

NER_DATA=... python -m benchmarks.insight audit [key=value ...]
NER_DATA=... python -m benchmarks.insight select [key=value ...]

audit: 5 % of the mentions in Resume's training data get an error: another type, another boundary,
none any more, or one that is not there. Models trained by folds give both rankings: the mentions of
`audit`, and cleanlab's tokens (`token_classification.filter`, ranked by each of its scores) from
the same models' tag probabilities. Precision at K is the share of the first K that touch a
character whose tag was changed. Because the tokens of one error follow each other, cleanlab's are
ranked besides with adjacent ones joined, which is what a reader has to look at.

select: Weibo's training data are annotated in steps, of which the first is random. Each step adds
texts chosen by the model of the step before, or by chance, and trains anew; F1 is on test. The cost
is counted in texts, and in characters besides, because `select` prefers long texts.

Started again, it goes on where it was. `--texts` takes fewer texts, to try it.
"""

import argparse
import random
import shlex
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from contrastive_ner.data.records import Mention, Record, entity_types, outermost
from contrastive_ner.data.schemes import bio_labels, spans_to_tags
from contrastive_ner.files import write_json
from contrastive_ner.insight.audit import disagreements
from contrastive_ner.insight.folds import divide, fold_configs, train_fold
from contrastive_ner.insight.selection import select
from contrastive_ner.insight.views import views
from contrastive_ner.provenance import provenance
from contrastive_ner.serving.inference import evaluate_records, load_pipeline
from contrastive_ner.training.loading import load_data
from contrastive_ner.training.settings import load_config

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = {"audit": "configs/resume_crf.yaml", "select": "configs/weibo_crf.yaml"}
KINDS = ("type", "boundary", "missing", "spurious")
RANKINGS = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure one of the two and write the result."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.insight",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=tuple(CONFIGS))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="keys of the training")
    parser.add_argument("--texts", type=int, default=0, help="training texts to use [all]")
    parser.add_argument("--folds", type=int, default=5, help="audit: number of models [5]")
    parser.add_argument(
        "--shares", default="0.1,0.2,0.3,0.6", help="select: shares of train [0.1,0.2,0.3,0.6]"
    )
    parser.add_argument("--seed", type=int, default=0, help="of errors and first texts [0]")
    parser.add_argument("--folder", type=Path, help="for the models [runs/insight-WHAT-SEED]")
    parser.add_argument("--output", type=Path, help="result [results/insight_WHAT.json]")
    arguments = parser.parse_intermixed_args(argv)
    name = arguments.what
    arguments.folder = arguments.folder or ROOT / "runs" / f"insight-{name}-{arguments.seed}"
    measured = {"audit": measure_audit, "select": measure_select}[name](arguments)
    report = {
        **measured,
        "command": shlex.join(["python", "-m", "benchmarks.insight", *argv]),
        **provenance(),
    }
    output = arguments.output or ROOT / "results" / f"insight_{name}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(report, output)
    return 0


# -------------------------------------------------------------------------------------------- audit
def measure_audit(arguments: argparse.Namespace) -> dict[str, Any]:
    """Precision of both rankings."""
    config = load_config(CONFIGS["audit"], [*arguments.overrides, f"seed={arguments.seed}"])
    data = load_data(config)
    clean = data.records["train"][: arguments.texts or None]
    train, changed = planted(clean, 0.05, arguments.seed)
    folds = divide(train, arguments.folds, arguments.seed)
    labels = bio_labels(entity_types(train))
    rows: list[dict[str, Any]] = []
    tags: list[list[int]] = []
    chances: list[Any] = []
    names: list[str] = []
    places: list[list[set[int]]] = []  # by text and token: the changed characters that it has
    for fold, own in enumerate(
        fold_configs(config, train, data.records["dev"], folds, arguments.folder)
    ):
        pipeline = load_pipeline(train_fold(own))
        held_out = [r for r, number in zip(train, folds, strict=True) if number == fold]
        rows += disagreements(pipeline, held_out)
        order = [pipeline.model.config.labels.index(label) for label in labels]
        for view in views(pipeline, held_out):
            space: Any = view.space
            spans = space.tokenized.spans
            chances.append(space.tags[:, order])
            tags.append([labels.index(tag) for tag in tags_of(view.record, spans)])
            names.append(view.record.id)
            wrong = changed.get(view.record.id, set())
            places.append([wrong & set(range(*span)) for span in spans])
    rows.sort(key=lambda row: -row["suspicion"])
    hits = [changed.get(r["record"], set()) & set(range(r["start"], r["end"])) for r in rows]
    ids = [row["record"] for row in rows]
    result: dict[str, Any] = {
        "texts": len(train),
        "planted": sum(map(len, runs_of(changed).values())),
        "folds": arguments.folds,
        "config": config.to_dict(),
        "audit": measured_ranking(list(zip(ids, hits, strict=True)), changed),
    }
    from cleanlab.token_classification.filter import find_label_issues

    for ranking in RANKINGS:
        issues = find_label_issues(tags, chances, return_indices_ranked_by=ranking)
        for name, places_found in {"": [{i} for i in issues], "_joined": joined(issues)}.items():
            found = [
                (names[min(own)[0]], set().union(*(places[text][token] for text, token in own)))
                for own in places_found
            ]
            result[f"cleanlab_{ranking}{name}"] = measured_ranking(found, changed)
    for name, own_result in result.items():
        if isinstance(own_result, dict) and "at_200" in own_result:
            print(name, own_result)
    return result


def joined(issues: Sequence[tuple[int, int]]) -> list[set[tuple[int, int]]]:
    """Ranked tokens (text, token) in runs of adjacent ones, each at the rank of its first.

    >>> [sorted(own) for own in joined([(0, 3), (1, 0), (0, 4), (0, 2)])]
    [[(0, 2), (0, 3), (0, 4)], [(1, 0)]]
    """
    there = set(issues)
    runs, seen = [], set()
    for text, token in issues:
        if (text, token) in seen:
            continue
        first = last = token
        while (text, first - 1) in there:
            first -= 1
        while (text, last + 1) in there:
            last += 1
        runs.append({(text, number) for number in range(first, last + 1)})
        seen |= runs[-1]
    return runs


def measured_ranking(
    found: Sequence[tuple[str, set[int]]], changed: dict[str, set[int]]
) -> dict[str, float]:
    """Precision of a ranking, and how many different errors its first 200 show.

    Several tokens may show the same error; a mention shows it once.

    Args:
        found: the record of each and its changed characters, in the order of the ranking.
    """
    counts: dict[str, float] = {"ranked": len(found)}
    for k in (50, 100, 200, 500):
        if len(found) >= k:
            counts[f"at_{k}"] = sum(bool(hit) for _, hit in found[:k]) / k
    starts = runs_of(changed)
    errors = {
        (name, max(start for start in starts[name] if start <= at))
        for name, hit in found[:200]
        for at in hit
    }
    return {**counts, "errors_in_200": len(errors)}


def tags_of(record: Record, spans: Sequence[tuple[int, int]]) -> list[str]:
    """BIO tags of a record over positions."""
    starts = {start: i for i, (start, _) in enumerate(spans)}
    ends = {end: i + 1 for i, (_, end) in enumerate(spans)}
    own = [
        (starts[m.start], ends[m.end], m.label)
        for m in outermost(record.entities)[0]
        if m.start in starts and m.end in ends
    ]
    return spans_to_tags(own, len(spans), "BIO")


def planted(
    records: Sequence[Record], share: float, seed: int
) -> tuple[list[Record], dict[str, set[int]]]:
    """Records with errors in a share of their mentions; by record the characters that changed."""
    rng = random.Random(seed)
    types = entity_types(records)
    copies = [Record(f"{i}", r.text, list(r.entities), r.doc) for i, r in enumerate(records)]
    mentions = [(record, m) for record in copies for m in record.entities]
    for number, (record, mention) in enumerate(rng.sample(mentions, round(share * len(mentions)))):
        kind = KINDS[number % len(KINDS)]
        if kind == "spurious":
            start = rng.randrange(len(record.text))
            end = min(start + rng.randint(2, 4), len(record.text))
            new = Mention(start, end, rng.choice(types))
            if not any(m.start < end and start < m.end for m in record.entities):
                record.entities.append(new)
            continue
        record.entities.remove(mention)
        if kind == "type":
            others = [label for label in types if label != mention.label] or [mention.label]
            record.entities.append(mention._replace(label=rng.choice(others)))
        elif kind == "boundary":
            moves = [
                mention._replace(start=mention.start + a, end=mention.end + b)
                for a, b in ((1, 0), (-1, 0), (0, 1), (0, -1))
            ]
            free = [
                m
                for m in moves
                if 0 <= m.start < m.end <= len(record.text)
                and not any(o.start < m.end and m.start < o.end for o in record.entities)
            ]
            record.entities.append(rng.choice(free) if free else mention)
        record.entities.sort()
    changed = {}
    for before, after in zip(records, copies, strict=True):
        spans = [(i, i + 1) for i in range(len(after.text))]
        pairs = zip(tags_of(before, spans), tags_of(after, spans), strict=True)
        if wrong := {i for i, (a, b) in enumerate(pairs) if a != b}:
            changed[after.id] = wrong
    return copies, changed


def runs_of(changed: dict[str, set[int]]) -> dict[str, list[int]]:
    """The first character of each run of changed characters, by record."""
    return {name: [i for i in sorted(own) if i - 1 not in own] for name, own in changed.items()}


# ------------------------------------------------------------------------------------------- select
def measure_select(arguments: argparse.Namespace) -> dict[str, Any]:
    """F1 on test after each step, by `select` and by chance, and that of all of train."""
    config = load_config(CONFIGS["select"], [*arguments.overrides, f"seed={arguments.seed}"])
    data = load_data(config)
    train = [Record(f"{i}", r.text, r.entities) for i, r in enumerate(data.records["train"])]
    train = train[: arguments.texts or None]
    rng = random.Random(arguments.seed)
    shuffled = rng.sample(train, len(train))
    shares = [float(share) for share in arguments.shares.split(",")]
    total = sum(len(record.text) for record in train)

    def trained(own: Sequence[Record], name: str) -> tuple[Any, dict[str, float]]:
        """The pipeline of a model trained on some texts, and what it cost and reached."""
        folder = arguments.folder / name
        known = set(entity_types(own))
        dev = [r for r in data.records["dev"] if known.issuperset(entity_types([r]))]
        # Texts that belong to no fold are trained on; the fold itself is one text more.
        rest = [*own, Record("rest", "")]
        (fold,) = fold_configs(config, rest, dev, [None] * len(own) + [0], folder)
        pipeline = load_pipeline(train_fold(fold))
        scores = evaluate_records(pipeline, data.records["test"], unseen_types="missed")
        measured = {
            "share_of_texts": len(own) / len(train),
            "share_of_characters": sum(len(record.text) for record in own) / total,
            "test_f1": scores["micro"]["f1"],
        }
        print(name, measured, flush=True)
        return pipeline, measured

    first = shuffled[: round(shares[0] * len(train))]
    pipeline, start = trained(first, "first")
    result: dict[str, Any] = {"select": [start], "random": [start], "config": config.to_dict()}
    chosen = first
    for before, share in pairwise(shares):
        count = round(share * len(train)) - round(before * len(train))
        seen = {record.text for record in chosen}
        ids = {row["id"] for row in select(pipeline, train, count, annotated=seen)}
        chosen = [*chosen, *(record for record in train if record.id in ids)]
        pipeline, measured = trained(chosen, f"select-{share}")
        result["select"].append(measured)
        result["random"].append(
            trained(shuffled[: round(share * len(train))], f"random-{share}")[1]
        )
    result["all"] = trained(train, "all")[1]
    return result


if __name__ == "__main__":
    sys.exit(main())
