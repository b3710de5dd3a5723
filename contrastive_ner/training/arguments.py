"""TrainingArguments that the Trainers of this package cannot honour are refused, not ignored."""

from typing import Any

from transformers import TrainingArguments

from contrastive_ner.errors import ConfigError, shown

OWN_BATCHES = "batches depend only on data, seed and epoch"
# {field: (value that works, why others do not)}; of every Trainer here
FIXED: dict[str, tuple[Any, str]] = {
    "train_sampling_strategy": ("random", OWN_BATCHES),
    "auto_find_batch_size": (False, OWN_BATCHES),
    "dataloader_drop_last": (False, "no sentence is left out for long; see sentence_batches"),
    "use_liger_kernel": (False, "it has no kernels for these models"),
    "fsdp": (None, "several processes are supported by torchrun alone"),
    "deepspeed": (None, "several processes are supported by torchrun alone"),
    "parallelism_config": (None, "several processes are supported by torchrun alone"),
}


def refuse_ignored(args: TrainingArguments, model: Any, *, stage_one: bool = False) -> None:
    """Raise ConfigError for a field that would have no effect, or a wrong one, with a method.

    Args:
        args: of the Trainer.
        model: its model.
        stage_one: whether the loss is that of `ContrastiveTrainer`, which has no label smoothing
            and is not computed by the model.
    """
    for name, (value, reason) in FIXED.items():
        found = getattr(args, name, value)
        if found != value and found:
            raise refused(name, found, value, reason)
    if getattr(args.accelerator_config, "split_batches", False):
        raise refused("accelerator_config.split_batches", True, False, OWN_BATCHES)
    if "labels" not in (args.label_names or ["labels"]):
        raise refused("label_names", args.label_names, ["labels"], "the features have labels")
    if "underflow_overflow" in [getattr(part, "value", part) for part in args.debug]:
        raise refused("debug", "underflow_overflow", "", "it cannot read masks")
    if args.label_smoothing_factor:
        config = getattr(model, "config", None)
        if stage_one:
            reason = "a contrastive loss has no labels to smooth"
        elif getattr(config, "model_type", "") == "binder":
            reason = "BINDER scores spans, not labels"
        elif getattr(config, "use_crf", False):
            reason = "it would replace the loss of the CRF; without a CRF it works"
        else:
            return
        raise refused("label_smoothing_factor", args.label_smoothing_factor, 0, reason)


def refused(name: str, found: Any, value: Any, reason: str) -> ConfigError:
    """The error for a field of TrainingArguments."""
    return ConfigError(f"{name} is {shown(found)}: expected {shown(value)}, because {reason}")
