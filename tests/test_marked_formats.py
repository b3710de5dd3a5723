"""Mentions marked in texts, words with slashes, rows a type, and tables with a token a row."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from test_formats import found

from contrastive_ner.data.input_formats import AmbiguousError, input_format
from contrastive_ner.data.layout import Layout
from contrastive_ner.data.readers import detect_format, read_records
from contrastive_ner.data.records import Record
from contrastive_ner.data.streams import read_rows
from contrastive_ner.errors import DataError

File = Callable[..., Path]


def read(path: Path, **layout: Any) -> list[tuple[str, list[tuple[str, str]]]]:
    return found(read_records(path, Layout(**layout))[0])


def texts(path: Path, **layout: Any) -> list[str]:
    """The texts that `predict` would tag."""
    rows = list(read_rows(str(path), Layout(**layout)).rows)
    return [row.text for row in rows if isinstance(row, Record)]


# -- braces, elements, links
def test_braces_may_be_nested(file: File) -> None:
    path = file(
        "{{person_name:张三}}去了{{org_name:{{ location : 北京 }}大学}}。\n\n今天下雨。\n", "a.txt"
    )
    assert detect_format(str(path)) == "inline"
    assert read(path) == [
        (
            "张三去了 北京 大学。",
            [("张三", "person_name"), ("北京", "location"), ("北京 大学", "org_name")],
        ),
        ("今天下雨。", []),
    ]
    assert texts(path) == ["张三去了 北京 大学。", "今天下雨。"]


@pytest.mark.parametrize(
    "line",
    ["{{PER:张三去了北京。", "{{PER:张三}}}}去了。", "<PER>张三</LOC>", "<PER>张三", "张三</PER>"],
)
def test_marks_that_do_not_match_are_named(file: File, line: str) -> None:
    good = "{{PER:李四}}来了。" if "{{" in line else "<PER>李四</PER>来了。<LOC>北京</LOC>"
    path = file(f"{good}\n{line}\n", "a.txt")
    with pytest.raises(DataError, match=r"a\.txt:2: .*correct the marks"):
        read_records(path)


def test_elements_have_their_type_as_name_or_attribute(file: File) -> None:
    path = file(
        "<PER>Anna</PER> &amp; <ENAMEX TYPE=\"LOC\" id='1'>Rome</ENAMEX>\n"
        "<b>bold</b> 1 < 2, <ENAMEX>Bo</ENAMEX>\n",
        "a.txt",
    )
    records, report = read_records(path)
    assert found(records) == [
        ("Anna & Rome", [("Anna", "PER"), ("Rome", "LOC")]),
        ("bold 1 < 2, Bo", []),
    ]
    assert report.left_out == {"elements ENAMEX without a type": 1}
    assert report.notes == [
        "elements read as mentions: ENAMEX (its type), PER",
        "elements that are no mentions: b",
    ]


def test_elements_of_sentences_and_documents_are_frames(file: File) -> None:
    path = file(
        '<?xml version="1.0"?>\n<CORPUS>\n<DOC id="a">\n<s><NE TYPE="PER">张三</NE>去了</s>'
        '<s><w>北京</w></s>\n<Quelle>\n  <s><NE TYPE="ORG"><NE TYPE="LOC">北京</NE>大学</NE></s>\n'
        "</Quelle>\n</DOC>\n<DOC>\n<s>雨</s>\n</DOC>\n</CORPUS>\n",
        "a.xml",
    )
    records, _ = read_records(path)
    assert found(records) == [
        ("张三去了", [("张三", "PER")]),
        ("北京", []),
        ("北京大学", [("北京", "LOC"), ("北京大学", "ORG")]),
        ("雨", []),
    ]
    assert [record.doc for record in records] == ["a-doc-1"] * 3 + ["a-doc-2"]
    assert len({record.id for record in records}) == 4


def test_elements_in_texts_to_tag_must_be_told(file: File) -> None:
    path = file("<PER>Anna</PER> left\nshe came\n", "a.txt")
    with pytest.raises(AmbiguousError, match="--format inline"):
        input_format(str(path))
    assert texts(path, format="inline") == ["Anna left", "she came"]
    assert texts(path, format="text") == ["<PER>Anna</PER> left", "she came"]


@pytest.mark.parametrize("text", ["<b>Anna</b> left", "see [here](http://x.org/a)", "{a: {b: 1}}"])
def test_other_marks_are_part_of_a_text(file: File, text: str) -> None:
    path = file(f"{text}\n", "a.txt")
    assert texts(path) == [text]
    with pytest.raises(DataError):
        read_records(path)


def test_links_of_rasa(file: File) -> None:
    text = '## intent:go\n- to [Rome](city) with [Anna]{"entity": "PER", "value": "a"}\n- now\n'
    path = file(text, "nlu.md")
    records, report = read_records(path)
    assert found(records) == [
        ("to Rome with Anna", [("Rome", "city"), ("Anna", "PER")]),
        ("now", []),
    ]
    assert report.left_out == {"lines that are no items of a list": 1}
    assert read(file("[张三](PER:x)去了\n看[这里](http://a.b)\n", "b.txt")) == [
        ("张三去了", [("张三", "PER")]),
        ("看[这里](http://a.b)", []),
    ]


# -- words with slashes
def test_slashed_tags_of_entities(file: File) -> None:
    path = file("Anna/PERSON Lee/PERSON left/O 1/2/O\nRome/LOCATION ./O\n", "a.txt")
    assert read(path) == [
        ("Anna Lee left 1/2", [("Anna Lee", "PERSON")]),
        ("Rome .", [("Rome", "LOCATION")]),
    ]
    assert texts(path) == ["Anna Lee left 1/2", "Rome ."]
    assert read(file("张/B-PER 三/I-PER 李/B-PER 四/I-PER 去/O\n", "b.txt")) == [
        ("张三李四去", [("张三", "PER"), ("李四", "PER")])
    ]


def test_slashed_parts_of_speech_of_the_peoples_daily(file: File) -> None:
    path = file(
        "19980101-01-001-001/m  [中国/ns  政府/n]nt  总书记/n  江/nr  泽民/nr  、/w  李/nr  鹏/nr  "
        "到/v  [/w  [[香港/ns 大学/n]nt  学院/n]/nt  ]/w  //w\n\n"
        "19980101-01-001-002/m  阿里/nr  巴巴多斯/nr  来/v\n",
        "a.txt",
    )
    records, report = read_records(path)
    assert found(records) == [
        (
            "中国政府总书记江泽民、李鹏到[香港大学学院]/",
            [
                ("中国", "ns"), ("中国政府", "nt"), ("江泽民", "nr"), ("李鹏", "nr"),
                ("香港", "ns"), ("香港大学", "nt"), ("香港大学学院", "nt"),
            ],
        ),
        ("阿里巴巴多斯来", [("阿里", "nr"), ("巴巴多斯", "nr")]),
    ]  # fmt: skip
    assert "2 pairs of surname" in " ".join(report.notes)


@pytest.mark.parametrize("line", ["北京/ns 大学/n]nt", "[北京/ns 大学/n", "北京/ns 大学"])
def test_slashed_words_that_cannot_be_read_are_named(file: File, line: str) -> None:
    path = file("上海/ns 下雨/v\n" * 20 + f"{line}\n", "a.txt")
    with pytest.raises(DataError, match=r"a\.txt:21: "):
        read_records(path)


@pytest.mark.parametrize("text", ["北京/NR 今天/NT 下雨/VV", "and/or yes/no", "John/NNP left/VBD"])
def test_slashes_without_entities_are_not_read(file: File, text: str) -> None:
    path = file(f"{text}\n", "a.txt")
    assert texts(path) == [text]
    with pytest.raises(DataError):
        read_records(path)


# -- a row a type, as for reading comprehension
def question(
    name: str, label: str, *spans: tuple[int, int], context: str = "张 三 去 了 北 京"
) -> dict[str, Any]:
    return {
        "context": context, "qas_id": name, "entity_label": label, "query": "?",
        "impossible": not spans, "span_position": [f"{a};{b}" for a, b in spans],
        "start_position": [a for a, _ in spans], "end_position": [b for _, b in spans],
    }  # fmt: skip


def test_rows_of_a_text_and_several_types_are_one_sentence(file: File) -> None:
    rows = [question("0.1", "PER", (0, 1)), question("0.2", "LOC", (4, 5), (4, 4))]
    rows += [question("1.1", "PER"), question("1.2", "LOC")]
    rows += [question("2.1", "PER", (0, 0), context="Bo left Rome"), question("3", "PER")]
    path = file(json.dumps(rows), "a.json")
    records, report = read_records(path)
    assert found(records) == [
        ("张三去了北京", [("张三", "PER"), ("北", "LOC"), ("北京", "LOC")]),
        ("张三去了北京", []),
        ("Bo left Rome".replace(" ", report.joiner or ""), [("Bo", "PER")]),
        ("张三去了北京", []),
    ]
    rows[1]["end_position"] = [9, 9]
    with pytest.raises(DataError, match=r"lies outside the 6 tokens"):
        read_records(file(json.dumps(rows), "b.json"))


# -- mentions over words beside a text
def spans_over(unit: str) -> str:
    rows = []
    for name, place in (("Anna Lee", "New York"), ("Bo Ray", "Los Angeles")):
        text = f"{name} went to {place}"
        start = text.index(place)
        ends = ((0, 2), (4, 6)) if unit == "words" else ((0, len(name)), (start, len(text)))
        entities = [
            {"start": a, "end": b, "label": label}
            for (a, b), label in zip(ends, ("PER", "LOC"), strict=True)
        ]
        rows.append({"text": text, "tokens": text.split(), "entities": entities})
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("key", ["entities", "spans"])
def test_mentions_that_count_words_beside_a_text_are_refused(file: File, key: str) -> None:
    wanted = [
        ("Anna Lee went to New York", [("Anna Lee", "PER"), ("New York", "LOC")]),
        ("Bo Ray went to Los Angeles", [("Bo Ray", "PER"), ("Los Angeles", "LOC")]),
    ]
    path = file(spans_over("words").replace("entities", key), "a.jsonl")
    with pytest.raises(DataError, match=r"fields=text=-"):
        read_records(path)
    assert read(path, fields=("text=-",)) == wanted
    assert read(file(spans_over("characters").replace("entities", key), "b.jsonl")) == wanted


# -- gold and predicted tags
def test_gold_and_predicted_tags_are_not_nested_mentions(file: File) -> None:
    path = file("Bo B-PER B-PER\nLee I-PER I-PER\nleft O B-LOC\nRome B-LOC B-LOC\n", "a.txt")
    with pytest.raises(DataError, match=r"set tag_columns=1 \(or 2\)"):
        read_records(path)
    text = "Bo Lee left Rome"
    assert read(path, tag_columns=(1,)) == [(text, [("Bo Lee", "PER"), ("Rome", "LOC")])]


# -- a token a row, with a schema
def test_parquet_with_a_token_a_row(tmp_path: Path) -> None:
    table = {
        "Sentence #": ["Sentence: 1", None, "Sentence: 2", None],
        "Word": ["Bo", "left", "Rome", "burns"],
        "Tag": ["B-PER", "O", "B-LOC", "O"],
    }
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    assert read(path) == [("Bo left", [("Bo", "PER")]), ("Rome burns", [("Rome", "LOC")])]
    del table["Sentence #"]
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    with pytest.raises(DataError, match="sentence_id"):
        read_records(path)
    pyarrow.parquet.write_table(pyarrow.table({**table, "sentence_id": [0, 0, 1, 1]}), path)
    assert len(read_records(path)[0]) == 2
    table["Tag"][1] = None
    pyarrow.parquet.write_table(pyarrow.table({**table, "sentence_id": [0, 0, 1, 1]}), path)
    with pytest.raises(DataError, match="row 1: expected a token"):
        read_records(path)
