"""Write records in the formats of annotation tools. What a format cannot hold is counted.

`TARGETS` is the table: a format's name and the function that writes it. `docs/data.md` shows each.
"""

import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from contrastive_ner.data.joining import joiner_of, token_kinds
from contrastive_ner.data.records import Mention, Record, outermost
from contrastive_ner.data.spacy_docs import write_docs
from contrastive_ner.data.writers import (
    in_one_piece,
    json_line,
    keep_aligned,
    tokens_of,
    write_records,
)
from contrastive_ner.errors import DataError
from contrastive_ner.files import atomic_writer

OTHER_SPACE = "texts with other white space"
BAD_IN_NAMES = re.compile(r"[\\/:*?\"<>|\0-\x1f]|^\.|\.$")


class Target(NamedTuple):
    """A format to write: the function, and whether it makes a folder."""

    write: Callable[[Sequence[Record], Path, str, Counter[str]], None]
    is_folder: bool = False


def convert_records(
    records: Sequence[Record], path: str | Path, to: str, scheme: str = "BIO"
) -> Counter[str]:
    """Write records in a format of `TARGETS`, whole or not at all.

    Returns:
        How many mentions, scores and so on the format cannot hold.

    Raises:
        DataError: the format is unknown, the folder exists, or a package is missing.
    """
    if to not in TARGETS:
        raise DataError(f"format: expected one of {', '.join(TARGETS)}, found {to!r}")
    place, lost, target = Path(path), Counter[str](), TARGETS[to]
    if target.is_folder and place.exists():
        raise DataError(f"{place} exists; choose another folder")
    if to not in ("jsonl", "labelstudio"):
        lost["scores"] = sum(m.score is not None for record in records for m in record.entities)
    target.write(records, place, scheme, lost)
    return +lost


# -- ours
def _jsonl(records: Sequence[Record], path: Path, scheme: str, lost: Counter[str]) -> None:
    write_records(records, path, "jsonl")


def _conll(records: Sequence[Record], path: Path, scheme: str, lost: Counter[str]) -> None:
    kept = _on_tokens(records, lost)
    lost["identifiers"] = len(records)
    lost["empty texts"] = sum(not record.text.strip() for record in records)
    lost[OTHER_SPACE] = sum(_changed(kept))
    write_records(_in_one_piece(kept, lost), path, "columns", scheme)


def _cluener(records: Sequence[Record], path: Path, scheme: str, lost: Counter[str]) -> None:
    lost["identifiers"] = len(records)
    lost["documents"] = sum(record.doc is not None for record in records)
    write_records(records, path, "cluener")


def _datasets(records: Sequence[Record], path: Path, scheme: str, lost: Counter[str]) -> None:
    kept = _flat(_on_tokens(records, lost), lost)
    lost["identifiers"] = len(records)
    lost[OTHER_SPACE] = sum(_changed(kept))
    write_records(kept, path, "datasets", scheme)


def _on_tokens(records: Sequence[Record], lost: Counter[str]) -> list[Record]:
    """Copies of records with the mentions that fall on token boundaries."""
    copies = [replace(record, entities=list(record.entities)) for record in records]
    lost["mentions off token boundaries"] = sum(map(keep_aligned, copies))
    lost["documents"] = sum(record.doc is not None for record in records)
    return copies


def _in_one_piece(records: Sequence[Record], lost: Counter[str]) -> list[Record]:
    """Records whose types have no white space."""
    renamed = [in_one_piece(record) for record in records]
    lost["types with white space, written with _"] = sum(
        before.label != after.label
        for record, other in zip(records, renamed, strict=True)
        for before, after in zip(record.entities, other.entities, strict=True)
    )
    return renamed


def _flat(records: Sequence[Record], lost: Counter[str]) -> list[Record]:
    """Records with the longest of overlapping mentions."""
    kept = []
    for record in records:
        outer, inner = outermost(record.entities)
        lost["nested mentions"] += len(inner)
        kept.append(replace(record, entities=outer))
    return kept


# -- JSON of tools
def _doccano(records: Sequence[Record], path: Path, scheme: str, lost: Counter[str]) -> None:
    _lines(path, (doccano_row(record) for record in records))


def doccano_row(record: Record) -> dict[str, Any]:
    """A text with its mentions as doccano imports it; other keys become its metadata."""
    label = [[m.start, m.end, m.label] for m in record.entities]
    return {"id": record.id, "text": record.text, "label": label} | (
        {} if record.doc is None else {"doc": record.doc}
    )


def _labelstudio(records: Sequence[Record], path: Path, scheme: str, lost: Counter[str]) -> None:
    tasks = [labelstudio_task(record) for record in records]
    with atomic_writer(path) as file:
        file.write(json.dumps(tasks, ensure_ascii=True, indent=1) + "\n")


def labelstudio_task(record: Record) -> dict[str, Any]:
    """A task of Label Studio. Mentions with scores, or of a model, become predictions.

    The labelling interface has <Labels name="label" toName="text"> and <Text name="text">.
    """
    results = [
        {
            "id": f"m{number}",
            "from_name": "label",
            "to_name": "text",
            "type": "labels",
            "value": {
                "start": m.start, "end": m.end, "text": record.text[m.start : m.end],
                "labels": [m.label],
            },
        } | ({} if m.score is None else {"score": m.score})
        for number, m in enumerate(record.entities)
    ]  # fmt: skip
    predicted = record.coverage is not None or any(m.score is not None for m in record.entities)
    data = {"text": record.text, "id": record.id} | (
        {} if record.doc is None else {"doc": record.doc}
    )
    own: dict[str, Any] = {"result": results}
    if predicted:
        own["model_version"] = "contrastive-ner"
    return {"data": data, "predictions" if predicted else "annotations": [own]}


def _dygie(records: Sequence[Record], path: Path, scheme: str, lost: Counter[str]) -> None:
    kept = _on_tokens(records, lost)
    del lost["documents"]
    lost[OTHER_SPACE] = sum(_changed(kept))
    lost["identifiers"] = len(records)
    _lines(path, dygie_rows(kept))


def dygie_rows(records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """A row a document: consecutive records of one document, else each record."""
    by_document = groupby(enumerate(records), lambda item: item[1].doc or str(item[0]))
    for _, group in by_document:
        parts = [record for _, record in group]
        sentences, mentions, first = [], [], 0
        for record in parts:
            tokens = tokens_of(record)
            starts = {start: i for i, (start, _) in enumerate(tokens)}
            ends = {end: i for i, (_, end) in enumerate(tokens)}
            sentences.append([record.text[a:b] for a, b in tokens])
            mentions.append(
                [[first + starts[m.start], first + ends[m.end], m.label] for m in record.entities]
            )
            first += len(tokens)
        yield {"doc_key": parts[0].doc or parts[0].id, "sentences": sentences, "ner": mentions}


def _changed(records: Sequence[Record]) -> Iterator[bool]:
    """For each text, whether its tokens, as they will be joined in all of them, are another one."""
    words = [[record.text[a:b] for a, b in tokens_of(record)] for record in records]
    joiner = joiner_of(token_kinds(word for own in words for word in own), "auto")
    for record, own in zip(records, words, strict=True):
        yield bool(record.text.strip()) and joiner.join(own) != record.text


def _lines(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with atomic_writer(path) as file:
        file.writelines(json_line(row) for row in rows)


# -- brat, spaCy
def _brat(records: Sequence[Record], path: Path, scheme: str, lost: Counter[str]) -> None:
    """A folder of .txt and .ann files, and an annotation.conf with the types."""
    records = _in_one_piece(records, lost)
    names = [record.id for record in records]
    usable = all(name and len(name) <= 100 and not BAD_IN_NAMES.search(name) for name in names)
    if not usable or sorted({*names}) != names:  # read in the order of their names
        names = [f"{number:06d}" for number in range(len(records))]
        lost["identifiers"] = len(records)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        folder = Path(scratch) / "brat"
        folder.mkdir()
        for name, record in zip(names, records, strict=True):
            lost["documents"] += record.doc is not None
            mentions = [brat_line(record.text, i, m) for i, m in enumerate(record.entities, 1)]
            # Readers strip a byte-order mark: double a U+FEFF that starts the text.
            text = "\ufeff" * record.text.startswith("\ufeff") + record.text
            for ending, content in ((".txt", text), (".ann", "".join(mentions))):
                with (folder / (name + ending)).open("w", encoding="utf-8", newline="") as file:
                    file.write(content)
        types = sorted({m.label for record in records for m in record.entities})
        sections = ["[entities]", *types, "[relations]", "[events]", "[attributes]", ""]
        (folder / "annotation.conf").write_text("\n".join(sections), encoding="utf-8")
        os.replace(folder, path)


def brat_line(text: str, number: int, mention: Mention) -> str:
    """A mention as brat writes it: in fragments where it spans lines."""
    parts = [
        (mention.start + found.start(), mention.start + found.end())
        for found in re.finditer(r"[^\r\n]+", text[mention.start : mention.end])
    ] or [(mention.start, mention.end)]
    # Fragments must reach to both ends, which may be line ends.
    parts[0] = (mention.start, parts[0][1])
    parts[-1] = (parts[-1][0], mention.end)
    places = ";".join(f"{start} {end}" for start, end in parts)
    surface = " ".join(re.sub(r"[\r\n\t]", " ", text[start:end]) for start, end in parts)
    return f"T{number}\t{mention.label} {places}\t{surface}\n"


def _spacy(records: Sequence[Record], path: Path, scheme: str, lost: Counter[str]) -> None:
    scratch = path.with_name(f".{path.name}.part")
    try:
        lost["mentions off token boundaries"] = write_docs(records, scratch)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    lost["identifiers"] = len(records)
    lost["documents"] = sum(record.doc is not None for record in records)


TARGETS = {
    "jsonl": Target(_jsonl),
    "conll": Target(_conll),
    "cluener": Target(_cluener),
    "datasets": Target(_datasets, is_folder=True),
    "doccano": Target(_doccano),
    "labelstudio": Target(_labelstudio),
    "dygie": Target(_dygie),
    "brat": Target(_brat, is_folder=True),
    "spacy": Target(_spacy),
}
