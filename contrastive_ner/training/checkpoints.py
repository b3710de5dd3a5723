"""Interruptions: verified checkpoints, graceful stops, a stopwatch that resumes, full disks.

Used by `phases.run_phase`.
"""

import errno
import json
import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState

from contrastive_ner.errors import ConfigError
from contrastive_ner.logs import log
from contrastive_ner.signals import Interrupted, StopSignals


# -------------------------------------------------------------------------------------- checkpoints
def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a phase, newest first, complete or not."""
    return sorted(
        folder.glob("checkpoint-*"),
        key=lambda path: int(path.name.rpartition("-")[2]),
        reverse=True,
    )


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose files can all be read, or None."""
    for checkpoint in checkpoints(folder):
        fault = fault_of(checkpoint)
        if fault is None:
            return checkpoint
        log.warning("ignoring %s: %s", checkpoint, fault)
    return None


def fault_of(checkpoint: Path) -> str | None:
    """Why a run cannot resume from a checkpoint, or None if it can. Unpickles nothing."""
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"):
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
    for path in sorted(checkpoint.iterdir()):
        try:
            if path.suffix == ".json":
                json.loads(path.read_text("utf-8"))
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


def stopped_early(checkpoint: Path) -> bool:
    """Whether `EarlyStoppingCallback` was out of patience when the checkpoint was written."""
    saved = json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))[
        "stateful_callbacks"
    ].get("EarlyStoppingCallback")
    if saved is None:
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
            trainer.args.max_steps = int(checkpoint.name.rpartition("-")[2])
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


# ---------------------------------------------------------------------------------------- callbacks
class LogSteps(TrainerCallback):
    """The Trainer's logs as messages of level DEBUG; its own `PrinterCallback` prints them."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Log a step's losses or an evaluation's scores."""
        if state.is_world_process_zero:
            log.debug("step %d: %s", state.global_step, logs)


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
        number = self.received or 0
        if args.world_size > 1:  # all processes stop after the same step
            shared = torch.tensor([number], device=args.device)
            dist.all_reduce(shared, op=dist.ReduceOp.MAX)
            number = int(shared)
        if number:
            self.stopping = number
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Raise `Interrupted` once the requested checkpoint is written."""
        if self.stopping is not None:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            raise Interrupted(
                self.stopping, f"saved {checkpoint}; run the same command again to resume"
            )


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
