"""Test the paper's claim that stage one heals segmented entity representations.

Source: Zhang et al., IJCAI 2023.

python -m benchmarks.segmentation runs/weibo-nerco-0 runs/weibo-crf-0 ... [--output FILE]

A BIO tagger learns to separate B-PER from I-PER, and thereby tokens of one entity type. This
measures the dev tokens of each run with the original encoder, after stage one and at the end. Runs
of one method are averaged. docs/method.md explains the figures.
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from contrastive_ner.files import write_json
from contrastive_ner.training.config import RunConfig
from contrastive_ner.training.criteria import embed_tokens, knn_classes, token_f1
from contrastive_ner.training.losses import semantic_classes
from contrastive_ner.training.values import convert

ROOT = Path(__file__).resolve().parent.parent

PHASES = {"stage1": "after stage one", "full": "after stage two"}
REFERENCE_SENTENCES = 300


def segmentation(embeddings: Tensor, tags: Tensor, labels: list[str]) -> dict[str, float]:
    """Cosine distances between B- and I- tokens of a type, and between types.

    Args:
        embeddings: (N, D).
        tags: (N,) ids of `labels`.
        labels: BIO labels, "O" first.

    Returns:
        Averages over the types that have both B- and I- tokens:
        "b_i", the mean distance between a B-X and an I-X token;
        "types", the mean distance between a token of X and one of another type;
        "ratio", b_i / types. Below 1, tokens of a type are closer to each other than to other
        types, regardless of their tags.

    Raises:
        ValueError: fewer than two types have B- and I- tokens.
    """
    z = F.normalize(embeddings.float(), dim=-1)
    classes = torch.tensor(semantic_classes(labels))[tags]  # (N,)
    begins = torch.tensor([label.startswith("B-") for label in labels])[tags]
    inside = torch.tensor([label.startswith("I-") for label in labels])[tags]
    apart, across = [], []
    for c in classes[classes > 0].unique():
        b, i, others = (
            z[(classes == c) & begins],
            z[(classes == c) & inside],
            z[(classes != c) & (classes > 0)],
        )
        if len(b) and len(i) and len(others):
            # The mean of the cosines of all pairs is the product of the means.
            apart.append(1 - float(b.mean(0) @ i.mean(0)))
            across.append(1 - float(z[classes == c].mean(0) @ others.mean(0)))
    if len(apart) < 2:
        raise ValueError(f"{len(apart)} types have B- and I- tokens: expected at least two")
    return {"b_i": mean(apart), "types": mean(across), "ratio": mean(apart) / mean(across)}


def alignment_and_uniformity(embeddings: Tensor, classes: Tensor) -> dict[str, float]:
    """Alignment and uniformity (Wang and Isola, 2020) of entity tokens: (N, D), (N,) classes > 0.

    Returns:
        "alignment", the mean squared distance between two tokens of a type (lower is better);
        "uniformity", the log of the mean of exp(-2 d^2) over all pairs (lower is more evenly spread
        over the sphere).
    """
    z = F.normalize(embeddings.float(), dim=-1)
    distances = (2 - 2 * z @ z.T).clamp_min(0)  # (N, N), squared
    other = ~torch.eye(len(z), dtype=torch.bool)
    same = (classes[:, None] == classes[None, :]) & other
    return {
        "alignment": float(distances[same].mean()),
        "uniformity": float((-2 * distances[other]).exp().mean().log()),
    }


def measure_run(run_dir: Path) -> dict[str, dict[str, float]]:
    """Figures of a run: {"encoder", "after stage one", "after stage two": {figure: value}}."""
    from contrastive_ner.logs import quiet_libraries
    from contrastive_ner.models.modeling_nerco import NercoModel
    from contrastive_ner.training.loading import load_data
    from contrastive_ner.training.task import prepare_task

    quiet_libraries()
    saved = json.loads((run_dir / "config.json").read_text("utf-8"))
    hints = RunConfig.__annotations__
    config = RunConfig(
        **{key: convert(key, value, hints[key]) for key, value in saved.items() if key in hints}
    )
    task, _ = prepare_task(config, load_data(config))
    measured = {
        "encoder": measure_model(NercoModel.from_encoder(task.encoder, **task.model_fields), task)
    }
    for phase, title in PHASES.items():
        if (run_dir / phase / "model").is_dir():
            measured[title] = measure_model(
                NercoModel.from_pretrained(run_dir / phase / "model"), task
            )
    return measured


def measure_model(model: Any, task: Any) -> dict[str, float]:
    """Figures of a model's representations of the dev tokens."""
    tag_ids, classes = list(range(len(task.labels))), torch.tensor(semantic_classes(task.labels))

    def embed(features: list[dict]) -> tuple[Tensor, Tensor]:
        return embed_tokens(model, features, task.collator, tag_ids, task.config.eval_batch_size)

    queries, tags = embed(task.features["dev"])
    references, reference_tags = embed(task.features["train"][:REFERENCE_SENTENCES])
    gold, found = (
        classes[tags],
        knn_classes(queries, references, classes[reference_tags], neighbours=10),
    )
    entity = gold > 0
    return {
        **segmentation(queries, tags, task.labels),
        **alignment_and_uniformity(queries[entity], gold[entity]),
        "knn_accuracy": float((found[entity] == gold[entity]).float().mean()),
        "knn_f1": token_f1(found, gold),
    }


def summary(runs: dict[str, list[dict[str, dict[str, float]]]]) -> dict[str, Any]:
    """Mean and standard deviation over the runs of a method: {row: {figure: [mean, deviation]}}.

    The original encoder is the same for all methods and has one row.
    """
    rows: dict[str, list[dict[str, float]]] = {}
    for method, measured in sorted(runs.items()):
        for moment in measured[0]:
            rows["encoder as it came" if moment == "encoder" else f"{method} {moment}"] = [
                run[moment] for run in measured
            ]
    return {
        name: {
            key: [
                mean(v[key] for v in values),
                stdev(v[key] for v in values) if len(values) > 1 else 0.0,
            ]
            for key in values[0]
        }
        for name, values in rows.items()
    }


def draw(rows: dict[str, Any], path: Path) -> None:
    """Draw the two distances of each row as bars."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "segmentation"
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 0.5 * len(rows) + 1.2))
    for offset, key, name in (
        (-0.2, "b_i", "B- and I- tokens of one type"),
        (0.2, "types", "tokens of two types"),
    ):
        values = [row[key] for row in rows.values()]
        axis.barh(
            [i + offset for i in range(len(rows))],
            [v[0] for v in values],
            0.38,
            xerr=[v[1] for v in values],
            label=name,
        )
    axis.set_yticks(range(len(rows)), list(rows))
    axis.invert_yaxis()
    axis.set_xlabel("mean cosine distance (dev tokens)")
    axis.legend(fontsize=8, ncol=2, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> int:
    """Measure the runs named on the command line; write the figures and draw them."""
    from contrastive_ner.provenance import provenance

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.segmentation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, help="complete run directories of one data set"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "results" / "segmentation" / "weibo.json",
        help="JSON file to write",
    )
    parser.add_argument(
        "--figure", type=Path, default=ROOT / "docs" / "segmentation.svg", help="SVG file to draw"
    )
    arguments = parser.parse_args()
    runs: dict[str, list[dict[str, dict[str, float]]]] = defaultdict(list)
    seeds: dict[str, list[int]] = defaultdict(list)
    for run_dir in arguments.runs:
        config = json.loads((run_dir / "config.json").read_text("utf-8"))
        runs[config["method"]].append(measure_run(run_dir))
        seeds[config["method"]].append(config["seed"])
    rows = summary(runs)
    for path in (arguments.output, arguments.figure):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_json({"rows": rows, "seeds": seeds, **provenance()}, arguments.output)
    draw(rows, arguments.figure)
    for name, row in rows.items():
        print(
            f"{name:<26}"
            + "".join(
                f"  {key} {value:.3f}±{deviation:.3f}" for key, (value, deviation) in row.items()
            )
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
