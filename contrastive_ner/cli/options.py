"""Options that several commands share, and how they are read."""

import argparse
import csv
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

from contrastive_ner.data.layout import FORMATS, Layout
from contrastive_ner.data.records import Record
from contrastive_ner.data.shapes import TAG_NAMES
from contrastive_ner.data.streams import INPUT_FORMATS, Row, Rows, read_rows
from contrastive_ner.errors import ConfigError, DataError, UserError
from contrastive_ner.files import WatchedFiles, expand, files_of, sha256
from contrastive_ner.hub.download import model_folder
from contrastive_ner.logs import log
from contrastive_ner.training.config import RunConfig, layout_of

ANNOTATED_FORMATS = ("auto", *FORMATS)
FORMATS_OF_NAMES = {
    "": "jsonl",
    ".jsonl": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".txt": "columns",
    ".bio": "columns",
    ".conll": "columns",
}
LAYOUT_METAVARS = {
    "format": "FORMAT",
    "tag_scheme": "SCHEME",
    "delimiter": "NAME",
    "token_column": "N",
    "tag_columns": "N,N",
    "indexed_characters": "BOOL",
    "joiner": "NAME",
    "encoding": "NAME",
    "offsets": "NAME",
    "tag_names": "TAG,TAG",
    "fields": "NAME=KEY,...",
    "documents_of": "N",
}


LIST_OPTIONS = ("--tag_columns",)


def joined_lists(argv: Sequence[str]) -> list[str]:
    """Arguments with the numbers behind an option that takes a list joined by commas.

    >>> joined_lists(["inspect", "--tag_columns", "2", "3", "data.txt"])
    ['inspect', '--tag_columns', '2,3', 'data.txt']
    """
    joined: list[str] = []
    inside = False
    for argument in argv:
        number = argument.replace(",", "").isdigit()
        if inside and number and joined[-1] not in LIST_OPTIONS:
            joined[-1] += f",{argument}"
            continue
        inside = argument in LIST_OPTIONS or (inside and number)
        joined.append(argument)
    return joined


def score_limits(text: str) -> float | dict[str, float]:
    """A number, or a number per type, from the text of an option: 0.6, or PER=0.3,ORG=0.6.

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    try:
        if "=" not in text:
            return float(text)
        return {
            label: float(limit)
            for label, limit in (part.rsplit("=", 1) for part in text.split(","))
        }
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected a number, or a number per type such as PER=0.3,ORG=0.6"
        ) from error


def with_default(text: str, default: Any) -> str:
    """A help text followed by the default in brackets; an empty default is left out."""
    if default in ("", None, ()):
        return text
    return f"{text} [{str(default).lower() if isinstance(default, bool) else default}]"


def refuse_inputs(outputs: Iterable[str | None], inputs: Iterable[str | None]) -> None:
    """Refuse an output that would replace an input or another output, or be an input next time.

    Raises:
        ConfigError: it names the output.
    """
    taken: set[Path] = set()
    for name in inputs:
        if name in (None, "", "-"):
            continue
        place = expand(name)
        with suppress(UserError):  # reading it reports that
            files = files_of(place)
            taken |= {Path(place).resolve(), *(Path(file).resolve() for file in files)}
    written: set[Path] = set()
    for name in outputs:
        if name in (None, "", "-"):
            continue
        path = Path(name).resolve()
        if path.exists() and not (path.is_file() or path.is_dir()):
            continue  # a device, which is written through
        if path in taken:
            raise ConfigError(f"{name} is an input: choose another file to write")
        if path.parent in taken and files_of(str(path.parent)) != [str(path.parent)]:
            raise ConfigError(f"{name} is in a folder of inputs: choose another one to write to")
        if path in written:
            raise ConfigError(f"two outputs are one file, {name}: choose a file for each")
        written.add(path)


def add_lexicon_option(command: argparse.ArgumentParser) -> None:
    """Add --lexicon."""
    command.add_argument(
        "--lexicon",
        metavar="FILE",
        help="for a model with a lexicon, use the words of FILE instead of its own; none: no words",
    )


def add_trust_option(command: argparse.ArgumentParser) -> None:
    """Add --trust_remote_code."""
    command.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="run the model's own code if it differs from this project's; read that code first",
    )


def add_types_option(command: argparse.ArgumentParser) -> None:
    """Add --types."""
    command.add_argument(
        "--types",
        metavar="FILE",
        help="for a BINDER model, replace its entity types with those in FILE (YAML)",
    )


def add_model_argument(command: argparse.ArgumentParser) -> None:
    """Add MODEL; `find_model` reads it."""
    command.add_argument(
        "model", metavar="MODEL", help="model folder, or USER/NAME[@REVISION] on the Hub"
    )


def find_model(arguments: argparse.Namespace) -> str:
    """Make `arguments.model` a folder, downloading it if need be.

    Returns a name for the model: a model on the Hub is pinned to its commit.
    """
    given = arguments.model
    folder = model_folder(given, trust_remote_code=arguments.trust_remote_code)
    arguments.model = str(folder)
    return given if folder == Path(given) else f"{given.partition('@')[0]}@{folder.name}"


def add_device_option(command: argparse.ArgumentParser) -> None:
    """Add --device."""
    command.add_argument(
        "--device", metavar="NAME", help="cpu, cuda, cuda:N or mps [what torch finds]"
    )


def add_source_options(command: argparse.ArgumentParser) -> None:
    """Add the options of a source of texts, read by `read_rows`."""
    command.add_argument(
        "--text_column",
        default="text",
        metavar="NAME",
        help="column, or key of JSONL, that holds the text [text]",
    )
    add_layout_options(command, formats=INPUT_FORMATS)


def add_layout_options(
    command: argparse.ArgumentParser, formats: Sequence[str] = ANNOTATED_FORMATS
) -> None:
    """Add the options of a file's layout: keys of a configuration, with the same help."""
    helps = {item.name: item.metadata["help"] for item in fields(RunConfig)}
    helps["format"] = f"file format: {', '.join(formats[:-1])} or {formats[-1]}"
    group = command.add_argument_group("layout of FILE", "as in a training configuration")
    for item in fields(Layout):
        group.add_argument(
            f"--{item.name}",
            default=item.default,
            choices=formats if item.name == "format" else None,
            metavar=LAYOUT_METAVARS[item.name],
            help=with_default(helps[item.name], item.default),
        )


def tagging_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Options of the pipeline's call, if given: `types`, {label: description}, `min_score`.

    Also `lexicon`, the name of a file or False for no words.
    """
    options: dict[str, Any] = {}
    if arguments.min_score is not None:
        options["min_score"] = arguments.min_score
    if arguments.types is not None:
        options["types"] = described_types(arguments.types)
    return options | lexicon_options(arguments)


def lexicon_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The option `lexicon` of the pipeline's call, if given: the name of a file, or False."""
    if arguments.lexicon is None:
        return {}
    return {"lexicon": arguments.lexicon != "none" and expand(arguments.lexicon)}


def described_types(file: str) -> dict[str, str]:
    """{label: description} from a types file."""
    from contrastive_ner.data.descriptions import read_types

    return {item.label: item.description for item in read_types(expand(file))}


@contextmanager
def input_file(arguments: argparse.Namespace) -> Iterator[str]:
    """The name of the input file. Standard input (-) is copied to one, to detect its format."""
    if arguments.file != "-":
        path = expand(arguments.file)
        check_plain(path)
        yield path
        return
    if sys.stdin is None:
        raise ConfigError("- is standard input, which is closed: give the name of a file")
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "standard input"
        with given.open("wb") as copy:
            shutil.copyfileobj(sys.stdin.buffer, copy)
        given = given.rename(given.with_name(given.name + suffix_for(given, arguments)))
        try:
            yield str(given)
        except DataError as error:
            raise DataError(str(error).replace(f"{folder}/", "")) from error


@contextmanager
def input_files(arguments: argparse.Namespace) -> Iterator[list[str]]:
    """The names of the input files; see `input_file` and `files_of`.

    `arguments.file` then is the name of the input as it was given, in one text.
    """
    given = arguments.file or ["-"]
    arguments.file = " ".join(given)
    if len(given) > 1 and "-" in given:
        raise ConfigError("- is standard input: expected no other file with it")
    if given == ["-"]:
        with input_file(arguments) as path:
            yield [path]
        return
    files = [file for name in given for file in files_of(expand(name))]
    for file in files:
        check_plain(file)
    yield files


def suffix_for(path: Path, arguments: argparse.Namespace) -> str:
    """The end of a name by which a file without name is detected; "" if its content tells."""
    with path.open("rb") as file:
        start = file.readline(100_000)
    for magic, suffix in ((b"PAR1", ".parquet"), (b"\x1f\x8b", ".gz")):
        if start.startswith(magic):
            return suffix
    if arguments.format != "auto":
        return ""
    column = getattr(arguments, "text_column", "text")
    for delimiter, suffix in ((",", ".csv"), (";", ".csv"), ("\t", ".tsv")):
        if has_header(path, delimiter, column):
            log.info("standard input is read as a table, by its header; --format text: as lines")
            return suffix
    return ""


def has_header(path: Path, delimiter: str, column: str) -> bool:
    """Whether a file begins with a header that names the column, and rows as wide follow.

    A line of text may look like a header, and columns of tokens have one; both have other rows.
    """
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header, *rows = list(islice(filter(None, reader), 20)) or [[]]
        except csv.Error:
            return False
    names = {name.lower() for name in header}
    return (
        len(header) > 1
        and column in header
        and not any(cell.startswith(" ") for row in (header, *rows) for cell in row)
        and all(len(row) == len(header) for row in rows)
        and not (len(header) == 2 and names & TAG_NAMES)
    )


def check_plain(path: str) -> None:
    """Raise DataError for a pipe or a device, whose format cannot be detected."""
    if Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir()):
        raise DataError(
            f"{path}: expected a file or a folder, found a pipe or a device; give it as "
            "standard input, with - as the file's name"
        )


def share(text: str) -> tuple[int, int]:
    """The numbers of an option such as 2/8: the second of eight shares.

    Raises:
        argparse.ArgumentTypeError: it names no share.
    """
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r}: expected I/N with 1 <= I <= N, such as 2/8")
    return int(number), int(count)


def open_source(path: str, arguments: argparse.Namespace, *, keep_entities: bool = False) -> Rows:
    """Open a source of texts with the options of a command; see `read_rows`."""
    return read_rows(
        path, layout_of(arguments), text_column=arguments.text_column, keep_entities=keep_entities
    )


def records_in(name: str, rows: Iterable[Row]) -> list[Record]:
    """The texts of a source; rows that hold none are counted and left out."""
    found = list(rows)
    records = [row for row in found if isinstance(row, Record)]
    if len(records) < len(found):
        log.warning("%s: %d rows hold no text", name, len(found) - len(records))
    return records


def joiner_of_model(arguments: argparse.Namespace) -> str:
    """The option joiner; "auto" is what the model was trained with, if it says so."""
    config = Path(arguments.model) / "config.json"
    if arguments.joiner != "auto" or not config.is_file():
        return arguments.joiner
    try:
        stored = json.loads(config.read_text("utf-8")).get("joiner")
    except (OSError, ValueError, RecursionError, AttributeError):  # loading the model reports it
        stored = None
    return {"": "none", " ": "space"}.get(stored, "auto") if isinstance(stored, str) else "auto"


def source_place(path: str) -> Path:
    """The file or folder of a source; a folder is given as FOLDER@SPLIT."""
    return Path(path if Path(path).exists() else path.rpartition("@")[0] or path)


def source_identity(arguments: argparse.Namespace, watched: WatchedFiles) -> dict[str, Any]:
    """Values that tell a resumed job whether its source is still the same.

    They are its name, how it is read, and the names, sizes and times of its files. Of standard
    input it is the content. The rows that were read have a hash in the progress besides.
    """
    seen: Any = [[name, size, time] for name, (size, time, _) in watched.seen.items()]
    if arguments.file == "-":  # a copy, with a new time in every process
        seen = sha256(watched.path)
    layout = {item.name: getattr(arguments, item.name) for item in fields(Layout)}
    shard = {} if arguments.shard is None else {"shard": list(arguments.shard)}
    given = {"file": arguments.file, "seen": seen, "text_column": arguments.text_column}
    return {**given, **layout, **shard}


def output_format(arguments: argparse.Namespace, source: Rows) -> str:
    """The format to write: as asked for, else by the output's name.

    "same" is the input's format if it holds annotations, else JSONL.

    Raises:
        ConfigError: the name has an ending that stands for no format.
    """
    if arguments.output_format == "same":
        return source.format if source.format in ("columns", "cluener") else "jsonl"
    if arguments.output_format is not None:
        return "columns" if arguments.output_format == "conll" else arguments.output_format
    ending = Path(arguments.output).suffix.lower()
    if ending not in FORMATS_OF_NAMES:
        raise ConfigError(
            f"output {arguments.output}: expected a name that ends in "
            f"{', '.join(filter(None, FORMATS_OF_NAMES))}, found {ending}; rename it or pass "
            "--output_format"
        )
    return FORMATS_OF_NAMES[ending]
