"""Annotated text: tag schemes, readers, writers, features; hand-made files and hypothesis."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from contrastive_ner.data.layout import Layout
from contrastive_ner.data.readers import read_records
from contrastive_ner.data.records import Mention, Record, entity_types, outermost
from contrastive_ner.data.schemes import (
    PREFIXES,
    SCHEMES,
    bio_labels,
    detect_scheme,
    spans_to_tags,
    tags_to_spans,
)
from contrastive_ner.data.writers import tag_layers, write_records
from contrastive_ner.errors import DataError
from contrastive_ner.files import atomic_writer, write_json
from contrastive_ner.models import pipeline_ner
from contrastive_ner.models.windows_ner import TextReader
from contrastive_ner.training.batches import TagCollator
from contrastive_ner.training.features import tag_features

DATA = Path(os.environ.get("NER_DATA", ROOT / "data"))
PROPERTY = settings(deadline=None, derandomize=True, max_examples=30)
SLOW_PROPERTY = settings(PROPERTY, max_examples=6)  # each example writes a `datasets` folder
TYPES = ("PER", "ORG", "PER.NAM", "B-cell")
# Careless readers take U+3000, NBSP, U+2028 and U+0085 for white space or line ends; 😀 and 𠮷 are
# two UTF-16 units each.
CHARACTERS = "北京大学。Ab1 {}[]\"'\\|#-O\u3000\u00a0\u2028\u0085\u200d\ufffd😀𠮷"

Span = tuple[int, int, str]


def read(path: Path, **layout: object) -> list[Record]:
    return read_records(path, Layout(**layout))[0]


def contents(records: Sequence[Record]) -> list[tuple[str, list[Mention]]]:
    return [(record.text, record.entities) for record in records]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("properties")


# -------------------------------------------------------------------------------------- tag schemes
@st.composite
def segmentations(draw: st.DrawFn) -> tuple[list[Span], int]:
    """Flat mentions, including adjacent ones, and the number of tokens."""
    parts = draw(
        st.lists(st.tuples(st.sampled_from((None, *TYPES)), st.integers(1, 4)), max_size=8)
    )
    spans, position = [], 0
    for label, length in parts:
        if label is not None:
            spans.append((position, position + length, label))
        position += length
    return spans, position


def tag(spans: Sequence[Span], length: int, scheme: str) -> list[str]:
    """The definition of each scheme, token by token: an oracle for `spans_to_tags`."""
    tags = []
    for i in range(length):
        own = next((span for span in spans if span[0] <= i < span[1]), None)
        if own is None:
            tags.append("O")
            continue
        start, end, label = own
        first, last = i == start, i == end - 1
        if scheme == "IOB1":
            prefix = "B" if first and any(other[1:] == (i, label) for other in spans) else "I"
        elif scheme == "BIO":
            prefix = "B" if first else "I"
        else:
            begin, inside, end_, only = {
                "BIOES": "BIES", "BMES": "BMES", "BILOU": "BILU", "BMEWO": "BMEW",
            }[scheme]  # fmt: skip
            prefix = only if first and last else begin if first else end_ if last else inside
        tags.append(f"{prefix}-{label}")
    return tags


@pytest.mark.parametrize("scheme", SCHEMES)
@PROPERTY
@given(segmentations())
def test_tags_to_spans_and_back_gives_the_tags(
    scheme: str, segmentation: tuple[list[Span], int]
) -> None:
    spans, length = segmentation
    tags = tag(spans, length, scheme)
    assert tags_to_spans(tags, scheme) == (spans, [])
    assert spans_to_tags(tags_to_spans(tags, scheme)[0], length, scheme) == tags


@pytest.mark.parametrize("scheme", SCHEMES)
@PROPERTY
@given(segmentations())
def test_spans_to_tags_and_back_gives_the_spans(
    scheme: str, segmentation: tuple[list[Span], int]
) -> None:
    spans, length = segmentation
    assert tags_to_spans(spans_to_tags(reversed(spans), length, scheme), scheme) == (spans, [])


@pytest.mark.parametrize("scheme", SCHEMES)
@PROPERTY
@given(st.data())
def test_repairs_are_tags_that_another_spelling_of_the_spans_would_change(
    scheme: str, data: st.DataObject
) -> None:
    """Any sequence of a scheme's tags can be read.

    Afterwards only repaired tags (and IOB1's needless B-) differ.
    """
    prefixes = "IB" if scheme == "IOB1" else scheme.replace("O", "")
    tags = data.draw(
        st.lists(
            st.sampled_from(["O", *(f"{p}-{t}" for p in prefixes for t in ("X", "Y"))]), max_size=12
        )
    )
    spans, repairs = tags_to_spans(tags, scheme)
    again = spans_to_tags(spans, len(tags), scheme)
    assert repairs == sorted(set(repairs))  # one wrong tag is one repair
    assert [t[1:] for t in again] == [t[1:] for t in tags]  # no tag changes its type or becomes O
    if scheme != "IOB1":
        assert {i for i in range(len(tags)) if tags[i] != again[i]} == set(repairs)


@pytest.mark.parametrize("scheme", PREFIXES)
@PROPERTY
@given(st.lists(segmentations(), min_size=1))
def test_detected_scheme_reads_the_spans(scheme: str, corpus: list[tuple[list[Span], int]]) -> None:
    sequences = [tag(spans, length, scheme) for spans, length in corpus]
    detected = detect_scheme(sequences)
    assert [tags_to_spans(tags, detected) for tags in sequences] == [
        (spans, []) for spans, _ in corpus
    ]


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        ("O O", "BIO"),
        ("B-X I-X O B-X", "BIO"),
        ("B-X O B-X I-X O I-X", "BIO"),  # one orphan does not make a file IOB1
        ("I-X I-X B-X O I-Y", "IOB1"),
        ("B-X I-X E-X", "BIOES"),
        ("B-X I-X S-Y", "BIOES"),
        ("B-X M-X E-X", "BMES"),
        ("S-X O", "BIOES"),  # without an inner tag: the more common scheme
        ("B-X E-X S-Y", "BIOES"),
    ],
)
def test_scheme_is_detected_from_the_prefixes(tags: str, scheme: str) -> None:
    assert detect_scheme([tags.split()]) == scheme


def test_forced_scheme_wins_over_detection(file: Callable[..., Path]) -> None:
    path = file("北 I-X\n京 I-X\n人 O\n")
    _, detected = read_records(path)
    _, forced = read_records(path, Layout(tag_scheme="BIO"))
    assert (detected.scheme, detected.repaired_tags) == ("IOB1", 0)
    assert (forced.scheme, forced.repaired_tags) == ("BIO", 1)


@pytest.mark.parametrize(
    ("tags", "scheme", "spans", "repairs"),
    [
        ("O I-X I-X", "BIO", [(1, 3, "X")], [1]),
        ("B-X I-Y", "BIO", [(0, 1, "X"), (1, 2, "Y")], [1]),
        ("B-X M-X O", "BMES", [(0, 2, "X")], [1]),  # Resume: no end
        ("M-X E-X O", "BMES", [(0, 2, "X")], [0]),  # Resume: no beginning
        ("O M-X O", "BMES", [(1, 2, "X")], [1]),  # one wrong tag is one repair
        ("B-X B-X E-X", "BIOES", [(0, 1, "X"), (1, 3, "X")], [0]),
        ("S-X E-X", "BIOES", [(0, 1, "X"), (1, 2, "X")], [1]),
        ("I-X I-Y B-Y", "IOB1", [(0, 1, "X"), (1, 2, "Y"), (2, 3, "Y")], []),
    ],
)
def test_orphan_tags_become_mentions(
    tags: str, scheme: str, spans: list[Span], repairs: list[int]
) -> None:
    assert tags_to_spans(tags.split(), scheme) == (spans, repairs)


def test_repairs_are_counted_with_their_line(file: Callable[..., Path]) -> None:
    records, report = read_records(file("北 B-LOC\n\n\n京 O\n人 I-PER\n"))
    assert contents(records)[1] == ("京人", [Mention(1, 2, "PER")])
    assert report.repaired_tags == 1
    assert report.repairs[0].startswith("line 5: I-PER")


def test_all_repairs_are_counted_and_ten_are_told(file: Callable[..., Path]) -> None:
    report = read_records(file("人 I-PER\n京 O\n" * 12), Layout(tag_scheme="BIO"))[1]
    assert (report.repaired_tags, len(report.repairs)) == (12, 10)


def test_overlapping_spans_have_no_tags() -> None:
    with pytest.raises(ValueError, match="overlaps"):
        spans_to_tags([(0, 2, "X"), (1, 3, "Y")], 3, "BIO")


# ------------------------------------------------------------------------------------------ columns
PEKING = [("北京人", [Mention(0, 2, "LOC")]), ("学", [])]


@pytest.mark.parametrize(
    "text",
    [
        "北 B-LOC\n京 I-LOC\n人 O\n\n学 O\n",
        "北\tB-LOC\n京\tI-LOC\n人\tO\n\n学\tO\n",
        "北 B-LOC\r\n京 I-LOC\r\n人 O\r\n\r\n学 O\r\n",
        "\ufeff北 B-LOC\n京 I-LOC\n人 O\n\n学 O\n",
        "\n\n北 B-LOC\n京 I-LOC\n人 O\n \t \n\n\n学 O",
        "北 B-LOC\n京 E-LOC\n人 O\n\n学 O\n",
    ],
    ids=["space", "tab", "crlf", "bom", "white-space-separators-no-last-newline", "bmes"],
)
def test_columns_are_read(file: Callable[..., Path], text: str) -> None:
    records, report = read_records(file(text))
    assert contents(records) == PEKING
    assert (report.format, report.repaired_tags) == ("columns", 0)


@pytest.mark.parametrize("delimiter", [" ", "\t"])
@pytest.mark.parametrize("blank", ["\u3000", "\u00a0"])
def test_u3000_and_nbsp_are_tokens_not_blank_lines(
    file: Callable[..., Path], blank: str, delimiter: str
) -> None:
    path = file(f"{blank}|O\n北|B-LOC\n{blank}|I-LOC\n京|I-LOC\n".replace("|", delimiter))
    assert contents(read(path, joiner="none")) == [(f"{blank}北{blank}京", [Mention(1, 4, "LOC")])]


def test_several_tag_columns_are_nested_mentions(file: Callable[..., Path]) -> None:
    path = file("北\tB-ORG\tB-GPE\tO\n京\tI-ORG\tI-GPE\tO\n大\tI-ORG\tO\tO\n学\tI-ORG\tO\tO\n")
    assert read(path)[0].entities == [Mention(0, 2, "GPE"), Mention(0, 4, "ORG")]


def test_same_span_with_two_types_stays_two_mentions(file: Callable[..., Path]) -> None:
    assert read(file("北\tB-ORG\tB-GPE\n京\tI-ORG\tI-GPE\n"))[0].entities == [
        Mention(0, 2, "GPE"),
        Mention(0, 2, "ORG"),
    ]


def test_same_mention_in_two_columns_is_one(file: Callable[..., Path]) -> None:
    assert read(file("北\tB-GPE\tB-GPE\n京\tI-GPE\tI-GPE\n"))[0].entities == [Mention(0, 2, "GPE")]


CONLL2003 = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
German JJ B-NP B-MISC
call NN I-NP I-MISC

-DOCSTART- -X- -X- O

Peter NNP B-NP B-PER
"""


def test_conll2003_middle_columns_and_documents(file: Callable[..., Path]) -> None:
    records = read(file(CONLL2003), tag_columns=(3,))
    assert contents(records) == [
        ("EU rejects German call", [Mention(0, 2, "ORG"), Mention(11, 22, "MISC")]),
        ("Peter", [Mention(0, 5, "PER")]),
    ]
    assert [record.doc for record in records] == ["data-doc-1", "data-doc-2"]
    assert records[0].tokens == [(0, 2), (3, 10), (11, 17), (18, 22)]


def test_middle_column_that_holds_no_tags_is_passed_over(file: Callable[..., Path]) -> None:
    assert contents(read(file("EU NNP B-ORG\nsays VBZ O\n"))) == [
        ("EU says", [Mention(0, 2, "ORG")])
    ]


def test_token_column_need_not_be_the_first(file: Callable[..., Path]) -> None:
    assert contents(read(file("1 EU B-ORG\n2 says O\n"), token_column=1)) == [
        ("EU says", [Mention(0, 2, "ORG")])
    ]


def test_lone_docstart_does_not_hide_the_tabs(file: Callable[..., Path]) -> None:
    assert contents(read(file("-DOCSTART-\n\n北\tB-LOC\n京\tI-LOC\n"))) == [
        ("北京", [Mention(0, 2, "LOC")])
    ]


def test_docstart_without_blank_line_ends_the_sentence(file: Callable[..., Path]) -> None:
    records = read(file("-DOCSTART- O\n北 O\n-DOCSTART- O\n京 O\n"))
    assert [(record.text, record.doc) for record in records] == [
        ("北", "data-doc-1"),
        ("京", "data-doc-2"),
    ]


def test_indexed_characters_lose_their_index(file: Callable[..., Path]) -> None:
    path = file("高0\tB-PER.NAM\n兴1\tI-PER.NAM\n210\tO\n\ufffd11\tO\n")
    assert contents(read(path, indexed_characters=True, joiner="none")) == [
        ("高兴2\ufffd", [Mention(0, 2, "PER.NAM")])
    ]


@pytest.mark.parametrize(
    ("tokens", "joiner", "text"),
    [
        ("北京 大学", "auto", "北京大学"),
        ("Peking University", "auto", "Peking University"),
        ("北京 大学", "space", "北京 大学"),
        ("a b", "none", "ab"),
    ],
)
def test_text_is_joined_as_its_script_is(
    file: Callable[..., Path], tokens: str, joiner: str, text: str
) -> None:
    first, second = tokens.split()
    record = read(file(f"{first}\tB-X\n{second}\tI-X\n"), joiner=joiner)[0]
    assert (record.text, record.entities) == (text, [Mention(0, len(text), "X")])
    assert record.tokens is not None
    assert [record.text[start:end] for start, end in record.tokens] == [first, second]


# --------------------------------------------------------------------------------------------- JSON
def test_jsonl_keeps_every_field(file: Callable[..., Path]) -> None:
    row = {
        "id": "a-1",
        "text": "😀 北京",
        "entities": [{"start": 2, "end": 4, "label": "GPE", "score": 0.5}],
        "doc": "d",
        "tokens": [[0, 1], [2, 4]],
    }
    record = read(file(json.dumps(row) + "\n\n", "data.jsonl"))[0]
    assert record == Record("a-1", "😀 北京", [Mention(2, 4, "GPE", 0.5)], "d", [(0, 1), (2, 4)])
    assert record.to_dict() == row


def test_jsonl_takes_one_span_with_two_types(file: Callable[..., Path]) -> None:
    entities = [{"start": 0, "end": 2, "label": label} for label in ("ORG", "GPE", "ORG")]
    record = read(file(json.dumps({"text": "北京", "entities": entities}), "data.jsonl"))[0]
    assert record.entities == [Mention(0, 2, "GPE"), Mention(0, 2, "ORG")]


def test_jsonl_without_entities_is_text_to_tag(file: Callable[..., Path]) -> None:
    assert contents(read(file('{"text": "北京"}\n{"text": ""}\n', "data.jsonl"))) == [
        ("北京", []),
        ("", []),
    ]


def test_cluener_ends_are_inclusive(file: Callable[..., Path]) -> None:
    row = {
        "text": "北京人在北京",
        "label": {"address": {"北京": [[0, 1], [4, 5]]}, "name": {"人": [[2, 2]]}},
    }
    records, report = read_records(file(json.dumps(row), "train.json"))
    assert report.format == "cluener"
    assert records[0].entities == [
        Mention(0, 2, "address"),
        Mention(2, 3, "name"),
        Mention(4, 6, "address"),
    ]


# ----------------------------------------------------------------------------------------- datasets
TAG_NAMES = ["O", "B-LOC", "I-LOC"]


def dataset(tags: list[list], names: list[str] | None = TAG_NAMES) -> datasets.Dataset:
    value = datasets.ClassLabel(names=names) if names else datasets.Value("string")
    features = datasets.Features(
        {"tokens": datasets.List(datasets.Value("string")), "ner_tags": datasets.List(value)}
    )
    return datasets.Dataset.from_dict(
        {"tokens": [list("北京人"), ["学"]], "ner_tags": tags}, features=features
    )


@pytest.mark.parametrize(
    ("tags", "names"),
    [([[1, 2, 0], [0]], TAG_NAMES), ([["B-LOC", "I-LOC", "O"], ["O"]], None)],
    ids=["class-labels", "strings"],
)
def test_dataset_on_disk_is_read(tmp_path: Path, tags: list[list], names: list[str] | None) -> None:
    dataset(tags, names).save_to_disk(tmp_path / "set")
    records, report = read_records(tmp_path / "set")
    assert contents(records) == PEKING
    assert (report.format, report.scheme) == ("datasets", "BIO")


def test_split_of_a_dataset_dict_is_read(tmp_path: Path) -> None:
    both = datasets.DatasetDict(train=dataset([[0, 0, 0], [0]]), dev=dataset([[1, 2, 0], [0]]))
    both.save_to_disk(tmp_path / "sets")
    assert contents(read(Path(f"{tmp_path}/sets@dev"))) == PEKING
    assert contents(read(Path(f"{tmp_path}/sets@train"))) == [("北京人", []), ("学", [])]


@pytest.mark.parametrize("ask", ["sets", "sets@test"])
def test_unknown_split_names_the_splits_there_are(tmp_path: Path, ask: str) -> None:
    datasets.DatasetDict(train=dataset([[0, 0, 0], [0]])).save_to_disk(tmp_path / "sets")
    with pytest.raises(DataError, match=r"sets.*train.*@SPLIT"):
        read(tmp_path / ask)


def test_repaired_tags_of_a_dataset_are_counted(tmp_path: Path) -> None:
    dataset([[1, 0, 0], [2]]).save_to_disk(tmp_path / "set")
    report = read_records(tmp_path / "set", Layout(tag_scheme="BIO"))[1]
    assert (report.repaired_tags, report.repairs[0].startswith("row 1: I-LOC")) == (1, True)


# ---------------------------------------------------------------------------------------- bad input
def row(text: str = "北京", **fields: object) -> str:
    return json.dumps({"text": text, **fields})


def entity(start: object, end: object, label: object = "X") -> str:
    return row(entities=[{"start": start, "end": end, "label": label}])


BAD_COLUMNS = {
    "malformed row": ("北 O\n京\n", Layout(), 2),
    "row too long": ("北 O\n\n京 O O\n", Layout(), 3),
    "unknown tag": ("北 O\n京 I?PER\n", Layout(), 2),
    "unknown tag in the first row": ("北 I?PER\n京 O\n", Layout(), 1),
    "two spellings": ("北 B-PER\n京 I-PER\n人 I_PER\n", Layout(), 3),
    "tag without type": ("北 O\n京 B-\n", Layout(), 2),
    "mixed schemes": ("北 B-X\n京 M-X\n人 I-X\n", Layout(), 2),
    "wrong tag under a forced scheme": ("北 B-X\n京 I-X\n", Layout(tag_scheme="BMES"), 2),
    "invalid UTF-8": ("北 O\n".encode() + "京 O\n".encode("gbk"), Layout(), 2),
    "empty token": ("北\tO\n\tO\n", Layout(), 2),
    "no index": ("北0 O\n京 O\n", Layout(indexed_characters=True), 2),
    "no such tag column": ("北 O\n京 O\n", Layout(tag_columns=(2,)), 1),
    "text without tags": ("北京\n", Layout(), 1),
}
BAD_JSONL = {
    "end outside": (entity(0, 3), "outside"),
    "start outside": (entity(-1, 1), "outside"),
    "reversed": (entity(2, 1), "reversed"),
    "empty": (entity(1, 1), "empty"),
    "offset is no number": (entity("0", 1), "integer"),
    "offset is no integer": (entity(0.0, 1), "integer"),
    "label missing": (row(entities=[{"start": 0, "end": 1}]), "label"),
    "entity is no object": (row(entities=["X"]), "start, end, label"),
    "entity has no label": (row(entities=[[0, 1]]), "start, end, label"),
    "entities are no list": (row(entities={"start": 0}), "list"),
    "no object": ("[1, 2]", "object"),
    "only a string": ('"北京"', "object"),
    "no JSON": ('{"text": "北京"', "expected JSON, found '' at the end"),
    "Python": ("{'text': '北京'}", "double quotes"),
    "no text": ('{"other": "北京"}', "expected a string in 'text', found the keys"),
    "nested deeply": ('{"text": "北京", "x": ' + "[" * 100_000, "nested too deeply"),
    "entities nested deeply": (row(entities=[json.loads("[" * 900 + "]" * 900)]), "start, end"),
    "a huge number": ('{"text": "北京", "x": ' + "9" * 5_000 + "}", "4300 digits"),
    "label that no file can hold": (entity(0, 1, "\ud800"), "lone surrogates"),
    "score is no number": (
        row(entities=[{"start": 0, "end": 1, "label": "X", "score": "high"}]),
        "number as its score",
    ),
    **{
        f"tokens {tokens!r}": (row(tokens=tokens), "in 'tokens', found")
        for tokens in (
            *([[0, end]] for end in (float("inf"), float("nan"), 1e999, 1.5, "1", True, None)),
            *([[0]], [[0, 1, 2]], [None], {"0": 1}, 5, ""),
        )
    },
    "no tokens beside mentions": (row(entities=[], tokens=""), "in 'tokens', found"),
    "tokens of another text": (row(tokens=["北", "东"]), "words in 'tokens'"),
    "tokens out of order": (row(tokens=[[1, 2], [0, 1]]), "tokens"),
    "token outside": (row(tokens=[[0, 3]]), "tokens"),
    "invalid UTF-8": (b'{"text": "\xb1\xb1"}', "UTF-8"),
}
BAD_CLUENER = {
    "exclusive end": {"LOC": {"北": [[0, 1]]}},
    "outside": {"LOC": {"京": [[1, 2]]}},
    "reversed": {"LOC": {"京": [[1, 0]]}},
    "no surfaces": {"LOC": [[0, 1]]},
    "no pair": {"LOC": {"北": [[0]]}},
    "no places": {"LOC": {"北": 0}},
    "places are a text": {"LOC": {"北": ["00"]}},
    "place is nothing": {"LOC": {"北": [None]}},
    "infinite": {"LOC": {"北": [[0, float("inf")]]}},
    "no types": ["LOC"],
}


@pytest.mark.parametrize(("text", "layout", "line"), BAD_COLUMNS.values(), ids=BAD_COLUMNS)
def test_bad_columns_are_refused_with_file_and_line(
    file: Callable[..., Path], text: str | bytes, layout: Layout, line: int
) -> None:
    path = file(text)
    with pytest.raises(DataError) as error:
        read_records(path, layout)
    assert str(error.value).startswith(f"{path}:{line}: ")
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("bad", "says"), BAD_JSONL.values(), ids=BAD_JSONL)
def test_bad_jsonl_is_refused_with_file_and_line(
    file: Callable[..., Path], bad: str | bytes, says: str
) -> None:
    path = file(
        (row() + "\n\n").encode() + (bad.encode() if isinstance(bad, str) else bad) + b"\n",
        "data.jsonl",
    )
    with pytest.raises(DataError, match=says) as error:
        read_records(path)
    assert str(error.value).startswith(f"{path}:3: ")
    assert list(path.parent.iterdir()) == [path]


def test_json_nested_deeply_in_the_first_row_is_refused(file: Callable[..., Path]) -> None:
    """Where the format is detected."""
    for name in ("data.txt", "data.jsonl"):
        with pytest.raises(DataError, match=":1: nested too deeply"):
            read_records(file('{"text": "北京", "x": ' + "[" * 100_000 + "\n", name))


def test_equal_mentions_with_and_without_a_score_are_read(file: Callable[..., Path]) -> None:
    mentions = [
        {"start": 0, "end": 1, "label": "X"},
        {"start": 0, "end": 1, "label": "X", "score": 1},
    ]
    assert len(read(file(row(entities=mentions) + "\n", "data.jsonl"))[0].entities) == 2


@pytest.mark.parametrize(
    "columns", [{"token_column": -1}, {"tag_columns": (-1,)}, {"tag_columns": (1, -9)}]
)
def test_negative_columns_are_refused(columns: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="counted from 0: found -"):
        Layout(**columns)


@pytest.mark.parametrize("label", BAD_CLUENER.values(), ids=BAD_CLUENER)
def test_bad_cluener_is_refused_with_file_and_line(
    file: Callable[..., Path], label: object
) -> None:
    path = file(row(label={}) + "\n" + row(label=label) + "\n", "data.json")
    with pytest.raises(DataError) as error:
        read_records(path)
    assert str(error.value).startswith(f"{path}:2: ")


@pytest.mark.parametrize("text", ["", "\n\n", " \t\n", "\ufeff"])
@pytest.mark.parametrize("name", ["data.txt", "data.jsonl"])
def test_empty_file_is_refused(file: Callable[..., Path], name: str, text: str) -> None:
    path = file(text, name)
    with pytest.raises(DataError, match="no sentence") as error:
        read_records(path)
    assert str(error.value).startswith(f"{path}: ")


def test_existing_file_with_an_at_sign_is_read_as_a_file(file: Callable[..., Path]) -> None:
    assert contents(read(file("北 O\n", "weibo@2nd.txt"))) == [("北", [])]


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_records(tmp_path / "none.txt")


@pytest.mark.parametrize("option", ["format", "tag_scheme", "delimiter", "joiner"])
def test_unknown_layout_value_is_refused(file: Callable[..., Path], option: str) -> None:
    with pytest.raises(DataError, match=f"(?s){option}: expected .*found 'other'"):
        read_records(file("北 O\n"), Layout(**{option: "other"}))


@pytest.mark.parametrize("column", ["tokens", "ner_tags"])
def test_dataset_without_a_column_is_refused(tmp_path: Path, column: str) -> None:
    dataset([[0, 0, 0], [0]]).rename_column(column, "other").save_to_disk(tmp_path / "set")
    with pytest.raises(DataError, match=r"set: .*other"):
        read_records(tmp_path / "set")


BAD_DATASETS = {
    "unknown tag": ("北京", ["O", "I?LOC"], "auto"),
    "mixed schemes": ("北京人", ["B-LOC", "M-LOC", "I-LOC"], "auto"),
    "wrong tag under a forced scheme": ("北京", ["B-LOC", "I-LOC"], "BMES"),
    "fewer tags than tokens": ("北京", ["O"], "auto"),
    "more tags than tokens": ("北京", ["O", "O", "B-LOC"], "auto"),
    "empty token": (["北", ""], ["O", "B-LOC"], "auto"),
    "missing token": (["北", None], ["O", "B-LOC"], "auto"),
    "numbers without names": ("北京", [1, 2], "auto"),
    "no list": ("北京", "O", "auto"),
}


@pytest.mark.parametrize(("tokens", "tags", "scheme"), BAD_DATASETS.values(), ids=BAD_DATASETS)
def test_bad_dataset_is_refused_with_its_name(
    tmp_path: Path, tokens: Sequence, tags: Sequence, scheme: str
) -> None:
    datasets.Dataset.from_dict({"tokens": [list(tokens)], "ner_tags": [tags]}).save_to_disk(
        tmp_path / "set"
    )
    with pytest.raises(DataError) as error:
        read_records(tmp_path / "set", Layout(tag_scheme=scheme))
    assert str(error.value).startswith(f"{tmp_path / 'set'}")


def test_unlabelled_class_is_not_taken_for_the_last_one(tmp_path: Path) -> None:
    """`datasets` uses -1 for unknown class labels, as in test splits of shared tasks."""
    dataset([[-1, -1, -1], [-1]]).save_to_disk(tmp_path / "set")
    with pytest.raises(DataError, match="-1"):
        read_records(tmp_path / "set")


# ------------------------------------------------------------------------------------------ writing
@st.composite
def annotated(draw: st.DrawFn, characters: str = CHARACTERS, flat: bool = False) -> Record:
    """A text with arbitrary mentions: nested, crossing, one span with two types."""
    text = draw(st.text(characters, min_size=1, max_size=12))
    limits = st.integers(0, len(text))
    spans = draw(st.lists(st.tuples(limits, limits, st.sampled_from(TYPES)), max_size=5))
    mentions = sorted({Mention(start, end, label) for start, end, label in spans if start < end})
    return Record("r", text, outermost(mentions)[0] if flat else mentions)


@st.composite
def annotated_words(draw: st.DrawFn, flat: bool = False) -> Record:
    """Words separated by spaces, and mentions of whole words."""
    words = draw(st.lists(st.text(CHARACTERS, min_size=1, max_size=4), min_size=1, max_size=6))
    begins = [sum(len(word) + 1 for word in words[:i]) for i in range(len(words))]
    tokens = [(begin, begin + len(word)) for begin, word in zip(begins, words, strict=True)]
    limits = st.integers(0, len(words))
    spans = draw(st.lists(st.tuples(limits, limits, st.sampled_from(TYPES)), max_size=5))
    mentions = sorted(
        {Mention(tokens[a][0], tokens[b - 1][1], label) for a, b, label in spans if a < b}
    )
    return Record("r", " ".join(words), outermost(mentions)[0] if flat else mentions, None, tokens)


@pytest.mark.parametrize("scheme", SCHEMES)
@PROPERTY
@given(st.lists(annotated(), min_size=1, max_size=4))
def test_columns_of_characters_give_the_records_back(
    folder: Path, scheme: str, records: list[Record]
) -> None:
    write_records(records, folder / "data.txt", "columns", scheme)
    again, report = read_records(folder / "data.txt", Layout(tag_scheme=scheme, joiner="none"))
    assert contents(again) == contents(records)
    assert report.repaired_tags == 0


@pytest.mark.parametrize("scheme", SCHEMES)
@PROPERTY
@given(st.lists(annotated_words(), min_size=1, max_size=3))
def test_columns_of_words_give_the_records_back(
    folder: Path, scheme: str, records: list[Record]
) -> None:
    write_records(records, folder / "data.txt", "columns", scheme)
    again = read(folder / "data.txt", tag_scheme=scheme, joiner="space")
    assert contents(again) == contents(records)
    assert [record.tokens for record in again] == [record.tokens for record in records]


def test_nested_mentions_are_written_outermost_first(tmp_path: Path) -> None:
    nested = Record("r", "北京大学", [Mention(0, 2, "GPE"), Mention(0, 4, "ORG")])
    write_records([nested, Record("s", "人")], tmp_path / "data.txt", "columns")
    rows = [
        "北\tB-ORG\tB-GPE",
        "京\tI-ORG\tI-GPE",
        "大\tI-ORG\tO",
        "学\tI-ORG\tO",
        "",
        "人\tO\tO",
        "",
        "",
    ]
    assert (tmp_path / "data.txt").read_text("utf-8") == "\n".join(rows)


@pytest.mark.parametrize("format", ["columns", "jsonl", "cluener"])
@pytest.mark.parametrize(
    "text",
    ["\ufeff北京", "北\ufeff京", "\u3000 北京\u3000"],
    ids=["starts-with-U+FEFF", "U+FEFF", "blanks"],
)
def test_odd_characters_survive_writing(tmp_path: Path, text: str, format: str) -> None:
    records = [Record("r", text, [Mention(1, 3, "X")])]
    write_records(records, tmp_path / "data.txt", format)
    assert contents(read(tmp_path / "data.txt", joiner="none")) == contents(records)


json_records = st.builds(
    lambda record, id_, doc, score, words: Record(
        id_,
        record.text,
        [mention._replace(score=score) for mention in record.entities],
        doc,
        [(i, i + 1) for i in range(len(record.text))] if words else None,
    ),
    annotated(CHARACTERS + "\n\r\t\0\ufeff"),
    st.text(),
    st.none() | st.text(),
    st.none() | st.floats(0, 1),
    st.booleans(),
)


@PROPERTY
@given(st.lists(json_records, min_size=1, max_size=4))
def test_jsonl_gives_the_records_back(folder: Path, records: list[Record]) -> None:
    write_records(records, folder / "data.jsonl")
    assert read(folder / "data.jsonl") == records


def test_jsonl_keeps_half_an_emoji(file: Callable[..., Path], tmp_path: Path) -> None:
    """Texts cut by UTF-16 length may end in a lone surrogate, which JSON can represent."""
    records = read(file('{"id": "1", "text": "北京\\ud83d"}\n', "data.jsonl"))
    write_records(records, tmp_path / "again.jsonl")
    assert read(tmp_path / "again.jsonl") == records


@PROPERTY
@given(st.lists(annotated(CHARACTERS + "\n\r\t\ufeff"), min_size=1, max_size=4))
def test_cluener_gives_the_records_back(folder: Path, records: list[Record]) -> None:
    write_records(records, folder / "data.json", "cluener")
    assert contents(read(folder / "data.json")) == contents(records)


@pytest.mark.parametrize("scheme", SCHEMES)
@SLOW_PROPERTY
@given(records=st.lists(annotated_words(flat=True), min_size=1, max_size=3))
def test_dataset_gives_the_records_back(
    tmp_path_factory: pytest.TempPathFactory, scheme: str, records: list[Record]
) -> None:
    path = tmp_path_factory.mktemp("datasets") / "set"
    write_records(records, path, "datasets", scheme)
    again = read(path, tag_scheme=scheme, joiner="space")
    assert contents(again) == contents(records)
    assert [record.tokens for record in again] == [record.tokens for record in records]


OFF_TOKEN = Record("r", "北京人", [Mention(0, 1, "X")], None, [(0, 2), (2, 3)])
NESTED = Record("r", "北京", [Mention(0, 1, "X"), Mention(0, 2, "Y")])


@pytest.mark.parametrize(
    ("record", "format", "says"),
    [
        (OFF_TOKEN, "columns", "token boundaries"),
        (OFF_TOKEN, "datasets", "token boundaries"),
        (NESTED, "datasets", "nested"),
        (NESTED, "xml", "'xml'"),
        (Record("r", "a\tb", [], None, [(0, 3)]), "columns", "token"),
        (Record("r", "a\nb", [], None, [(0, 3)]), "columns", "token"),
    ],
    ids=[
        "columns",
        "datasets",
        "nested-datasets",
        "unknown-format",
        "tab-in-a-token",
        "line-end-in-a-token",
    ],
)
def test_what_a_format_cannot_hold_is_refused_and_nothing_written(
    tmp_path: Path, record: Record, format: str, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        write_records([Record("fine", "京"), record], tmp_path / "out", format)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    write_records([Record("r", "北")], tmp_path / "set", "datasets")
    with pytest.raises(ValueError, match="exists"):
        write_records([Record("r", "京")], tmp_path / "set", "datasets")
    assert read(tmp_path / "set")[0].text == "北"


def test_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "data.txt"
    with atomic_writer(path) as out:
        out.write("北\n")
        assert not path.exists()
    assert path.read_bytes() == "北\n".encode()
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [None, "old"])
def test_interrupted_writing_leaves_what_was_there(
    tmp_path: Path, old: str | None, error: type[BaseException]
) -> None:
    path = tmp_path / "data.txt"
    if old:
        path.write_text(old)

    def half() -> Iterator[str]:
        yield "half"
        raise error

    with pytest.raises(error), atomic_writer(path) as out:
        out.writelines(half())
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == (
        [("data.txt", old)] if old else []
    )


def test_a_disk_that_is_full_at_the_end_leaves_no_temporary_file(tmp_path: Path) -> None:
    def lines(number: int) -> Iterator[str]:
        yield "half"
        os.close(number)  # the written data can no longer be flushed

    with pytest.raises(OSError, match="descriptor"), atomic_writer(tmp_path / "data.txt") as out:
        out.writelines(lines(out.fileno()))
    assert list(tmp_path.iterdir()) == []


def test_a_failing_record_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    write_records([Record("r", "北")], path, "columns")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="token boundaries"):
        write_records([Record("s", "京"), OFF_TOKEN], path, "columns")
    assert [(p, p.read_bytes()) for p in tmp_path.iterdir()] == [(path, before)]


def test_a_name_that_is_taken_by_a_folder_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(OSError, match="data"):
        write_records([Record("r", "北")], tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


JSON_VALUES = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False) | st.text() | st.just("[\n 1,\n 2\n]"),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(), values, max_size=4),
)


@PROPERTY
@given(JSON_VALUES)
def test_written_json_reads_back(tmp_path_factory: pytest.TempPathFactory, values: object) -> None:
    path = tmp_path_factory.mktemp("json") / "values.json"
    write_json(values, path)
    assert json.loads(path.read_text("utf-8")) == values


def test_whole_numbers_in_a_list_take_one_line(tmp_path: Path) -> None:
    write_json(
        {"counts": [1, -2, 30], "none": [], "rows": [[1, 2], [3]], "mixed": [1, "a"]},
        tmp_path / "a.json",
    )
    assert (tmp_path / "a.json").read_text("utf-8") == (
        '{\n "counts": [1, -2, 30],\n "none": [],\n "rows": [\n  [1, 2],\n  [3]\n ],\n'
        ' "mixed": [\n  1,\n  "a"\n ]\n}\n'
    )


# -------------------------------------------------------------------------------- training features
CAPACITY = 10  # tokens of text in a window of 12
LABELS = bio_labels(TYPES)


def text_reader(tokenizer: PreTrainedTokenizerFast, label_unit: str = "token") -> TextReader:
    return pipeline_ner.text_reader(
        tokenizer, label_unit=label_unit, max_window_tokens=CAPACITY + 2
    )


def window_texts(features: Sequence[dict], tokenizer: PreTrainedTokenizerFast) -> list[str]:
    return [
        "".join(tokenizer.convert_ids_to_tokens(feature["input_ids"][1:-1])) for feature in features
    ]


def window_tags(features: Sequence[dict]) -> list[list[str]]:
    return [[LABELS[i] for i in feature["labels"] if i != -100] for feature in features]


def test_label_and_type_lists() -> None:
    records = [
        Record("r", "北京", [Mention(0, 2, "ORG"), Mention(0, 1, "GPE")]),
        Record("s", "人", [Mention(0, 1, "ORG")]),
    ]
    assert entity_types(records) == ["GPE", "ORG"]
    assert bio_labels(["GPE", "ORG"]) == ["O", "B-GPE", "I-GPE", "B-ORG", "I-ORG"]


def test_short_text_is_one_window(character_tok: PreTrainedTokenizerFast) -> None:
    record = Record("r", "去北京吧", [Mention(1, 3, "ORG")])
    (feature,), report = tag_features([record], text_reader(character_tok), LABELS)
    assert feature["input_ids"] == character_tok("去北京吧")["input_ids"]
    assert feature["word_mask"] == [False, True, True, True, True, False]
    b, i = LABELS.index("B-ORG"), LABELS.index("I-ORG")
    assert feature["labels"] == [-100, 0, b, i, 0, -100]
    assert (report.sentences, report.windows, report.mentions) == (1, 1, 1)


def test_no_text_gives_no_window(character_tok: PreTrainedTokenizerFast) -> None:
    features, report = tag_features([Record("r", "")], text_reader(character_tok), LABELS)
    assert (features, report.sentences, report.windows) == ([], 1, 0)
    assert tag_features([], text_reader(character_tok), LABELS)[0] == []


@pytest.mark.parametrize("label_unit", ["token", "word"])
@PROPERTY
@given(st.text(CHARACTERS, max_size=60))
def test_windows_cover_each_position_once(
    character_tok: PreTrainedTokenizerFast, label_unit: str, text: str
) -> None:
    reader = text_reader(character_tok, label_unit)
    features, _ = tag_features([Record("r", text)], reader, LABELS)
    whole = reader.tokenize([text])[0]
    labelled = [
        id_
        for f in features
        for id_, is_word in zip(f["input_ids"], f["word_mask"], strict=True)
        if is_word
    ]
    assert labelled == [whole.ids[token] for token in whole.first_token]
    assert all(
        len(f["input_ids"]) == len(f["word_mask"]) == len(f["labels"]) <= CAPACITY + 2
        for f in features
    )
    if label_unit == "token":
        assert [id_ for f in features for id_ in f["input_ids"][1:-1]] == whole.ids


@PROPERTY
@given(segmentations())
def test_windows_cut_no_mention_that_fits(
    character_tok: PreTrainedTokenizerFast, segmentation: tuple[list[Span], int]
) -> None:
    spans, length = segmentation
    record = Record("r", ("北京。大，学" * length)[:length], [Mention(*span) for span in spans])
    features, report = tag_features([record], text_reader(character_tok), LABELS)
    tags = window_tags(features)
    assert [t for window in tags for t in window] == tag(spans, length, "BIO")
    assert not any(window[0].startswith("I-") for window in tags)
    assert (report.mentions, report.longer_than_window) == (len(spans), 0)


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("一二三四五六七。九十一二三", "一二三四五六七。"),
        ("一二三四五六七，九十一二三", "一二三四五六七，"),
        ("一二三四五六。八，十一二三", "一二三四五六。"),  # the end of a sentence before a comma
        ("一。三四五六七八九十一二三", "一。三四五六七八九十"),  # no window of two characters
        ("一二三四五六七八九十一二三", "一二三四五六七八九十"),
    ],
)
def test_windows_end_at_punctuation_where_they_can(
    character_tok: PreTrainedTokenizerFast, text: str, first: str
) -> None:
    features, _ = tag_features([Record("r", text)], text_reader(character_tok), LABELS)
    assert window_texts(features, character_tok) == [first, text.removeprefix(first)]


def test_windows_do_not_end_at_punctuation_inside_a_mention(
    character_tok: PreTrainedTokenizerFast,
) -> None:
    record = Record("r", "一二三四五六七。九十一二三", [Mention(6, 9, "ORG")])
    features, _ = tag_features([record], text_reader(character_tok), LABELS)
    assert window_texts(features, character_tok) == ["一二三四五六七。九十", "一二三"]


def test_a_mention_longer_than_the_window_is_cut_and_counted_once(
    character_tok: PreTrainedTokenizerFast,
) -> None:
    record = Record(
        "r", "一二三" + "四" * 25 + "五六", [Mention(3, 28, "ORG"), Mention(28, 30, "PER")]
    )
    features, report = tag_features([record], text_reader(character_tok), LABELS)
    assert [len(tags) for tags in window_tags(features)] == [3, 10, 10, 7]
    # Each window is valid BIO: a constrained CRF allows no initial I-.
    piece = ["B-ORG"] + ["I-ORG"] * 9
    assert window_tags(features) == [
        ["O"] * 3,
        piece,
        piece,
        ["B-ORG"] + ["I-ORG"] * 4 + ["B-PER", "I-PER"],
    ]
    assert report.longer_than_window == 1
    assert "1 longer than a window" in str(report)


def test_of_overlapping_mentions_the_outermost_is_learned_and_the_rest_counted(
    character_tok: PreTrainedTokenizerFast,
) -> None:
    mentions = [
        Mention(0, 2, "PER"),
        Mention(0, 4, "ORG"),
        Mention(3, 5, "PER"),
        Mention(5, 6, "PER"),
    ]
    features, report = tag_features(
        [Record("r", "北京大学生人", mentions)], text_reader(character_tok), LABELS
    )
    assert window_tags(features) == [["B-ORG", "I-ORG", "I-ORG", "I-ORG", "O", "B-PER"]]
    assert (report.mentions, report.overlapping) == (2, 2)


def test_a_mention_inside_a_word_is_misaligned_and_counted(
    character_tok: PreTrainedTokenizerFast,
) -> None:
    record = Record("r", "the UKs 北京", [Mention(4, 6, "ORG"), Mention(8, 10, "PER")])
    reader = text_reader(character_tok, "word")
    features, report = tag_features([record], reader, LABELS)
    assert window_tags(features) == [["O", "O", "B-PER", "I-PER"]]
    assert (report.mentions, report.misaligned) == (1, 1)
    place = "'UK' (ORG) in 'the UKs 北京', record r, characters 4 to 6"
    assert f"1 not on token boundaries (the first: {place}), " in str(report)
    assert tag_features([record], text_reader(character_tok), LABELS)[1].misaligned == 0


def test_unknown_entity_type_is_refused(character_tok: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match=r"record 'r': entity type 'GPE' is unknown .*ORG"):
        tag_features(
            [Record("r", "北京", [Mention(0, 2, "GPE")])], text_reader(character_tok), LABELS
        )


def test_collator_pads_to_the_longest_row() -> None:
    features = [
        {
            "input_ids": [2, 7, 8, 3],
            "word_mask": [False, True, True, False],
            "labels": [-100, 0, 1, -100],
        },
        {"input_ids": [2, 9, 3], "word_mask": [False, True, False], "labels": [-100, 2, -100]},
    ]
    batch = TagCollator(pad_token_id=5)(features)
    assert {name: tensor.shape for name, tensor in batch.items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "word_mask", "labels"), torch.Size([2, 4])
    )
    assert batch["input_ids"].tolist() == [[2, 7, 8, 3], [2, 9, 3, 5]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert batch["labels"].tolist() == [[-100, 0, 1, -100], [-100, 2, -100, -100]]
    assert batch["word_mask"].dtype == torch.bool
    assert batch["word_mask"].tolist() == [[False, True, True, False], [False, True, False, False]]


def test_tag_layers_of_no_mention_is_one_layer() -> None:
    assert tag_layers(Record("r", "北京"), "BIO") == [["O", "O"]]


# ----------------------------------------------------------------------------------- benchmark data
@pytest.mark.skipif(not DATA.is_dir(), reason="benchmark data are not part of the repository")
@pytest.mark.parametrize(
    ("path", "sentences", "entities", "repairs"),
    [
        ("weibo/weiboNER_2nd_conll.train", 1350, 1895, 10),
        ("weibo/weiboNER_2nd_conll.dev", 270, 389, 0),
        ("weibo/weiboNER_2nd_conll.test", 270, 418, 4),
        ("resume/train.char.bmes", 3821, 13440, None),
        ("resume/dev.char.bmes", 463, 1497, None),
        ("resume/test.char.bmes", 477, 1630, None),
    ],
)
def test_benchmarks_load_with_their_published_counts(
    path: str, sentences: int, entities: int, repairs: int | None
) -> None:
    records, report = read_records(DATA / path, Layout(indexed_characters=path.startswith("weibo")))
    assert (len(records), sum(len(record.entities) for record in records)) == (sentences, entities)
    assert repairs is None or report.repaired_tags == repairs
