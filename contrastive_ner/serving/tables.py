"""Records in the formats of whole files and folders, made of JSON lines.

JSON, CSV, TSV and Parquet are written as a stream. Their columns are known only when all records
are: hence two passes. The formats of annotation tools take all records into memory.
"""

import csv
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from contrastive_ner.data.conversion import convert_records
from contrastive_ner.data.fields import RECORD_FIELDS, as_text
from contrastive_ner.data.records import Mention, Record
from contrastive_ner.data.writers import without_surrogates
from contrastive_ner.logs import log

if TYPE_CHECKING:
    import pyarrow

COLUMNS = ("id", "text", "entities", "coverage")  # which every table has
TOOLS = ("doccano", "labelstudio", "brat", "spacy", "dygie", "datasets")
ON_TOKENS = ("columns", "dygie", "datasets")  # formats of tokens with their tags or mentions
GROUP_ROWS, GROUP_BYTES = 10_000, 16_000_000  # of a row group of Parquet, whichever comes first


def rows_of(lines: Path) -> Iterator[dict[str, Any]]:
    """The records of a file of JSON lines; lone surrogates, which UTF-8 lacks, become U+FFFD."""
    with lines.open("rb") as file:
        for raw in file:
            row = json.loads(raw)
            yield storable(row) if rb"\ud" in raw.lower() else row


def storable(value: Any) -> Any:
    """A value without lone surrogates."""
    if isinstance(value, str):
        return without_surrogates(value)
    if isinstance(value, dict):
        return {storable(name): storable(item) for name, item in value.items()}
    return [storable(item) for item in value] if isinstance(value, list) else value


def names_of(found: dict[str, Any]) -> list[str]:
    """Names of columns: those of records first, then those of the input, as they were met."""
    own = [name for name in RECORD_FIELDS if name in COLUMNS or name in found]
    return own + [name for name in found if name not in own]


def write_json_list(lines: Path, target: Path) -> None:
    """One list of all records."""
    with lines.open("rb") as source, target.open("wb") as file:
        before = b"[\n"
        for raw in source:
            file.write(before + raw.rstrip(b"\n"))
            before = b",\n"
        file.write(b"[]\n" if before == b"[\n" else b"\n]\n")
        sync(file)


def write_csv(lines: Path, target: Path, delimiter: str = ",") -> None:
    """A table with a header; lists, objects and numbers as JSON."""
    found: dict[str, Any] = {}
    for row in rows_of(lines):
        found.update(dict.fromkeys(row))
    names = names_of(found)
    with target.open("w", encoding="utf-8", newline="") as file:
        # The writer quotes cells with characters of the line end: with "\n", not those with "\r".
        ends = SimpleNamespace(write=lambda row: file.write(row.removesuffix("\r\n") + "\n"))
        writer = csv.writer(ends, delimiter=delimiter, lineterminator="\r\n")
        writer.writerow(names)
        writer.writerows([as_text(row.get(name)) for name in names] for row in rows_of(lines))
        sync(file)


def write_tsv(lines: Path, target: Path) -> None:
    """As CSV, with tabs."""
    write_csv(lines, target, "\t")


def write_parquet(lines: Path, target: Path) -> None:
    """A table in row groups; see `schema_of`."""
    import pyarrow
    import pyarrow.parquet

    schema = schema_of(lines)
    texts = {
        field.name
        for field in schema
        if field.type == pyarrow.string() and field.name not in RECORD_FIELDS
    }
    with pyarrow.parquet.ParquetWriter(str(target), schema) as writer:

        def write(group: list[dict[str, Any]]) -> None:
            for row in group:
                for name in texts & row.keys():
                    row[name] = None if row[name] is None else as_text(row[name])
            writer.write_table(pyarrow.Table.from_pylist(group, schema=schema))

        group: list[dict[str, Any]] = []
        size = 0
        for row in rows_of(lines):
            group.append(row)
            size += len(row["text"])
            if len(group) >= GROUP_ROWS or size >= GROUP_BYTES:
                write(group)
                group, size = [], 0
        if group:
            write(group)
    with target.open("rb") as file:
        os.fsync(file.fileno())


def schema_of(lines: Path) -> "pyarrow.Schema":
    """Columns of a Parquet file of records.

    Mentions are lists of structures. A column of the input is of numbers or truth values if all its
    values are; otherwise it is text, with lists and objects as JSON.
    """
    import pyarrow

    found: dict[str, set[str]] = {}
    keys: set[str] = set()
    for row in rows_of(lines):
        for name, value in row.items():
            found.setdefault(name, set()).add(kind_of(value))
        keys.update(*row["entities"])
    whole, text, real = pyarrow.int64(), pyarrow.string(), pyarrow.float64()
    scored = pyarrow.list_(pyarrow.struct({"label": text, "score": real}))
    parts = {"start": whole, "end": whole, "label": text, "score": real}
    parts |= {"words": pyarrow.list_(whole), "labels": scored, "abstained": pyarrow.bool_()}
    always = ("start", "end", "label", "score")
    mention = {name: kind for name, kind in parts.items() if name in always or name in keys}
    own = {"id": text, "text": text, "doc": text, "coverage": real}
    own["entities"] = pyarrow.list_(pyarrow.struct(mention))
    own["tokens"] = pyarrow.list_(pyarrow.list_(whole))
    kinds = {"int": whole, "float": real, "int float": real, "bool": pyarrow.bool_()}

    def column(name: str) -> "pyarrow.DataType":
        met = found[name] - {"none"} if name in found else set()
        return own.get(name) or kinds.get(" ".join(sorted(met, key="int float".find)), text)

    return pyarrow.schema([(name, column(name)) for name in names_of(found)])


def kind_of(value: Any) -> str:
    """The kind of a value: none, bool, int, float or other; integers beyond 64 bits are other."""
    if value is None:
        return "none"
    kind = type(value).__name__
    if kind == "int" and not -(2**63) <= value < 2**63:
        return "other"
    return kind if kind in ("bool", "int", "float") else "other"


def write_annotations(lines: Path, target: Path, to: str) -> None:
    """The format of an annotation tool; see `data/conversion.py`. What it cannot hold is logged."""
    lost = convert_records([record_of(row) for row in rows_of(lines)], target, to)
    if lost:
        found = ", ".join(f"{count} {what}" for what, count in lost.items())
        log.warning("%s cannot hold: %s", to, found)


def record_of(row: dict[str, Any]) -> Record:
    """The record of a line that `predict` has written."""
    mentions = [Mention(m["start"], m["end"], m["label"], m.get("score")) for m in row["entities"]]
    tokens = [(start, end) for start, end in row["tokens"]] if "tokens" in row else None
    return Record(row["id"], row["text"], mentions, row.get("doc"), tokens, row.get("coverage"))


def sync(file: Any) -> None:
    """Write a file through to the disk."""
    file.flush()
    os.fsync(file.fileno())


WRITERS: dict[str, Callable[[Path, Path], None]] = {
    "json": write_json_list,
    "csv": write_csv,
    "tsv": write_tsv,
    "parquet": write_parquet,
    **{name: partial(write_annotations, to=name) for name in TOOLS},
}
