"""Writers of annotated text: JSONL, CLUENER, columns, `datasets`."""

import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from contrastive_ner.data.records import Record, outermost
from contrastive_ner.data.schemes import spans_to_tags
from contrastive_ner.errors import DataError
from contrastive_ner.files import atomic_writer


# -- writing
def write_records(
    records: Sequence[Record], path: str | Path, format: str = "jsonl", scheme: str = "BIO"
) -> None:
    """Write records to a file, atomically, or to a new `datasets` folder.

    Columns and data sets are written over `tokens`, or over characters if a record has none.

    Args:
        format: "jsonl", "cluener", "columns" (separated by tabs; nested mentions go to further
            columns) or "datasets" (a folder).
        scheme: the tag scheme of columns and data sets.

    Raises:
        DataError: the format is unknown or cannot hold a record (mentions off token boundaries,
            nested mentions in data sets, tabs or line ends in tokens), or the folder exists.
    """
    if format == "datasets":
        _write_datasets(records, Path(path), scheme)
    else:
        with atomic_writer(path) as file:
            for number, piece in enumerate(format_records(records, format, scheme)):
                # Readers strip a byte-order mark: double a U+FEFF that starts the text.
                file.write(
                    "\ufeff" + piece if number == 0 and piece.startswith("\ufeff") else piece
                )


def format_records(records: Sequence[Record], format: str, scheme: str = "BIO") -> Iterator[str]:
    """Yield the text of records in a file format, piece by piece."""
    if format == "jsonl":
        for record in records:
            yield json_line(record.to_dict())
    elif format == "cluener":
        for record in records:
            label: dict[str, dict[str, list[list[int]]]] = {}
            for m in record.entities:
                label.setdefault(m.label, {}).setdefault(record.text[m.start : m.end], []).append(
                    [m.start, m.end - 1]
                )
            yield json_line({"text": record.text, "label": label})
    elif format == "columns":
        layered = [tag_layers(in_one_piece(record), scheme) for record in records]
        width = max((len(layers) for layers in layered), default=1)
        for record, layers in zip(records, layered, strict=True):
            tokens = tokens_of(record)
            broken = next(
                (record.text[a:b] for a, b in tokens if set(record.text[a:b]) & {"\t", "\r", "\n"}),
                None,
            )
            if broken is not None:
                raise DataError(
                    f"record {record.id!r}: token {broken!r} contains a tab or line end; "
                    "write jsonl instead"
                )
            layers += [["O"] * len(tokens)] * (width - len(layers))
            for i, (start, end) in enumerate(tokens):
                token = without_surrogates(record.text[start:end])
                yield "\t".join([token, *(layer[i] for layer in layers)]) + "\n"
            yield "\n"
    else:
        raise DataError(f"format: expected jsonl, cluener or columns, found {format!r}")


def without_surrogates(text: str) -> str:
    """The text with U+FFFD for lone surrogates, which UTF-8 cannot encode."""
    return text if text.isascii() else re.sub("[\ud800-\udfff]", "\ufffd", text)


def in_one_piece(record: Record) -> Record:
    """A record for formats whose types cannot hold white space, which becomes _."""
    named = [m._replace(label="_".join(m.label.split())) for m in record.entities]
    return replace(record, entities=named)


def json_line(row: dict[str, Any]) -> str:
    """A JSON object as a line of UTF-8."""
    line = json.dumps(row, ensure_ascii=False)
    # UTF-8 cannot encode a lone surrogate: escape such a row.
    return (
        line if line.isascii() or not re.search("[\ud800-\udfff]", line) else json.dumps(row)
    ) + "\n"


def tokens_of(record: Record) -> list[tuple[int, int]]:
    """Offsets of the rows of columns: tokens, or all characters except tabs and line ends."""
    return record.tokens or [(i, i + 1) for i, c in enumerate(record.text) if c not in "\t\r\n"]


def tag_layers(record: Record, scheme: str) -> list[list[str]]:
    """Layers of tags over the rows of `tokens_of`; overlapping mentions go to further layers.

    The first layer holds the outermost mentions.

    Raises:
        DataError: a mention does not fall on token boundaries.
    """
    tokens = tokens_of(record)
    starts = {start: i for i, (start, _) in enumerate(tokens)}
    ends = {end: i + 1 for i, (_, end) in enumerate(tokens)}
    layers: list[list[str]] = []
    rest = record.entities
    while rest or not layers:
        kept, rest = outermost(rest)
        for mention in kept:
            if mention.start not in starts or mention.end not in ends:
                raise DataError(
                    f"record {record.id!r}: {mention} does not fall on token boundaries; "
                    "write jsonl instead"
                )
        spans = [(starts[m.start], ends[m.end], m.label) for m in kept]
        layers.append(spans_to_tags(spans, len(tokens), scheme))
    return layers


def _write_datasets(records: Sequence[Record], path: Path, scheme: str) -> None:
    import datasets

    if path.exists():
        raise DataError(f"{path} exists; choose another folder")
    layers = [tag_layers(record, scheme) for record in records]
    if any(len(own) > 1 for own in layers):
        raise DataError("ner_tags cannot hold nested mentions; write jsonl or columns instead")
    names = ["O", *sorted({tag for own in layers for tag in own[0]} - {"O"})]
    tokens = datasets.List(datasets.Value("string"))
    features = datasets.Features(
        {"tokens": tokens, "ner_tags": datasets.List(datasets.ClassLabel(names=names))}
    )
    rows = {
        "tokens": [
            [record.text[start:end] for start, end in tokens_of(record)] for record in records
        ],
        "ner_tags": [own[0] for own in layers],
    }
    data = datasets.Dataset.from_dict(rows, features=features)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        data.save_to_disk(f"{scratch}/data")
        os.replace(f"{scratch}/data", path)


def keep_aligned(record: Record) -> int:
    """Drop mentions that are not aligned with the rows of `tokens_of`; returns their number."""
    tokens = tokens_of(record)
    starts, ends = {start for start, _ in tokens}, {end for _, end in tokens}
    kept = [m for m in record.entities if m.start in starts and m.end in ends]
    dropped = len(record.entities) - len(kept)
    record.entities = kept
    return dropped
