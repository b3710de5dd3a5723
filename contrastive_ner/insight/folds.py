"""Models trained by folds: each tags the training texts that it has not seen."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from contrastive_ner.data.layout import Layout
from contrastive_ner.data.records import Record, entity_types
from contrastive_ner.data.writers import write_records
from contrastive_ner.errors import ConfigError
from contrastive_ner.files import move_folder
from contrastive_ner.logs import log
from contrastive_ner.training.config import RunConfig
from contrastive_ner.training.run import (
    assemble_model,
    check_run_dir,
    lock_run_dir,
    nothing_left_of_a_false_start,
    prepare,
)


def divide(records: Sequence[Record], count: int, seed: int = 0) -> list[int | None]:
    """The fold of each record, or None for one that every model must be trained on.

    Equal texts and the texts of a document share a fold, and types are spread over the folds, the
    rarest first. A type that only one fold has gives one of its texts to all models.

    Raises:
        ConfigError: there are fewer than two folds, or fewer texts than folds.
    """
    groups: dict[str, list[int]] = {}
    for number, record in enumerate(records):
        key = f"text {record.text}" if record.doc is None else f"doc {record.doc}"
        groups.setdefault(key, []).append(number)
    if not 2 <= count <= len(groups):
        raise ConfigError(f"folds is {count}: expected 2 to {len(groups)}, the number of texts")
    own = {key: set(entity_types(records[i] for i in rows)) for key, rows in groups.items()}
    often = Counter(label for labels in own.values() for label in labels)
    rarest = {
        key: min(labels, key=lambda x: (often[x], x), default="") for key, labels in own.items()
    }
    order = list(groups)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda key: (often[rarest[key]] or len(groups), rarest[key]))
    fold_of = {key: place % count for place, key in enumerate(order)}
    folds: list[int | None] = [None] * len(records)
    for key, rows in groups.items():
        for number in rows:
            folds[number] = fold_of[key]
    for label in often:
        having = [key for key in order if label in own[key]]
        if len({fold_of[key] for key in having}) == 1:
            for number in groups[having[0]]:
                folds[number] = None
    return folds


def fold_configs(
    config: RunConfig,
    train: Sequence[Record],
    dev: Sequence[Record],
    folds: Sequence[int | None],
    folder: Path,
) -> list[RunConfig]:
    """A configuration for each fold, which trains on the other folds; writes their files."""
    folder.mkdir(parents=True, exist_ok=True)
    write_records(dev, folder / "dev.jsonl")
    plain: dict[str, Any] = {item.name: getattr(RunConfig(), item.name) for item in fields(Layout)}
    configs = []
    for fold in sorted({fold for fold in folds if fold is not None}):
        file = folder / f"train-{fold + 1}.jsonl"
        rest = [r for r, own in zip(train, folds, strict=True) if own != fold]
        write_records(rest, file)
        files: dict[str, Any] = {
            "train_file": str(file),
            "dev_file": str(folder / "dev.jsonl"),
            "test_file": "",
            "train_texts": 0,
            "output_dir": str(folder / f"fold-{fold + 1}"),
        }
        configs.append(replace(config, **plain, **files))
    return configs


def train_fold(config: RunConfig) -> Path:
    """Train a fold's model, or go on with it; returns its folder."""
    from contrastive_ner.training.phases import train_phases

    run_dir = config.run_dir
    check_run_dir(config)
    if not (run_dir / "model").is_dir():
        log.info("training %s", run_dir)
        lock = lock_run_dir(run_dir)
        with nothing_left_of_a_false_start(run_dir, lock):
            task, *_ = prepare(config)
            move_folder(assemble_model(task, train_phases(task)), run_dir / "model")
    return run_dir / "model"
