"""explain, audit, select: what a model's space says about data."""

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from contrastive_ner.cli.options import (
    add_device_option,
    add_lexicon_option,
    add_source_options,
    add_trust_option,
    input_file,
    joiner_of_model,
    lexicon_options,
    open_source,
    records_in,
    refuse_inputs,
)
from contrastive_ner.data.layout import Layout
from contrastive_ner.data.readers import read_records
from contrastive_ner.data.records import Record
from contrastive_ner.data.writers import json_line
from contrastive_ner.errors import ConfigError, DataError
from contrastive_ner.files import atomic_writer, expand
from contrastive_ner.logs import log, quiet_libraries
from contrastive_ner.serving.inference import load_pipeline
from contrastive_ner.training.config import layout_of
from contrastive_ner.training.settings import load_config


def add_insight_commands(commands: Any) -> None:
    """Add the commands explain, audit and select."""
    _add_explain(commands)
    _add_audit(commands)
    _add_select(commands)


def _add_explain(commands: Any) -> None:
    explain = commands.add_parser(
        "explain",
        help="show the training mentions nearest to each prediction",
        description="Tag texts, and show for each mention the training mentions that are nearest "
        "to it in the model's space, with their labels.",
    )
    add_model_and_texts(explain)
    explain.add_argument(
        "--train",
        required=True,
        metavar="FILE",
        help="training data of the model, or the YAML file of its training, which also says how "
        "they are to be read",
    )
    explain.add_argument(
        "--neighbours", type=int, default=5, metavar="N", help="neighbours of each mention [5]"
    )
    add_outputs(explain, "explain", "the texts with their mentions and neighbours")
    explain.set_defaults(command=command_explain)


def _add_audit(commands: Any) -> None:
    audit = commands.add_parser(
        "audit",
        help="rank the training mentions that look wrong",
        description="Train models by folds as `train` would, and rank the mentions of the training "
        "data that a model which was not trained on them disagrees with. The same command goes on "
        "with an interrupted audit.",
    )
    audit.add_argument("config", metavar="CONFIG", help="YAML file of a training; see train")
    audit.add_argument(
        "overrides", nargs="*", metavar="key=value", help="value for a key, instead of the file's"
    )
    audit.add_argument("--folds", type=int, default=5, metavar="N", help="number of models [5]")
    audit.add_argument(
        "--folder",
        metavar="FOLDER",
        help="where the models of the folds are trained [output_dir with -audit]",
    )
    audit.add_argument(
        "--number", type=int, default=200, metavar="N", help="mentions in the report [200]"
    )
    add_outputs(audit, "audit", "all disagreements", "the most suspicious first")
    audit.set_defaults(command=command_audit)


def _add_select(commands: Any) -> None:
    select = commands.add_parser(
        "select",
        help="choose the texts to annotate next",
        description="Choose the texts to annotate next: those about which the model has the most "
        "doubts, and that differ from each other.",
    )
    add_model_and_texts(select)
    select.add_argument(
        "--number", type=int, default=100, metavar="N", help="number of texts to choose [100]"
    )
    select.add_argument(
        "--annotated",
        metavar="FILE",
        help="leave out the texts of this file, or of the training of this YAML file",
    )
    add_outputs(select, "select", "the chosen texts with predictions", "the most useful first")
    select.set_defaults(command=command_select)


def add_model_and_texts(command: argparse.ArgumentParser) -> None:
    """Add MODEL, FILE and how FILE is read."""
    command.add_argument("model", metavar="MODEL", help="model folder")
    command.add_argument(
        "file", nargs="?", default="-", metavar="FILE", help="texts, as for predict [-]"
    )
    add_lexicon_option(command)
    add_device_option(command)
    add_trust_option(command)
    add_source_options(command)


def add_outputs(command: argparse.ArgumentParser, name: str, what: str, order: str = "") -> None:
    """Add --output and --report."""
    ordered = f", {order}" if order else ""
    command.add_argument(
        "--output",
        metavar="JSONL",
        help=f"also write {what} to this file{ordered}; - is standard output",
    )
    command.add_argument(
        "--report",
        default=f"{name}.html",
        metavar="HTML",
        help=f"report to write, one file that needs no network [{name}.html]",
    )


def command_explain(arguments: argparse.Namespace) -> int:
    """Explain the predictions for texts."""
    from contrastive_ner.insight.neighbours import explain
    from contrastive_ner.insight.report import explain_page

    check_at_least_one(arguments, "neighbours")
    check_outputs(arguments, arguments.file, arguments.train)
    records = texts_of(arguments)
    train = training_texts(arguments.train)
    pipeline = load_pipeline(
        arguments.model,
        trust_remote_code=arguments.trust_remote_code,
        device=arguments.device,
    )
    given = lexicon_options(arguments)
    rows = explain(pipeline, records, train, neighbours=arguments.neighbours, **given)
    write_outputs(arguments, rows, explain_page(rows, arguments.model))
    return 0


def command_audit(arguments: argparse.Namespace) -> int:
    """Rank the training mentions that look wrong."""
    from contrastive_ner.insight.audit import audit
    from contrastive_ner.insight.report import audit_page

    check_at_least_one(arguments, "number")
    quiet_libraries()
    config = load_config(arguments.config, arguments.overrides)
    files = (config.train_file, config.dev_file, config.types_file, config.lexicon_file)
    check_outputs(arguments, arguments.config, *files)
    folder = Path(arguments.folder or f"{config.run_dir}-audit")
    result = audit(config, folder, folds=arguments.folds)
    if result.left_out:
        log.info("%d texts are not audited: no other fold has their types", result.left_out)
    shown = result.found[: arguments.number]
    write_outputs(arguments, result.found, audit_page(result, shown, config.train_file))
    return 0


def command_select(arguments: argparse.Namespace) -> int:
    """Choose the texts to annotate next."""
    from contrastive_ner.insight.report import select_page
    from contrastive_ner.insight.selection import select

    check_at_least_one(arguments, "number")
    check_outputs(arguments, arguments.file, arguments.annotated or "")
    records = texts_of(arguments)
    done = training_texts(arguments.annotated) if arguments.annotated else []
    pipeline = load_pipeline(
        arguments.model,
        trust_remote_code=arguments.trust_remote_code,
        device=arguments.device,
    )
    annotated = (record.text for record in done)
    given = lexicon_options(arguments)
    rows = select(pipeline, records, arguments.number, annotated=annotated, **given)
    if not rows:
        raise DataError(f"{arguments.file}: expected texts that are not annotated yet, found none")
    write_outputs(arguments, rows, select_page(rows, arguments.file))
    return 0


def check_at_least_one(arguments: argparse.Namespace, name: str) -> None:
    """Raise ConfigError unless an option is 1 or more."""
    if getattr(arguments, name) < 1:
        raise ConfigError(f"{name} is {getattr(arguments, name)}: expected at least 1")


def training_texts(name: str) -> list[Record]:
    """The records of a file of annotated texts, or of the training data of a configuration."""
    if Path(name).suffix not in (".yaml", ".yml"):
        return read_records(expand(name), Layout())[0]
    config = load_config(name)
    return read_records(expand(config.train_file), layout_of(config))[0]


def check_outputs(arguments: argparse.Namespace, *inputs: str) -> None:
    """Refuse outputs that would replace what is there, before a model is loaded.

    Raises:
        ConfigError: the report or the output is an input, or a folder; both are one file; or one of
            them exists, and was not written by these commands.
    """
    report, output = Path(arguments.report), arguments.output
    if str(report) == "-":
        raise ConfigError("--report is -: expected the name of a file; --output - prints the rows")
    places = [report, *([] if output in (None, "-") else [Path(output)])]
    refuse_inputs(map(str, places), inputs)
    for place in places:
        if place.is_dir() or not place.absolute().parent.is_dir():
            raise ConfigError(f"{place}: expected a file in a folder that is there")
    if len(places) > 1 and places[1].exists() and not is_output(places[1]):
        raise ConfigError(
            f"{places[1]} exists, and was not written by these commands: choose another --output"
        )
    if report.is_file() and not is_report(report):
        raise ConfigError(f"{report} exists and is not a report: choose another --report")


def is_output(path: Path) -> bool:
    """Whether a file has rows of these commands, by what no annotated text has."""
    try:
        with path.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in islice(file, 100)]
        entities = [m for row in rows for m in row.get("entities", ())]
        return any({"suspicion", "doubt"} & row.keys() for row in rows) or any(
            "neighbours" in m for m in entities
        )
    except (ValueError, AttributeError, TypeError):
        return False


def is_report(path: Path) -> bool:
    """Whether a file is a report of these commands."""
    from contrastive_ner.insight.report import REPORT_START

    with path.open("rb") as file:
        return file.read(len(REPORT_START)) == REPORT_START.encode()


def texts_of(arguments: argparse.Namespace) -> list[Record]:
    """The texts of FILE; rows that hold none are counted and left out.

    Raises:
        DataError: the input has no texts.
    """
    arguments.joiner = joiner_of_model(arguments)
    with input_file(arguments) as path:
        records = records_in(arguments.file, open_source(path, arguments).rows)
    if not records:
        raise DataError(f"{arguments.file}: expected texts, found none")
    return records


def write_outputs(arguments: argparse.Namespace, rows: Sequence[dict[str, Any]], page: str) -> None:
    """Write the report, and the rows if asked."""
    if arguments.output == "-":
        sys.stdout.writelines(map(json_line, rows))
    elif arguments.output:
        with atomic_writer(arguments.output) as file:
            file.writelines(map(json_line, rows))
    with atomic_writer(arguments.report) as file:
        file.write(page)
    log.info("%s: %d entries", arguments.report, len(rows))
