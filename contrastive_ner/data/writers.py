"""Writers of annotated text: JSONL, CLUENER, columns, `datasets`."""

import json
import re
from collections.abc import Iterator, Sequence
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
    """Write records atomically as "jsonl", "cluener", "columns" (tab; nested mentions in further columns) or "datasets" (a folder).

    Columns and data sets are written over `tokens`, or characters where a record has none.

    Raises:
        ValueError: a mention does not fall on token boundaries; the format is unknown; the folder exists.
    """
    if format == "datasets":
        _write_datasets(records, Path(path), scheme)
    else:
        with atomic_writer(path) as file:
            for number, piece in enumerate(format_records(records, format, scheme)):
                # A text that starts with U+FEFF would lose it to the reader's byte-order mark: give it one to lose.
                file.write(
                    "\ufeff" + piece if number == 0 and piece.startswith("\ufeff") else piece
                )


def format_records(records: Sequence[Record], format: str, scheme: str = "BIO") -> Iterator[str]:
    """The text of records in a file format, a piece a record."""
    if format == "jsonl":
        for record in records:
            yield _json_line(record.to_dict())
    elif format == "cluener":
        for record in records:
            label: dict[str, dict[str, list[list[int]]]] = {}
            for m in record.entities:
                label.setdefault(m.label, {}).setdefault(record.text[m.start : m.end], []).append(
                    [m.start, m.end - 1]
                )
            yield _json_line({"text": record.text, "label": label})
    elif format == "columns":
        layered = [tag_layers(record, scheme) for record in records]
        width = max((len(layers) for layers in layered), default=1)
        for record, layers in zip(records, layered, strict=True):
            tokens = tokens_of(record)
            broken = next(
                (record.text[a:b] for a, b in tokens if set(record.text[a:b]) & {"\t", "\r", "\n"}),
                None,
            )
            if broken is not None:
                raise DataError(
                    f"record {record.id!r}: token {broken!r} holds a tab or line end: write jsonl instead"
                )
            layers += [["O"] * len(tokens)] * (width - len(layers))
            for i, (start, end) in enumerate(tokens):
                yield "\t".join([record.text[start:end], *(layer[i] for layer in layers)]) + "\n"
            yield "\n"
    else:
        raise DataError(
            f"format {format!r} cannot be written as text (expected jsonl, cluener or columns)"
        )


def _json_line(row: dict[str, Any]) -> str:
    line = json.dumps(row, ensure_ascii=False)
    # A lone surrogate has no UTF-8: such a row is written in escapes.
    return (
        line if line.isascii() or not re.search("[\ud800-\udfff]", line) else json.dumps(row)
    ) + "\n"


def tokens_of(record: Record) -> list[tuple[int, int]]:
    """What columns are written over: a record's tokens, else its characters but tabs and line ends."""
    return record.tokens or [(i, i + 1) for i, c in enumerate(record.text) if c not in "\t\r\n"]


def tag_layers(record: Record, scheme: str) -> list[list[str]]:
    """Tags over a record's tokens; overlapping mentions go to further layers, the outermost to the first."""
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
                    f"record {record.id!r}: {mention} does not fall on token boundaries; write jsonl instead"
                )
        spans = [(starts[m.start], ends[m.end], m.label) for m in kept]
        layers.append(spans_to_tags(spans, len(tokens), scheme))
    return layers


def _write_datasets(records: Sequence[Record], path: Path, scheme: str) -> None:
    import datasets

    if path.exists():
        raise DataError(f"{path} exists: name a new folder")
    layers = [tag_layers(record, scheme) for record in records]
    if any(len(own) > 1 for own in layers):
        raise DataError("nested mentions do not fit into ner_tags: write jsonl or columns instead")
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
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(path))


def keep_aligned(record: Record) -> int:
    """Drop the mentions that do not start and end with the tokens that columns are written over; how many they were."""
    tokens = tokens_of(record)
    starts, ends = {start for start, _ in tokens}, {end for _, end in tokens}
    kept = [m for m in record.entities if m.start in starts and m.end in ends]
    dropped = len(record.entities) - len(kept)
    record.entities = kept
    return dropped
