"""Types from a few examples: what `add_types` finds of held-out types with 0, 1, 5 and 20 texts.

NER_DATA=... MINILM=... python -m benchmarks.add_type --domain science [key=value ...]

The model is that of `benchmarks.held_out` with both variations, trained on the four other CrossNER
domains; it is trained first if it is not there. Each type that these lack is added from N texts of
the held-out domain's dev part that mention it, drawn anew for each sample; only its mentions count
in them. Scored on the domain's test part: the new types beside the old ones, which they give way
to, and alone. `left_out` is what the tests of `add_types` on the examples themselves promise. The
old types' mentions are compared with those of the model before.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.held_out import DOMAINS, ROOT, prepare, train
from contrastive_ner.data.descriptions import read_types
from contrastive_ner.data.readers import read_records
from contrastive_ner.data.records import Mention, Record
from contrastive_ner.files import write_json
from contrastive_ner.provenance import provenance

VARIANT = "both"
SIZES = (0, 1, 5, 20)


def trained_model(domain: str, seed: int, overrides: Sequence[str]) -> Path:
    """The folder of the held-out model, trained if need be."""
    run_dir = ROOT / "runs" / f"held_out-{domain}" / f"{VARIANT}-{seed}"
    if not (run_dir / "model").is_dir():
        train(domain, VARIANT, seed, overrides)
    return run_dir / "model"


def drawn(records: Sequence[Record], label: str, size: int, sample: int) -> list[Record]:
    """Texts that mention a type, with these mentions only."""
    having = [
        replace(record, entities=[m for m in record.entities if m.label == label])
        for record in records
        if any(m.label == label for m in record.entities)
    ]
    return random.Random(f"{label} {sample}").sample(having, min(size, len(having)))


def scores_of(found: Sequence[list[Mention]], records: Sequence[Record]) -> dict[str, Any]:
    """Micro scores, and F1 by type."""
    from contrastive_ner.evaluation.metrics import span_scores

    scores = span_scores(found, [record.entities for record in records])
    return {
        **scores["micro"],
        "f1_by_type": {label: row["f1"] for label, row in scores["per_type"].items()},
    }


def measure(
    model_dir: Path,
    types: dict[str, str],
    dev: Sequence[Record],
    test: Sequence[Record],
    size: int,
    sample: int,
) -> dict[str, Any]:
    """Scores with `size` texts a type; 0: with the descriptions alone."""
    from contrastive_ner.serving.inference import load_pipeline, tag_records
    from contrastive_ner.training.new_types import add_types

    pipeline = load_pipeline(model_dir)
    model, tokenizer = pipeline.model, pipeline.tokenizer
    old = model.config.labels
    before = tag_records(pipeline, test).mentions
    reports: dict[str, Any] = {}
    if not size:
        model.add_labels(types, tokenizer)
    else:
        for label, description in types.items():
            own = drawn(dev, label, size, sample)
            reports |= add_types(model, tokenizer, {label: description}, own)
    beside = tag_records(pipeline, test).mentions
    alone = tag_records(pipeline, test, types=model.types.remove(*old)).mentions
    left_out = [row["left_out"]["f1"] for row in reports.values() if row["left_out"]]
    return {
        "texts": size,
        "sample": sample,
        "alone": scores_of(alone, test),
        "beside": scores_of([[m for m in own if m.label in types] for own in beside], test),
        "left_out_f1": mean(left_out) if left_out else None,
        # A described type may displace old mentions, a fitted one never.
        "same_old": [[m for m in own if m.label in old] for own in beside] == before,
    }


def main() -> int:
    """Measure every size and sample, and write the scores."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.add_type",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="keys to override in the configuration"
    )
    parser.add_argument("--domain", choices=DOMAINS, default="science", help="held-out domain")
    parser.add_argument("--seed", type=int, default=0, help="seed of the model [0]")
    parser.add_argument("--samples", type=int, default=3, help="samples of each size [3]")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "results" / "add_type", help="folder for the scores"
    )
    arguments = parser.parse_intermixed_args()
    folder = ROOT / "runs" / f"held_out-{arguments.domain}"
    labels = prepare(arguments.domain, folder)
    model_dir = trained_model(arguments.domain, arguments.seed, arguments.overrides)
    types = {item.label: item.description for item in read_types(folder / "held_out.yaml")}
    dev, test = (read_records(folder / f"held_out_{split}.jsonl")[0] for split in ("dev", "test"))
    rows = []
    for size in SIZES:
        for sample in range(arguments.samples if size else 1):
            row = measure(model_dir, types, dev, test, size, sample)
            rows.append(row)
            print(
                f"{size:>3} texts, sample {sample}: alone F1 {100 * row['alone']['f1']:.1f}, "
                f"beside F1 {100 * row['beside']['f1']:.1f}, same old {row['same_old']}"
            )
    write_json(
        {
            "domain": arguments.domain,
            "seed": arguments.seed,
            "overrides": arguments.overrides,
            "held_out": labels,
            "rows": rows,
            **provenance(),
        },
        arguments.results / f"{arguments.domain}-{arguments.seed}.json",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
