"""Plots of a run directory: training curves, calibration, dev-token embeddings between stages."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor


def plot_training(logs: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Plot loss and selection criterion by epoch, one panel per phase.

    Args:
        logs: the Trainer's log history of each phase.
    """
    figure, axes = plt.subplots(1, len(logs), figsize=(4.2 * len(logs), 3.2), squeeze=False)
    for axis, (phase, history) in zip(axes[0], logs.items(), strict=True):
        losses = [(row["epoch"], row["loss"]) for row in history if "loss" in row]
        if losses:
            axis.plot(*zip(*losses, strict=True), color="tab:gray", label="training loss")
        axis.set(title=phase, xlabel="epoch", ylabel="loss")
        scores = axis.twinx()
        for name in ("eval_knn_f1", "eval_prototype_f1", "eval_f1"):
            points = [(row["epoch"], row[name]) for row in history if name in row]
            if points:
                scores.plot(
                    *zip(*points, strict=True),
                    marker="o",
                    markersize=3,
                    label=f"dev {name.removeprefix('eval_')}",
                )
        scores.set_ylim(0, 1)
        scores.legend(loc="lower right", fontsize=7)
    _save(figure, path)


def plot_embeddings(
    panels: dict[str, Tensor], classes: Tensor, names: Sequence[str], path: Path
) -> None:
    """Plot two principal components of the same dev tokens at several moments, one panel each.

    Args:
        panels: title -> embeddings (N, D).
        classes: classes of the tokens (N,), 0 for O.
        names: names of the classes.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 4), squeeze=False)
    palette = [matplotlib.colormaps["tab10"](i) for i in range(10) if i != 7]  # grey is for O
    for axis, (title, embeddings) in zip(axes[0], panels.items(), strict=True):
        centred = torch.nn.functional.normalize(embeddings.float(), dim=-1)
        centred = centred - centred.mean(0)
        _, _, directions = torch.linalg.svd(centred, full_matrices=False)
        points = centred @ directions[:2].T  # (N, 2)
        # A single token has no second component.
        points = torch.nn.functional.pad(points, (0, 2 - points.shape[1]))
        for number in range(len(names)):
            own = points[classes == number]
            colour = "lightgray" if number == 0 else palette[(number - 1) % len(palette)]
            axis.scatter(own[:, 0], own[:, 1], s=4, color=colour, linewidths=0)
        axis.set(title=title, xticks=[], yticks=[])
    # Names as they are: matplotlib leaves out those that begin with _, and reads $ as mathematics.
    points, legend = axes[0][-1].collections, axes[0][-1].legend
    for text in legend(points, names, fontsize=6, markerscale=2, loc="best").get_texts():
        text.set_parse_math(False)
    _save(figure, path)


def plot_reliability(measured: dict[str, dict[str, Any]], path: Path) -> None:
    """Plot the share of correct mentions against their score, one panel per split.

    Args:
        measured: split -> result of `contrastive_ner.evaluation.metrics.calibration`.
    """
    figure, axes = plt.subplots(1, len(measured), figsize=(3.6 * len(measured), 3.4), squeeze=False)
    for axis, (split, found) in zip(axes[0], measured.items(), strict=True):
        bins = [row for row in found["bins"] if row["mentions"]]
        axis.plot([0, 1], [0, 1], color="lightgray", linewidth=1)
        axis.scatter(
            [row["score"] for row in bins],
            [row["right"] for row in bins],
            s=[10 + 3 * row["mentions"] ** 0.5 for row in bins],
        )
        axis.set(
            title=f"{split}: calibration error {100 * found['ece']:.1f} %",
            xlabel="score",
            ylabel="share correct",
            xlim=(0, 1),
            ylim=(0, 1),
        )
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
