"""Models trained by folds: each tags the training texts that it has not seen."""

import random
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from contrastive_ner.data.layout import Layout
from contrastive_ner.data.records import Record, entity_types
from contrastive_ner.data.writers import write_records
from contrastive_ner.errors import ConfigError
from contrastive_ner.files import move_folder, sha256
from contrastive_ner.logs import log
from contrastive_ner.training.config import RunConfig
from contrastive_ner.training.run import (
    assemble_model,
    check_run_dir,
    lock_run_dir,
    nothing_left_of_a_false_start,
    prepare,
)

FOLD = re.compile(r"fold-\d+")  # the run of a fold


def divide(records: Sequence[Record], count: int, seed: int = 0) -> list[int | None]:
    """The fold of each record, or None for one that every model must be trained on.

    Equal texts and the texts of a document share a fold, and types are spread over the folds, the
    rarest first. A type that only one fold has gives one of its texts to all models.

    Raises:
        ConfigError: there are fewer than two folds, or fewer documents than folds.
    """
    groups = {str(rows[0]): rows for rows in together(records)}
    if not 2 <= count <= len(groups):
        found = f"2 to {len(groups)}, the number of" if len(groups) > 1 else "at least 2"
        raise ConfigError(
            f"folds is {count}: expected {found} documents or texts that differ from each other"
        )
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


def together(records: Sequence[Record]) -> list[list[int]]:
    """Numbers of records in groups: of one document, or with equal texts, directly or by others."""
    group_of: dict[tuple[str, str], list[int]] = {}
    for number, record in enumerate(records):
        keys = [("text", record.text)]
        keys += [] if record.doc is None else [("doc", record.doc)]
        found = {id(group_of[key]): group_of[key] for key in keys if key in group_of}
        largest = max(found.values(), key=len, default=[])
        for other in found.values():
            if other is not largest:
                for i in other:
                    group_of[("text", records[i].text)] = largest
                    if (doc := records[i].doc) is not None:
                        group_of[("doc", doc)] = largest
                largest += other
        largest.append(number)
        group_of |= dict.fromkeys(keys, largest)
    unique = {id(rows): sorted(rows) for rows in group_of.values()}
    return sorted(unique.values())


def fold_configs(
    config: RunConfig,
    train: Sequence[Record],
    dev: Sequence[Record],
    folds: Sequence[int | None],
    folder: Path,
) -> list[RunConfig]:
    """A configuration for each fold, which trains on the other folds; writes their files.

    Raises:
        ConfigError: the folder holds something else, or an audit of other data or settings.
    """
    numbers = sorted({fold for fold in folds if fold is not None})
    files_of = {"dev.jsonl": list(dev)} | {
        f"train-{fold + 1}.jsonl": [r for r, own in zip(train, folds, strict=True) if own != fold]
        for fold in numbers
    }
    write_once(folder, files_of)
    plain: dict[str, Any] = {item.name: getattr(RunConfig(), item.name) for item in fields(Layout)}
    configs = []
    for fold in numbers:
        file = folder / f"train-{fold + 1}.jsonl"
        files: dict[str, Any] = {
            "train_file": str(file),
            "dev_file": str(folder / "dev.jsonl"),
            "test_file": "",
            "train_texts": 0,
            "output_dir": str(folder / f"fold-{fold + 1}"),
        }
        configs.append(replace(config, **plain, **files))
    for own in configs:  # all folds, before one is trained
        try:
            check_run_dir(own)
        except ConfigError as error:
            raise ConfigError(f"{error}, or another --folder") from error
    return configs


def write_once(folder: Path, files: Mapping[str, Sequence[Record]]) -> None:
    """Write the data of an audit into its folder, which may hold them already.

    Raises:
        ConfigError: the folder holds something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".audit-") as place:
        for name, records in files.items():
            write_records(records, Path(place) / name)
        there = {path.name for path in folder.iterdir()}
        same = {name for name in there & files.keys() if equal(Path(place) / name, folder / name)}
        others = {name for name in there - same if not FOLD.fullmatch(name)}
        if others:
            found = ", ".join(sorted(others)[:3])
            raise ConfigError(
                f"{folder} holds other data than those of this audit ({found}): choose another "
                "--folder"
            )
        for name in files.keys() - same:
            (Path(place) / name).replace(folder / name)


def equal(one: Path, other: Path) -> bool:
    """Whether two paths are files with the same content."""
    return other.is_file() and sha256(one) == sha256(other)


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
