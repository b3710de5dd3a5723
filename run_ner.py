#!/usr/bin/env python3
"""The command line. Each command is one function, and so is each step of it; heavy imports wait.

python run_ner.py train configs/demo.yaml [key=value ...]
python run_ner.py evaluate MODEL_DIR FILE [--train FILE]
python run_ner.py predict MODEL_DIR [FILE]
python run_ner.py export MODEL_DIR FOLDER
python run_ner.py annotate [FILE] --dictionary FILE
python run_ner.py dictionary FILE [FILE ...] --output FILE
python run_ner.py inspect FILE [FILE ...]
python run_ner.py push MODEL_DIR USER/NAME
python run_ner.py bundle MODEL_DIR NAME.zip
python run_ner.py verify MODEL_DIR | NAME.zip | USER/NAME
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotate_ner import annotate, build_dictionary, read_dictionary
from config_ner import PHASES, ConfigError, RunConfig, expand, is_first_process, layout_of, load_config
from data_ner import (
    DataError,
    Layout,
    Record,
    format_records,
    fresh_folder,
    move_folder,
    outermost,
    read_json,
    read_records,
    write_json,
    write_records,
)
from hub_ner import sha256, write_manifest
from inference_ner import evaluate_records, load_pipeline, model_class, quiet_libraries
from inputs_ner import INPUT_FORMATS, Row, Rows, read_rows
from predict_ner import Job, keep_aligned, predict
from report_ner import breakdown_table, print_scores, score_table
from task_ner import Data, Task, load_data, prepare_task

if TYPE_CHECKING:
    from filelock import BaseFileLock

    from features_ner import AlignReport, SpanReport

LOCK_FILE = ".lock"
Alignment = dict[str, "AlignReport | SpanReport"]


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    try:
        code = arguments.command(arguments)
        sys.stdout.flush()  # a closed pipe is met here, not at the end of the process
        return code
    except BrokenPipeError:  # the reader of our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        if arguments.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(str(stop) or "interrupted; the same command goes on with what was saved", file=sys.stderr)
        return 128 + getattr(stop, "number", signal.SIGINT)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="run_ner.py", description="Contrastive named-entity recognition.")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    keys = "\n".join(f"  {f.name:<30} {f.metadata['help']} [{f.default}]" for f in fields(RunConfig))
    command = commands.add_parser(
        "train",
        help="train a model from a configuration; the same command continues a run that was killed",
        description="Train from a YAML file; key=value overrides its keys.",
        epilog=f"keys:\n{keys}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("config", help="YAML file with the keys below")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="replaces a key of the file")
    command.set_defaults(command=lambda a: command_train(load_config(a.config, a.overrides)))

    add_tagging_commands(commands)
    add_dictionary_commands(commands)
    add_sharing_commands(commands)

    command = commands.add_parser("inspect", help="report what annotated files hold")
    command.add_argument("files", nargs="+", metavar="FILE", help="annotated text")
    command.add_argument("--tokenizer", help="encoder or model folder: count mentions that none of its token boundaries match")
    add_layout_options(command)
    command.set_defaults(command=command_inspect)
    return parser


def add_tagging_commands(commands: Any) -> None:
    """evaluate, predict, export."""
    evaluate = commands.add_parser("evaluate", help="score a model on annotated text")
    evaluate.add_argument("model", help="model folder")
    evaluate.add_argument("file", help="annotated text")
    evaluate.add_argument("--train", metavar="FILE", help="the model's training data: score apart what occurs there and what is new")
    evaluate.add_argument("--output", help="write the scores to this JSON file")
    add_layout_options(evaluate)
    evaluate.set_defaults(command=command_evaluate)

    predict = commands.add_parser("predict", help="tag text")
    predict.add_argument("model", help="model folder")
    predict.add_argument(
        "file", nargs="?", default="-", help="lines, JSONL, CSV, Parquet, a data set NAME@SPLIT, columns; - for standard input"
    )
    predict.add_argument("--output", default="-", help="output file; the same command goes on with it after a stop; - for standard output")
    predict.add_argument(
        "--output_format", choices=("jsonl", "columns", "same"), default="jsonl", help="JSONL, columns, or the input's format"
    )
    predict.add_argument("--batch_size", type=int, default=32, help="windows in a forward pass")
    predict.add_argument("--num_processes", type=int, default=1, help="processes that tag, each with the model [1]")
    predict.add_argument("--strict", action="store_true", help="stop at a row that holds no text; else it is reported and left out")
    predict.add_argument("--abstain_below", type=score_limits, help="mark mentions with a lower score as abstained, for a person to decide")
    predict.add_argument("--top_k", type=int, help="give the scores of the best so many types of each mention")
    predict.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the weights [float32]")
    predict.add_argument("--compile", action="store_true", help="compile the encoder first: pays off over many texts")
    add_source_options(predict)
    predict.set_defaults(command=command_predict)
    export = commands.add_parser("export", help="write a model as ONNX graphs, float32 and int8, with a runtime that needs no torch")
    export.add_argument("model", help="model folder")
    export.add_argument("output", metavar="FOLDER", help="folder to write")
    export.add_argument("--types", metavar="FILE", help="a BINDER model's types shall be those of this file, instead of its own")
    export.add_argument("--data", metavar="FILE", help="annotated text: measure F1 and speed on it, in torch, float32 and int8")
    export.set_defaults(command=command_export)
    add_trust_option(export)

    for command in (evaluate, predict):
        command.add_argument("--types", metavar="FILE", help="a BINDER model looks for the types of this file instead of its own")
        command.add_argument(
            "--min_score",
            type=score_limits,
            help="leave out mentions with a lower score, 0.6 or PER=0.3,ORG=0.6; BINDER's own limit is near 0.5: a lower one finds more",
        )
        add_trust_option(command)


def score_limits(text: str) -> float | dict[str, float]:
    """0.6, or PER=0.3,ORG=0.6."""
    try:
        if "=" not in text:
            return float(text)
        return {label: float(limit) for label, limit in (part.rsplit("=", 1) for part in text.split(","))}
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number, or a number by type such as PER=0.3,ORG=0.6") from error


def add_dictionary_commands(commands: Any) -> None:
    """annotate, dictionary."""
    command = commands.add_parser("annotate", help="label text with the terms of a dictionary")
    command.add_argument("file", nargs="?", default="-", help="as for predict; given mentions are replaced, and scored against")
    command.add_argument("--dictionary", required=True, metavar="FILE", help="a term, a tab and an entity type a line; # starts a comment")
    command.add_argument("--output", default="-", help="output file, - for standard output")
    command.add_argument(
        "--output_format", choices=("jsonl", "columns", "same"), default="jsonl", help="JSONL, columns, or the input's format"
    )
    command.add_argument("--min_length", type=int, default=1, help="leave out terms of fewer characters [1]")
    command.add_argument("--fold_case", choices=("true", "false"), default="true", help="ignore case [true]")
    command.add_argument("--fold_width", choices=("true", "false"), default="true", help="full-width and half-width are the same [true]")
    add_source_options(command)
    command.set_defaults(command=command_annotate)

    command = commands.add_parser("dictionary", help="write the mentions of annotated files as a dictionary for annotate")
    command.add_argument("files", nargs="+", metavar="FILE", help="annotated text")
    command.add_argument("--output", required=True, metavar="FILE", help="the dictionary")
    command.add_argument("--min_count", type=int, default=1, help="leave out what is a mention fewer times [1]")
    add_layout_options(command)
    command.set_defaults(command=command_dictionary)


def add_sharing_commands(commands: Any) -> None:
    """push, bundle, verify."""
    push = commands.add_parser("push", help="check a model and upload it to the Hub in one commit; unchanged ones make none")
    push.add_argument("model", help="model folder of a run")
    push.add_argument("repository", metavar="USER/NAME", help="repository of the Hub; it is created where there is none")
    push.add_argument("--branch", default="main", help="branch of the commit [main]")
    push.add_argument("--pull_request", action="store_true", help="propose the commit")
    push.add_argument("--private", action="store_true", help="create a private repository; an existing public one is refused")
    push.add_argument("--tag", help="a name for the commit, such as v1.0")
    push.add_argument("--message", default="Upload model", help="message of the commit")
    push.add_argument("--dry_run", action="store_true", help="show what would go, upload nothing")
    push.set_defaults(command=command_push)

    bundle = commands.add_parser("bundle", help="check a model and write it into one archive that loads without network")
    bundle.add_argument("model", help="model folder of a run")
    bundle.add_argument("output", help="archive to write, NAME.zip")
    bundle.set_defaults(command=command_bundle, repository=None)
    for command in (push, bundle):
        command.add_argument("--license", help="the card's license, such as apache-2.0; push needs one")
        command.add_argument("--language", nargs="+", help="the card's languages, such as zh")
        command.add_argument("--dataset", nargs="+", help="the card's data sets, by their names on the Hub")
        command.add_argument("--base_model", help="the encoder's name on the Hub, for the card")

    verify = commands.add_parser("verify", help="check a model folder, bundle or repository of the Hub against its manifest")
    verify.add_argument("model", help="folder, archive, or USER/NAME")
    verify.add_argument("--revision", help="commit, tag or branch of a repository of the Hub [main]")
    verify.add_argument("--run", action="store_true", help="load it in a clean process, and repeat its stored predictions")
    verify.add_argument("--unpack", metavar="FOLDER", help="leave the files there if nothing is wrong")
    verify.set_defaults(command=command_verify)
    for command in (push, bundle, verify):
        add_trust_option(command)


def add_trust_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--trust_remote_code", action="store_true", help="load the model even if its code is not this project's")


def add_source_options(command: argparse.ArgumentParser) -> None:
    """How texts are read (`inputs_ner.read_rows`)."""
    command.add_argument("--text_column", default="text", help="column of the text, or key of JSONL [text]")
    add_layout_options(command, formats=INPUT_FORMATS)


def add_layout_options(
    command: argparse.ArgumentParser, formats: Sequence[str] = ("auto", "columns", "jsonl", "cluener", "datasets")
) -> None:
    """Options that say how a file is laid out; the same keys, with the same help, as in a configuration."""
    keys = {item.name: item for item in fields(RunConfig)}
    for item in fields(Layout):
        extra: dict[str, Any] = {"choices": formats} if item.name == "format" else {}
        command.add_argument(f"--{item.name}", default=item.default, help=keys[item.name].metadata["help"], **extra)


# ----------------------------------------------------------------------------------------------------------------- train
def command_train(config: RunConfig) -> int:
    """Train all phases of a run, evaluate, write the run directory. A complete run is only reported.

    Under torchrun every process trains; the first one alone prints, evaluates and writes.
    """
    if not is_first_process():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the life of the process
    run_dir = config.run_dir
    with first_process_first():
        if is_first_process():
            check_run_dir(config)
        if (run_dir / "metrics.json").is_file():
            print(f"{run_dir} is complete")
            print_scores(read_json(run_dir / "metrics.json"))
            return 0
        lock = lock_run_dir(run_dir)
    with nothing_left_of_a_false_start(run_dir):
        with first_process_first():
            task, data, alignment = prepare(config)
        from phases_ner import train_phases

        trained = train_phases(task)
    if is_first_process():
        finish(task, data, alignment, trained)
        lock.release()
        (run_dir / LOCK_FILE).unlink()
    return 0


def prepare(config: RunConfig) -> tuple[Task, Data, Alignment]:
    """Read the data, write the resolved configuration, make the encoder ready."""
    quiet_libraries()
    data = load_data(config)
    if is_first_process():
        write_json({**config.to_dict(), "data_sha256": data_hashes(config)}, config.run_dir / "config.json")
    task, alignment = prepare_task(config, data)
    return task, data, alignment


def finish(task: Task, data: Data, alignment: Alignment, trained: Path) -> None:
    """Measure the trained model and leave it, its card, the plots and `metrics.json`, which says that the run is complete."""
    from card_ner import published, write_card

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


@contextmanager
def first_process_first() -> Iterator[None]:
    """What the first process prepares, the others find: they wait for it. A single process just goes on."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    import torch
    from accelerate import PartialState

    with PartialState(cpu=not torch.accelerator.is_available()).main_process_first():
        yield


@contextmanager
def nothing_left_of_a_false_start(run_dir: Path) -> Iterator[None]:
    """Bad input leaves no new run directory behind; a run that has trained keeps what it has."""
    is_new = not (run_dir / "config.json").is_file()
    try:
        yield
    except (ValueError, OSError):
        if is_new and is_first_process() and not (any(run_dir.glob("*/checkpoint-*")) or finished_phases(run_dir)):
            shutil.rmtree(run_dir, ignore_errors=True)
        raise


def lock_run_dir(run_dir: Path) -> "BaseFileLock":
    """Two runs in one directory would mix their checkpoints. The system releases the lock when the process ends, however it ends.

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
            raise ConfigError(f"{run_dir} is in use: another process trains there; wait for it or choose another output_dir") from error
    return lock


def check_run_dir(config: RunConfig) -> None:
    """Refuse a directory that holds something else: another configuration, or no run at all."""
    run_dir = config.run_dir
    saved = run_dir / "config.json"
    if not saved.is_file():
        if run_dir.exists() and (not run_dir.is_dir() or any(path.name != LOCK_FILE for path in run_dir.iterdir())):
            raise ConfigError(f"{run_dir} exists and is no run directory; choose another output_dir")
        return
    try:
        old = json.loads(saved.read_text("utf-8"))
    except ValueError as error:
        raise ConfigError(f"{saved} cannot be read ({error}); remove {run_dir} or choose another output_dir") from error
    # A key that did not exist when the run began had the effect of its default.
    old = {**RunConfig().to_dict(), **old}
    new = {**config.to_dict(), "data_sha256": data_hashes(config)}
    changed = [f"{key}: {old.get(key)!r} there, {new.get(key)!r} now" for key in {**old, **new} if old.get(key) != new.get(key)]
    if changed:
        raise ConfigError(f"{run_dir} holds a run of another configuration ({'; '.join(changed)}); choose another output_dir")


def data_hashes(config: RunConfig) -> dict[str, str | None]:
    """SHA-256 of each data file: a run that is continued must find the data that it began with."""
    paths = (config.train_file, config.dev_file, config.test_file, config.types_file)
    return {path: file_hash(expand(path)) for path in paths if path}


# ---------------------------------------------------------------------------------------------------- what a run leaves
def assemble_model(task: Task, trained: Path) -> Path:
    """A folder ready for the Hub: weights, configuration, code and tokenizer. It gets its name `model` when the run is complete."""
    from transformers import AutoTokenizer

    from calibration_ner import calibrate

    folder = fresh_folder(task.config.run_dir / ".model-partial")
    model = model_class("binder" if task.config.method == "binder" else "nerco").from_pretrained(trained)
    calibrate(model, task)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(task.encoder).save_pretrained(folder)
    return folder


def measure(config: RunConfig, data: Data, model_dir: Path, alignment: Alignment) -> dict[str, Any]:
    """`metrics.json`: scores on dev and test through the pipeline that users call, and what they depend on."""
    pipeline = load_pipeline(model_dir)
    splits = [split for split in ("dev", "test") if split in data.records]
    scores: dict[str, Any] = {split: evaluate_records(pipeline, data.records[split], data.records["train"]) for split in splits}
    phases = {}
    for name in finished_phases(config.run_dir):
        done = read_json(config.run_dir / name / "DONE.json")
        phases[name] = {key: done[key] for key in ("seconds", "epochs", "best")}
    files = {"train": config.train_file, "dev": config.dev_file, "test": config.test_file}
    return {
        "method": config.method,
        "seed": config.seed,
        **scores,
        "phases": phases,
        "data": {
            split: {
                "file": files[split],
                "sha256": file_hash(expand(files[split])),
                "texts": len(records),
                "mentions": sum(len(record.entities) for record in records),
                "repaired_tags": data.reports[split].repaired_tags,
                **({"alignment": alignment[split].to_dict()} if split in alignment else {}),
            }
            for split, records in data.records.items()
        },
        "types": data.types,
        "config": config.to_dict(),
        **provenance(),
    }


def finished_phases(run_dir: Path) -> list[str]:
    return [name for name in PHASES if (run_dir / name / "DONE.json").is_file()]


def card_examples(model_dir: Path, records: Sequence[Record], count: int = 3) -> list[dict[str, Any]]:
    """Short texts of the development set with what the model finds in them, those with most types: {"text", "mentions"}."""
    pipeline = load_pipeline(model_dir)
    short = [record.text for record in records if len(record.text) <= 60 and not set(record.text) & set('"\\\n')] or [records[0].text[:60]]
    found = pipeline(short[:200])
    best = sorted(range(len(found)), key=lambda i: (-len({mention["entity_group"] for mention in found[i]}), len(short[i])))[:count]
    return [{"text": short[i], "mentions": found[i]} for i in best]


def provenance() -> dict[str, Any]:
    """Versions, commit, machine."""
    import torch
    import transformers

    here = Path(__file__).resolve().parent
    commit = None
    if shutil.which("git"):
        git = subprocess.run(["git", "-C", str(here), "describe", "--always", "--dirty"], capture_output=True, text=True)
        commit = git.stdout.strip() or None
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
    return {
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__},
        "commit": commit,
        "machine": f"{device} ({platform.machine()})",
        "date": time.strftime("%Y-%m-%d"),
    }


def draw_plots(task: Task, metrics: dict[str, Any]) -> None:
    """Training curves; how far scores can be trusted; of a tagger also dev tokens before stage one, after it, after stage two."""
    import torch

    from losses_contrastive import semantic_classes
    from modeling_nerco import NercoModel
    from plots_ner import plot_embeddings, plot_reliability, plot_training
    from trainer_contrastive import embed_tokens

    run_dir = task.config.run_dir
    done = finished_phases(run_dir)
    plot_training({name: read_json(run_dir / name / "DONE.json")["log"] for name in done}, run_dir / "training.png")
    plot_reliability({split: metrics[split]["calibration"] for split in ("dev", "test") if split in metrics}, run_dir / "reliability.png")
    if task.config.method == "binder":
        return
    models = {"encoder": NercoModel.from_encoder(task.encoder, **task.model_fields)}
    if "stage1" in done:
        models["after stage one"] = NercoModel.from_pretrained(run_dir / "stage1" / "model")
    models["after stage two"] = NercoModel.from_pretrained(run_dir / "full" / "model")
    panels, classes = {}, torch.empty(0)
    for title, model in models.items():
        embeddings, classes = embed_tokens(
            model, task.features["dev"], task.collator, semantic_classes(task.labels), task.config.eval_batch_size
        )
        # As many O tokens as entity tokens, the same ones in each panel.
        entity = (classes > 0).nonzero().squeeze(1)
        outside = (classes == 0).nonzero().squeeze(1)
        chosen = torch.randperm(len(outside), generator=torch.Generator().manual_seed(0))[: len(entity)]
        keep = torch.cat([outside[chosen], entity])
        panels[title], classes = embeddings[keep], classes[keep]
    names = ["O", *dict.fromkeys(label[2:] for label in task.labels[1:])]
    plot_embeddings(panels, classes, names, run_dir / "embeddings.png")


# -------------------------------------------------------------------------------------------------------------- evaluate
def command_evaluate(arguments: argparse.Namespace) -> int:
    records, report = read_records(expand(arguments.file), layout_of(arguments))
    train = read_records(expand(arguments.train), layout_of(arguments))[0] if arguments.train else None
    pipeline = load_pipeline(arguments.model, trust_remote_code=arguments.trust_remote_code)
    scores = evaluate_records(pipeline, records, train, **tagging_options(arguments))
    print(score_table({"": scores}))
    inner = scores["all_mentions"]
    if inner["gold"] != scores["micro"]["gold"]:
        left_out = inner["gold"] - scores["micro"]["gold"]
        print(f"with the {left_out} inner mentions that a flat model cannot give: F1 {100 * inner['f1']:.1f}")
    print(breakdown_table(scores), end="")
    if report.repaired_tags:
        print(f"{report.repaired_tags} tags repaired in {report.path}")
    if arguments.output:
        files = {name: getattr(arguments, name) for name in ("model", "file", "train", "types", "min_score") if getattr(arguments, name)}
        write_json({**files, **scores, **provenance()}, Path(arguments.output))
    return 0


# --------------------------------------------------------------------------------------------------------------- predict
def command_predict(arguments: argparse.Namespace) -> int:
    """Tag a file or standard input; with a file named by --output, it appears complete or not at all."""
    for name in ("batch_size", "num_processes"):
        if getattr(arguments, name) < 1:
            raise ConfigError(f"{name} is {getattr(arguments, name)}: expected at least 1")
    with input_file(arguments) as path:
        source = open_source(path, arguments)
        options = {"batch_size": arguments.batch_size, **tagging_options(arguments)}
        written = output_format(arguments, source)
        for name in ("abstain_below", "top_k"):
            if getattr(arguments, name) is not None:
                if written != "jsonl":
                    raise ConfigError(f"{name}: {written} cannot say it of a mention; write jsonl")
                options[name] = getattr(arguments, name)
        job = Job(
            arguments.model,
            options,
            written,
            source.scheme,
            arguments.trust_remote_code,
            arguments.dtype,
            arguments.compile,
        )
        predict(source, source_identity(arguments, path), job, arguments.output, processes=arguments.num_processes, strict=arguments.strict)
    return 0


def tagging_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the pipeline is called with: types {label: description} of a types file, a score that mentions must exceed."""
    options: dict[str, Any] = {} if arguments.min_score is None else {"min_score": arguments.min_score}
    return options if arguments.types is None else {**options, "types": described_types(arguments.types)}


def described_types(file: str) -> dict[str, str]:
    """{label: description} of a types file."""
    from types_ner import read_types

    return {item.label: item.description for item in read_types(expand(file))}


def command_export(arguments: argparse.Namespace) -> int:
    from export_onnx import export

    types = None if arguments.types is None else described_types(arguments.types)
    data = read_records(expand(arguments.data), Layout())[0] if arguments.data else []
    measured = export(arguments.model, arguments.output, types=types, data=data, trust_remote_code=arguments.trust_remote_code)
    for name, row in measured.items():
        scores = "" if row.f1 is None or row.seconds is None else f"  F1 {100 * row.f1:.1f}  {len(data) / row.seconds:,.0f} texts/s"
        print(f"{name:<8} {row.size:>12,} bytes{scores}")
    print(f"{arguments.output}: runs with onnxruntime, tokenizers and numpy: python {arguments.output}/runtime_onnx.py FILE")
    return 0


@contextmanager
def input_file(arguments: argparse.Namespace) -> Iterator[str]:
    """The name of the input; standard input (-) is copied to a file: formats are told by a first look."""
    if arguments.file != "-":
        yield expand(arguments.file)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "standard input"
        with path.open("wb") as copy:
            shutil.copyfileobj(sys.stdin.buffer, copy)
        try:
            yield str(path)
        except DataError as error:
            raise DataError(str(error).replace(f"{folder}/", "")) from error


def open_source(path: str, arguments: argparse.Namespace, *, keep_entities: bool = False) -> Rows:
    return read_rows(path, layout_of(arguments), text_column=arguments.text_column, keep_entities=keep_entities)


def source_identity(arguments: argparse.Namespace, path: str) -> dict[str, Any]:
    """By which a job that goes on knows its source: its name, how it is read, and names, sizes and times of its files.

    Of standard input it is the content; of a data set on the Hub there is nothing to see.
    """
    place = Path(path if Path(path).exists() else path.rpartition("@")[0] or path)  # a folder as FOLDER@SPLIT
    files = sorted(file for file in place.rglob("*") if file.is_file()) if place.is_dir() else [place] * place.is_file()
    seen: Any = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    if arguments.file == "-":  # a copy, as new as this process
        seen = sha256(place)
    layout = {item.name: getattr(arguments, item.name) for item in fields(Layout)}
    return {"file": arguments.file, "seen": seen, "text_column": arguments.text_column, **layout}


def output_format(arguments: argparse.Namespace, source: Rows) -> str:
    """What is written: "same" is the input's format where it is one of annotated text, else JSONL."""
    if arguments.output_format != "same":
        return arguments.output_format
    return source.format if source.format in ("columns", "cluener") else "jsonl"


# ------------------------------------------------------------------------------------------------------------- annotate
def command_annotate(arguments: argparse.Namespace) -> int:
    """Label texts with a dictionary; the report goes to standard error."""
    folding = {name: getattr(arguments, name) == "true" for name in ("fold_case", "fold_width")}
    dictionary = read_dictionary(expand(arguments.dictionary), min_length=arguments.min_length, **folding)
    with input_file(arguments) as path:
        source = open_source(path, arguments, keep_entities=True)
        records = list(good_rows(source.rows, arguments.file))
    labelled, report = annotate(records, dictionary, give_words=arguments.output_format == "columns")
    table = f"\nagainst the given mentions\n{score_table({'': report.scores})}" if report.scores else ""
    print(f"{report}{table}", file=sys.stderr)
    if output_format(arguments, source) == "columns":
        dropped = sum(map(keep_aligned, labelled))
        if dropped:
            print(f"{dropped} mentions fall on no boundary of the given tokens and cannot be written as columns", file=sys.stderr)
    if arguments.output == "-":
        sys.stdout.writelines(format_records(labelled, output_format(arguments, source), source.scheme))
    else:
        write_records(labelled, arguments.output, output_format(arguments, source), source.scheme)
    return 0


def good_rows(rows: Iterable[Row], name: str) -> Iterator[Record]:
    """The records; DataError at the first bad row."""
    for row in rows:
        if not isinstance(row, Record):
            raise DataError(f"{'standard input' if name == '-' else name}:{row.number}: {row.reason}")
        yield row


def command_dictionary(arguments: argparse.Namespace) -> int:
    files = [expand(name) for name in arguments.files]
    print(build_dictionary(files, arguments.output, layout_of(arguments), min_count=arguments.min_count), file=sys.stderr)
    return 0


# --------------------------------------------------------------------------------------------------------------- sharing
def command_push(arguments: argparse.Namespace) -> int:
    import hub_ner

    with packaged(arguments) as folder:
        print(
            hub_ner.push(
                folder,
                arguments.repository,
                branch=arguments.branch,
                private=arguments.private or None,
                pull_request=arguments.pull_request,
                tag=arguments.tag,
                message=arguments.message,
                dry_run=arguments.dry_run,
            )
        )
    return 0


def command_bundle(arguments: argparse.Namespace) -> int:
    import hub_ner

    output = Path(arguments.output)
    if output.suffix != ".zip":
        raise ConfigError(f"{output}: expected a name that ends in .zip")
    with packaged(arguments) as folder:
        hub_ner.write_bundle(folder, output)
    print(f"{output}: {output.stat().st_size:,} bytes, SHA-256 {hub_ner.sha256(output)}")
    return 0


@contextmanager
def packaged(arguments: argparse.Namespace) -> Iterator[Path]:
    """A model as a repository in a scratch folder, checked, loaded in a clean process, its stored predictions repeated."""
    import hub_ner

    given = {
        "license": arguments.license,
        "language": arguments.language,
        "datasets": arguments.dataset,
        "base_model": arguments.base_model,
    }
    quiet_libraries()
    with tempfile.TemporaryDirectory() as scratch:
        metadata = {name: value for name, value in given.items() if value is not None}
        folder = hub_ner.package(Path(arguments.model), Path(scratch) / "model", metadata, repo_id=arguments.repository)
        if arguments.command is command_push and not hub_ner.has_license(folder):
            raise ConfigError("the card names no license: pass --license, such as apache-2.0 (without one nobody may use the model)")
        hub_ner.check_loads(folder, trust_remote_code=arguments.trust_remote_code)
        yield folder


def command_verify(arguments: argparse.Namespace) -> int:
    import hub_ner

    with hub_ner.opened(arguments.model, arguments.revision) as (folder, name):
        faults = hub_ner.faults_of(folder)
        if faults:
            raise hub_ner.RepositoryError(name, faults)
        other = hub_ner.code_differs(folder)
        print(f"{name}: every file is the one that {hub_ner.MANIFEST} names")
        print("code: " + ("this project's" if not other else f"NOT this project's: {', '.join(f'{n} ({d})' for n, d in other.items())}"))
        if arguments.run:
            hub_ner.check_loads(folder, trust_remote_code=arguments.trust_remote_code)
            print("loads in a clean process without network, and repeats its stored predictions")
        if arguments.unpack:
            target = Path(arguments.unpack)
            if target.exists():
                raise ConfigError(f"{target} exists; choose another folder")
            shutil.copytree(folder, target)
            print(f"unpacked: {target}")
    return 0


# --------------------------------------------------------------------------------------------------------------- inspect
def command_inspect(arguments: argparse.Namespace) -> int:
    """Print what annotated files hold, and what is suspicious about them."""
    quiet_libraries()
    seen: dict[str, str] = {}
    for name in arguments.files:
        records, report = read_records(expand(name), layout_of(arguments))
        texts = Counter(record.text for record in records)
        inner = sum(len(outermost(record.entities)[1]) for record in records)
        longest = max(records, key=lambda record: len(record.text))
        counts = Counter(mention.label for record in records for mention in record.entities)
        across = Counter(seen[record.text] for record in records if record.text in seen)
        print(f"{name}: {report.format}{', ' + report.scheme if report.scheme else ''}")
        print(f"  sentences            {len(records)} ({sum(not record.entities for record in records)} without entity)")
        print(f"  entities             {counts.total()}" + "".join(f", {label} {n}" for label, n in counts.most_common()))
        print(f"  overlapping          {inner} mentions inside or across a longer one")
        print(f"  longest text         {len(longest.text)} characters (record {longest.id})")
        print(f"  repaired tags        {report.repaired_tags}" + "".join(f"\n    {repair}" for repair in report.repairs))
        print(f"  duplicates within    {sum(count - 1 for count in texts.values())}")
        for other, count in across.items():
            print(f"  also in {other}: {count} sentences")
        print(f"  off token boundaries {off_boundaries(records, arguments.tokenizer)}")
        seen |= {text: name for text in texts if text not in seen}
    return 0


def off_boundaries(records: Sequence[Record], tokenizer_name: str | None) -> str:
    """How many mentions match no token boundary: of the given tokenizer, else of the data's own tokens."""
    if tokenizer_name is None:
        own = [record for record in records if record.tokens is not None]
        if not own:
            return "not checked (the data have no tokens; name a --tokenizer)"
        spans = [list(record.tokens or []) for record in own]
    else:
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        from pipeline_ner import text_reader
        from tokenizer_character import is_character_tokenizer

        # A folder's own tokenizer.json needs none of the code that a model folder carries.
        local = (Path(tokenizer_name) / "tokenizer.json").is_file()
        tokenizer = (PreTrainedTokenizerFast if local else AutoTokenizer).from_pretrained(tokenizer_name)
        unit = "token" if is_character_tokenizer(tokenizer) else "word"
        own = list(records)
        reader = text_reader(tokenizer, label_unit=unit, max_window_tokens=128)
        spans = [text.spans for text in reader.tokenize([record.text for record in own])]
    missed = 0
    for record, tokens in zip(own, spans, strict=True):
        starts, ends = {start for start, _ in tokens}, {end for _, end in tokens}
        missed += sum(m.start not in starts or m.end not in ends for m in record.entities)
    return f"{missed} mentions"


# ------------------------------------------------------------------------------------------------------------- utilities
def file_hash(name: str) -> str | None:
    """SHA-256 of a file; None for a data set that is no single file."""
    path = Path(name)
    return sha256(path) if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main())
