"""train: train all phases of a run, evaluate the model, write the run directory."""

import argparse
import logging
import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from contrastive_ner.cli.options import add_device_option, with_default
from contrastive_ner.data.records import Record
from contrastive_ner.devices import only_device
from contrastive_ner.errors import ConfigError
from contrastive_ner.evaluation.report import print_scores
from contrastive_ner.files import expand, file_hash, move_folder, read_json, write_json
from contrastive_ner.hub.repository import write_manifest
from contrastive_ner.logs import log
from contrastive_ner.provenance import provenance
from contrastive_ner.serving.inference import (
    DataSet,
    evaluate_records,
    evaluate_sets,
    load_pipeline,
)
from contrastive_ner.training.config import RunConfig, is_first_process
from contrastive_ner.training.loading import Data
from contrastive_ner.training.run import (
    Alignment,
    assemble_model,
    check_run_dir,
    draw_plots,
    encoder_hash,
    finished_phases,
    first_process_first,
    lock_run_dir,
    nothing_left_of_a_false_start,
    prepare,
    saved_config,
)
from contrastive_ner.training.settings import load_config
from contrastive_ner.training.task import Task


def add_train_command(commands: Any) -> None:
    """Add the command train."""
    keys = "\n".join(
        textwrap.fill(
            with_default(f.metadata["help"], f.default),
            width=100,
            initial_indent=f"  {f.name:<29} ",
            subsequent_indent=" " * 32,
            break_on_hyphens=False,
        )
        for f in fields(RunConfig)
    )
    command = commands.add_parser(
        "train",
        help="train a model from a configuration; the same command resumes an interrupted run",
        description="Train a model from a YAML configuration. The same command resumes an "
        "interrupted run,\nand reports a complete one.",
        epilog=f"keys, with their defaults in brackets:\n{keys}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("config", metavar="CONFIG", help="YAML file with the keys below")
    command.add_argument(
        "overrides", nargs="*", metavar="key=value", help="value for a key, instead of the file's"
    )
    command.rest = "overrides"
    add_device_option(command)
    command.set_defaults(command=start_training)


def start_training(arguments: argparse.Namespace) -> int:
    """Train on the device that is asked for; see `command_train`."""
    config = load_config(arguments.config, arguments.overrides)
    with only_device(arguments.device):
        return command_train(config)


def command_train(config: RunConfig) -> int:
    """Train all phases of a run, evaluate, write the run directory; only report a complete run.

    Under torchrun every process trains, but only the first one prints, evaluates and writes.
    """
    if not is_first_process():
        log.setLevel(logging.WARNING)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - open until the process ends
    run_dir = config.run_dir
    with first_process_first():
        found = check_run_dir(config) if is_first_process() else None
        if (run_dir / "metrics.json").is_file():
            return report_complete(run_dir)
        lock = lock_run_dir(run_dir)
    with nothing_left_of_a_false_start(run_dir, lock):
        with first_process_first():
            if is_first_process() and found != saved_config(run_dir):
                check_run_dir(config)  # a run that began before the lock was taken
            if (run_dir / "metrics.json").is_file():
                return report_complete(run_dir)
            task, data, alignment = prepare(config)
        from contrastive_ner.training.phases import train_phases

        trained = train_phases(task)
        if is_first_process():
            finish(task, data, alignment, trained)
    return 0


def report_complete(run_dir: Path) -> int:
    """Print the scores of a complete run. ConfigError if its metrics.json does not hold them."""
    file = run_dir / "metrics.json"
    metrics = read_json(file)
    print(f"{run_dir} is complete")
    try:
        print_scores({"dev": metrics["dev"], **metrics})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{file} does not hold the scores of a run; remove it and run the same command again"
        ) from error
    return 0


def finish(task: Task, data: Data, alignment: Alignment, trained: Path) -> None:
    """Evaluate the trained model; write its folder, card and plots, and at last `metrics.json`.

    `metrics.json` marks the run as complete.
    """
    from contrastive_ner.hub.card import published, write_card

    run_dir = task.config.run_dir
    model_dir = assemble_model(task, trained)
    metrics = measure(task.config, data, model_dir, alignment)
    examples = card_examples(model_dir, data.records["dev"])
    write_json(examples, model_dir / "examples.json")
    write_json(published(metrics), model_dir / "metrics.json")
    write_card(metrics, examples, data.records["train"], model_dir)
    write_manifest(model_dir)
    draw_plots(task, metrics)
    move_folder(model_dir, run_dir / "model")
    write_json(metrics, run_dir / "metrics.json")
    print_scores(metrics)
    print(f"Hub-ready model: {run_dir / 'model'}")


def measure(config: RunConfig, data: Data, model_dir: Path, alignment: Alignment) -> dict[str, Any]:
    """The content of `metrics.json`: scores on dev and test, and everything they depend on.

    The scores are of the pipeline that users call.
    """
    pipeline = load_pipeline(model_dir)
    scores: dict[str, Any] = {
        split: scores_of(pipeline, config, data, split)
        for split in ("dev", "test")
        if split in data.records
    }
    phases = {}
    for name in finished_phases(config.run_dir):
        done = read_json(config.run_dir / name / "DONE.json")
        phases[name] = {key: done[key] for key in ("seconds", "epochs", "best", "criterion")}
        phases[name]["by_epoch"] = [
            row[done["criterion"]] for row in done["log"] if done["criterion"] in row
        ]
    return {
        "method": config.method,
        "seed": config.seed,
        **scores,
        "phases": phases,
        "data": {
            split: {
                **data_entry(config, data, split),
                **({"alignment": alignment[split].to_dict()} if split in alignment else {}),
            }
            for split in data.records
        },
        "types": data.types,
        "config": config.to_dict(),
        "encoder_sha256": encoder_hash(config),
        **provenance(),
    }


def scores_of(pipeline: Any, config: RunConfig, data: Data, split: str) -> dict[str, Any]:
    """Scores on a split; of several data sets, each with its own types."""
    if not data.sets:
        return evaluate_records(
            pipeline,
            data.records[split],
            data.records["train"],
            unseen_types=config.unseen_types if split == "test" else "refuse",
        )
    return evaluate_sets(
        pipeline,
        {
            name: DataSet(
                own.records[split],
                own.records["train"],
                {label: texts[0] for label, texts in own.descriptions.items()},
                config.sets[name].unseen_types if split == "test" else "refuse",
            )
            for name, own in data.sets.items()
            if split in own.records
        },
    )


def data_entry(config: RunConfig, data: Data, split: str) -> dict[str, Any]:
    """What `metrics.json` says about the data of a split; of several sets also of each."""
    file, records = getattr(config, f"{split}_file"), data.records[split]
    own = {
        "file": file or ", ".join(data.sets),
        "sha256": file_hash(expand(file)) if file else None,
        "texts": len(records),
        "mentions": sum(len(record.entities) for record in records),
        "repaired_tags": data.reports[split].repaired_tags,
    }
    sets = {
        name: data_entry(config.sets[name], part, split)
        for name, part in data.sets.items()
        if split in part.records
    }
    return {**own, "sets": sets} if sets else own


def card_examples(
    model_dir: Path, records: Sequence[Record], count: int = 3
) -> list[dict[str, Any]]:
    """Short development texts with the model's predictions, {"text", "mentions"}.

    Texts in which the model finds the most types come first.
    """
    pipeline = load_pipeline(model_dir)
    short = [
        record.text
        for record in records
        if len(record.text) <= 60 and not set(record.text) & set('"\\\n')
    ] or [records[0].text[:60]]
    found = pipeline(short[:200])
    best = sorted(
        range(len(found)),
        key=lambda i: (-len({mention["entity_group"] for mention in found[i]}), len(short[i])),
    )[:count]
    return [{"text": short[i], "mentions": found[i]} for i in best]
