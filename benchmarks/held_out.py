"""Zero-shot types: train BINDER on four CrossNER domains, test on types unique to the fifth.

NER_DATA=... MINILM=... python -m benchmarks.held_out --domain ai --seeds 0 1 2 [key=value ...]

Trains `configs/crossner_held_out.yaml` on the other domains together. Then predicts, from their
descriptions, the types of the held-out domain's test part that no training file has; only these
count as gold. Started again, it skips complete runs.

Variants: the plain configuration, variants of the descriptions, types sampled per step, both, and
`mixture`: both, on the four domains and the other sets of `configs/english_binder.yaml`. Each is
also scored with the minimum score (one for all types) that is best on the held-out domain's dev
part, with the one that is best on 20 texts of it, as someone who labels a few would choose it, and
with limits for each type that `fit_limits` finds in the texts of dev without their labels.
"""

import argparse
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contrastive_ner.data.descriptions import EntityType, read_types
from contrastive_ner.data.readers import read_records
from contrastive_ner.data.records import Record, entity_types
from contrastive_ner.data.writers import write_records
from contrastive_ner.errors import ConfigError
from contrastive_ner.files import expand, read_json, read_yaml, write_json

ROOT = Path(__file__).resolve().parent.parent

DOMAINS = ("ai", "literature", "music", "politics", "science")
CONFIG, MIXTURE = "configs/crossner_held_out.yaml", "configs/english_binder.yaml"
VARIANTS = {
    "plain": (),
    "texts": ("type_variants=true",),
    "drawn": ("types_per_batch=10",),
    "both": ("type_variants=true", "types_per_batch=10"),
    "mixture": (),  # whose configuration has them
}
FEW = 20  # texts that choose a limit
LIMITS = tuple(0.5**step for step in range(1, 15))  # candidate minimum scores, down to 6e-5


def domain_records(domain: str, split: str) -> list[Record]:
    """Records of one split of a CrossNER domain in NER_DATA."""
    return read_records(expand(f"${{NER_DATA}}/crossner/{domain}/{split}.txt"))[0]


def merge_types(domains: Sequence[str]) -> list[EntityType]:
    """Types of several domains; a shared type keeps the description of its first domain."""
    merged: dict[str, EntityType] = {}
    texts: set[str] = set()
    for domain in domains:
        for item in read_types(ROOT / "configs" / "types" / f"crossner_{domain}.yaml"):
            if item.label not in merged and item.description.casefold() not in texts:
                merged[item.label] = item
                texts.add(item.description.casefold())
    return list(merged.values())


def write_types(types: Sequence[EntityType], path: Path) -> None:
    """Write a YAML file of types."""
    import yaml

    entries = {
        item.label: {"name": item.name, "description": item.description, "source": item.source}
        for item in types
    }
    path.write_text(
        yaml.safe_dump({"types": entries}, allow_unicode=True, sort_keys=False), "utf-8"
    )


def prepare(domain: str, folder: Path) -> list[str]:
    """Write the data of one held-out domain to a folder.

    That is train, dev and types of the other domains, and dev and test of the held-out domain with
    only the types that the others lack.

    Returns:
        The labels of these types, sorted.
    """
    others = [other for other in DOMAINS if other != domain]
    folder.mkdir(parents=True, exist_ok=True)
    known: set[str] = set()
    for split in ("train", "dev"):
        records = [record for other in others for record in domain_records(other, split)]
        known |= set(entity_types(records))
        write_records(records, folder / f"{split}.jsonl")
    write_types(
        [item for item in merge_types(others) if item.label in known], folder / "types.yaml"
    )
    held_out = [
        item
        for item in read_types(ROOT / "configs" / "types" / f"crossner_{domain}.yaml")
        if item.label not in known
    ]
    write_types(held_out, folder / "held_out.yaml")
    labels = {item.label for item in held_out}
    for split in ("dev", "test"):
        asked = domain_records(domain, split)
        for record in asked:
            record.entities = [mention for mention in record.entities if mention.label in labels]
        write_records(asked, folder / f"held_out_{split}.jsonl")
    return sorted(labels)


def write_mixture(domain: str, folder: Path) -> Path:
    """The configuration of the mixture without the held-out domain, and with all others."""
    import yaml

    sets = read_yaml(ROOT / MIXTURE, ConfigError)["data_sets"]
    pattern = next(name for name in DOMAINS if name in sets)
    others = {
        other: {
            key: value.replace(pattern, other) if isinstance(value, str) else value
            for key, value in sets[pattern].items()
        }
        for other in DOMAINS
        if other != domain
    }
    general = {name: keys for name, keys in sets.items() if name not in DOMAINS}
    path = folder / "mixture.yaml"
    content = {"base": str(ROOT / MIXTURE), "data_sets": {**general, **others}}
    path.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
    return path


def train(domain: str, name: str, seed: int, overrides: Sequence[str]) -> Path:
    """The run directory of a variant, trained to the end; the data are those of `prepare`."""
    folder = ROOT / "runs" / f"held_out-{domain}"
    run_dir = folder / f"{name}-{seed}"
    if name == "mixture":
        config, files = str(write_mixture(domain, folder)), []
    else:
        config = CONFIG
        files = [
            f"train_file={folder}/train.jsonl",
            f"dev_file={folder}/dev.jsonl",
            f"types_file={folder}/types.yaml",
        ]
    keys = [*files, f"output_dir={run_dir}", f"seed={seed}", *VARIANTS[name], *overrides]
    run(["train", config, *keys])
    return run_dir


def scores_of(model_dir: Path, folder: Path, seed: int) -> dict[str, Any]:
    """Scores on the held-out types of test.

    Returns:
        Scores at the model's own threshold; "chosen" has those at the minimum score that is best
        on dev, "few" at that which is best on a few texts of dev, "unlabelled" with the limits of
        `fit_limits`.
    """
    from contrastive_ner.evaluation.metrics import span_scores
    from contrastive_ner.serving.inference import evaluate_records, load_pipeline, tag_records
    from contrastive_ner.training.limits import PER_THOUSAND, fit_limits

    pipeline = load_pipeline(model_dir)
    types = {item.label: item.description for item in read_types(folder / "held_out.yaml")}
    dev, test = (read_records(folder / f"held_out_{split}.jsonl")[0] for split in ("dev", "test"))
    # Flat decoding is greedy by score: the mentions at a higher limit are those at the lowest
    # limit whose scores exceed it.
    found, *_ = tag_records(pipeline, dev, types=types, min_score=LIMITS[-1])

    def f1(limit: float, numbers: Sequence[int]) -> float:
        kept = [[m for m in found[number] if (m.score or 0.0) > limit] for number in numbers]
        return span_scores(kept, [dev[number].entities for number in numbers])["micro"]["f1"]

    def at_best(numbers: Sequence[int]) -> dict[str, Any]:
        limit = max(LIMITS, key=lambda limit: f1(limit, numbers))
        scores = evaluate_records(pipeline, test, types=types, min_score=limit)["micro"]
        return {"texts": len(numbers), "min_score": limit, "dev_f1": f1(limit, numbers), **scores}

    def without_labels() -> dict[str, Any]:
        model, old = pipeline.model, pipeline.model.config.labels
        model.add_labels(types, pipeline.tokenizer)
        limits = fit_limits(model, pipeline.tokenizer, [*types], [record.text for record in dev])
        found = tag_records(pipeline, test, types=model.types.remove(*old)).mentions
        scores = span_scores(found, [record.entities for record in test])["micro"]
        return {"per_thousand": PER_THOUSAND, "margins": limits, **scores}

    every = range(len(dev))
    return {
        **evaluate_records(pipeline, test, types=types),
        "chosen": at_best(every),
        "few": at_best(random.Random(seed).sample(every, FEW)),
        "unlabelled": without_labels(),
    }


def run(command: list[str]) -> None:
    """Run a command of this project from the root of the clone."""
    subprocess.run([sys.executable, str(ROOT / "run_ner.py"), *command], check=True, cwd=ROOT)


def main() -> int:
    """Train and score every variant with every seed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.held_out",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="keys to override in the configuration"
    )
    parser.add_argument("--domain", choices=DOMAINS, default="ai", help="held-out domain [ai]")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="seeds [0]")
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=sorted(VARIANTS),
        default=list(VARIANTS),
        help="how training presents the types [all]",
    )
    parser.add_argument(
        "--results", type=Path, default=ROOT / "results" / "held_out", help="folder for the scores"
    )
    arguments = parser.parse_intermixed_args()
    folder = ROOT / "runs" / f"held_out-{arguments.domain}"
    held_out = prepare(arguments.domain, folder)
    print(f"held out: {', '.join(held_out)}")
    for seed in arguments.seeds:
        for name in arguments.variants:
            result = arguments.results / f"{arguments.domain}-{name}-{seed}.json"
            if not result.is_file():
                run_dir = train(arguments.domain, name, seed, arguments.overrides)
                scores = scores_of(run_dir / "model", folder, seed)
                metrics = read_json(run_dir / "metrics.json")
                made_by = {key: metrics[key] for key in ("commit", "machine", "versions")}
                names = {
                    "domain": arguments.domain,
                    "variant": name,
                    "seed": seed,
                    "held_out": held_out,
                    "overrides": arguments.overrides,
                }
                kept = {key: value for key, value in scores.items() if key != "counts"}
                write_json({**names, **made_by, **kept}, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
