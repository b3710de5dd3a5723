"""Optimiser, clipping of gradients, and what of an encoder is frozen, and until when.

The recipe of NerCo's released code is `optimizer: sgd`, `schedule: constant`, `clip_value: 5`,
`stage2_unfreeze_epoch: 21`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

from contrastive_ner.errors import ConfigError
from contrastive_ner.training.config import RunConfig

MOMENTUM = 0.9


def schedule_arguments(config: RunConfig) -> dict[str, Any]:
    """Fields of `TrainingArguments` for the schedule of the learning rate, and for clipping."""
    arguments: dict[str, Any] = {}
    if config.schedule == "constant":
        arguments["lr_scheduler_type"] = "constant_with_warmup"
    if config.clip_value:
        arguments["max_grad_norm"] = 0.0  # `ClipValues` clips instead
    return arguments


def make_optimizer(config: RunConfig, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
    """The configured optimiser of groups of parameters, each with its rate and weight decay."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=MOMENTUM)
    return torch.optim.AdamW(groups, fused=True)


def add_schedule(trainer: Trainer, config: RunConfig) -> None:
    """Add the callback of `clip_value` to the Trainer of a phase."""
    if config.clip_value:
        trainer.add_callback(ClipValues(config.clip_value))


class ClipValues(TrainerCallback):
    """Clips each number of the gradient to [-limit, limit] before a step."""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Clip the gradient, which is complete here, whatever the number of batches in it."""
        nn.utils.clip_grad_value_(given["model"].parameters(), self.limit)


def freeze_lowest_layers(encoder: Any, count: int) -> None:
    """Freeze an encoder's embeddings and its lowest `count` layers; 0 freezes nothing.

    Raises:
        ConfigError: `count` is negative, exceeds the number of layers, or leaves nothing to train,
            or the layers share their weights.
    """
    layers = max(
        (m for m in encoder.modules() if isinstance(m, nn.ModuleList)),
        key=len,
        default=nn.ModuleList(),
    )
    if not 0 <= count <= len(layers):
        raise ConfigError(
            f"stage1_freeze_layers is {count}: expected 0 to {len(layers)}, the number of layers "
            "of the encoder"
        )
    if count and len(layers) != encoder.config.num_hidden_layers:
        raise ConfigError(
            f"{type(encoder).__name__} shares weights between layers, which cannot be frozen one "
            "by one; set stage1_freeze_layers=0"
        )
    if count:
        frozen = [encoder.get_input_embeddings(), *layers[:count]]
        frozen += [child for name, child in encoder.named_children() if "embedding" in name]
        for parameter in (p for module in frozen for p in module.parameters()):
            parameter.requires_grad = False
    if not any(parameter.requires_grad for parameter in encoder.parameters()):
        raise ConfigError(
            f"stage1_freeze_layers is {count}: no parameter is left to train; freeze fewer layers"
        )


def freeze_encoder(model: Any) -> None:
    """Freeze the encoder of a `NercoModel`; its dropout stays on.

    Raises:
        ConfigError: nothing is left to train.
    """
    model.encoder.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            "freeze_encoder is true: no parameter is left to train without a lexicon; expected "
            "false, or a model with lexicon_fusion"
        )


class Unfreezing(TrainerCallback):
    """Freezes encoders until an epoch; their dropout stays on.

    Patience counts from that epoch: a run must not end before the encoder could learn. The state
    follows from the epoch alone, so that a run can resume anywhere.

    Args:
        trainer: of the phase; its optimiser must know the encoders' parameters.
        encoders: what is frozen, as far as it is trainable now.
        epoch: the first one that trains them, from 1.

    Raises:
        ConfigError: there are several processes, which exchange the gradients that were there at
            the start.
    """

    def __init__(self, trainer: Trainer, encoders: Sequence[nn.Module], epoch: int) -> None:
        if trainer.args.world_size > 1:
            raise ConfigError(
                f"stage2_unfreeze_epoch is {epoch}: expected 0 or 1 with several processes; start "
                "one process"
            )
        self.trainer, self.epoch = trainer, epoch
        self.parameters = [p for part in encoders for p in part.parameters() if p.requires_grad]

    def is_frozen(self, epoch: float) -> bool:
        """Whether the encoders are frozen when `epoch` epochs, or parts of them, are over."""
        return int(epoch + 1e-6) < self.epoch - 1

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Freeze or unfreeze."""
        for parameter in self.parameters:
            parameter.requires_grad = not self.is_frozen(state.epoch)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Forget the patience that is spent, once more than the evaluation to come can spend."""
        if self.is_frozen(state.epoch - 1):
            for callback in self.trainer.callback_handler.callbacks:
                if isinstance(callback, EarlyStoppingCallback):
                    callback.early_stopping_patience_counter = -1

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Leave the parameters as they were given."""
        for parameter in self.parameters:
            parameter.requires_grad = True
