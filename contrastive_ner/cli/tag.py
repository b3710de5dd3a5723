"""evaluate, predict, export: using a trained model."""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from contrastive_ner.cli.options import (
    add_device_option,
    add_layout_options,
    add_lexicon_option,
    add_model_argument,
    add_source_options,
    add_trust_option,
    add_types_option,
    described_types,
    find_model,
    input_files,
    joiner_of_model,
    open_source,
    output_format,
    refuse_inputs,
    score_limits,
    share,
    source_identity,
    source_place,
    tagging_options,
)
from contrastive_ner.data.layout import Layout
from contrastive_ner.data.readers import read_records
from contrastive_ner.data.several import several_rows, share_of
from contrastive_ner.data.streams import Rows, source_format
from contrastive_ner.data.writers import json_line
from contrastive_ner.devices import chosen_precision
from contrastive_ner.errors import ConfigError, DataError
from contrastive_ner.evaluation.confusions import confusion_table, first_of, misaligned
from contrastive_ner.evaluation.report import breakdown_table, score_table
from contrastive_ner.extras import need
from contrastive_ner.files import WatchedFiles, atomic_writer, expand, write_json
from contrastive_ner.models.checks_ner import PRECISIONS
from contrastive_ner.provenance import provenance
from contrastive_ner.serving.inference import evaluate_records, lexicon_option, load_pipeline
from contrastive_ner.serving.predict import Job, predict
from contrastive_ner.serving.tables import TOOLS, WRITERS
from contrastive_ner.training.config import layout_of

MOST_COUNTED = 1_000_000_000  # bytes of an input whose rows are counted for a progress bar


def add_tagging_commands(commands: Any) -> None:
    """Add the commands evaluate, predict and export."""
    evaluate = commands.add_parser(
        "evaluate",
        help="score a model on annotated text",
        description="Score a model on annotated text: precision, recall and F1 of exact spans, and "
        "a breakdown of the errors.",
    )
    add_model_argument(evaluate)
    evaluate.add_argument("file", metavar="FILE", help="annotated text")
    evaluate.add_argument(
        "--train",
        metavar="FILE",
        help="training data of the model: score mentions that occur there and new ones separately",
    )
    evaluate.add_argument("--output", metavar="JSON", help="also write the scores to this file")
    evaluate.add_argument(
        "--errors", metavar="JSONL", help="write every error with its context to this file"
    )
    evaluate.add_argument(
        "--allow_no_entities",
        action="store_true",
        help="also score texts without any gold mention",
    )
    evaluate.add_argument(
        "--unseen_types",
        choices=("refuse", "missed"),
        default="refuse",
        help="what to do about types that the model does not know: refuse the file, or count their "
        "mentions as missed [refuse]",
    )
    add_device_option(evaluate)
    add_type_options(evaluate)
    add_layout_options(evaluate)
    evaluate.set_defaults(command=command_evaluate)

    predict = commands.add_parser(
        "predict",
        help="tag text",
        description="Tag text of any size, in constant memory (except for columns, which are read "
        "as a whole). Records are written in the order of the input. To resume a job that was "
        "stopped or killed, run the same command again.",
    )
    add_model_argument(predict)
    predict.add_argument(
        "file",
        nargs="*",
        metavar="FILE",
        help="text (one per line), JSONL, CSV, Parquet, columns, or a data set as NAME@SPLIT or "
        "FOLDER@SPLIT; several files, a folder of files or a pattern such as 'texts/*.txt' are "
        "read one after another; - reads standard input [-]",
    )
    predict.rest = "file"
    add_prediction_options(predict)
    add_type_options(predict)
    add_source_options(predict)
    predict.set_defaults(command=command_predict)
    add_export_command(commands)


def add_type_options(command: argparse.ArgumentParser) -> None:
    """Add --types, --lexicon, --min_score and --trust_remote_code."""
    add_lexicon_option(command)
    add_types_option(command)
    command.add_argument(
        "--min_score",
        type=score_limits,
        metavar="SCORE",
        help="leave out mentions with a lower score; a number such as 0.6, or one per type such as "
        "PER=0.3,ORG=0.6. Without it, a BINDER model keeps those above about 0.5: lower values "
        "find more mentions",
    )
    add_trust_option(command)


def add_prediction_options(command: argparse.ArgumentParser) -> None:
    """Add the options of predict."""
    command.add_argument(
        "--output",
        default="-",
        metavar="FILE",
        help="output file, which appears once it is complete; - is standard output, which cannot "
        "be resumed [-]",
    )
    command.add_argument(
        "--output_format",
        choices=("jsonl", *WRITERS, "columns", "conll", "cluener", "same"),
        metavar="FORMAT",
        help="format of the output, by default that of its name (.txt, .bio and .conll: columns), "
        "jsonl if the name has no ending; "
        f"{', '.join(WRITERS)}, columns (conll), jsonl, cluener; same: the format of the input if "
        "it is columns or CLUENER, else jsonl",
    )
    command.add_argument(
        "--top_k", type=int, metavar="K", help="add the scores of the K best types to each mention"
    )
    command.add_argument(
        "--abstain_below",
        type=score_limits,
        metavar="SCORE",
        help="mark mentions with a lower score as abstained, for a person to decide; a number, or "
        "one per type as in --min_score",
    )
    command.add_argument(
        "--shard",
        type=share,
        metavar="I/N",
        help="tag only the I-th of N shares of the input; the outputs of all shares, one after "
        "another, are that of the whole",
    )
    command.add_argument(
        "--strict",
        action="store_true",
        help="stop at a row that holds no text; by default it is reported and skipped",
    )
    add_runtime_options(command)


def add_runtime_options(command: argparse.ArgumentParser) -> None:
    """Add the options of predict that say how the model runs."""
    command.add_argument(
        "--batch_size", type=int, default=32, metavar="N", help="windows per forward pass [32]"
    )
    command.add_argument(
        "--num_processes",
        type=int,
        default=1,
        metavar="N",
        help="number of processes, each with its own copy of the model [1]",
    )
    command.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray: let as many actors of Ray do it, on this machine, or on the cluster that "
        "RAY_ADDRESS names; needs the extra ray [local]",
    )
    command.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="precision of the weights; bfloat16 is faster on devices that compute in it, and "
        "changes scores slightly; auto: bfloat16 on those, else float32 [auto]",
    )
    command.add_argument(
        "--compile",
        action="store_true",
        help="compile the encoder first; worthwhile for many texts",
    )
    add_device_option(command)


def add_export_command(commands: Any) -> None:
    """Add the command export."""
    export = commands.add_parser(
        "export",
        help="write a model as ONNX graphs, float32 and int8, with a runtime that needs no torch",
        description="Write a model as ONNX graphs, in float32 and int8, to a folder with a runtime "
        "that needs only onnxruntime, tokenizers and numpy. Needs the extra onnx: "
        "pip install 'contrastive-ner[onnx]'.",
    )
    add_model_argument(export)
    export.add_argument("output", metavar="FOLDER", help="folder to write; it must not exist")
    add_types_option(export)
    export.add_argument(
        "--data",
        metavar="FILE",
        help="annotated text: measure F1 and speed on it, in torch, float32 and int8",
    )
    export.set_defaults(command=command_export)
    add_trust_option(export)


# ----------------------------------------------------------------------------------------- evaluate
def command_evaluate(arguments: argparse.Namespace) -> int:
    """Print the scores of a model on annotated text, and write them if asked."""
    refuse_inputs(
        (arguments.errors, arguments.output), (arguments.file, arguments.train, arguments.types)
    )
    model = find_model(arguments)
    arguments.joiner = joiner_of_model(arguments)
    records, report = read_records(expand(arguments.file), layout_of(arguments))
    if not arguments.allow_no_entities and not any(record.entities for record in records):
        raise DataError(
            f"{report.path}: expected gold mentions, found none in {len(records)} texts; check the "
            "format with contrastive-ner inspect, or pass --allow_no_entities"
        )
    train = (
        read_records(expand(arguments.train), layout_of(arguments))[0] if arguments.train else None
    )
    pipeline = load_pipeline(
        arguments.model,
        trust_remote_code=arguments.trust_remote_code,
        device=arguments.device,
    )
    errors: list[dict[str, Any]] | None = [] if arguments.errors else None
    options = tagging_options(arguments)
    if "lexicon" in options:
        options["lexicon"] = lexicon_option(pipeline, options["lexicon"])
    scores = evaluate_records(
        pipeline, records, train, unseen_types=arguments.unseen_types, errors=errors, **options
    )
    print(score_table({"": scores}))
    inner = scores["all_mentions"]
    if inner["gold"] != scores["micro"]["gold"]:
        left_out = inner["gold"] - scores["micro"]["gold"]
        print(
            f"with the {left_out} nested or overlapping mentions that are not counted for a flat "
            f"model: F1 {100 * inner['f1']:.1f}"
        )
    print(breakdown_table(scores), end="")
    print(confusion_table(scores["confusions"]), end="")
    positions = [own.spans for own in pipeline.reader.tokenize([r.text for r in records])]
    if places := misaligned(records, positions):
        print(f"{len(places)} mentions not on token boundaries{first_of(places)}")
    for remark in report.remarks():
        print(f"{report.path}: {remark}")
    if errors is not None:
        with atomic_writer(arguments.errors) as file:
            file.writelines(map(json_line, errors))
    if arguments.output:
        files = {
            name: getattr(arguments, name)
            for name in ("file", "train", "types", "lexicon", "min_score")
            if getattr(arguments, name)
        }
        write_json({"model": model, **files, **scores, **provenance()}, Path(arguments.output))
    return 0


# ------------------------------------------------------------------------------------------ predict
def command_predict(arguments: argparse.Namespace) -> int:
    """Tag a file or standard input; an output file appears complete or not at all."""
    for name in ("batch_size", "num_processes"):
        if getattr(arguments, name) < 1:
            raise ConfigError(f"{name} is {getattr(arguments, name)}: expected at least 1")
    if arguments.engine == "ray":
        need("ray", "ray")
    find_model(arguments)
    with input_files(arguments) as files:
        watched = WatchedFiles(*map(source_place, files))  # before the source is opened
        arguments.joiner = joiner_of_model(arguments)
        source = chosen_rows(files, arguments)
        options = {"batch_size": arguments.batch_size, **tagging_options(arguments)}
        written = output_format(arguments, source)
        for name in ("abstain_below", "top_k"):
            if getattr(arguments, name) is not None:
                if written in ("columns", "cluener", *TOOLS):
                    raise ConfigError(
                        f"{name}: {written} cannot hold it; write the output as jsonl"
                    )
                options[name] = getattr(arguments, name)
        job = Job(
            arguments.model,
            options,
            written,
            source.scheme,
            arguments.trust_remote_code,
            tagging_precision(arguments),
            arguments.compile,
            arguments.device,
        )
        predict(
            source,
            source_identity(arguments, watched),
            job,
            arguments.output,
            processes=arguments.num_processes,
            engine=arguments.engine,
            strict=arguments.strict,
            watched=watched,
        )
    return 0


def tagging_precision(arguments: argparse.Namespace) -> str:
    """The precision to tag in. Actors of Ray, perhaps on other machines, choose for themselves.

    Raises:
        ConfigError: this machine has no such device, or Ray cannot give it to its actors.
    """
    if arguments.engine != "ray":
        return chosen_precision(arguments.precision, arguments.device)
    if arguments.device not in (None, "cpu", "cuda"):
        raise ConfigError(
            f"device is {arguments.device!r}: with --engine ray, expected cpu or cuda (every actor "
            "gets a GPU of its own)"
        )
    return str(arguments.precision)


def chosen_rows(files: list[str], arguments: argparse.Namespace) -> Rows:
    """The rows of the input, or of a share of it, and their number if it is to be known."""

    def opened() -> Rows:
        layout, column = layout_of(arguments), arguments.text_column
        return several_rows(
            files,
            lambda file: open_source(file, arguments),
            lambda file: source_format(file, layout, column),
        )

    source = opened()
    if arguments.shard is None:
        total = None
        if sys.stderr.isatty() and sum(map(size_of, files)) <= MOST_COUNTED:
            total = sum(1 for _ in opened().rows)
        return source._replace(total=total)
    number, count = arguments.shard
    rows = sum(1 for _ in opened().rows)
    own = number * rows // count - (number - 1) * rows // count
    return source._replace(rows=share_of(source.rows, rows, number, count), total=own)


def size_of(file: str) -> float:
    """The size of a file in bytes; a folder, or a data set by name, counts as infinite."""
    return Path(file).stat().st_size if Path(file).is_file() else math.inf


def command_export(arguments: argparse.Namespace) -> int:
    """Export a model and print the size, and with --data the F1 and speed, of each precision."""
    from contrastive_ner.serving.export import export

    find_model(arguments)
    types = None if arguments.types is None else described_types(arguments.types)
    data = read_records(expand(arguments.data), Layout())[0] if arguments.data else []
    measured = export(
        arguments.model,
        arguments.output,
        types=types,
        data=data,
        trust_remote_code=arguments.trust_remote_code,
    )
    for name, row in measured.items():
        scores = (
            ""
            if row.f1 is None or row.seconds is None
            else f"  F1 {100 * row.f1:.1f}  {len(data) / row.seconds:,.0f} texts/s"
        )
        print(f"{name:<8} {row.size:>12,} bytes{scores}")
    print(
        f"{arguments.output}: needs onnxruntime, tokenizers and numpy; run with "
        f"python {arguments.output}/runtime_onnx.py FILE"
    )
    return 0
