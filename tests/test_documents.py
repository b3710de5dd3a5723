"""Consecutive texts as documents (`documents_of`): read together, scored and written apart."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import corpus
from transformers import PreTrainedTokenizerFast

from contrastive_ner.cli import main
from contrastive_ner.data.documents import SENTENCE_BREAK, join_documents, regrouped
from contrastive_ner.data.layout import Layout
from contrastive_ner.data.readers import read_records
from contrastive_ner.data.records import Record
from contrastive_ner.data.streams import BadRow, read_rows
from contrastive_ner.data.writers import write_records
from contrastive_ner.errors import DataError
from contrastive_ner.models.modeling_binder import BinderModel
from contrastive_ner.serving.inference import evaluate_records, tag_records
from contrastive_ner.training.config import RunConfig
from contrastive_ner.training.loading import load_data
from contrastive_ner.training.task import prepare_task

SENTENCES = ("a", "b", "c", "d", "e")
PLAIN = "\n".join(f"{word} O\n" for word in SENTENCES)
MARKED = f"-DOCSTART- O\n\n{PLAIN}\n-DOCSTART- O\n\nf O\n\ng O\n"


def docs(path: Path | str, size: int) -> list[str | None]:
    return [record.doc for record in read_records(path, Layout(documents_of=size))[0]]


def test_consecutive_sentences_are_documents(file: Callable[..., Path]) -> None:
    path = file(PLAIN, "data.conll")
    assert docs(path, 0) == docs(path, 1) == [None] * 5
    assert docs(path, 2) == ["data#1", "data#1", "data#2", "data#2", "data#3"]
    assert docs(path, 5) == docs(path, 9) == ["data#1"] * 5
    records, _ = read_records(path, Layout(documents_of=2, joiner="space"))
    assert [d.record.text.split(SENTENCE_BREAK) for d in join_documents(records)] == [
        ["a", "b"],
        ["c", "d"],
        ["e"],
    ]


def test_marks_of_the_format_divide_documents(file: Callable[..., Path]) -> None:
    path = file(MARKED, "data.conll")
    first, second = "data-doc-1", "data-doc-2"
    assert docs(path, 0) == [first] * 5 + [second] * 2
    assert docs(path, 1) == [None] * 7  # without context
    expected = [f"{first}#{n}" for n in (1, 1, 1, 2, 2)] + [f"{second}#1"] * 2
    assert docs(path, 3) == expected
    assert [
        len(d.parts) for d in join_documents(read_records(path, Layout(documents_of=3))[0])
    ] == [
        3,
        2,
        2,
    ]


def test_files_of_one_source_share_no_document(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.conll").write_text("x O\n\ny O\n\nz O\n", "utf-8")
    found = docs(str(tmp_path / "*.conll"), 2)
    assert [str(doc).rpartition("/")[2] for doc in found] == [
        f"{name}.conll:{name}#{n}" for name in ("a", "b") for n in (1, 1, 2)
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data.txt", "a b\nc d\ne f\n"),
        ("data.jsonl", '{"text": "a b"}\n{"text": "c d"}\n{"text": "e f"}\n'),
        ("data.csv", "text\na b\nc d\ne f\n"),
        ("data.conll", "a O\n\nc O\n\ne O\n"),
    ],
)
def test_texts_to_tag_are_grouped_alike(file: Callable[..., Path], name: str, content: str) -> None:
    path = str(file(content, name))
    found = [getattr(row, "doc", "") for row in read_rows(path, Layout(documents_of=2)).rows]
    assert found == ["data#1", "data#1", "data#2"]
    assert [getattr(row, "doc", "") for row in read_rows(path, Layout()).rows] == [None] * 3


def test_bad_rows_stay_where_they_are() -> None:
    rows = [Record("1", "a"), BadRow(2, "bad"), Record("3", "b"), Record("4", "c")]
    found = list(regrouped(rows, 2, "x"))
    assert found[1] == rows[1]
    assert [row.doc for row in found if isinstance(row, Record)] == ["x#1", "x#1", "x#2"]


@pytest.mark.parametrize("value", ["-1", "two", "1.5"])
def test_other_numbers_are_refused(
    file: Callable[..., Path], value: str, capsys: pytest.CaptureFixture
) -> None:
    path = file("a O\n", "data.conll")
    assert main(["inspect", str(path), "--documents_of", value]) == 2
    assert "documents_of" in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(DataError, match="documents_of: expected a number of texts, or 0, found -3"):
        Layout(documents_of=-3)


def test_scores_with_and_without_context_compare(
    saved_binder: tuple[Path, BinderModel], character_tok: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path = tmp_path / "data.conll"
    write_records(corpus(9), path, "columns", "BIO")
    pipeline = saved_binder[1].pipeline(character_tok)
    alone, together = (
        read_records(path, Layout(documents_of=size, joiner="none"))[0] for size in (1, 4)
    )
    assert [(r.text, r.entities) for r in alone] == [(r.text, r.entities) for r in together]
    a, b = (evaluate_records(pipeline, records) for records in (alone, together))
    assert a["all_mentions"]["gold"] == b["all_mentions"]["gold"] == 18
    assert len(a["counts"]) == len(b["counts"]) == 9 * 3
    found = tag_records(pipeline, together)
    whole = pipeline([d.record.text for d in join_documents(together)])
    assert len(whole) == 3
    assert sum(map(len, found.mentions)) + found.across == sum(map(len, whole))
    for record, mentions in zip(together, found.mentions, strict=True):
        assert all(0 <= m.start < m.end <= len(record.text) for m in mentions)
    assert found.mentions != tag_records(pipeline, alone).mentions


def test_predictions_are_written_by_sentence(
    saved_binder: tuple[Path, BinderModel], tmp_path: Path
) -> None:
    source, output = tmp_path / "texts.txt", tmp_path / "out.jsonl"
    texts = [record.text for record in corpus(5)]
    source.write_text("\n".join(texts) + "\n", "utf-8")
    command = ["predict", str(saved_binder[0]), str(source), "--documents_of", "3"]
    assert main([*command, "--output", str(output)]) == 0
    rows = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    assert [row["text"] for row in rows] == texts
    assert [row["doc"] for row in rows] == ["texts#1"] * 3 + ["texts#2"] * 2


def test_training_reads_documents_of_sentences(
    files: Path, tiny_encoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    types = tmp_path / "types.yaml"
    types.write_text("types:\n  PER: 人的名字。\n  ORG: 公司的名字。\n", "utf-8")
    config = RunConfig(
        method="binder",
        encoder=str(tiny_encoder),
        output_dir=str(tmp_path / "run"),
        train_file=str(files / "train.jsonl"),
        dev_file=str(files / "dev.jsonl"),
        types_file=str(types),
        documents_of=4,
    )
    data = load_data(config)
    task, reports = prepare_task(config, data)
    assert len(data.records["train"]) == 40
    assert (reports["train"].texts, reports["dev"].texts) == (10, 3)
    assert task.documents is not None
    assert sum(map(len, task.documents.gold)) == 24
    with caplog.at_level(logging.WARNING, logger="contrastive_ner"):
        load_data(replace(config, method="crf"))
    assert "documents_of has no effect: method=crf reads each text by itself" in caplog.text
