"""What a run shows while it trains: its phases, a line an epoch, an estimate for the whole."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import TrainerCallback

from contrastive_ner.errors import ConfigError, did_you_mean
from contrastive_ner.logs import log

# Of the scores of an evaluation, those that a line shows: their names there, and how.
SHOWN = {
    "eval_f1": ("dev F1", lambda x: f"{100 * x:.1f}"),
    "eval_knn_f1": ("dev kNN F1", lambda x: f"{100 * x:.1f}"),
    "eval_prototype_f1": ("dev prototype F1", lambda x: f"{100 * x:.1f}"),
    "eval_loss": ("dev loss", lambda x: f"{x:.4g}"),
}


class EpochLines(TrainerCallback):
    """Logs a line at the end of each epoch: losses, scores on dev, times.

    Args:
        epochs_after: epochs of the phases that follow, for the estimate, which takes an epoch of
            theirs to last as long as one of this phase.
    """

    def __init__(self, epochs_after: int) -> None:
        self.epochs_after = epochs_after
        self.losses: list[float] = []
        self.started, self.first = time.monotonic(), 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        self.started, self.first = time.monotonic(), state.epoch or 0.0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Keep the losses of the epoch."""
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any
    ) -> None:
        """Log the line."""
        if not state.is_world_process_zero:
            return
        parts = []
        if self.losses:
            parts.append(f"loss {sum(self.losses) / len(self.losses):.4g}")
        for key, (name, show) in SHOWN.items():
            if key in metrics:
                parts.append(f"{name} {show(metrics[key])}{by_set(metrics, key, show)}")
        now, epoch = time.monotonic(), state.epoch or 0.0
        done = epoch - self.first
        if done > 0:
            each = (now - self.started) / done
            left = each * (args.num_train_epochs - epoch + self.epochs_after)
            parts.append(f"{duration(each)} an epoch")
            if left >= 1:
                parts.append(f"at most about {duration(left)} left in all")
        log.info("epoch %.3g/%.3g: %s", epoch, args.num_train_epochs, ", ".join(parts))
        self.losses = []


def by_set(metrics: Mapping[str, Any], key: str, show: Callable[[float], str]) -> str:
    """The same score of each data set of several, in brackets.

    >>> by_set({"eval_f1": 0.5, "eval_f1/a": 0.4, "eval_f1/b": 0.6}, "eval_f1", str)
    ' (a 0.4, b 0.6)'
    """
    own = {name: value for name, value in metrics.items() if name.startswith(f"{key}/")}
    parts = [f"{name.partition('/')[2]} {show(value)}" for name, value in own.items()]
    return f" ({', '.join(parts)})" if parts else ""


def duration(seconds: float) -> str:
    """A time for people.

    >>> [duration(seconds) for seconds in (4.21, 75, 4000)]
    ['4.2 s', '1 min 15 s', '1 h 7 min']
    """
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def reporters(names: Sequence[str]) -> list[str]:
    """Where the Trainer reports to, by the names that it knows, such as tensorboard and wandb.

    Raises:
        ConfigError: a name is unknown, or its package is not installed.
    """
    from transformers.integrations import get_available_reporting_integrations
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    there = get_available_reporting_integrations()
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            known = sorted(INTEGRATION_TO_CALLBACK)
            raise ConfigError(
                f"report_to is {name!r}{did_you_mean(name, known)}: expected names of "
                f"{', '.join(known)}"
            )
        if name not in there:
            raise ConfigError(f"report_to is {name!r}: pip install {name}, or leave it out")
    return list(names)
