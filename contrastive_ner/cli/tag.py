"""evaluate, predict, export: a trained model at work."""

import argparse
from pathlib import Path
from typing import Any

from contrastive_ner.cli.options import (
    add_layout_options,
    add_source_options,
    add_trust_option,
    described_types,
    input_file,
    open_source,
    output_format,
    score_limits,
    source_identity,
    tagging_options,
)
from contrastive_ner.data.readers import Layout, read_records
from contrastive_ner.errors import ConfigError
from contrastive_ner.evaluation.report import breakdown_table, score_table
from contrastive_ner.files import expand, write_json
from contrastive_ner.provenance import provenance
from contrastive_ner.serving.inference import evaluate_records, load_pipeline
from contrastive_ner.serving.predict import Job, predict
from contrastive_ner.training.config import layout_of


def add_tagging_commands(commands: Any) -> None:
    """evaluate, predict, export."""
    evaluate = commands.add_parser("evaluate", help="score a model on annotated text")
    evaluate.add_argument("model", help="model folder")
    evaluate.add_argument("file", help="annotated text")
    evaluate.add_argument(
        "--train",
        metavar="FILE",
        help="the model's training data: score apart what occurs there and what is new",
    )
    evaluate.add_argument("--output", help="write the scores to this JSON file")
    add_layout_options(evaluate)
    evaluate.set_defaults(command=command_evaluate)

    predict = commands.add_parser("predict", help="tag text")
    predict.add_argument("model", help="model folder")
    predict.add_argument(
        "file",
        nargs="?",
        default="-",
        help="lines, JSONL, CSV, Parquet, a data set NAME@SPLIT, columns; - for standard input",
    )
    predict.add_argument(
        "--output",
        default="-",
        help="output file; the same command goes on with it after a stop; - for standard output",
    )
    predict.add_argument(
        "--output_format",
        choices=("jsonl", "columns", "same"),
        default="jsonl",
        help="JSONL, columns, or the input's format",
    )
    predict.add_argument("--batch_size", type=int, default=32, help="windows in a forward pass")
    predict.add_argument(
        "--num_processes", type=int, default=1, help="processes that tag, each with the model [1]"
    )
    predict.add_argument(
        "--strict",
        action="store_true",
        help="stop at a row that holds no text; else it is reported and left out",
    )
    predict.add_argument(
        "--abstain_below",
        type=score_limits,
        help="mark mentions with a lower score as abstained, for a person to decide",
    )
    predict.add_argument(
        "--top_k", type=int, help="give the scores of the best so many types of each mention"
    )
    predict.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the weights [float32]",
    )
    predict.add_argument(
        "--compile", action="store_true", help="compile the encoder first: pays off over many texts"
    )
    add_source_options(predict)
    predict.set_defaults(command=command_predict)
    export = commands.add_parser(
        "export",
        help="write a model as ONNX graphs, float32 and int8, with a runtime that needs no torch",
    )
    export.add_argument("model", help="model folder")
    export.add_argument("output", metavar="FOLDER", help="folder to write")
    export.add_argument(
        "--types",
        metavar="FILE",
        help="a BINDER model's types shall be those of this file, instead of its own",
    )
    export.add_argument(
        "--data",
        metavar="FILE",
        help="annotated text: measure F1 and speed on it, in torch, float32 and int8",
    )
    export.set_defaults(command=command_export)
    add_trust_option(export)

    for command in (evaluate, predict):
        command.add_argument(
            "--types",
            metavar="FILE",
            help="a BINDER model looks for the types of this file instead of its own",
        )
        command.add_argument(
            "--min_score",
            type=score_limits,
            help="leave out mentions with a lower score, 0.6 or PER=0.3,ORG=0.6; BINDER's own limit is near 0.5: a lower one finds more",
        )
        add_trust_option(command)


# ----------------------------------------------------------------------------------------- evaluate
def command_evaluate(arguments: argparse.Namespace) -> int:
    records, report = read_records(expand(arguments.file), layout_of(arguments))
    train = (
        read_records(expand(arguments.train), layout_of(arguments))[0] if arguments.train else None
    )
    pipeline = load_pipeline(arguments.model, trust_remote_code=arguments.trust_remote_code)
    scores = evaluate_records(pipeline, records, train, **tagging_options(arguments))
    print(score_table({"": scores}))
    inner = scores["all_mentions"]
    if inner["gold"] != scores["micro"]["gold"]:
        left_out = inner["gold"] - scores["micro"]["gold"]
        print(
            f"with the {left_out} inner mentions that a flat model cannot give: F1 {100 * inner['f1']:.1f}"
        )
    print(breakdown_table(scores), end="")
    if report.repaired_tags:
        print(f"{report.repaired_tags} tags repaired in {report.path}")
    if arguments.output:
        files = {
            name: getattr(arguments, name)
            for name in ("model", "file", "train", "types", "min_score")
            if getattr(arguments, name)
        }
        write_json({**files, **scores, **provenance()}, Path(arguments.output))
    return 0


# ------------------------------------------------------------------------------------------ predict
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
        predict(
            source,
            source_identity(arguments, path),
            job,
            arguments.output,
            processes=arguments.num_processes,
            strict=arguments.strict,
        )
    return 0


def command_export(arguments: argparse.Namespace) -> int:
    from contrastive_ner.serving.export import export

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
        f"{arguments.output}: runs with onnxruntime, tokenizers and numpy: python {arguments.output}/runtime_onnx.py FILE"
    )
    return 0
