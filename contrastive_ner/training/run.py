"""The run directory: its lock, its configuration and the files that a run leaves in it."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive_ner.devices import has_accelerator
from contrastive_ner.errors import ConfigError, difference, shown
from contrastive_ner.files import (
    LockFile,
    expand,
    file_hash,
    files_of,
    folder_hash,
    for_everyone,
    fresh_folder,
    read_json,
    write_json,
)
from contrastive_ner.logs import quiet_libraries
from contrastive_ner.models import model_class
from contrastive_ner.training.config import PHASES, RunConfig, is_first_process
from contrastive_ner.training.encoder import encoder_folder, encoder_tokenizer
from contrastive_ner.training.loading import Data, load_data
from contrastive_ner.training.mixtures import files_of_sets
from contrastive_ner.training.task import Task, prepare_task

if TYPE_CHECKING:
    from contrastive_ner.training.features import AlignReport, SpanReport


LOCK_FILE = ".lock"
Alignment = dict[str, "AlignReport | SpanReport"]  # by split


def prepare(config: RunConfig) -> tuple[Task, Data, Alignment]:
    """Read the data, write the resolved configuration and prepare encoder and features."""
    quiet_libraries()
    identity = identity_of(config)
    data = load_data(config)
    if is_first_process():
        write_json(identity, config.run_dir / "config.json")
    task, alignment = prepare_task(config, data)
    if is_first_process() and identity["encoder_sha256"] is None:  # downloaded just now
        identity["encoder_sha256"] = encoder_hash(config)
        write_json(identity, config.run_dir / "config.json")
    return task, data, alignment


@contextmanager
def first_process_first() -> Iterator[None]:
    """Let the first process run the block before the others; no effect with a single process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    from accelerate import PartialState

    with PartialState(cpu=not has_accelerator()).main_process_first():
        yield


@contextmanager
def nothing_left_of_a_false_start(run_dir: Path, lock: LockFile) -> Iterator[None]:
    """Remove a new run directory that an error ended; keep one in which training has begun.

    The lock is released in either case, as the last thing that is done in the directory.
    """
    is_new = not (run_dir / "config.json").is_file()
    try:
        yield
    except Exception:
        is_false_start = is_new and not (
            any(run_dir.glob("*/checkpoint-*")) or finished_phases(run_dir)
        )
        if is_false_start and is_first_process():
            for path in run_dir.iterdir():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                elif path.name != LOCK_FILE:
                    path.unlink(missing_ok=True)
            lock.release()
            with suppress(OSError):  # another process has begun a run there
                run_dir.rmdir()
        raise
    finally:
        lock.release()


def lock_run_dir(run_dir: Path) -> LockFile:
    """Lock a run directory, because two runs in it would mix their checkpoints.

    The system releases the lock when the process ends, however it ends.

    Raises:
        ConfigError: another process holds the lock.
    """
    lock = LockFile(run_dir / LOCK_FILE)
    if is_first_process() and not lock.acquire():
        raise ConfigError(
            f"{run_dir} is in use: another process trains there; wait for it or choose another "
            "output_dir"
        )
    return lock


def saved_config(run_dir: Path) -> bytes | None:
    """The content of a run's `config.json`; None if there is none."""
    file = run_dir / "config.json"
    return file.read_bytes() if file.is_file() else None


def check_run_dir(config: RunConfig) -> bytes | None:
    """Refuse a directory that holds a run of another configuration, or something else.

    Returns the content of the run's `config.json`, None if it is new.

    Raises:
        ConfigError: the directory cannot be used for this run.
    """
    run_dir = config.run_dir
    saved, content = run_dir / "config.json", saved_config(run_dir)
    if content is None:
        if run_dir.exists() and (
            not run_dir.is_dir() or any(path.name != LOCK_FILE for path in run_dir.iterdir())
        ):
            raise ConfigError(
                f"{run_dir} exists and is not a run directory; choose another output_dir"
            )
        return None
    way_out = f"remove {run_dir} or choose another output_dir"
    try:
        old = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{saved} cannot be read ({error}); {way_out}") from error
    if not isinstance(old, dict):
        raise ConfigError(
            f"{saved}: expected the configuration of a run, found {shown(old)}; {way_out}"
        )
    # A key that did not exist when the run began took effect with its default.
    old = {**RunConfig().to_dict(), **old}
    new = identity_of(config)
    same = {key for key in {**old, **new} if is_same(key, old.get(key), new.get(key))}
    changed = difference(
        {key: value for key, value in old.items() if key not in same},
        {key: value for key, value in new.items() if key not in same},
    )
    if changed:
        raise ConfigError(
            f"{run_dir} holds a run of another configuration ({changed}); choose another output_dir"
        )
    return content


def is_same(key: str, old: Any, new: Any) -> bool:
    """Whether a value of a run's identity has stayed; one that a side lacks says nothing."""
    if key in ("report_to", "keep_checkpoints", "eval_batch_size"):  # change no result
        return True
    if key in ("encoder_sha256", "order_of_sets"):
        return old == new or None in (old, new)
    if key == "data_sha256" and isinstance(old, dict) and old.keys() == new.keys():
        return all(old[path] == new[path] or None in (old[path], new[path]) for path in new)
    return old == new


def identity_of(config: RunConfig) -> dict[str, Any]:
    """What must stay the same for a run to go on: its configuration, data and encoder."""
    return {
        **config.to_dict(),
        "order_of_sets": list(config.data_sets or {}),  # numbers the types; dicts do not compare it
        "data_sha256": data_hashes(config),
        "encoder_sha256": encoder_hash(config),
    }


def data_hashes(config: RunConfig) -> dict[str, str | None]:
    """SHA-256 of each data file or folder, because a run must not resume on other data."""
    data = (config.train_file, config.dev_file, config.test_file)
    words = (config.lexicon_file, config.lattice_vectors, config.lattice_bigram_vectors)
    paths = [*data, config.types_file, *words, *files_of_sets(config.data_sets)]
    return {path: data_hash(expand(path)) for path in paths if path}


def data_hash(name: str) -> str | None:
    """SHA-256 of a file, or of a folder of `datasets` without its caches; None on the Hub."""
    files = files_of(name)
    if not Path(name).exists() and files != [name]:
        return folder_hash(map(Path, files))
    place = name if Path(name).exists() else name.rpartition("@")[0]
    if not place or not Path(place).is_dir():
        return file_hash(name)
    return folder_hash(
        path for path in Path(place).rglob("*") if not path.name.startswith(("cache-", "."))
    )


def encoder_hash(config: RunConfig) -> str | None:
    """SHA-256 of what is read of the encoder folder or of `init_model`; on the Hub the commit.

    None where there is no such encoder, or it has not been downloaded yet.
    """
    folder = encoder_folder(config.init_model or config.encoder)
    if folder is not None:
        kinds = (".json", ".safetensors", ".txt", ".model")
        return folder_hash(path for path in folder.iterdir() if path.suffix in kinds)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(expand(config.encoder), "config.json")
    except HFValidationError:
        return None
    return Path(cached).parent.name if isinstance(cached, str) else None


# -------------------------------------------------------------------------------- what a run leaves
def assemble_model(task: Task, trained: Path) -> Path:
    """Write a Hub-ready folder: weights, configuration, code and tokenizer.

    The caller renames it to `model` when the run is complete.
    """
    from contrastive_ner.training.calibration import calibrate_run

    folder = fresh_folder(task.config.run_dir / ".model-partial")
    model = model_class("binder" if task.config.method == "binder" else "nerco").from_pretrained(
        trained
    )
    calibrate_run(model, task)
    model.save_pretrained(folder)
    encoder_tokenizer(task.encoder).save_pretrained(folder)
    for_everyone(folder)
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
