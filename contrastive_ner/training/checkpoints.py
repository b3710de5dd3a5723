"""Interruptions: verified checkpoints, graceful stops, a stopwatch that resumes, full disks.

Used by `phases.run_phase`.
"""

import errno
import hashlib
import json
import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainerControl
from transformers.trainer_callback import ExportableState, TrainerState

from contrastive_ner.errors import ConfigError, UserError, shown
from contrastive_ner.files import SEAL, changed_file, contents, read_json, write_json
from contrastive_ner.logs import log
from contrastive_ner.signals import Interrupted, StopSignals

# -------------------------------------------------------------------------------------- checkpoints
NEEDED = ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")
LOADED = (".safetensors", ".bin", ".pt", ".pth")  # what the Trainer may load


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a phase, newest first, complete or not."""
    return sorted(
        (path for path in folder.glob("checkpoint-*") if step_of(path) and path.is_dir()),
        key=step_of,
        reverse=True,
    )


def step_of(checkpoint: Path) -> int:
    """Number of the step in a checkpoint's name; 0 if the name is not that of a checkpoint."""
    digits = checkpoint.name.removeprefix("checkpoint-")
    return int(digits) if digits.isdecimal() and digits.isascii() else 0


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is as it was written, with its best model, or None.

    A checkpoint whose best model is lost is passed over, since the phase would end with another
    one: the epoch of the best model is trained again, from an earlier checkpoint or from the start.
    """
    for checkpoint in checkpoints(folder):
        fault = fault_of(checkpoint)
        if fault is None:
            best = best_of(checkpoint)
            if best is None or (fault := weights_fault(best)) is None:
                return checkpoint
            fault = f"it relies on {best.name}, of which {fault}"
        log.warning("ignoring %s: %s", checkpoint, fault)
    return None


def best_of(checkpoint: Path) -> Path | None:
    """The checkpoint with the best model so far, which belongs to a checkpoint without fault."""
    step = read_json(checkpoint / "trainer_state.json")["best_global_step"]
    return checkpoint.with_name(f"checkpoint-{step}") if step else None


def fault_of(checkpoint: Path) -> str | None:
    """Why a run cannot resume from a checkpoint, or None if it can. Unpickles nothing.

    Files are compared with the hashes written with the checkpoint; a checkpoint of version 0.1.0
    has none, and its files must be readable.
    """
    for name in NEEDED:
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
    if not any(path.is_file() for path in checkpoint.glob("rng_state*.pth")):
        return "rng_state.pth is missing"
    fault = seal_fault(checkpoint) if (checkpoint / SEAL).exists() else unreadable(checkpoint)
    return fault or state_fault(checkpoint)


def weights_fault(checkpoint: Path) -> str | None:
    """Why the weights of a checkpoint cannot be used, or None; nothing else is looked at."""
    name = "model.safetensors"
    if not (checkpoint / SEAL).exists():
        return unreadable(checkpoint) if (checkpoint / name).is_file() else f"{name} is missing"
    if not (checkpoint / SEAL).is_file():
        return f"{SEAL} is not a file"
    try:
        sealed = read_json(checkpoint / SEAL)
    except (OSError, UserError) as error:
        return str(error)
    own = sealed.get(name) if isinstance(sealed, dict) else None
    return changed_file(checkpoint, own and {name: own})


def seal_checkpoint(checkpoint: Path) -> None:
    """Write the hashes of a complete checkpoint, and of the best model that it relies on."""
    sealed, best = contents(checkpoint), best_of(checkpoint)
    if best is not None and best != checkpoint and best.is_dir():
        name = "model.safetensors"
        own = (read_json(best / SEAL) if (best / SEAL).is_file() else contents(best))[name]
        sealed[f"../{best.name}/{name}"] = own
    write_json(sealed, checkpoint / SEAL)


def seal_fault(folder: Path) -> str | None:
    """How a sealed folder differs from what was sealed, or None."""
    if not (folder / SEAL).is_file():
        return f"{SEAL} is not a file"
    try:
        sealed = read_json(folder / SEAL)
    except (OSError, UserError) as error:
        return str(error)
    fault = changed_file(folder, sealed)
    if fault is None:
        for path in sorted(folder.iterdir()):
            if path.suffix in LOADED and path.name not in sealed:
                return f"{path.name} does not belong there"
    return fault


def unreadable(folder: Path) -> str | None:
    """Which file of a folder without hashes cannot be read, and why, or None."""
    for path in sorted(folder.iterdir()):
        if not path.is_file():
            continue
        try:
            if path.suffix == ".json":
                read_json(path)
            elif path.suffix == ".safetensors":
                with safe_open(path, framework="pt"):  # compares header and file length
                    pass
            elif path.suffix in (".pt", ".pth"):
                with zipfile.ZipFile(path) as archive:
                    broken = archive.testzip()
                if broken is not None:
                    return f"{path.name} is damaged at {broken}"
        except (OSError, ValueError, SafetensorError, zipfile.BadZipFile) as error:
            return f"{path.name} cannot be read ({error})"
    return None


def state_fault(checkpoint: Path) -> str | None:
    """Why `trainer_state.json` is not the state of its checkpoint, or None."""
    file = checkpoint / "trainer_state.json"
    try:
        saved = read_json(file)
        check_kinds(saved, {"stateful_callbacks": (dict,)})
        state = TrainerState(**saved)
        check_kinds(saved, {name: STATE_KINDS[name] for name in STATE_KINDS if name in saved})
        check_log(state.log_history)
        for name, (callback, kinds) in CALLBACKS.items():
            own = state.stateful_callbacks.get(name)
            check_kinds(own, {"args": (dict,), "attributes": (dict,)})
            check_kinds(own["args"] | own["attributes"], kinds)
            callback(**own["args"])
    except (OSError, ValueError, TypeError) as error:
        return f"{file.name} is not the state of a Trainer ({error})"
    if state.global_step != step_of(checkpoint) or not 0 < state.global_step <= state.max_steps:
        return f"{file.name} is of step {state.global_step} of {state.max_steps}"
    return None


NUMBER, COUNT = (int, float), (int,)
STATE_KINDS: dict[str, tuple[type, ...]] = {
    "epoch": NUMBER,
    "global_step": COUNT,
    "max_steps": COUNT,
    "num_train_epochs": NUMBER,
    "logging_steps": NUMBER,
    "eval_steps": NUMBER,
    "save_steps": NUMBER,
    "train_batch_size": (int, NoneType),
    "num_input_tokens_seen": NUMBER,
    "total_flos": NUMBER,
    "best_metric": (int, float, NoneType),
    "best_global_step": (int, NoneType),
    "best_model_checkpoint": (str, NoneType),
}


def check_kinds(values: Any, kinds: dict[str, tuple[type, ...]]) -> None:
    """Raise ValueError or TypeError unless `values` is a mapping with values of these kinds."""
    if not isinstance(values, dict):
        raise TypeError(f"found {shown(values)}")
    for name, kind in kinds.items():
        value = values.get(name)
        if not isinstance(value, kind) or (isinstance(value, bool) and bool not in kind):
            raise ValueError(f"{name} is {shown(value)}")


def check_log(rows: Any) -> None:
    """Raise ValueError or TypeError unless `rows` is a Trainer's log: rows of named numbers."""
    if not isinstance(rows, list):
        raise TypeError(f"the log is {shown(rows)}")
    for row in rows:
        check_kinds(row, {"epoch": NUMBER})
        check_kinds(row, dict.fromkeys(row, NUMBER))


def stopped_early(checkpoint: Path) -> bool:
    """Whether `EarlyStoppingCallback` was out of patience when the checkpoint was written."""
    state = read_json(checkpoint / "trainer_state.json")
    saved = state["stateful_callbacks"].get("EarlyStoppingCallback")
    if not isinstance(saved, dict):
        return False
    return (
        saved["attributes"]["early_stopping_patience_counter"]
        >= saved["args"]["early_stopping_patience"]
    )


def resume(trainer: Trainer, checkpoint: Path | None) -> None:
    """Call `Trainer.train`, from a checkpoint or (None) from the start.

    A run that early stopping had ended is not trained further.
    """
    if checkpoint is not None:
        log.info("resuming from %s", checkpoint)
        if stopped_early(checkpoint):
            # No steps are left, so `train` only loads the best model.
            trainer.args.max_steps = step_of(checkpoint)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


# ------------------------------------------------------------------------------------------- phases
def finished(folder: Path) -> dict[str, Any] | None:
    """The marker of a phase that is complete, or None: if it is not, or its model is damaged."""
    marker = folder / "DONE.json"
    if not marker.is_file():
        return None
    try:
        done = read_json(marker)
        check_kinds(done, MARKER_KINDS)
        check_log(done["log"])
        if "files" in done:
            if done.get("sha256") != values_hash(done):
                raise ValueError(f"{marker.name} has changed since it was written")
            fault = changed_file(folder / "model", done["files"])
        else:  # a phase of version 0.1.0
            fault = weights_fault(folder / "model") or unreadable(folder / "model")
            if not (folder / "model" / "config.json").is_file():
                fault = "model/config.json is missing"
        if fault is None:
            return done
    except (OSError, ValueError, TypeError) as error:
        fault = str(error)
    log.warning("%s: %s; training this phase again", folder, fault)
    return None


MARKER_KINDS: dict[str, tuple[type, ...]] = {
    "seconds": NUMBER,
    "epochs": NUMBER,
    "best": (int, float, NoneType),
    "criterion": (str, NoneType),
    "log": (list,),
}


def values_hash(values: dict[str, Any]) -> str:
    """SHA-256 of the values of a marker, but for its own hash."""
    rest = {key: value for key, value in values.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


# ---------------------------------------------------------------------------------------- callbacks
class LogSteps(TrainerCallback):
    """The Trainer's logs as messages of level DEBUG; its own `PrinterCallback` prints them."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Log a step's losses or an evaluation's scores."""
        if state.is_world_process_zero:
            log.debug("step %d: %s", state.global_step, logs)


class Sealing(TrainerCallback):
    """Seals each checkpoint once it is complete; the best one is looked for next to the newest."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Where the best checkpoint is now, wherever the run directory was when it was written."""
        if state.best_global_step:
            best = Path(args.output_dir) / f"checkpoint-{state.best_global_step}"
            state.best_model_checkpoint = str(best)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write size and SHA-256 of every file of the checkpoint."""
        if args.world_size > 1:  # each process adds the state of its random generators
            dist.barrier()
        if state.is_world_process_zero:
            seal_checkpoint(Path(args.output_dir) / f"checkpoint-{state.global_step}")


class StopOnDivergence(TrainerCallback):
    """Ends training when weights are no longer finite, before such a checkpoint is written."""

    def __init__(self, phase: str) -> None:
        self.phase = phase

    def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Look at the weights. ConfigError where one is NaN or infinite."""
        for name, parameter in given["model"].named_parameters():
            if not torch.isfinite(parameter).all():
                rates = sorted({group["lr"] for group in given["optimizer"].param_groups})
                raise ConfigError(
                    f"{self.phase}: training diverged by step {state.global_step}: {name} holds "
                    f"NaN or infinite weights (learning rate {', '.join(f'{r:.3g}' for r in rates)}"
                    "); lower the learning rates of this phase and choose another output_dir"
                )

    on_epoch_end = on_log


class Stopwatch(TrainerCallback, ExportableState):
    """Training time, including what interrupted runs spent up to their checkpoints."""

    def __init__(self) -> None:
        self.before = 0.0
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return self.before + time.monotonic() - self.started

    def state(self) -> dict[str, Any]:
        """What a checkpoint saves (see `ExportableState`)."""
        return {"args": {}, "attributes": {"before": self.seconds}}

    @staticmethod
    def of(trainer: Trainer) -> "Stopwatch":
        """The stopwatch of a trainer; loading a checkpoint replaces the one that was added."""
        return next(
            callback
            for callback in trainer.callback_handler.callbacks
            if isinstance(callback, Stopwatch)
        )


class GracefulStop(StopSignals, TrainerCallback):
    """On SIGTERM or Ctrl-C, finish the step, write a checkpoint and raise `Interrupted`.

    A second signal stops at once. Use it as a context manager and also add it to the trainer as a
    callback.
    """

    def __init__(self) -> None:
        super().__init__("finishing this step, then writing a checkpoint")
        self.stopping: int | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Request a checkpoint if a signal has arrived."""
        if number := self.agreed(args):
            self.stopping = number
            # The end of an epoch evaluates and saves in any case: the checkpoint then knows how
            # good the epoch was.
            if not float(state.epoch).is_integer():
                control.should_save = True

    def agreed(self, args: Any) -> int:
        """The signal that one of the processes received, 0 if none: all stop at the same point."""
        number = self.received or 0
        if args.world_size > 1:
            shared = torch.tensor([number], device=args.device)
            dist.all_reduce(shared, op=dist.ReduceOp.MAX)
            number = int(shared)
        return number

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Raise `Interrupted` once the requested checkpoint is written."""
        if self.stopping is not None:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            raise Interrupted(
                self.stopping, f"saved {checkpoint}; run the same command again to resume"
            )


# What a checkpoint holds of callbacks: their class, and the values without which none is built.
CALLBACKS: dict[str, tuple[Any, dict[str, tuple[type, ...]]]] = {
    "EarlyStoppingCallback": (
        EarlyStoppingCallback,
        {"early_stopping_patience": COUNT, "early_stopping_patience_counter": COUNT},
    ),
    "Stopwatch": (Stopwatch, {"before": NUMBER}),
    "TrainerControl": (TrainerControl, {}),
}


# ---------------------------------------------------------------------------------------- full disk
@contextmanager
def full_disk_explained(folder: Path) -> Iterator[None]:
    """Replace the various errors that libraries raise on a full disk by one that says what to do.

    Also removes incomplete checkpoints.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not is_full_disk(error):
            raise
        for path in folder.glob("checkpoint-*"):
            if fault_of(path) is not None:
                shutil.rmtree(path, ignore_errors=True)
        raise OSError(
            errno.ENOSPC,
            f"no space left in {folder} ({shutil.disk_usage(folder).free >> 20} MiB free); earlier "
            "files are untouched; free some space, then run the same command again",
        ) from error


def is_full_disk(error: BaseException | None) -> bool:
    """Whether an error or one of its causes means that a file could not grow.

    Reasons are a full disk, a quota or a file size limit. torch reports only where its writer
    failed (inline_container.cc), not why.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        message = str(error)
        if (
            any(
                os.strerror(number) in message
                for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            )
            or "inline_container" in message
        ):
            return True
        error = error.__cause__ or error.__context__
    return False
