"""Phases of a run, each with its own Trainer: contrastive stage one, head-only, full.

BINDER has the full phase only. A phase saves its best model in PHASE/model and then, atomically,
the marker PHASE/DONE.json. The same command, run again, skips complete phases and resumes an
incomplete one from its newest complete checkpoint. Within a phase, `requires_grad` changes only at
`stage2_unfreeze_epoch`.
"""

import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from contrastive_ner.devices import has_accelerator
from contrastive_ner.files import contents, fresh_folder, move_folder, write_json
from contrastive_ner.logs import log
from contrastive_ner.models.checks_ner import computes_in_bfloat16
from contrastive_ner.models.modeling_binder import BinderModel
from contrastive_ner.models.modeling_nerco import NercoForTokenClassification, NercoModel
from contrastive_ner.signals import Interrupted
from contrastive_ner.training.binder import BinderTrainer
from contrastive_ner.training.checkpoints import (
    GracefulStop,
    LogSteps,
    Sealing,
    StopOnDivergence,
    Stopwatch,
    checkpoints,
    finished,
    full_disk_explained,
    newest_checkpoint,
    resume,
    values_hash,
)
from contrastive_ner.training.config import RunConfig, is_first_process
from contrastive_ner.training.contrastive import (
    CRITERIA,
    ContrastiveTrainer,
    ContrastiveTrainingArguments,
)
from contrastive_ner.training.decoding import decoded_metrics
from contrastive_ner.training.encoder import encoder_tokenizer
from contrastive_ner.training.joint import JointTrainer
from contrastive_ner.training.lattice import start_lattice
from contrastive_ner.training.lora import add_lora, merge_lora
from contrastive_ner.training.losses import semantic_classes
from contrastive_ner.training.mixtures import weights_of
from contrastive_ner.training.progress import EpochLines, reporters
from contrastive_ner.training.schedules import (
    MOMENTUM,
    Unfreezing,
    add_schedule,
    make_optimizer,
    schedule_arguments,
)
from contrastive_ner.training.sentence_trainer import SentenceTrainer
from contrastive_ner.training.start import continue_binder, continue_fusion, continue_tagger
from contrastive_ner.training.task import Task
from contrastive_ner.training.weights import tag_weights


def train_phases(task: Task) -> Path:
    """Run the phases of the configured method; returns the folder of the trained model."""
    config = task.config
    start: Path | None = None
    if config.method == "binder":
        return run_phase(config, "full", lambda folder: binder_trainer(task, folder))
    if config.method == "nerco" and config.stage1_epochs:
        start = run_phase(config, "stage1", lambda folder: stage1_trainer(task, folder))
    if config.method == "nerco" and config.head_epochs:
        body = start
        start = run_phase(
            config, "head", lambda folder: stage2_trainer(task, folder, body, head_only=True)
        )
    return run_phase(
        config, "full", lambda folder: stage2_trainer(task, folder, start, head_only=False)
    )


def run_phase(config: RunConfig, name: str, make_trainer: Callable[[Path], Trainer]) -> Path:
    """Train a phase unless it is complete, from its newest complete checkpoint if there is one.

    Returns the folder of the phase's best model.

    Raises:
        ConfigError: training diverged.
        Interrupted: on SIGTERM or Ctrl-C, after a checkpoint was written or the phase finished.
        OSError: the disk is full; earlier checkpoints are intact.
    """
    folder = config.run_dir / name
    if finished(folder) is None:
        phases = phases_of(config)
        number = list(phases).index(name)
        log.info("-- %s (phase %d/%d)", name, number + 1, len(phases))
        set_seed(config.seed)
        trainer = make_trainer(folder)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(LogSteps())
        trainer.add_callback(EpochLines(sum(list(phases.values())[number + 1 :])))
        trainer.add_callback(StopOnDivergence(name))
        trainer.add_callback(Sealing())
        add_schedule(trainer, config)
        with GracefulStop() as stop, full_disk_explained(folder):
            trainer.add_callback(stop)
            trainer.add_callback(Stopwatch())
            resume(trainer, newest_checkpoint(folder))
            if trainer.is_world_process_zero():
                done = leave_model(trainer, folder)
                log.info("%s: %s", name, summary(done))
            trainer.accelerator.wait_for_everyone()
            if signal := stop.agreed(trainer.args):  # after the last step
                raise Interrupted(signal, f"finished {name}; run the same command again to go on")
    if is_first_process() and not config.keep_checkpoints:
        for checkpoint in checkpoints(folder):
            shutil.rmtree(checkpoint)
    return folder / "model"


def summary(done: dict[str, Any]) -> str:
    """One-line summary of the marker of a complete phase."""
    best = "" if done["best"] is None else f", best {done['criterion']} {done['best']:.3f}"
    return f"{done['epochs']:g} epochs, {done['seconds']:.0f} s{best}"


def leave_model(trainer: Trainer, folder: Path) -> dict[str, Any]:
    """Save the best model, then the marker; each appears completely or not at all.

    Returns the content of the marker.
    """
    merge_lora(trainer.model)
    partial = fresh_folder(folder / ".model-partial")
    trainer.model.save_pretrained(partial)
    move_folder(partial, folder / "model")
    state = trainer.state
    done: dict[str, Any] = {
        "seconds": Stopwatch.of(trainer).seconds,
        "epochs": state.epoch,
        "best": state.best_metric,
        "criterion": trainer.args.metric_for_best_model,
        "log": state.log_history,
        "files": contents(folder / "model"),
    }
    done["sha256"] = values_hash(done)
    write_json(done, folder / "DONE.json")
    return done


# ---------------------------------------------------------------------------------------- stage one
def stage1_trainer(task: Task, folder: Path) -> ContrastiveTrainer:
    """Trainer for the contrastive training of the encoder."""
    config = task.config
    criterion = CRITERIA[config.stage1_select]
    arguments = ContrastiveTrainingArguments(
        **shared_arguments(config, folder, criterion),
        num_train_epochs=config.stage1_epochs,
        per_device_train_batch_size=config.stage1_batch_size,
        learning_rate=config.stage1_learning_rate,
        weight_decay=config.stage1_weight_decay,
        warmup_steps=config.stage1_warmup,
        greater_is_better=criterion != "eval_loss",
        contrastive_loss=config.stage1_loss,
        contrastive_temperature=config.stage1_temperature,
        with_o=config.stage1_with_o,
        class_reduction=config.stage1_reduction,
        projection_size=config.stage1_projection,
        freeze_layers=config.stage1_freeze_layers,
        freeze_encoder=config.stage1_freeze_encoder,
        chunk_size=config.stage1_chunk_size,
        reference_tokens=config.stage1_reference_tokens,
    )
    model = NercoModel.from_encoder(task.encoder, **task.model_fields)
    start_lattice(model, task.lattice)
    continue_fusion(model, config)
    model.lexicon = task.lexicon
    return ContrastiveTrainer(
        model=ready_for_training(model, config),
        args=arguments,
        train_dataset=task.features["train"],
        eval_dataset=task.features["dev"],
        data_collator=task.collator,
        callbacks=[EarlyStoppingCallback(config.stage1_patience)],
        label_classes=(
            semantic_classes(task.labels)
            if config.stage1_classes == "types"
            else list(range(len(task.labels)))  # O is the first
        ),
        optimizer_cls_and_kwargs=(
            (torch.optim.SGD, {"lr": config.stage1_learning_rate, "momentum": MOMENTUM})
            if config.optimizer == "sgd"
            else None
        ),
    )


# ---------------------------------------------------------------------------------------- stage two
def stage2_trainer(task: Task, folder: Path, start: Path | None, *, head_only: bool) -> Trainer:
    """Standard Trainer for a tagger.

    Args:
        task: the task of the run.
        folder: folder of the phase.
        start: folder of the model of an earlier phase, a `NercoModel` or a tagger; None starts from
            the original encoder.
        head_only: freeze the encoder; otherwise encoder and head have separate learning rates.
    """
    config = task.config
    model = ready_for_training(_tagger(task, start), config)
    for parameter in model.nerco.parameters():
        parameter.requires_grad = not head_only
    if config.lora_rank and not head_only:
        add_lora(encoders_of(model), config.lora_rank)
    head_rate = config.head_only_learning_rate if head_only else config.stage2_head_learning_rate
    # A short head-only phase may find no mention yet. Then only the loss ranks its epochs; F1, the
    # paper's criterion, is 0 in all of them.
    arguments = TrainingArguments(
        **shared_arguments(config, folder, "eval_loss" if head_only else "eval_f1"),
        num_train_epochs=config.head_epochs if head_only else config.full_epochs,
        per_device_train_batch_size=config.stage2_batch_size,
        gradient_accumulation_steps=config.stage2_gradient_accumulation,
        warmup_steps=config.stage2_warmup,
        greater_is_better=not head_only,
    )
    trainer_class: type[SentenceTrainer] = SentenceTrainer
    extra: dict[str, Any] = {}
    if config.stage2_contrastive_weight and not head_only:
        weight, temperature = config.stage2_contrastive_weight, config.stage1_temperature
        trainer_class = JointTrainer
        extra = {
            "label_classes": semantic_classes(task.labels),
            "weight": weight,
            "temperature": temperature,
            "after_dropout": config.stage2_contrastive_after_dropout,
        }
    trainer = trainer_class(
        **extra,
        model=model,
        args=arguments,
        train_dataset=task.features["train"],
        eval_dataset=task.features["dev"],
        data_collator=task.collator,
        **decoded_metrics(model),
        callbacks=[EarlyStoppingCallback(config.stage2_patience)],
        optimizers=(two_rate_optimizer(config, model, head_rate), None),
    )
    trainer.tag_weights = tag_weights(task.labels, task.weights) if task.weights else None
    if config.stage2_unfreeze_epoch > 1 and not head_only:
        frozen = Unfreezing(trainer, encoders_of(model), config.stage2_unfreeze_epoch)
        trainer.add_callback(frozen)
    return trainer


def _tagger(task: Task, start: Path | None) -> NercoForTokenClassification:
    if start is not None and start.parent.name == "head":
        return NercoForTokenClassification.from_pretrained(start)
    tagger = NercoForTokenClassification.from_encoder(
        task.encoder, task.labels, **task.model_fields
    )
    continue_tagger(tagger, task.config)
    start_lattice(tagger.nerco, task.lattice)
    continue_fusion(tagger.nerco, task.config)
    if start is not None:
        tagger.nerco = NercoModel.from_pretrained(start)
    tagger.lexicon = task.lexicon
    return tagger


def phases_of(config: RunConfig) -> dict[str, int]:
    """The epochs of each phase of a run, in their order."""
    stages = {"stage1": config.stage1_epochs, "head": config.head_epochs}
    first = stages if config.method == "nerco" else {}
    return {**{name: n for name, n in first.items() if n}, "full": config.full_epochs}


# ------------------------------------------------------------------------------------------- BINDER
def binder_trainer(task: Task, folder: Path) -> BinderTrainer:
    """Trainer for BINDER, evaluated on decoded spans."""
    config = task.config
    tokenizer = encoder_tokenizer(task.encoder)
    model = BinderModel.from_encoders(task.encoder, tokenizer=tokenizer, **task.model_fields)
    model = ready_for_training(model, config)
    continue_binder(model, config)
    if task.weights:
        model.mention_weights = torch.tensor([task.weights[x] for x in model.config.labels])
    if config.lora_rank:
        add_lora(encoders_of(model), config.lora_rank)
    arguments = TrainingArguments(
        **shared_arguments(config, folder, "eval_f1"),
        num_train_epochs=config.full_epochs,
        per_device_train_batch_size=config.stage2_batch_size,
        gradient_accumulation_steps=config.stage2_gradient_accumulation,
        warmup_steps=config.stage2_warmup,
        greater_is_better=True,
        batch_eval_metrics=True,
    )
    trainer = BinderTrainer(
        model=model,
        args=arguments,
        train_dataset=task.features["train"],
        eval_dataset=task.features["dev"],
        data_collator=task.collator,
        compute_metrics=task.documents,
        callbacks=[EarlyStoppingCallback(config.stage2_patience)],
        optimizers=(two_rate_optimizer(config, model, config.stage2_head_learning_rate), None),
    )
    if config.stage2_unfreeze_epoch > 1:
        frozen = Unfreezing(trainer, encoders_of(model), config.stage2_unfreeze_epoch)
        trainer.add_callback(frozen)
    trainer.set_weights = weights_of(config.data_sets)
    trainer.documents = task.documents
    return trainer


# -------------------------------------------------------------------------------------- all methods
def shared_arguments(config: RunConfig, folder: Path, criterion: str) -> dict[str, Any]:
    """Arguments of all phases: evaluate and save each epoch, load the best one at the end."""
    return {
        "output_dir": str(folder),
        "seed": config.seed,
        "bf16": use_bf16(config),
        "use_cpu": not has_accelerator(),
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "logging_steps": 10,
        "save_total_limit": 1,  # the newest; the best one is kept as well
        "load_best_model_at_end": True,
        "metric_for_best_model": criterion,
        "restore_callback_states_from_checkpoint": True,
        "per_device_eval_batch_size": config.eval_batch_size,
        "label_names": ["labels"],
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "report_to": reporters(config.report_to) or "none",
        "run_name": f"{config.run_dir.name}-{folder.name}",
        # A progress bar would fill a log file with hundreds of lines. On a terminal, the library's
        # default would hide the bar because the library's messages are hidden.
        "disable_tqdm": not sys.stderr.isatty() or not log.isEnabledFor(logging.INFO),
        **schedule_arguments(config),
    }


def two_rate_optimizer(
    config: RunConfig, model: PreTrainedModel, head_rate: float
) -> torch.optim.Optimizer:
    """An optimiser with a rate for encoders and one for heads; no decay on biases and norms.

    The adapter of a lexicon changes the encoder's input, and has its rate.
    """
    adapter = getattr(model.base_model, "lexicon_adapter", None)
    modules = [*encoders_of(model), *([] if adapter is None else [adapter])]
    encoders = {id(parameter) for module in modules for parameter in module.parameters()}
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in encoders, parameter.dim() > 1), []).append(
                parameter
            )
    return make_optimizer(
        config,
        [
            {
                "params": parameters,
                "lr": config.stage2_learning_rate if is_encoder else head_rate,
                "weight_decay": config.stage2_weight_decay if decays else 0.0,
            }
            for (is_encoder, decays), parameters in groups.items()
        ],
    )


def encoders_of(model: PreTrainedModel) -> list[PreTrainedModel]:
    """Pretrained encoders of a model: of texts and, if there is a separate one, of types."""
    base = model.base_model
    return [
        encoder
        for encoder in (base.encoder, getattr(base, "type_encoder", None))
        if encoder is not None
    ]


def use_bf16(config: RunConfig) -> bool:
    """Whether to train in bfloat16: as configured; auto: if the hardware supports it."""
    if config.bf16 != "auto":
        return config.bf16 == "true"
    on_cuda = has_accelerator() and torch.cuda.is_available()
    return computes_in_bfloat16("cuda" if on_cuda else "cpu")


def ready_for_training(model: Any, config: RunConfig) -> Any:
    """Set what concerns training only: dropout inside the encoder and the attention kernel."""
    if config.encoder_dropout is not None:
        for module in (module for encoder in encoders_of(model) for module in encoder.modules()):
            if isinstance(module, torch.nn.Dropout):
                module.p = config.encoder_dropout
            for name, value in vars(module).items():  # as ModernBERT and others hold it
                if "dropout" in name and isinstance(value, float):
                    setattr(module, name, config.encoder_dropout)
    if not has_accelerator():
        # In bfloat16, the backward pass of fused attention on CPU takes longer than the rest of the
        # step.
        model.set_attn_implementation("eager")
    return model
