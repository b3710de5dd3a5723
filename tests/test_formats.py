"""What practitioners have: each input is read rightly, or refused with what helps."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from test_data import PROPERTY, annotated, annotated_words

from contrastive_ner.cli import main
from contrastive_ner.data.conversion import TARGETS, convert_records
from contrastive_ner.data.layout import Layout
from contrastive_ner.data.readers import read_files, read_records
from contrastive_ner.data.records import Mention, Record
from contrastive_ner.errors import DataError

Found = list[tuple[str, list[tuple[str, str]]]]
ANNA: Found = [("Anna met Bo in Rome", [("Anna", "PER"), ("Bo", "PER"), ("Rome", "LOC")])]
CHEN: Found = [("陈明到苏州。", [("陈明", "PER"), ("苏州", "LOC")])]
TEXT = "陈明到苏州。"


def found(records: Sequence[Record]) -> Found:
    """Texts with the surfaces and types of their mentions."""
    return [
        (record.text, [(record.text[m.start : m.end], m.label) for m in record.entities])
        for record in records
    ]


def columns(rows: str, delimiter: str = "\t") -> str:
    """Rows of columns, written with | and blank lines as empty rows."""
    return "\n".join(row.strip().replace("|", delimiter) for row in rows.split(" / ")) + "\n"


COLUMNS = {
    "index from 0": (columns("0|Anna|B-PER / 1|met|O / 2|Bo|B-PER / 3|in|O / 4|Rome|B-LOC"), ANNA),
    "index from 1, other columns behind": (
        columns(
            "# sent_id = 1 / # text = Anna met Bo in Rome / 1|Anna|B-PER|-|- / 2|met|O|-|- / "
            "3|Bo|B-PER|-|- / 4|in|O|-|- / 5|Rome|B-LOC|-|-"
        ),
        ANNA,
    ),
    "numbers of sentences": (
        columns("7|Anna|B-PER / 7|met|O / 7|Bo|B-PER / 8|in|O / 8|Rome|B-LOC"),
        [("Anna met Bo", [("Anna", "PER"), ("Bo", "PER")]), ("in Rome", [("Rome", "LOC")])],
    ),
    "numbers of sentences and tokens": (
        columns(
            "1|1|Anna|B-PER / 1|2|met|O / 1|3|Bo|B-PER / 2|1|in|O / 2|2|Rome|B-LOC / 2|3|now|O"
        ),
        [("Anna met Bo", [("Anna", "PER"), ("Bo", "PER")]), ("in Rome now", [("Rome", "LOC")])],
    ),
    "the sentence in its first row": (
        "Sentence #\tWord\tPOS\tTag\nSentence: 1\tAnna\tN\tB-per\n\tmet\tV\tO\n"
        "\tBo\tN\tB-per\nSentence: 2\tRome\tN\tB-geo\n\twon\tV\tO\n",
        [("Anna met Bo", [("Anna", "per"), ("Bo", "per")]), ("Rome won", [("Rome", "geo")])],
    ),
    "CSV of tokens": (
        'Sentence #,Word,POS,Tag\nSentence: 1,Anna,N,B-per\n,met,V,O\n,",",P,O\n,Bo,N,B-per\n'
        "Sentence: 2,Rome,N,B-geo\n,won,V,O\n",
        [("Anna met , Bo", [("Anna", "per"), ("Bo", "per")]), ("Rome won", [("Rome", "geo")])],
    ),
    "CSV without a header": (
        "Anna,B-PER\nmet,O\nBo,B-PER\n\nRome,B-LOC\n",
        [("Anna met Bo", [("Anna", "PER"), ("Bo", "PER")]), ("Rome", [("Rome", "LOC")])],
    ),
    "an index of rows before the sentence": (
        ",Sentence #,Word,POS,Tag\n0,Sentence: 1,Anna,N,B-per\n1,Sentence: 1,met,V,O\n"
        "2,Sentence: 2,Rome,N,B-geo\n3,Sentence: 3,won,V,O\n",
        [("Anna met", [("Anna", "per")]), ("Rome", [("Rome", "geo")]), ("won", [])],
    ),
    "token numbers that begin again": (
        columns("1|Anna|B-PER / 2|met|O / 1|Bo|B-PER / 2|left|O / 3|Rome|B-LOC"),
        [("Anna met", [("Anna", "PER")]), ("Bo left Rome", [("Bo", "PER"), ("Rome", "LOC")])],
    ),
    "sentence numbers that fall": (
        columns("5|Anna|B-PER / 5|met|O / 2|Bo|B-PER / 2|left|O"),
        [("Anna met", [("Anna", "PER")]), ("Bo left", [("Bo", "PER")])],
    ),
    "tokens that repeat": (
        "Bora NNP B-LOC\nBora NNP I-LOC\nrocks VBZ O\n",
        [("Bora Bora rocks", [("Bora Bora", "LOC")])],
    ),
    "the number of a character's word": (
        columns("1|王|B-PER / 1|小|I-PER / 2|在|O / 3|北|B-LOC / 3|京|I-LOC /  / 1|他|O / 2|走|O"),
        [("王小在北京", [("王小", "PER"), ("北京", "LOC")]), ("他走", [])],
    ),
    "a language before each token": (
        columns("en|New|A|B-LOC / es|York|X|I-LOC / es|es|V|O / es|aqui|A|O / es|ya|A|O"),
        [("New York es aqui ya", [("New York", "LOC")])],
    ),
    "a flag before each token": (
        columns("1|John|B-PER / 0|lives|O / 0|in|O / 1|New|B-LOC / 1|York|I-LOC / 0|now|O"),
        [("John lives in New York now", [("John", "PER"), ("New York", "LOC")])],
    ),
    "a type whose end looks like a tag": (
        columns("x@y|B-PHONE/E-MAIL / 12|B-PHONE/E-MAIL / 34|I-PHONE/E-MAIL / U47|B-SHIP+U-BOAT"
                " / so|O").replace("+", "|"),
        [("x@y 12 34 U47 so", [("x@y", "PHONE/E-MAIL"), ("12 34", "PHONE/E-MAIL"),
                               ("U47", "SHIP|U-BOAT")])],
    ),
    "zeros alone": ("Anna 0\nmet 0\n", [("Anna met", [])]),
    "document, sentence and token": (
        columns(
            "d1|1|1|Anna|B-PER / d1|1|2|met|O / d1|2|1|Bo|B-PER / d2|2|1|in|O / d2|2|2|Rome|B-LOC"
        ),
        [
            ("Anna met", [("Anna", "PER")]),
            ("Bo", [("Bo", "PER")]),
            ("in Rome", [("Rome", "LOC")]),
        ],
    ),
    "short sentences by their names": (
        columns("q1|nike|B-BRAND / q1|shoes|O / q2|red|B-COL / q2|dress|O"),
        [("nike shoes", [("nike", "BRAND")]), ("red dress", [("red", "COL")])],
    ),
    "semicolons": (
        "Wort;Tag\nAnna;B-PER\nging;O\n\nRom;B-LOC\n",
        [("Anna ging", [("Anna", "PER")]), ("Rom", [("Rom", "LOC")])],
    ),
    "layers in cells that are mostly O": (
        columns("Anna|B-PER+O / met|O+O / Bo|O+B-PER / in|O+O / Rome|O+B-LOC").replace("+", "|"),
        ANNA,
    ),
    "several tags between plus signs": (
        columns("Bank|B-ORG / of|I-ORG / York|I-ORG+B-GPE / in|O"),
        [("Bank of York in", [("Bank of York", "ORG"), ("York", "GPE")])],
    ),
    "German chunks": (
        columns(
            "Anna|Anna|NE|I-NC|I-PER / ging|gehen|VV|I-VC|O / in|in|P|I-PC|O / "
            "Rom|x|NE|I-NC|I-LOC"
        ),
        [("Anna ging in Rom", [("Anna", "PER"), ("Rom", "LOC")])],
    ),
    "several tags in a cell": (
        columns("Bank|B-ORG / of|I-ORG / New|B-GPE+I-ORG / York|I-ORG+I-GPE / in|O / York|B-GPE")
        .replace("+", "|"),
        [
            (
                "Bank of New York in York",
                [("Bank of New York", "ORG"), ("New York", "GPE"), ("York", "GPE")],
            )
        ],
    ),
    "several tags in a cell, with O": (
        "北 B-ORG|B-GPE\n京 I-ORG|I-GPE\n大 I-ORG|O\n学 I-ORG\n的 O|O\n",
        [("北京大学的", [("北京", "GPE"), ("北京大学", "ORG")])],
    ),
    "identifiers of sentences": (
        columns("s1|Anna|N|B-PER / s1|met|V|O / s1|Bo|N|B-PER / s1|in|P|O / s1|Rome|N|B-LOC"),
        ANNA,
    ),
    "multiword token of CoNLL-U": (
        columns("1-2|zum|_ / 1|zu|O / 2|dem|O / 3|Rom|B-LOC"),
        [("zu dem Rom", [("Rom", "LOC")])],
    ),
    "MultiCoNER": (
        "# id 7a domain=train\nAnna _ _ B-PER\nmet _ _ O\nBo _ _ B-PER\nin _ _ O\nRome _ _ B-LOC\n",
        ANNA,
    ),
    "WikiANN": (
        columns("en:Anna|B-PER / en:met|O / en:Bo|B-PER / en:in|O / en:Rome|B-LOC"),
        ANNA,
    ),
    "header": (columns("Word|Tag / Anna|B-PER / left|O"), [("Anna left", [("Anna", "PER")])]),
    "header of several tag columns": (
        columns(
            "TOKEN|NE-COARSE-LIT|NE-COARSE-METO|NE-FINE-LIT|MISC / # hipe2022:document_id = 1 / "
            "Anna|B-pers|_|B-pers.ind|_ / # segment = _ / left|O|_|O|EndOfSentence / "
            "Bo|B-pers|_|O|_"
        ),
        [("Anna left", [("Anna", "pers")]), ("Bo", [("Bo", "pers")])],
    ),
    "chunks beside names": (
        "EU B-NP B-ORG\nrejects B-VP O\nGerman B-NP B-MISC\n",
        [("EU rejects German", [("EU", "ORG"), ("German", "MISC")])],
    ),
    "part of speech, chunks, names": (
        "EU NNP B-NP B-ORG\nrejects VBZ B-VP O\n",
        [("EU rejects", [("EU", "ORG")])],
    ),
    "tags before tokens": (
        columns("B-PER|Anna / O|met / B-PER|Bo / O|in / B-LOC|Rome"),
        ANNA,
    ),
    "BILOU": (
        columns("Anna|U-PER / met|O / Jan|B-PER / van|I-PER / Dijk|L-PER"),
        [("Anna met Jan van Dijk", [("Anna", "PER"), ("Jan van Dijk", "PER")])],
    ),
    "BMEWO": (
        columns("Anna|W-PER / met|O / Jan|B-PER / van|M-PER / Dijk|E-PER"),
        [("Anna met Jan van Dijk", [("Anna", "PER"), ("Jan van Dijk", "PER")])],
    ),
    "suffixes": (columns("陈|PER-B / 明|PER-I / 到|O / 苏|LOC-B / 州|LOC-I / 。|O"), CHEN),
    "suffixes with underscores": (
        columns("陈|PER_B / 明|PER_E / 到|O / 苏|LOC_B / 州|LOC_E / 。|O"),
        CHEN,
    ),
    "underscores": (columns("陈|B_PER / 明|I_PER / 到|O / 苏|B_LOC / 州|I_LOC / 。|O"), CHEN),
    "lower case": (columns("陈|b-PER / 明|i-PER / 到|o / 苏|b-LOC / 州|i-LOC / 。|o"), CHEN),
    "0 for O": (columns("陈|B-PER / 明|I-PER / 到|0 / 苏|B-LOC / 州|I-LOC / 。|0"), CHEN),
    "IO": (columns("陈|PER / 明|PER / 到|O / 苏|LOC / 州|LOC / 。|O"), CHEN),
    "one stray S-": (
        columns("Anna|B-PER / met|O / old|B-LOC / Rome|I-LOC /  / Eva|S-PER / left|O"),
        [
            ("Anna met old Rome", [("Anna", "PER"), ("old Rome", "LOC")]),
            ("Eva left", [("Eva", "PER")]),
        ],
    ),
    "an index behind each character": (
        columns("陈0|B-PER / 明1|I-PER / 到0|O / 苏0|B-LOC / 州1|I-LOC / 。0|O"),
        CHEN,
    ),
    "aligned by spaces": ("Anna     B-PER\nleft     O\n", [("Anna left", [("Anna", "PER")])]),
    "white space at the end": ("Anna B-PER \nleft O\t\n", [("Anna left", [("Anna", "PER")])]),
    "runs of tabs": ("Anna\t\tB-PER\nleft\tO\n", [("Anna left", [("Anna", "PER")])]),
    "old Mac": ("陈\tB-PER\r明\tI-PER\r\r到\tO\r", [("陈明", [("陈明", "PER")]), ("到", [])]),
    "mixed line ends": ("Anna B-PER\r\nleft O\n\r\nBo B-PER\r", [
        ("Anna left", [("Anna", "PER")]), ("Bo", [("Bo", "PER")]),
    ]),
    "-DOCSTART- of many forms": (
        "-DOCSTART-(1) O\n\nAnna B-PER\n\n-DOCSTART- (doc2) O\nleft O\n\n-DOCSTART-\n\nBo B-PER\n",
        [("Anna", [("Anna", "PER")]), ("left", []), ("Bo", [("Bo", "PER")])],
    ),
    "a hash is a token": (
        columns("#|O / Rome|B-LOC / #|O"),
        [("# Rome #", [("Rome", "LOC")])],
    ),
    "types with spaces": (
        columns("Anna|B-real person / left|O"),
        [("Anna left", [("Anna", "real person")])],
    ),
    "a bracket is a token": ("[ O\nAnna B-PER\n] O\n", [("[ Anna ]", [("Anna", "PER")])]),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), COLUMNS.values(), ids=COLUMNS)
def test_columns_of_all_kinds_are_read(
    file: Callable[..., Path], text: str, expected: Found
) -> None:
    assert found(read_records(file(text))[0]) == expected


GUESSED = {
    "index from 0": "numbers the tokens",
    "header": "names the columns",
    "one stray S-": "1 tag repaired",
    "IO": "adjacent mentions of one type",
    "WikiANN": "'en:'",
    "an index behind each character": "indexed_characters",
    "tags before tokens": "column 1",
    "header of several tag columns": "2 comment lines",
}


@pytest.mark.parametrize(("case", "says"), GUESSED.items())
def test_what_was_guessed_is_said(file: Callable[..., Path], case: str, says: str) -> None:
    remarks = read_records(file(COLUMNS[case][0]))[1].remarks()
    assert any(says in remark for remark in remarks), remarks


def test_plain_columns_need_no_remark(file: Callable[..., Path]) -> None:
    assert read_records(file("Anna B-PER\nleft O\n\nBo B-PER\n"))[1].remarks() == []


def span(start: Any, end: Any, label: Any = "PER", **more: Any) -> dict[str, Any]:
    return {"start": start, "end": end, "label": label, **more}


BOTH = [[0, 2, "PER"], [3, 5, "LOC"]]
WORDS = ["Anna", "met", "Bo", "in", "Rome"]
JSON: dict[str, tuple[Any, Found]] = {
    "doccano": ({"id": 1, "text": TEXT, "label": BOTH}, CHEN),
    "doccano, newer": ({"id": 1, "text": TEXT, "labels": BOTH, "Comments": ["a"]}, CHEN),
    "doccano, oldest": ({"id": 1, "data": TEXT, "label": BOTH}, CHEN),
    "doccano with relations": (
        {
            "id": 1,
            "text": TEXT,
            "entities": [
                {"id": 11, "label": "PER", "start_offset": 0, "end_offset": 2},
                {"id": 12, "label": "LOC", "start_offset": 3, "end_offset": 5},
            ],
            "relations": [{"id": 1, "from_id": 11, "to_id": 12, "type": "to"}],
        },
        CHEN,
    ),
    "spaCy": ([TEXT, {"entities": BOTH}], CHEN),
    "spaCy, no mention": ([TEXT, {"entities": []}], [(TEXT, [])]),
    "NER Annotator": (
        {"classes": ["PER"], "annotations": [[TEXT, {"entities": BOTH}], None]},
        CHEN,
    ),
    "wrapped": ({"version": "1", "data": [{"text": TEXT, "entities": BOTH}]}, CHEN),
    "by identifier": (
        {"a": {"text": TEXT, "spans": BOTH}, "b": {"text": "走", "spans": []}},
        [*CHEN, ("走", [])],
    ),
    "Rasa": (
        {
            "rasa_nlu_data": {
                "common_examples": [
                    {
                        "text": TEXT,
                        "intent": "go",
                        "entities": [
                            {"start": 0, "end": 2, "value": "陈明", "entity": "PER"},
                            {"start": 3, "end": 5, "value": "苏州", "entity": "LOC"},
                        ],
                    }
                ]
            }
        },
        CHEN,
    ),
    "Prodigy": (
        {
            "text": "Anna met Bo in Rome",
            "tokens": [
                {"text": w, "start": s, "end": s + len(w), "id": i}
                for i, (w, s) in enumerate(zip(WORDS, (0, 5, 9, 12, 15), strict=True))
            ],
            "spans": [
                span(0, 4, token_start=0, token_end=0),
                span(9, 11, token_start=2, token_end=2),
                span(15, 19, "LOC", token_start=4, token_end=4),
            ],
            "answer": "accept",
        },
        ANNA,
    ),
    "Label Studio": (
        [
            {
                "id": 1,
                "data": {"text": TEXT},
                "annotations": [
                    {
                        "result": [
                            {
                                "type": "labels",
                                "value": {"start": 0, "end": 2, "text": "陈明", "labels": ["PER"]},
                            },
                            {
                                "type": "labels",
                                "value": {"start": 3, "end": 5, "text": "苏州", "labels": ["LOC"]},
                            },
                            {"type": "relation", "from_id": "x", "to_id": "y"},
                        ]
                    }
                ],
            }
        ],
        CHEN,
    ),
    "Label Studio, JSON-MIN": (
        [
            {
                "id": 1,
                "text": TEXT,
                "label": [
                    {"start": 0, "end": 2, "text": "陈明", "labels": ["PER"]},
                    {"start": 3, "end": 5, "text": "苏州", "labels": ["LOC"]},
                ],
                "annotator": 1,
            }
        ],
        CHEN,
    ),
    "Dataturks": (
        {
            "content": TEXT,
            "annotation": [
                {"label": ["PER"], "points": [{"start": 0, "end": 1, "text": "陈明"}]},
                {"label": ["LOC"], "points": [{"start": 3, "end": 4, "text": "苏州"}]},
            ],
            "extras": None,
        },
        CHEN,
    ),
    "CMeEE": (
        [
            {
                "text": TEXT,
                "entities": [
                    {"start_idx": 0, "end_idx": 1, "type": "PER", "entity": "陈明"},
                    {"start_idx": 3, "end_idx": 4, "type": "LOC", "entity": "苏州"},
                ],
            }
        ],
        CHEN,
    ),
    "an index in an object": (
        {
            "text": TEXT,
            "entity_list": [
                {"entity_index": {"begin": 0, "end": 2}, "entity_type": "PER", "entity": "陈明"},
                {"entity_index": {"begin": 3, "end": 5}, "entity_type": "LOC", "entity": "苏州"},
            ],
        },
        CHEN,
    ),
    "a char_span": (
        {
            "text": TEXT,
            "relation_list": [],
            "entity_list": [
                {"text": "陈明", "type": "PER", "char_span": [0, 2]},
                {"text": "苏州", "type": "LOC", "char_span": [3, 5]},
            ],
        },
        CHEN,
    ),
    "BINDER": (
        {
            "text": "Anna met Bo in Rome",
            "entity_types": ["PER", "PER", "LOC"],
            "entity_start_chars": [0, 9, 15],
            "entity_end_chars": [4, 11, 19],
            "id": "d",
            "word_start_chars": [0, 5, 9, 12, 15],
            "word_end_chars": [4, 8, 11, 14, 19],
        },
        ANNA,
    ),
    "GLiNER": (
        {"tokenized_text": WORDS, "ner": [[0, 0, "PER"], [2, 2, "PER"], [4, 4, "LOC"]]},
        ANNA,
    ),
    "W2NER": (
        [
            {
                "sentence": WORDS,
                "ner": [
                    {"index": [0], "type": "PER"},
                    {"index": [2], "type": "PER"},
                    {"index": [4], "type": "LOC"},
                    {"index": [0, 4], "type": "ODD"},
                ],
            }
        ],
        ANNA,
    ),
    "DyGIE++": (
        {
            "doc_key": "d",
            "sentences": [WORDS, ["He", "met", "Bo"]],
            "ner": [[[0, 0, "PER"], [2, 2, "PER"], [4, 4, "LOC"]], [[7, 7, "PER"]]],
            "relations": [[[0, 0, 2, 2, "met"]], []],
        },
        [*ANNA, ("He met Bo", [("Bo", "PER")])],
    ),
    "SpERT": (
        {
            "tokens": WORDS,
            "entities": [
                {"type": "PER", "start": 0, "end": 1},
                {"type": "PER", "start": 2, "end": 3},
                {"type": "LOC", "start": 4, "end": 5},
            ],
            "relations": [],
            "orig_id": 7,
        },
        ANNA,
    ),
    "tokens and tags": (
        {"id": 0, "tokens": WORDS, "ner_tags": ["B-PER", "O", "B-PER", "O", "B-LOC"]},
        ANNA,
    ),
    "words and labels": (
        {"words": WORDS, "labels": ["S-PER", "O", "S-PER", "O", "S-LOC"]},
        ANNA,
    ),
    "text and label lists": (
        {"text": list(TEXT), "label": ["B-PER", "I-PER", "O", "B-LOC", "I-LOC", "O"]},
        CHEN,
    ),
    "a tag a character": (
        {"text": TEXT, "labels": ["B-PER", "I-PER", "O", "B-LOC", "I-LOC", "O"]},
        CHEN,
    ),
    "CLUENER": (
        {"text": TEXT, "label": {"PER": {"陈明": [[0, 1]]}, "LOC": {"苏州": [[3, 4]]}}},
        CHEN,
    ),
    "another key": ({"text": TEXT, "entites": [span(0, 2), span(3, 5, "LOC")]}, CHEN),
    "a JSON string": (
        {"text": TEXT, "entities": json.dumps([span(0, 2), span(3, 5, "LOC")])},
        CHEN,
    ),
    "a list as Python prints it": (
        {"text": TEXT, "label": str([[0, 2, "PER"], [3, 5, "LOC"]])},
        CHEN,
    ),
    "spaCy's groups of spans": (
        {"text": TEXT, "ents": [], "spans": {"sc": [span(0, 2), span(3, 5, "LOC")]}},
        CHEN,
    ),
    "mentions by type": (
        {"text": TEXT, "entities": {"PER": [{"start": 0, "end": 2}], "LOC": [[3, 5]]}},
        CHEN,
    ),
    "words as objects": (
        {
            "id": 1,
            "tokens": [{"text": word} for word in WORDS],
            "ner_tags": ["B-PER", "O", "B-PER", "O", "B-LOC"],
        },
        ANNA,
    ),
    "topics beside mentions": (
        {"text": TEXT, "tags": ["news", "travel"], "entities": [span(0, 2), span(3, 5, "LOC")]},
        CHEN,
    ),
    "places by type": ({"text": TEXT, "entities": {"PER": [[0, 2]], "LOC": [[3, 5]]}}, CHEN),
    "CCKS": (
        {
            "originalText": TEXT,
            "entities": [
                {"label_type": "PER", "overlap": 0, "start_pos": 0, "end_pos": 2},
                {"label_type": "LOC", "overlap": 0, "start_pos": 3, "end_pos": 5},
            ],
        },
        CHEN,
    ),
    "rows in an object of an object": (
        {
            "version": 1,
            "content": {"lang": "zh", "rows": [{"text": TEXT, "entities": [span(0, 2)]}]},
        },
        [(TEXT, [("陈明", "PER")])],
    ),
    "a row of a viewer": (
        {"row_idx": 0, "row": {"tokens": ["Anna"], "ner_tags": ["B-PER"]}, "truncated_cells": []},
        [("Anna", [("Anna", "PER")])],
    ),
    "rows with places of their own": (
        {
            "name": "x",
            "sentences": [{"text": TEXT, "start": 0, "end": 6, "entities": [span(0, 2)]}],
        },
        [(TEXT, [("陈明", "PER")])],
    ),
    "rows by their names": (
        {"a": {"text": TEXT, "entities": [span(0, 2)]}, "b": {"text": "好", "entities": []}},
        [(TEXT, [("陈明", "PER")]), ("好", [])],
    ),
    "a single split": (
        {"train": [{"text": TEXT, "entities": [span(0, 2)]}], "test": []},
        [(TEXT, [("陈明", "PER")])],
    ),
    "labels before offsets": ({"text": TEXT, "tags": [["PER", 0, 2], ["LOC", 3, 5]]}, CHEN),
    "tokens as words": (
        {
            "text": "Anna met Bo in Rome",
            "tokens": WORDS,
            "entities": [span(0, 4), span(9, 11), span(15, 19, "LOC")],
        },
        ANNA,
    ),
}


@pytest.mark.parametrize("indent", [None, 1], ids=["one-line", "pretty"])
@pytest.mark.parametrize(("row", "expected"), JSON.values(), ids=JSON)
def test_json_of_all_kinds_is_read(
    file: Callable[..., Path], row: Any, expected: Found, indent: int | None
) -> None:
    path = file(json.dumps(row, ensure_ascii=False, indent=indent), "data.json")
    assert found(read_records(path)[0]) == expected


EXAMPLES = re.findall(
    r"```(json|text|csv)\n(.*?)```", (ROOT / "docs" / "data.md").read_text("utf-8"), re.S
)


@pytest.mark.parametrize(("kind", "text"), EXAMPLES)
def test_every_example_of_the_documentation_is_read(
    file: Callable[..., Path], kind: str, text: str
) -> None:
    (record,) = read_records(file(text, f"data.{kind}"))[0]
    assert [(record.text[m.start : m.end], m.label) for m in record.entities] == [
        ("张三", "PER"),
        ("北京", "LOC"),
    ]


@pytest.mark.parametrize("between", ["\n", "\n\n", " ", ""], ids=repr)
def test_rows_may_follow_each_other_over_lines(file: Callable[..., Path], between: str) -> None:
    rows = [json.dumps(JSON["doccano"][0], indent=2)] * 2
    assert found(read_records(file(between.join(rows), "data.json"))[0]) == CHEN * 2


def test_layouts_may_mix(file: Callable[..., Path]) -> None:
    rows = [{"text": "你好", "entities": []}, JSON["doccano"][0], JSON["CLUENER"][0]]
    path = file("".join(json.dumps(row) + "\n" for row in rows), "data.jsonl")
    assert found(read_records(path)[0]) == [("你好", []), *CHEN, *CHEN]


LEFT_OUT = {
    "doccano with relations": "relations",
    "W2NER": "discontinuous mentions",
    "Label Studio": "results that are no labelled spans",
}


@pytest.mark.parametrize(("case", "what"), LEFT_OUT.items())
def test_what_is_left_out_is_counted(file: Callable[..., Path], case: str, what: str) -> None:
    report = read_records(file(json.dumps(JSON[case][0]), "data.json"))[1]
    assert report.left_out == {what: 1}


def test_rejected_and_unannotated_rows_are_left_out(file: Callable[..., Path]) -> None:
    rows = [
        {"text": TEXT, "spans": [span(0, 2)], "answer": "reject"},
        {"text": TEXT, "spans": [span(0, 2)], "answer": "accept"},
        {"data": {"text": TEXT}, "annotations": []},
        {"data": {"text": TEXT}, "annotations": [{"was_cancelled": True, "result": []}]},
    ]
    path = file("".join(json.dumps(row) + "\n" for row in rows), "data.jsonl")
    records, report = read_records(path)
    assert found(records) == [(TEXT, [("陈明", "PER")])]
    assert report.left_out == {
        "rows with answer 'reject'": 1, "tasks without an annotation": 2
    }  # fmt: skip


REFUSED = {
    "a whole sentence in a cell": (
        "陈 明 到\tB-PER I-PER O\n",
        "data.txt",
        "whole sentence in a cell",
    ),
    "tags alone": ("B-PER I-PER O B-LOC\nO O O O\n", "data.txt", "tags alone"),
    "token/tag": ("Anna/NNP met/VBD Bo/NNP\n", "data.txt", "token/tag"),
    "XML": ("<s><b>Anna</b> left</s>\n", "data.txt", "XML"),
    "plain text": ("Anna met Bo in Rome\nThen she left\n", "data.txt", "plain text"),
    "CSV with a bare comma": ("Anna,B-PER\n,,O\nleft,O\n", "data.txt", "quote the token ','"),
    "CSV with a bare comma among others": (
        "Word,Tag\n" + "Anna,B-PER\nleft,O\n" * 9 + ",,O\n",
        "data.csv",
        "the token ',' is written",
    ),
    "CSV with a short row": (
        "Word,Tag\n" + "Anna,B-PER\nleft,O\n" * 9 + "Rome\n",
        "data.csv",
        "data.csv:20: expected 2 columns separated by commas",
    ),
    "several tags between commas": (
        "Anna B-PER,B-NOM\nmet O,O\nBo B-PER,O\n",
        "data.txt",
        "data.txt:2: tag 'O,O'",
    ),
    "two delimiters": ("Anna\tB-PER\nleft O\nRome\tB-LOC\n", "data.txt", "delimiter=any"),
    "a space as a token": ("陈 B-PER\n  O\n明 I-PER\n", "data.txt", "if it is a space"),
    "an ideographic space": ("陈\tB-PER\n\u3000\n明\tI-PER\n", "data.txt", "ends no sentence"),
    "GBK": ("陈 B-PER\n".encode("gbk"), "data.txt", "set encoding .*gb18030"),
    "numbers as tags": (json.dumps({"tokens": ["a"], "ner_tags": [1]}), "data.jsonl", "tag_names"),
    "no offsets": (
        json.dumps({"text": "a", "entities": [{"name": "a"}]}),
        "data.jsonl",
        "start, end",
    ),
    "unknown key": (json.dumps({"text": "a", "x": {"a": ["b"]}}), "data.jsonl", "keys found are x"),
    "null": (json.dumps({"text": "a", "entities": None}), "data.jsonl", "found null"),
    "inclusive": (
        json.dumps({"text": TEXT, "entities": [span(0, 1, text="陈明")]}),
        "data.jsonl",
        "set offsets=inclusive",
    ),
    "UTF-16": (
        json.dumps({"text": "😀陈明", "entities": [span(2, 4, word="陈明")]}),
        "data.jsonl",
        "set offsets=utf16",
    ),
    "another surface": (
        json.dumps({"text": TEXT, "entities": [span(0, 2, surface="苏州")]}),
        "data.jsonl",
        "correct the offsets",
    ),
    "a boolean": (
        json.dumps({"text": "a", "entities": [span(False, True)]}),
        "data.jsonl",
        "integer",
    ),
    "a fraction": (json.dumps({"text": "a", "entities": [span(0, 1.0)]}), "data.jsonl", "integer"),
    "white space in a label": (
        json.dumps({"text": "a", "entities": [span(0, 1, " PER")]}),
        "data.jsonl",
        "white space",
    ),
    "a tag as a label": (
        json.dumps({"text": "a", "entities": [span(0, 1, "B-PER")]}),
        "data.jsonl",
        "is a tag",
    ),
    "O as a label": (
        json.dumps({"text": "a", "entities": [span(0, 1, "O")]}),
        "data.jsonl",
        "is a tag",
    ),
    "two lists": (
        json.dumps({"text": TEXT, "entities": [span(0, 2)], "spans": [span(3, 5)]}),
        "data.jsonl",
        "fields=entities=KEY",
    ),
    "two lists, one of spaCy's groups": (
        json.dumps({"text": TEXT, "ents": [span(0, 2)], "spans": {"sc": [span(3, 5)]}}),
        "data.jsonl",
        "'spans' and 'ents'; set fields=entities=KEY",
    ),
    "a broken JSON string": (
        json.dumps({"text": TEXT, "entities": "[[0, 2"}),
        "data.jsonl",
        "expected a list in 'entities'.* found str",
    ),
    "mentions that have a text where the row has none": (
        json.dumps({"body": TEXT, "entities": [span(0, 2, text="陈明")]}),
        "data.json",
        "set fields=text=KEY",
    ),
    "mentions beside sentences": (
        json.dumps({"sentences": [{"text": "陈明"}, {"text": "到"}], "entities": [span(0, 2)]}),
        "data.json",
        "set fields=text=KEY",
    ),
    "surfaces by type": (
        json.dumps({"text": TEXT, "entities": {"PER": [[0, 2, "陈明"]]}}),
        "data.json",
        "expected a list in 'entities'",
    ),
    "latin-1": ("Müller B-PER\nfährt O\n".encode("latin-1"), "data.txt", "could be cp1252"),
    "splits of other names": (
        json.dumps({"train": [{"text": "a", "entities": []}], "testa": [{"text": "b"}]}),
        "data.json",
        "the splits train, testa in one file",
    ),
    "splits in one file": (
        json.dumps({"train": [{"text": "a", "entities": []}], "test": [{"text": "b"}]}),
        "data.json",
        "the splits train, test in one file",
    ),
    "a text within a part of a row": (
        json.dumps({"body": TEXT, "author": {"text": "陈明"}, "entities": [span(0, 2)]}),
        "data.json",
        "expected a string in 'text'.* author, body, entities|set fields=text=KEY",
    ),
    "more tags than words": (
        json.dumps({"tokens": ["a"], "ner_tags": ["O", "O"]}),
        "data.jsonl",
        "as many tags as tokens",
    ),
}


@pytest.mark.parametrize(("text", "name", "says"), REFUSED.values(), ids=REFUSED)
def test_refusals_name_the_place_and_what_helps(
    file: Callable[..., Path], text: str | bytes, name: str, says: str
) -> None:
    path = file(text, name)
    with pytest.raises(DataError, match=says) as error:
        read_records(path)
    assert str(error.value).startswith(f"{path}:")


OPTIONS: dict[str, tuple[str | bytes, str, dict[str, Any], Found]] = {
    "inclusive": (
        json.dumps({"text": TEXT, "entities": [span(0, 1, text="陈明"), span(3, 4, "LOC")]}),
        "data.jsonl",
        {"offsets": "inclusive"},
        CHEN,
    ),
    "UTF-16": (
        json.dumps({"text": "😀陈明", "entities": [span(2, 4)]}),
        "data.jsonl",
        {"offsets": "utf16"},
        [("😀陈明", [("陈明", "PER")])],
    ),
    "half-open CMeEE": (
        json.dumps({"text": TEXT, "entities": [{"start_idx": 0, "end_idx": 2, "type": "PER"}]}),
        "data.jsonl",
        {"offsets": "half_open"},
        [(TEXT, [("陈明", "PER")])],
    ),
    "tag names": (
        json.dumps({"tokens": ["Anna", "left"], "ner_tags": [1, 0]}),
        "data.jsonl",
        {"tag_names": ("O", "B-PER")},
        [("Anna left", [("Anna", "PER")])],
    ),
    "fields": (
        json.dumps({"body": TEXT, "a": [{"from": 0, "to": 2, "kind": "PER"}], "text": "other"}),
        "data.jsonl",
        {"fields": ("text=body", "entities=a", "label=kind")},
        [(TEXT, [("陈明", "PER")])],
    ),
    "fields of tokens and tags": (
        json.dumps({"w": ["Anna", "left"], "t": ["B-PER", "O"]}),
        "data.jsonl",
        {"fields": ("tokens=w", "tags=t")},
        [("Anna left", [("Anna", "PER")])],
    ),
    "any delimiter": (
        "Anna\tB-PER\nleft O\n",
        "data.txt",
        {"delimiter": "any"},
        [("Anna left", [("Anna", "PER")])],
    ),
    "GB18030": (
        columns("陈|B-PER / 明|I-PER / 到|O / 苏|B-LOC / 州|I-LOC / 。|O").encode("gb18030"),
        "data.txt",
        {"encoding": "gbk"},
        CHEN,
    ),
    "Big5 JSON": (
        json.dumps({"text": "陳明", "label": [[0, 2, "PER"]]}, ensure_ascii=False).encode("big5"),
        "data.jsonl",
        {"encoding": "big5"},
        [("陳明", [("陳明", "PER")])],
    ),
    "UTF-16 by its mark": (
        "陈\tB-PER\n明\tI-PER\n".encode("utf-16"),
        "data.txt",
        {},
        [("陈明", [("陈明", "PER")])],
    ),
}


@pytest.mark.parametrize(("text", "name", "layout", "expected"), OPTIONS.values(), ids=OPTIONS)
def test_options_read_what_needs_them(
    file: Callable[..., Path], text: str | bytes, name: str, layout: dict, expected: Found
) -> None:
    assert found(read_records(file(text, name), Layout(**layout))[0]) == expected


@pytest.mark.parametrize(
    "layout",
    [{"fields": ("body",)}, {"fields": ("x=y",)}, {"encoding": "base64"}, {"encoding": "x"}],
)
def test_options_that_cannot_be_used_are_refused(layout: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"fields|encoding"):
        Layout(**layout)


# ------------------------------------------------------------------------------------------ joining
MIXED = "小米Mix Fold 4手机12GB"


def test_nothing_is_put_between_characters_of_any_script(file: Callable[..., Path]) -> None:
    """A space in the file stays; Latin characters are not spaced out."""
    path = file("".join(f"{character}\tO\n" for character in MIXED))
    assert read_records(path)[0][0].text == MIXED
    rows = json.dumps({"tokens": list("Mix Fold"), "ner_tags": ["O"] * 8})
    assert read_records(file(rows, "data.jsonl"))[0][0].text == "Mix Fold"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["สวัสดี", "ครับ"], "สวัสดีครับ"),
        (["東京", "に", "行く"], "東京に行く"),
        (["ស្រុក", "ខ្មែរ"], "ស្រុកខ្មែរ"),
        (["မြန်မာ", "စာ"], "မြန်မာစာ"),
        (["бабушка", "и", "я"], "бабушка и я"),
        (["서울", "에", "갔다"], "서울 에 갔다"),
    ],
)
def test_words_are_joined_as_their_script_is(
    file: Callable[..., Path], words: list[str], text: str
) -> None:
    path = file("".join(f"{word}\tO\n" for word in words))
    assert read_records(path)[0][0].text == text


def test_one_decision_holds_for_all_files_of_a_run(file: Callable[..., Path]) -> None:
    """A short file of Latin words alone is joined as the characters of the others are."""
    big = file("".join(f"{character}\tO\n" for character in "陈明到苏州" * 20), "big.txt")
    small = file("Mix\tB-X\nFold\tI-X\n", "small.txt")
    assert read_records(small)[0][0].text == "Mix Fold"
    (_, first), (records, second) = read_files([big, small])
    assert records[0].text == "MixFold"
    assert (first.joiner, second.joiner) == ("", "")


# ---------------------------------------------------------------------------- stand-off, data sets
def test_brat_is_read_by_file_and_by_folder(file: Callable[..., Path], tmp_path: Path) -> None:
    file("Pain in arms\r\nand legs\n", "a.txt")
    annotations = [
        "T1\tADR 0 12\tPain in arms", "T2\tADR 0 7;18 22\tPain in legs",
        "T3\tSITE 8 12;14 17\tarms and", "R1\tRel Arg1:T1 Arg2:T2", "A1\tNeg T1", "#1\tNote T1\tx",
    ]  # fmt: skip
    path = file("\n".join(annotations) + "\n", "a.ann")
    for name in (path, path.with_suffix(".txt"), tmp_path):
        records, report = read_records(name)
        assert [m[:3] for m in records[0].entities] == [(0, 12, "ADR"), (8, 17, "SITE")]
        assert report.left_out == {
            "discontinuous mentions": 1, "relations": 1, "attributes": 1, "notes": 1
        }  # fmt: skip


def test_brat_offsets_are_checked_by_the_surface(file: Callable[..., Path]) -> None:
    file("Pain in arms", "a.txt")
    path = file("T1\tADR 1 5\tPain\n", "a.ann")
    with pytest.raises(DataError, match=r"a.ann:1: .*'ain ' in the text, but 'Pain'"):
        read_records(path)


def test_pubtator_is_read(file: Callable[..., Path]) -> None:
    text = (
        "1|t|Aspirin and fever\n1|a|Aspirin lowers fever.\n1\t0\t7\tAspirin\tChemical\tD1\n"
        "1\t33\t38\tfever\tDisease\tD2\n1\tCID\tD1\tD2\n\n2|t|Nothing\n2|a|\n"
    )
    records, report = read_records(file(text))
    assert found(records) == [
        (
            "Aspirin and fever Aspirin lowers fever.",
            [("Aspirin", "Chemical"), ("fever", "Disease")],
        ),
        ("Nothing ", []),
    ]
    assert [record.id for record in records] == ["1", "2"]
    assert report.left_out == {"relations": 1}


def tagged() -> datasets.Dataset:
    """One sentence with class numbers."""
    names = ["O", "B-PER", "B-LOC"]
    features = datasets.Features(
        {
            "words": datasets.List(datasets.Value("string")),
            "tags": datasets.List(datasets.ClassLabel(names=names)),
        }
    )
    return datasets.Dataset.from_dict({"words": [WORDS], "tags": [[1, 0, 1, 0, 2]]}, features)


def test_parquet_has_the_names_of_its_classes(tmp_path: Path) -> None:
    tagged().to_parquet(tmp_path / "data.parquet")
    records, report = read_records(tmp_path / "data.parquet")
    assert (found(records), report.format) == (ANNA, "parquet")


def test_names_of_classes_within_mentions(tmp_path: Path) -> None:
    label = datasets.ClassLabel(names=["LOC", "PER"])
    mention = {"start": datasets.Value("int64"), "end": datasets.Value("int64"), "label": label}
    listed = [{"start": 0, "end": 2, "label": 1}]
    columns_of = {"start": [0], "end": [2], "label": [1]}
    for feature, own in (
        (datasets.List(mention), listed),
        ([mention], listed),
        (datasets.Sequence(mention), columns_of),
    ):
        features = datasets.Features({"text": datasets.Value("string"), "entities": feature})
        row = {"text": TEXT, "entities": own}
        data = datasets.Dataset.from_list([row], features=features)
        data.to_parquet(tmp_path / "data.parquet")
        assert found(read_records(tmp_path / "data.parquet")[0]) == [(TEXT, [("陈明", "PER")])]


def test_an_empty_cell_of_mentions_is_not_none_of_them(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    rows = [{"text": TEXT, "entities": [span(0, 2)]}, {"text": "好", "entities": None}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    with pytest.raises(DataError, match=r"row 1: expected a list in 'entities'.* found null"):
        read_records(path)
    rows[1]["entities"] = []
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert found(read_records(path)[0]) == [(TEXT, [("陈明", "PER")]), ("好", [])]


def test_a_clone_of_a_data_set_repository_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clone" / "data").mkdir(parents=True)
    tagged().to_parquet(tmp_path / "clone" / "data" / "train-00000-of-00001.parquet")
    assert found(read_records(f"{tmp_path}/clone@train")[0]) == ANNA


def test_data_sets_of_texts_and_mentions_are_read(tmp_path: Path) -> None:
    rows = {"text": [TEXT], "entities": [[span(0, 2), span(3, 5, "LOC")]]}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "set")
    assert found(read_records(tmp_path / "set")[0]) == CHEN
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_records(tmp_path / "bad.parquet")


# --------------------------------------------------------------------------------------- conversion
IN_TEXT = ("jsonl", "doccano", "labelstudio", "brat", "cluener")
ON_TOKENS = ("conll", "dygie", "datasets")


def again(records: list[Record], to: str, folder: Path, **layout: Any) -> list[Record]:
    """Records written in a format and read again."""
    for number in range(1_000):
        place = folder / f"{to}{number}"
        if not place.exists():
            break
    convert_records(records, place, to)
    return read_records(place, Layout(**layout))[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("formats")


@pytest.mark.parametrize("to", IN_TEXT)
@PROPERTY
@given(
    st.lists(
        annotated("北京大学。Ab1 {}[]\"'\\|#\u3000\u00a0\u2028\n\r\t\ufeff😀𠮷"),
        min_size=1,
        max_size=3,
    )
)
def test_formats_of_texts_give_them_back(folder: Path, to: str, records: list[Record]) -> None:
    assert [(r.text, set(r.entities)) for r in again(records, to, folder)] == [
        (r.text, set(r.entities)) for r in records
    ]


@pytest.mark.parametrize("to", ON_TOKENS)
@PROPERTY
@given(st.data())
def test_formats_of_tokens_give_words_back(folder: Path, to: str, data: st.DataObject) -> None:
    words = st.lists(annotated_words(flat=to == "datasets"), min_size=1, max_size=3)
    records = data.draw(words)
    assert [(r.text, set(r.entities)) for r in again(records, to, folder, joiner="space")] == [
        (r.text, set(r.entities)) for r in records
    ]


def test_identifiers_and_documents_are_kept_where_the_format_has_them(tmp_path: Path) -> None:
    records = [Record("a-1", "北京", [Mention(0, 2, "LOC")], "d"), Record("a-2", "人", [], "d")]
    for to in ("jsonl", "doccano", "labelstudio"):
        assert [(r.id, r.doc) for r in again(records, to, tmp_path)] == [("a-1", "d"), ("a-2", "d")]


def test_what_a_format_cannot_hold_is_counted(tmp_path: Path) -> None:
    nested = Record(
        "a/b", "北京大学", [Mention(0, 4, "ORG", 0.5), Mention(0, 2, "LOC"), Mention(1, 2, "X")],
        "d", [(0, 2), (2, 4)],
    )  # fmt: skip
    lost = {to: convert_records([nested], tmp_path / to, to) for to in TARGETS if to != "spacy"}
    assert lost["jsonl"] == lost["labelstudio"] == {}
    assert lost["conll"] == {
        "scores": 1, "mentions off token boundaries": 1, "documents": 1, "identifiers": 1
    }  # fmt: skip
    assert lost["datasets"]["nested mentions"] == 1
    assert lost["brat"] == {"scores": 1, "identifiers": 1, "documents": 1}


def test_predictions_become_label_studios_predictions_with_scores(tmp_path: Path) -> None:
    convert_records(
        [Record("1", "北京", [Mention(0, 2, "LOC", 0.75)])], tmp_path / "t", "labelstudio"
    )
    (task,) = json.loads((tmp_path / "t").read_text())
    (prediction,) = task["predictions"]
    assert prediction["result"][0]["score"] == 0.75
    assert prediction["result"][0]["value"] == {
        "start": 0, "end": 2, "text": "北京", "labels": ["LOC"]
    }  # fmt: skip


def test_convert_and_inspect_say_what_was_read(
    tmp_path: Path,
    file: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = file(COLUMNS["index from 0"][0])
    assert main(["convert", str(path), str(tmp_path / "out.jsonl"), "--to", "doccano"]) == 0
    said = capsys.readouterr()
    assert "1 texts, 3 mentions from columns" in said.out
    assert "numbers the tokens" in said.err
    assert found(read_records(tmp_path / "out.jsonl")[0]) == ANNA
    assert main(["inspect", "--tag_columns", "2", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "[Anna PER] met [Bo PER] in [Rome LOC]" in shown
    assert "PER                  Anna (1), Bo (1)" in shown
    assert "between tokens       a space" in shown


def test_lists_of_columns_take_commas_and_spaces(
    file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(file(columns("Anna|x|B-PER|B-X / left|x|O|O")))
    for numbers in (["2,3"], ["2", "3"], ["2 3"]):
        assert main(["inspect", "--tag_columns", *numbers, path]) == 0
        assert "PER 1, X 1" in capsys.readouterr().out


# ------------------------------------------------------------------------- what was read wrongly
@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (  # BioBERT's files: one type, which no tag names
            "bio.tsv",
            "colon\tB\ncancer\tI\nis\tO\n\nflu\tB\nor\tO\ncold\tB\n",
            [[("colon cancer", "ENT")], [("flu", "ENT"), ("cold", "ENT")]],
        ),
        ("bmes.txt", "张 B\n三 E\n京 S\n去 O\n", [[("张三", "ENT"), ("京", "ENT")]]),
        (  # an empty list of gold mentions is one, whatever else the row lists
            "argilla.jsonl",
            '{"text":"John is in","prediction":[["LOC",0,4,0.4]],"annotation":[["PER",0,4]]}\n'
            '{"text":"May is a month","prediction":[["PER",0,3,0.4]],"annotation":[]}\n',
            [[("John", "PER")], []],
        ),
        (
            "webanno.tsv",
            "#id=1\n1-1\tJohn\tB-PER\n1-2\tlives\tO\n1-3\tin\tO\n1-4\tRome\tB-LOC\n",
            [[("John", "PER"), ("Rome", "LOC")]],
        ),
        (
            "mixed.jsonl",
            '{"text":"张三去了","label":{"PER":{"张三":[[0,1]]}}}\n'
            '{"text":"李四去了","entities":[{"start":0,"end":2,"label":"PER"}]}\n',
            [[("张三", "PER")], [("李四", "PER")]],
        ),
        (  # not DyGIE's rows
            "sentences.jsonl",
            '{"text":"John","sentences":[],"entities":[[0,4,"PER"]]}\n'
            '{"text":"Rome is","sentences":[["Rome","is"]],"entities":[[0,4,"LOC"]]}\n',
            [[("John", "PER")], [("Rome", "LOC")]],
        ),
    ],
)
def test_rows_that_resemble_another_layout_are_read_as_they_are(tmp_path, name, content, expected):
    (tmp_path / name).write_text(content, "utf-8")
    records, _ = read_records(tmp_path / name)
    found = [[(r.text[m.start : m.end], m.label) for m in r.entities] for r in records]
    assert found == expected
