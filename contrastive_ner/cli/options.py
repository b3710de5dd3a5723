"""Options that several commands share."""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from contrastive_ner.data.readers import Layout
from contrastive_ner.data.streams import INPUT_FORMATS, Rows, read_rows
from contrastive_ner.errors import DataError
from contrastive_ner.files import expand, sha256
from contrastive_ner.training.config import RunConfig, layout_of


def score_limits(text: str) -> float | dict[str, float]:
    """0.6, or PER=0.3,ORG=0.6."""
    try:
        if "=" not in text:
            return float(text)
        return {
            label: float(limit)
            for label, limit in (part.rsplit("=", 1) for part in text.split(","))
        }
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected a number, or a number by type such as PER=0.3,ORG=0.6"
        ) from error


def add_trust_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="load the model even if its code is not this project's",
    )


def add_source_options(command: argparse.ArgumentParser) -> None:
    """How texts are read (`inputs_ner.read_rows`)."""
    command.add_argument(
        "--text_column", default="text", help="column of the text, or key of JSONL [text]"
    )
    add_layout_options(command, formats=INPUT_FORMATS)


def add_layout_options(
    command: argparse.ArgumentParser,
    formats: Sequence[str] = ("auto", "columns", "jsonl", "cluener", "datasets"),
) -> None:
    """Options that say how a file is laid out; the same keys, with the same help, as in a configuration."""
    keys = {item.name: item for item in fields(RunConfig)}
    for item in fields(Layout):
        extra: dict[str, Any] = {"choices": formats} if item.name == "format" else {}
        command.add_argument(
            f"--{item.name}", default=item.default, help=keys[item.name].metadata["help"], **extra
        )


def tagging_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the pipeline is called with: types {label: description} of a types file, a score that mentions must exceed."""
    options: dict[str, Any] = (
        {} if arguments.min_score is None else {"min_score": arguments.min_score}
    )
    return (
        options
        if arguments.types is None
        else {**options, "types": described_types(arguments.types)}
    )


def described_types(file: str) -> dict[str, str]:
    """{label: description} of a types file."""
    from contrastive_ner.data.descriptions import read_types

    return {item.label: item.description for item in read_types(expand(file))}


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
    return read_rows(
        path, layout_of(arguments), text_column=arguments.text_column, keep_entities=keep_entities
    )


def source_identity(arguments: argparse.Namespace, path: str) -> dict[str, Any]:
    """By which a job that goes on knows its source: its name, how it is read, and names, sizes and times of its files.

    Of standard input it is the content; of a data set on the Hub there is nothing to see.
    """
    place = Path(
        path if Path(path).exists() else path.rpartition("@")[0] or path
    )  # a folder as FOLDER@SPLIT
    files = (
        sorted(file for file in place.rglob("*") if file.is_file())
        if place.is_dir()
        else [place] * place.is_file()
    )
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
