"""The run directory: its lock, its configuration and the files that a run leaves in it."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive_ner.errors import ConfigError
from contrastive_ner.files import expand, file_hash, fresh_folder, read_json, write_json
from contrastive_ner.logs import quiet_libraries
from contrastive_ner.models import model_class
from contrastive_ner.training.config import PHASES, RunConfig, is_first_process
from contrastive_ner.training.task import Data, Task, load_data, prepare_task

if TYPE_CHECKING:
    from filelock import BaseFileLock

    from contrastive_ner.training.features import AlignReport, SpanReport


LOCK_FILE = ".lock"
Alignment = dict[str, "AlignReport | SpanReport"]  # by split


def prepare(config: RunConfig) -> tuple[Task, Data, Alignment]:
    """Read the data, write the resolved configuration and prepare encoder and features."""
    quiet_libraries()
    data = load_data(config)
    if is_first_process():
        write_json(
            {**config.to_dict(), "data_sha256": data_hashes(config)}, config.run_dir / "config.json"
        )
    task, alignment = prepare_task(config, data)
    return task, data, alignment


@contextmanager
def first_process_first() -> Iterator[None]:
    """Let the first process run the block before the others; no effect with a single process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    import torch
    from accelerate import PartialState

    with PartialState(cpu=not torch.accelerator.is_available()).main_process_first():
        yield


@contextmanager
def nothing_left_of_a_false_start(run_dir: Path) -> Iterator[None]:
    """Remove a new run directory that an error ended; keep one in which training has begun."""
    is_new = not (run_dir / "config.json").is_file()
    try:
        yield
    except Exception:
        if (
            is_new
            and is_first_process()
            and not (any(run_dir.glob("*/checkpoint-*")) or finished_phases(run_dir))
        ):
            shutil.rmtree(run_dir, ignore_errors=True)
        raise


def lock_run_dir(run_dir: Path) -> "BaseFileLock":
    """Lock a run directory, because two runs in it would mix their checkpoints.

    The system releases the lock when the process ends, however it ends.

    Raises:
        ConfigError: another process holds the lock.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(run_dir / LOCK_FILE)
    if is_first_process():
        run_dir.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ConfigError(
                f"{run_dir} is in use: another process trains there; wait for it or choose another "
                "output_dir"
            ) from error
    return lock


def check_run_dir(config: RunConfig) -> None:
    """Refuse a directory that holds a run of another configuration, or something else.

    Raises:
        ConfigError: the directory cannot be used for this run.
    """
    run_dir = config.run_dir
    saved = run_dir / "config.json"
    if not saved.is_file():
        if run_dir.exists() and (
            not run_dir.is_dir() or any(path.name != LOCK_FILE for path in run_dir.iterdir())
        ):
            raise ConfigError(
                f"{run_dir} exists and is not a run directory; choose another output_dir"
            )
        return
    try:
        old = json.loads(saved.read_text("utf-8"))
    except ValueError as error:
        raise ConfigError(
            f"{saved} cannot be read ({error}); remove {run_dir} or choose another output_dir"
        ) from error
    # A key that did not exist when the run began took effect with its default.
    old = {**RunConfig().to_dict(), **old}
    new = {**config.to_dict(), "data_sha256": data_hashes(config)}
    changed = [
        f"{key}: {old.get(key)!r} there, {new.get(key)!r} now"
        for key in {**old, **new}
        if old.get(key) != new.get(key)
    ]
    if changed:
        raise ConfigError(
            f"{run_dir} holds a run of another configuration ({'; '.join(changed)}); choose "
            "another output_dir"
        )


def data_hashes(config: RunConfig) -> dict[str, str | None]:
    """SHA-256 of each data file, because a run must not resume on other data."""
    paths = (config.train_file, config.dev_file, config.test_file, config.types_file)
    return {path: file_hash(expand(path)) for path in paths if path}


# -------------------------------------------------------------------------------- what a run leaves
def assemble_model(task: Task, trained: Path) -> Path:
    """Write a Hub-ready folder: weights, configuration, code and tokenizer.

    The caller renames it to `model` when the run is complete.
    """
    from transformers import AutoTokenizer

    from contrastive_ner.training.calibration import calibrate_run

    folder = fresh_folder(task.config.run_dir / ".model-partial")
    model = model_class("binder" if task.config.method == "binder" else "nerco").from_pretrained(
        trained
    )
    calibrate_run(model, task)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(task.encoder, trust_remote_code=False).save_pretrained(folder)
    return folder


def finished_phases(run_dir: Path) -> list[str]:
    """Names of the complete phases of a run, in order."""
    return [name for name in PHASES if (run_dir / name / "DONE.json").is_file()]


def draw_plots(task: Task, metrics: dict[str, Any]) -> None:
    """Plot training curves and score reliability; for taggers also dev token embeddings.

    The embeddings are those of the original encoder, after stage one and after stage two.
    """
    import torch

    from contrastive_ner.evaluation.plots import plot_embeddings, plot_reliability, plot_training
    from contrastive_ner.models.modeling_nerco import NercoModel
    from contrastive_ner.training.criteria import embed_tokens
    from contrastive_ner.training.losses import semantic_classes

    run_dir = task.config.run_dir
    done = finished_phases(run_dir)
    plot_training(
        {name: read_json(run_dir / name / "DONE.json")["log"] for name in done},
        run_dir / "training.png",
    )
    plot_reliability(
        {split: metrics[split]["calibration"] for split in ("dev", "test") if split in metrics},
        run_dir / "reliability.png",
    )
    if task.config.method == "binder":
        return
    models = {"encoder": NercoModel.from_encoder(task.encoder, **task.model_fields)}
    if "stage1" in done:
        models["after stage one"] = NercoModel.from_pretrained(run_dir / "stage1" / "model")
    models["after stage two"] = NercoModel.from_pretrained(run_dir / "full" / "model")
    panels, classes = {}, torch.empty(0)
    for title, model in models.items():
        embeddings, classes = embed_tokens(
            model,
            task.features["dev"],
            task.collator,
            semantic_classes(task.labels),
            task.config.eval_batch_size,
        )
        # As many O tokens as entity tokens; the same ones in each panel.
        entity = (classes > 0).nonzero().squeeze(1)
        outside = (classes == 0).nonzero().squeeze(1)
        chosen = torch.randperm(len(outside), generator=torch.Generator().manual_seed(0))[
            : len(entity)
        ]
        keep = torch.cat([outside[chosen], entity])
        panels[title], classes = embeddings[keep], classes[keep]
    names = ["O", *dict.fromkeys(label[2:] for label in task.labels[1:])]
    plot_embeddings(panels, classes, names, run_dir / "embeddings.png")
