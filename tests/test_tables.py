"""CSV and TSV files of texts and tokens, and compressed files."""

import gzip
import json
from pathlib import Path
from typing import Any

import pandas
import pytest

from contrastive_ner.cli import main
from contrastive_ner.data.csv_tables import delimiter_of, is_table, tags_in
from contrastive_ner.data.input_formats import input_format
from contrastive_ner.data.layout import Layout
from contrastive_ner.data.readers import detect_format, read_records
from contrastive_ner.data.records import Record
from contrastive_ner.data.streams import read_rows
from contrastive_ner.errors import DataError

TEXT = "Anna met Bo, in Rome"
MENTIONS = [
    {"start": 0, "end": 4, "label": "PER"},
    {"start": 9, "end": 11, "label": "PER"},
    {"start": 16, "end": 20, "label": "LOC"},
]
FOUND = [("Anna", "PER"), ("Bo", "PER"), ("Rome", "LOC")]
ROWS = [
    {"id": "a", "text": TEXT, "entities": json.dumps(MENTIONS)},
    {"id": "b", "text": "[Nothing]\nhere", "entities": "[]"},
]


def found(records: list[Record]) -> list[list[tuple[str, str]]]:
    return [[(r.text[m.start : m.end], m.label) for m in r.entities] for r in records]


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.csv", ";"), ("a.tsv", "\t")])
def test_texts_with_mentions_are_read(tmp_path: Path, name: str, delimiter: str) -> None:
    path = tmp_path / name
    pandas.DataFrame(ROWS).to_csv(path, index=False, sep=delimiter)
    assert detect_format(str(path)) == "csv"
    records, report = read_records(path)
    assert report.format == "csv"
    assert [(r.id, r.text) for r in records] == [(r["id"], r["text"]) for r in ROWS]
    assert found(records) == [FOUND, []]


CELLS: dict[str, dict[str, str]] = {
    "as Python prints them": {"text": TEXT, "label": str([[0, 4, "PER"]])},
    "names of columns in capitals": {"Text": TEXT, "Entities": str([[0, 4, "PER"]])},
    "lists of words": {"tokens": "['Anna', 'met']", "ner_tags": "['B-PER', 'O']"},
    "tags between spaces": {"text": "Anna met", "labels": "B-PER O"},
    "tags under their own key": {"text": "Anna met", "ner_tags": "B-PER O"},
    "a list of tags of words": {"Sentence": "Anna met", "Tag": "['B-PER', 'O']"},
    "words and tags between spaces": {"tokens": "Anna met", "tags": "B-PER O"},
    "tags between commas": {"sentence": "Anna met", "word_labels": "B-PER,O"},
}


@pytest.mark.parametrize("row", CELLS.values(), ids=CELLS)
def test_annotation_of_texts_in_a_cell(tmp_path: Path, row: dict[str, str]) -> None:
    path = tmp_path / "a.csv"
    pandas.DataFrame([row]).to_csv(path, index=False)
    assert found(read_records(path)[0]) == [[("Anna", "PER")]]


@pytest.mark.parametrize("name", ["text", "content"])
def test_a_text_that_looks_like_a_list_stays_a_text(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.csv").write_text(f'{name},entities\n[1],"[[1, 2, ""X""]]"\n', "utf-8")
    assert [(r.text, found([r])) for r in read_records(tmp_path / "a.csv")[0]] == [
        ("[1]", [[("1", "X")]])
    ]


def test_what_predict_writes_as_csv_can_be_read(tmp_path: Path, saved_tagger: Path) -> None:
    (tmp_path / "in.txt").write_text("张三在北京\n李四\n", "utf-8")
    for ending in ("csv", "tsv", "jsonl"):
        command = ["predict", str(saved_tagger), str(tmp_path / "in.txt")]
        assert main([*command, "--output", str(tmp_path / f"out.{ending}")]) == 0
    expected = read_records(tmp_path / "out.jsonl")[0]
    for ending in ("csv", "tsv"):
        assert found(read_records(tmp_path / f"out.{ending}")[0]) == found(expected)


REFUSED = {
    "an empty cell": ("a,[]\nb,\n", r"a.csv:3: expected a list in 'entities'.*null"),
    "too many cells": ("a,[]\nb,c,[]\n", "a.csv:3: expected 2 cells .* found 3; quote"),
    "an open quote": ('a,[]\n"b,[]\n', r"a.csv:3: not valid CSV"),
    "too few tags": ("Anna,B-PER O\n", "a.csv:2: expected a tag for each of the 1 words, found 2"),
    "a broken list": ('a,[]\nb,"[[0, 1"\n', "expected a list in 'entities'.* found str"),
}


@pytest.mark.parametrize(("content", "says"), REFUSED.values(), ids=REFUSED)
def test_rows_that_cannot_be_read_are_refused(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "a.csv").write_text(f"text,entities\n{content}", "utf-8")
    with pytest.raises(DataError, match=says):
        read_records(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("content", "training", "tagging"),
    [
        ("id,text\n1,Anna left\n", "columns", "csv"),  # no annotation: refused in training
        ("Word,Tag\nAnna,B-PER\nleft,O\n", "columns", "columns"),
        ("text,label\nAnna,B-PER\nleft,O\n", "columns", "csv"),
        ("text,label\nAnna left,good\n", "columns", "csv"),
        ("text,entities\nAnna,[]\n", "csv", "csv"),
        ("id,sentence,flag\n7,Anna lives in Rome,0\n9,Bob is bad,0\n", "columns", "csv"),
        ("review,grade\nAnna,B\nBob,O\n", "columns", "csv"),
        ("query,sku\nLamp,B-1234\nDesk,S-200\n", "columns", "csv"),
        ("tokens,tags\nAnna,B-ORG|B-GPE\nmet,O\n", "columns", "columns"),
        ("", "columns", "csv"),
    ],
)
def test_what_a_csv_file_holds(tmp_path: Path, content: str, training: str, tagging: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content, "utf-8")
    assert detect_format(str(path)) == training
    assert input_format(str(path)) == tagging


def test_semicolons_and_encodings_of_texts_to_tag(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for encoding in ("cp1252", "utf-16", "utf-8-sig"):
        path.write_bytes("id;text\n1;Müller, Anna\n2;geht\n".encode(encoding))
        layout = Layout(encoding="cp1252" if encoding == "cp1252" else "utf-8")
        rows: list[Any] = list(read_rows(str(path), layout).rows)
        assert [(row.id, row.text) for row in rows] == [("1", "Müller, Anna"), ("2", "geht")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.conll", "Anna,B-PER\nleft,O\n"),
        ("a.bio", "B-PER\tAnna\nO\tleft\n"),
        ("a.iob2", "1\tAnna\tB-PER\t-\n2\tleft\tO\t-\n"),
    ],
)
def test_columns_by_their_name_are_not_tagged_as_texts(
    tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content, "utf-8")
    rows: list[Any] = list(read_rows(str(tmp_path / name), Layout()).rows)
    assert [row.text for row in rows] == ["Anna left"]


def test_the_column_of_texts_that_is_named_is_one(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("sentence,label\n我在北京,B-PER\n他走,O\n", "utf-8")
    assert input_format(str(path), text_column="sentence") == "csv"
    rows: list[Any] = list(read_rows(str(path), Layout(), text_column="sentence").rows)
    assert [row.text for row in rows] == ["我在北京", "他走"]


def test_parts_of_a_table() -> None:
    assert [delimiter_of(row) for row in ("a;b;c", "a,b", "a\tb,c\td")] == [";", ",", "\t"]
    assert delimiter_of('"text","note; more; less"') == ","
    assert delimiter_of("text,a;b;c") == ","
    assert delimiter_of("text;a;b\tlabel", "x.tsv") == "\t"
    assert delimiter_of("body;a,b,c", given=["body"]) == ";"
    assert tags_in("B-PER  O,I-LOC") == ["B-PER", "O", "I-LOC"]
    assert tags_in("Anna left") == tags_in("") == []


# --------------------------------------------------------------------------------------- compressed
def compressed(path: Path, content: str) -> Path:
    path.write_bytes(gzip.compress(content.encode()))
    return path


FILES = {
    "a.jsonl.gz": json.dumps({"text": TEXT, "entities": MENTIONS}) + "\n",
    "a.json.gz": json.dumps([{"text": TEXT, "entities": MENTIONS}], indent=1),
    "a.csv.gz": f'text,entities\n"{TEXT}","{MENTIONS}"\n',
    "a.txt.gz": "Anna B-PER\nmet O\nBo B-PER\n, O\nin O\nRome B-LOC\n",
}


@pytest.mark.parametrize(("name", "content"), FILES.items())
def test_compressed_files_are_read(tmp_path: Path, name: str, content: str) -> None:
    path = compressed(tmp_path / name, content)
    assert found(read_records(path)[0]) == [FOUND]
    rows: list[Any] = list(read_rows(str(path), Layout()).rows)
    assert [row.text for row in rows] == [TEXT.replace(",", " ,") if ".txt" in name else TEXT]


def test_a_damaged_compressed_file_is_one_line(tmp_path: Path) -> None:
    path = compressed(tmp_path / "a.jsonl.gz", FILES["a.jsonl.gz"] * 99)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz: a damaged \.gz file"):
        read_records(path)
    path.write_bytes(b"{}")
    with pytest.raises(DataError, match=r"a\.jsonl\.gz: a damaged \.gz file"):
        read_records(path)
    assert not is_table(str(compressed(tmp_path / "b.csv.gz", "")))
