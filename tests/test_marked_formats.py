"""Mentions marked in texts, words with slashes, rows per type, tables with one token per row."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest
from test_formats import found

from contrastive_ner.cli import main
from contrastive_ner.data.conversion import convert_records
from contrastive_ner.data.input_formats import AmbiguousError, input_format
from contrastive_ner.data.layout import Layout
from contrastive_ner.data.readers import detect_format, read_records
from contrastive_ner.data.records import Mention, Record
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
    ["{{PER:张三去了北京。", "<PER>张三</LOC>", "<PER>张三", "张三</PER>"],
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


UNER = (
    "# text = See [docs](page) by <b>x</b> {{PER:y}}\n1\tSee\tO\t-\t-\n2\t[docs](page)\tO\t-\t-\n"
    "3\tby\tO\t-\t-\n4\tAnna\tB-PER\t-\t-\n\n"
)


EMPTY = "\t_" * 7
CONLLU = f"# text = <q>Hi</q> Anna\n1\tHi{EMPTY}\tNER=O\n2\tAnna{EMPTY}\tNER=B-PER\n"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (UNER, "u.iob2"),
        (UNER, "u.txt"),
        (CONLLU, "u.conllu"),
        ("Anna,B-PER\nsaid,O\n<x>y</x>,O\n{{PER:z}},O\n", "u.txt"),
        ("Anna\tPER\nLee\tPER\n<x>y</x>\tORG\nsaid\tO\n", "u.txt"),
    ],
)  # fmt: skip
def test_marks_in_tokens_and_comments_make_no_other_format(
    file: File, text: str, name: str
) -> None:
    path = file(text, name)
    assert detect_format(str(path)) == "columns"
    assert "PER" in str(read(path))
    assert "Anna" in str(read(path))


def test_types_that_are_also_names_of_frames(file: File) -> None:
    path = file(
        "<PER>张三</PER>是<TITLE>总裁</TITLE>，住在<LOC>北京</LOC>。\n<P>李四</P>见了<P>王五</P>\n",
        "a.txt",
    )
    assert read(path) == [
        ("张三是总裁，住在北京。", [("张三", "PER"), ("总裁", "TITLE"), ("北京", "LOC")]),
        ("李四见了王五", [("李四", "P"), ("王五", "P")]),
    ]


def test_frames_of_other_names_fill_their_lines(file: File) -> None:
    path = file(
        '<turn who="a">I saw <PER>Anna</PER>.</turn>\n<turn who="b">Yes?</turn>\n'
        '<passage type="title"><LOC>Rome</LOC></passage>\n', "a.txt",
    )  # fmt: skip
    records, report = read_records(path)
    assert found(records) == [
        ("I saw Anna.", [("Anna", "PER")]),
        ("Yes?", []),
        ("Rome", [("Rome", "LOC"), ("Rome", "title")]),
    ]
    assert "elements that are no mentions: turn" in report.notes


def test_what_only_looks_like_an_element_stays(file: File) -> None:
    path = file(
        "<PER>Anna</PER> if a<b and c>d <PER/>ok\n<PER>Bo</PER> said <url> ok<br/>\n"
        "<PER></PER> left<!-- hi <b> -->\n", "a.txt",
    )  # fmt: skip
    records, report = read_records(path)
    assert found(records) == [
        ("Anna if a<b and c>d ok", [("Anna", "PER")]),
        ("Bo said <url> ok", [("Bo", "PER")]),
        ("left", []),
    ]
    assert report.left_out == {"marks without text": 1}


def test_braces_of_the_text_stay(file: File) -> None:
    path = file("{{PER NAME：张三}}}}去了\\frac{{a}}{b}\n{{LOC:北京}}\n", "a.txt")
    assert read(path) == [
        ("张三}}去了\\frac{{a}}{b}", [("张三", "PER NAME")]),
        ("北京", [("北京", "LOC")]),
    ]
    few = file("Hello\nsee {{cite: foo}} here\nBob left\nso\n", "b.txt")
    with pytest.raises(AmbiguousError, match="--format text"):
        input_format(str(few))


def test_yaml_of_rasa_is_refused(file: File) -> None:
    path = file(
        'version: "3.1"\nnlu:\n- intent: x\n  examples: |\n    - to [Rome](city)\n', "nlu.yml"
    )
    with pytest.raises(DataError, match="YAML of Rasa"):
        read_records(path)


# -- words with slashes
def test_brackets_of_tagged_words_stay(file: File) -> None:
    path = file("[UNK]/O Anna/B-PER visited/O [Rome]/B-LOC ./O\n", "a.txt")
    assert read(path) == [("[UNK] Anna visited [Rome] .", [("Anna", "PER"), ("[Rome]", "LOC")])]


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


def test_slashed_parts_of_speech_of_ltp(file: File) -> None:
    path = file("昨天/nt 张三/nh 去/v 了/u 北京/ns 大学/ni\n", "a.txt")
    assert read(path) == [
        ("昨天张三去了北京大学", [("张三", "nh"), ("北京", "ns"), ("大学", "ni")])
    ]


@pytest.mark.parametrize("line", ["北京/ns 大学/n]nt", "[北京/ns 大学/n", "北京/ns 大学"])
def test_slashed_words_that_cannot_be_read_are_named(file: File, line: str) -> None:
    path = file("上海/ns 下雨/v\n" * 20 + f"{line}\n", "a.txt")
    with pytest.raises(DataError, match=r"a\.txt:21: "):
        read_records(path)


@pytest.mark.parametrize(
    "text", ["北京/NR 今天/NT 下雨/VV", "and/or yes/no", "John/NNP left/VBD", "day/night 1/nice"]
)
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


@pytest.mark.parametrize("order", ["by text", "by type"])
@pytest.mark.parametrize("names", [("0.1", "0.2", "1.1", "1.2"), (0, 1, 2, 3), (None,) * 4])
def test_rows_of_types_come_in_any_order_and_with_any_names(
    file: File, order: str, names: tuple[Any, ...]
) -> None:
    other = "李 四 来 了"
    rows = [question("", "PER", (0, 1)), question("", "LOC", (4, 5))]
    rows += [question("", "PER", (0, 1), context=other), question("", "LOC", context=other)]
    for row, name in zip(rows, names, strict=True):
        row["qas_id"] = name
        if name is None:
            del row["qas_id"]
    rows = rows if order == "by text" else [rows[i] for i in (0, 2, 1, 3)]
    path = file("".join(json.dumps(row) + "\n" for row in rows), "a.jsonl")
    assert read(path) == [
        ("张三去了北京", [("张三", "PER"), ("北京", "LOC")]),
        ("李四来了", [("李四", "PER")]),
    ]
    assert texts(path) == ["张三去了北京", "李四来了"]


def test_equal_texts_without_names_are_told_by_their_types(file: File) -> None:
    rows = [question("", label, (0, 1)) for label in ("PER", "LOC", "PER", "LOC")]
    for row in rows:
        del row["qas_id"]
    assert len(read(file(json.dumps(rows), "a.json"))) == 2


# -- mentions over words beside a text
@pytest.mark.parametrize(
    "row",
    [
        {
            "text": "Anna: hello how are you", "tokens": ["Anna:", "hello", "how", "are", "you"],
            "entities": [{"start": 0, "end": 4, "label": "PER"}],
        },
        {
            "text": "US-based firms grew", "tokens": ["US-based", "firms", "grew"],
            "entities": [{"start": 0, "end": 2, "label": "LOC", "text": "US"}],
        },
    ],
)  # fmt: skip
def test_mentions_inside_tokens_are_no_word_offsets(file: File, row: dict[str, Any]) -> None:
    (record,) = read_records(file(json.dumps(row), "a.jsonl"))[0]
    (mention,) = record.entities
    assert record.text[mention.start : mention.end] in ("Anna", "US")


def test_given_offsets_are_not_doubted(file: File) -> None:
    path = file(spans_over("words"), "a.jsonl")
    assert len(read(path, offsets="half_open")) == 2


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


def test_few_equal_mentions_are_enough_and_one_is_not(file: File) -> None:
    half = "Bo B-PER B-PER\nand O B-ORG\nOslo B-LOC B-LOC\nRome B-LOC O\nAnn B-PER B-ORG\n"
    with pytest.raises(DataError, match="hold many of the same mentions"):
        read_records(file(half, "a.txt"))


# -- one token per row, with a schema
@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_documents_end_sentences(tmp_path: Path, kind: str) -> None:
    table = pyarrow.table({
        "doc_id": ["a", "a", "b", "b", "b"], "sentence_id": ["0", "0", "0", "0", "1"],
        "token": ["Anna", "left", "Bob", "came", "Rome"],
        "tag": ["B-PER", "O", "B-PER", "O", "B-LOC"],
    })  # fmt: skip
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        pyarrow.csv.write_csv(table, path)
    assert [text for text, _ in read(path)] == ["Anna left", "Bob came", "Rome"]
    if kind == "parquet":
        assert [record.doc for record in read_records(path)[0]] == ["a", "b", "b"]
        assert texts(path) == ["Anna left", "Bob came", "Rome"]


def test_parquet_with_a_sentence_a_row_in_cells(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = {"sentence_id": [1], "words": ["Anna left Rome"], "ner_tags": ["B-PER O B-LOC"]}
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    assert read(path) == [("Anna left Rome", [("Anna", "PER"), ("Rome", "LOC")])]


def test_parquet_with_a_token_a_row_under_other_names_and_with_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = {"sentence_id": [0, 0], "w": ["Anna", "left"], "t": [1, 0]}
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    options = {"fields": ("tokens=w", "tags=t")}
    with pytest.raises(DataError, match="tag_names=O,B-PER"):
        read_records(path, Layout(**options))
    assert read(path, **options, tag_names=("O", "B-PER")) == [("Anna left", [("Anna", "PER")])]


def test_annotated_parquet_is_scored_and_words_are_joined_as_in_training(
    file: File, tmp_path: Path
) -> None:
    row = {"text": "张三去了", "entities": [{"start": 0, "end": 2, "label": "PER"}]}
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    rows = read_rows(str(path), Layout(), keep_entities=True).rows
    assert found([row for row in rows if isinstance(row, Record)]) == [
        ("张三去了", [("张三", "PER")])
    ]
    words = ["张", "三", "去", "了"]
    for own in (
        {"words": words, "ner_tags": ["B-PER", "I-PER", "O", "O"]},
        {"tokenized_text": words, "ner": [[0, 1, "PER"]]},
        {"sentence": words, "ner": [{"index": [0, 1], "type": "PER"}]},
        {"doc_key": "d", "sentences": [words], "ner": [[[0, 1, "PER"]]]},
        {"text": words, "labels": ["B-PER", "I-PER", "O", "O"]},
    ):
        assert texts(file(json.dumps(own), "b.jsonl")) == ["张三去了"]


# -- converting
def test_what_tokens_change_is_counted(tmp_path: Path) -> None:
    records = [
        Record("a", "Hello, world.", tokens=[(0, 5), (5, 6), (7, 12), (12, 13)]),
        Record("b", "Bob ate"), Record("c", " "),
    ]  # fmt: skip
    lost = convert_records(records, tmp_path / "a.conll", "conll")
    assert lost["identifiers"] == 3
    assert lost["empty texts"] == 1
    again = read_records(tmp_path / "a.conll")[0]
    changed = sum(a.text != b.text for a, b in zip(records, again, strict=False))
    assert lost["texts with other white space"] == changed > 0


def test_round_trips_of_empty_texts_and_predictions(tmp_path: Path) -> None:
    records = [Record("a", "张三"), Record("b", ""), Record("c", "去了", [Mention(0, 1, "X", 0.5)])]
    convert_records(records, tmp_path / "a.jsonl", "dygie")
    assert [r.text for r in read_records(tmp_path / "a.jsonl")[0]] == ["张三", "", "去了"]
    convert_records(records, tmp_path / "a.json", "labelstudio")
    again, report = read_records(tmp_path / "a.json")
    assert [r.text for r in again] == ["张三", ""]
    assert report.left_out == {"tasks without an annotation": 1}


@pytest.mark.parametrize(
    "command", [["convert", "a.jsonl", "a.jsonl", "--to", "cluener"],
                ["evaluate", "no-model", "a.jsonl", "--errors", "a.jsonl"],
                ["evaluate", "no-model", "a.jsonl", "--output", "./a.jsonl"]]
)  # fmt: skip
def test_no_command_writes_over_its_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    content = '{"text": "张三", "entities": [{"start": 0, "end": 2, "label": "PER"}]}\n'
    (tmp_path / "a.jsonl").write_text(content, "utf-8")
    assert main(command) == 2
    assert "a.jsonl is an input" in capsys.readouterr().err
    assert (tmp_path / "a.jsonl").read_text("utf-8") == content


# -- one token per row, with a schema
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
