"""CoNLL-2012, CoNLL-U with entities in MISC, WebAnno TSV 3 and BioC: read rightly, or refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_formats import ANNA, CHEN, columns, found

from contrastive_ner.data.input_formats import input_format
from contrastive_ner.data.layout import FORMATS, Layout
from contrastive_ner.data.readers import READERS, detect_format, read_records
from contrastive_ner.data.records import Record
from contrastive_ner.data.streams import BadRow, read_rows
from contrastive_ner.errors import DataError

File = Callable[..., Path]


def texts(path: Path) -> list[str]:
    """The texts that `predict` would tag."""
    rows = list(read_rows(str(path), Layout()).rows)
    assert all(isinstance(row, Record) for row in rows)
    return [row.text for row in rows if isinstance(row, Record)]


def test_every_format_has_a_reader() -> None:
    assert {*FORMATS} == READERS.keys()


# -- CoNLL-2012
def ontonotes(*rows: str, begin: str = "#begin document (bc/cctv/00/cctv_0000); part 000") -> str:
    """A document of CoNLL-2012; a row is "WORD ENTITY", perhaps with predicates, or empty."""
    lines, number = [begin], 0
    for row in rows:
        word, entity, *predicates = row.split() or ["", ""]
        lines.append(
            f"bc/cctv/00/cctv_0000   0   {number}   {word}   NN   (TOP*   -   -   -   Speaker#1   "
            f"{entity}   {'   '.join([*predicates, '-'])}"
            if word
            else ""
        )
        number = number + 1 if word else 0
    return "\n".join([*lines, "", "#end document"]) + "\n"


ANNA_ROWS = ("Anna (PERSON)", "met *", "Bo (PERSON)", "in *", "Rome (GPE)")


def test_conll_2012_has_as_many_columns_as_predicates(file: File) -> None:
    rows = ["The (ORG*", "Bank *", "of *", "Rome *)", "", "Bo (PERSON) (ARG0*)", "left * (V*)"]
    text = ontonotes(*rows) + ontonotes("Rome (GPE)", begin="#begin document (a/b); part 012")
    records, report = read_records(file(text, "a.v4_gold_conll"))
    assert found(records) == [
        ("The Bank of Rome", [("The Bank of Rome", "ORG")]),
        ("Bo left", [("Bo", "PERSON")]),
        ("Rome", [("Rome", "GPE")]),
    ]
    assert [record.doc for record in records] == ["bc/cctv/00/cctv_0000_0"] * 2 + ["a/b_12"]
    assert [record.id for record in records] == [f"a-{n}" for n in range(3)]
    assert (report.format, report.remarks()) == ("conll2012", [])


def test_conll_2012_may_be_nested(file: File) -> None:
    rows = ["Bank (A(B*", "of *", "new (C*)", "Rome (D)*))"]
    with pytest.raises(DataError, match=r"data.txt:5: expected \*, .* found '\(D\)\*\)\)'"):
        read_records(file(ontonotes(*rows)))
    ((_, mentions),) = found(read_records(file(ontonotes(*rows[:3], "Rome *))")))[0])
    assert mentions == [("Bank of new Rome", "A"), ("Bank of new Rome", "B"), ("new", "C")]
    ((_, mentions),) = found(read_records(file(ontonotes("Rome (D(E))", "x *")))[0])
    assert mentions == [("Rome", "D"), ("Rome", "E")]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (("Bank (ORG*", "left *"), r":2: .*closed in its sentence.*\(ORG .* write \*\)"),
        (("Bank (ORG*", "", "left *)"), r":2: .*closed in its sentence"),
        (("Bank *", "left *)"), r":3: .*began before it is closed.*add \(TYPE\*"),
        (("Bank (GPE)", "left -"), r":3: expected \*.* found '-'.*write \*"),
        (("Bank -", "left -"), r":2: .*not annotated"),
        (("Bank (GPE)", "left O"), r":3: expected \*.* found 'O'"),
        (("Bank (O)",), r":2: label 'O' is a tag"),
    ],
)
def test_brackets_that_do_not_fit_are_refused(file: File, rows: tuple[str, ...], says: str) -> None:
    path = file(ontonotes(*rows))
    with pytest.raises(DataError, match=says) as error:
        read_records(path)
    assert str(error.value).startswith(f"{path}:")
    assert " ".join(texts(path)) == " ".join(row.split()[0] for row in rows if row)


def test_short_rows_of_conll_2012_are_refused(file: File) -> None:
    path = file(ontonotes(*ANNA_ROWS).replace("\n\n", "\nbc/cctv 0 5 . NN\n\n"))
    with pytest.raises(DataError, match=r"data.txt:7: expected a row of CoNLL-2012.*5 columns"):
        read_records(path)


def test_columns_that_begin_a_document_alike_stay_columns(file: File) -> None:
    begin = "#begin document (a); part 000\n"
    path = file(begin + columns("Anna|B-PER / left|O"))
    assert (detect_format(str(path)), found(read_records(path)[0])) == (
        "columns",
        [("Anna left", [("Anna", "PER")])],
    )
    replaced = "\t".join(["d", "0", "0", "Anna", "NN", "*", *"----", "B-PER", "-"])
    assert detect_format(str(file(begin + replaced + "\n"))) == "columns"


# -- CoNLL-U
def conllu(*rows: str, key: str = "NER") -> str:
    """CoNLL-U; a row is "NUMBER WORD TAG", "NUMBER WORD", a comment, or empty."""
    lines = []
    for row in rows:
        number, word, *tags = row.split(" ") if row and row[0] != "#" else ("", "")
        misc = "|".join(["Gloss=x", *(f"{key}={tag}" for tag in tags), "SpaceAfter=No"])
        lines.append("\t".join([number, word, word, "X", "_", "_", "0", "dep", "_", misc]))
        if not number:
            lines[-1] = row
    return "\n".join(lines) + "\n\n"


UD = (
    "# sent_id = 1",
    "# text = x",
    "1 Anna B-PER",
    "2 met",
    "3 Bo B-PER",
    "4 in O",
    "5 Rome B-LOC",
)


@pytest.mark.parametrize("key", ["NER", "ner", "Ner", "NE", "Entity", "name"])
def test_conll_u_may_have_entities_in_its_last_column(file: File, key: str) -> None:
    path = file(conllu(*UD, key=key), "en.conllu")
    records, report = read_records(path)
    assert found(records) == ANNA
    assert (report.format, report.scheme) == ("columns", "BIO")
    assert report.left_out == {"comment lines": 2}
    assert any(f"{key}=" in note for note in report.notes)
    assert (input_format(str(path)), texts(path)) == ("columns", ["Anna met Bo in Rome"])


def test_only_words_of_conll_u_are_tokens_and_documents_are_kept(file: File) -> None:
    rows = (
        "# newdoc id = a b", "1-2 zum", "1 zu", "2 dem", "2.1 neuen", "3 Rom S-LOC", "",
        "1 Bo S-PER", "", "# newdoc", "1 Jan B-PER", "2 Dijk E-PER",
    )  # fmt: skip
    records, report = read_records(file(conllu(*rows), "de.conllu"))
    assert found(records) == [
        ("zu dem Rom", [("Rom", "LOC")]),
        ("Bo", [("Bo", "PER")]),
        ("Jan Dijk", [("Jan Dijk", "PER")]),
    ]
    assert [record.doc for record in records] == ["a b", "a b", "de-doc-2"]
    assert report.left_out == {"rows without a token of their own": 2}


def test_types_alone_are_tags_of_conll_u(file: File) -> None:
    rows = ("1 陈 PER", "2 明 PER", "3 到", "4 苏 LOC", "5 州 LOC", "6 。")
    records, report = read_records(file(conllu(*rows)))
    assert (found(records), report.scheme) == (CHEN, "IO")


def test_conll_u_without_entities_is_refused_as_columns_are(file: File) -> None:
    for key in ("NER", "Entity"):
        path = file(conllu("1 Anna", "2 left", "3 Q5" if key == "NER" else "3 Rome Q5", key=key))
        with pytest.raises(DataError, match="no column holds tags"):
            read_records(path)
        assert input_format(str(path)) == "columns"


def test_tags_in_another_column_come_before_those_of_misc(file: File) -> None:
    text = conllu("1 Anna B-X", "2 left").replace("\tX\t_", "\tX\tO").replace("\tO", "\tB-PER", 1)
    ((_, mentions),) = found(read_records(file(text))[0])
    assert mentions == [("Anna", "PER")]
    text = conllu("1 Anna B-X", "2 left")
    with pytest.raises(DataError, match="tag 'X' is not"):
        read_records(file(text), Layout(tag_columns=(3,), token_column=1))


def test_brackets_in_conll_u_are_refused(file: File) -> None:
    rows = ("1 Anna (person-1)", "2 left", "3 old (place-2", "4 Rome 2)")
    for key in ("Entity", "NER"):
        path = file(conllu(*rows, key=key))
        with pytest.raises(DataError, match=r"data.txt:1: .*'\(person-1\)'.*are not read"):
            read_records(path)
        assert input_format(str(path)) == "columns"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("2\tmet\tmet", "2\tmet", r"data.txt:4: expected 10 columns of CoNLL-U.*found 9"),
        ("2\tmet", "2\t", r"data.txt:4: expected 10 columns of CoNLL-U.*a word"),
        ("NER=B-LOC", "NER=B_LOC", r"data.txt:7: tag 'B_LOC' is not spelled like"),
    ],
)
def test_faults_of_conll_u_name_their_line(file: File, old: str, new: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read_records(file(conllu(*UD).replace(old, new)))


# -- WebAnno TSV 3
NER = "de.tudarmstadt.ukp.dkpro.core.api.ner.type.NamedEntity"
POS = "de.tudarmstadt.ukp.dkpro.core.api.lexmorph.type.pos.POS"


def webanno(*rows: str, layers: tuple[str, ...] = (f"SP={NER}|identifier|value",)) -> str:
    """WebAnno TSV 3; a row is "PLACE|TOKEN|CELL|...", with / for the | of a cell."""
    lines = ["#FORMAT=WebAnno TSV 3.3", *(f"#T_{layer}" for layer in layers), ""]
    sentence = ""
    for row in rows:
        place, token, *cells = (cell.replace("/", "|") for cell in row.split(" "))
        if place.split("-")[0] != sentence:
            sentence = place.split("-")[0]
            lines += ["", "#Text=..."]
        lines.append("\t".join([place, "0-1", token, *cells, ""]))
    return "\n".join(lines) + "\n"


def test_webanno_is_read(file: File) -> None:
    rows = (
        "1-1 Anna * PER", "1-2 met _ _", "1-3 Bo * PER", "1-4 in _ _", "1-5 Rome http://x LOC",
        "2-1 Old *[1] LOC[1]", "2-2 Rome *[1]/*[2] LOC[1]/GPE[2]", "2-3 East _/_ ORG[3]",
        "2-4 End * ORG[3]", "2-5 New *[4] ORG[4]", "2-6 One *[4]/* ORG[4]/LOC",
    )  # fmt: skip
    path = file(webanno(*rows), "admin.tsv")
    records, report = read_records(path)
    assert found(records) == [
        *ANNA,
        (
            "Old Rome East End New One",
            [
                ("Old Rome", "LOC"), ("Rome", "GPE"), ("East End", "ORG"), ("New One", "ORG"),
                ("One", "LOC"),
            ],
        ),
    ]  # fmt: skip
    assert [record.id for record in records] == ["admin-0", "admin-1"]
    assert (report.format, report.remarks()) == ("webanno", [])
    assert input_format(str(path)) == "webanno"
    assert texts(path) == ["Anna met Bo in Rome", "Old Rome East End New One"]


def test_columns_of_webanno_are_in_the_order_of_its_layers(file: File) -> None:
    layers = (
        f"SP={POS}|coarseValue|PosValue", "SP=webanno.custom.Quote|",
        "CH=webanno.custom.CoreferenceLink|referenceRelation|referenceType",
        f"RL=webanno.custom.Dependency|DependencyType|BT_{POS}", f"SP={NER}|value",
    )  # fmt: skip
    text = webanno("1-1 Rome NOUN NN * *->1-1 nam root 1-1 LOC", layers=layers)
    assert found(read_records(file(text))[0]) == [("Rome", [("Rome", "LOC")])]


def test_escaped_characters_of_webanno_are_read(file: File) -> None:
    text = webanno(r"1-1 a\\b * \*A\[x\]\_\|\->", r"1-2 c\_d * \_[3]", r"1-3 e * \_[3]")
    assert found(read_records(file(text))[0]) == [
        (r"a\b c_d e", [(r"a\b", "*A[x]_|->"), ("c_d e", "_")])
    ]


def test_what_webanno_has_and_a_record_cannot_hold_is_counted(file: File) -> None:
    rows = (
        "1-1 Romes _ _", "1-1.1 Rome * LOC", "1-2 aa * *", "1-3 b *[1] *[1]", "1-4 c *[1] *[1]",
        "1-5 dd _ _", "1-5.1 d *[2] PER[2]", "1-6 e *[2] PER[2]", "1-7 f *[3] PER[3]",
        "2-1 gg *[3] PER[3]", "2-2 h *[4] PER[4]", "2-3 i _ _", "2-4 j *[4] PER[4]", "2-5 kk * PER",
    )  # fmt: skip
    records, report = read_records(file(webanno(*rows)))
    assert found(records) == [("Romes aa b c dd e f", []), ("gg h i j kk", [("kk", "PER")])]
    assert report.left_out == {
        "rows of parts of tokens": 2, "annotations without a type": 2,
        "mentions of parts of tokens": 1, "mentions across sentences": 1,
        "discontinuous mentions": 1,
    }  # fmt: skip


def test_the_only_layer_of_webanno_is_taken_and_said(file: File) -> None:
    text = webanno("1-1 Rome CITY x", layers=("SP=webanno.custom.Place|kind|more",))
    records, report = read_records(file(text))
    assert found(records) == [("Rome", [("Rome", "CITY")])]
    assert any("webanno.custom.Place, feature 'kind'" in note for note in report.notes)
    layout = Layout(fields=("label=more",))
    assert found(read_records(file(text), layout)[0]) == [("Rome", [("Rome", "x")])]
    with pytest.raises(DataError, match=r"the feature 'no'.*found kind, more; set fields=label"):
        read_records(file(text), Layout(fields=("label=no",)))


def test_one_of_several_layers_of_webanno_is_chosen_by_its_name(file: File) -> None:
    text = webanno(
        "1-1 Rome NN CITY", layers=(f"SP={POS}|PosValue", "SP=webanno.custom.Place|kind")
    )
    path = file(text)
    with pytest.raises(DataError, match=r"found .*POS, webanno.custom.Place; set fields=entities"):
        read_records(path)
    for name in ("webanno.custom.Place", "Place"):
        layout = Layout(fields=(f"entities={name}",))
        assert found(read_records(path, layout)[0]) == [("Rome", [("Rome", "CITY")])]
    with pytest.raises(DataError, match="one layer"):
        read_records(file(webanno("1-1 Rome", layers=())))
    for unread in (text, webanno("1-1 Rome", layers=())):
        assert texts(file(unread, "x.tsv")) == ["Rome"]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("1-2 b *", r"data.txt:7: .*2 columns of layers.*found 5"),
        ("b c * PER", r"data.txt:7: expected a place such as 1-1"),
        ("1-2 b * PER[x]", r"data.txt:7: .*found 'PER\[x\]'.*write"),
        ("1-2 b *[1] LOC[1]", r"data.txt:7: expected PER for the annotation \[1\].*line 6"),
        ("1-2 b * O", r"data.txt:7: label 'O' is a tag"),
    ],
)
def test_faults_of_webanno_name_their_line(file: File, row: str, says: str) -> None:
    text = webanno("1-1 a *[1] PER[1]", row).replace("\n\n#Text=...\nb", "\nb")
    if len(row.split(" ")) == 3:
        text = text.removesuffix("\t\n") + "\n"
        says = says.replace("found 5", "found 4")
    with pytest.raises(DataError, match=says):
        read_records(file(text))


def test_a_table_of_tabs_stays_a_table(file: File) -> None:
    assert input_format(str(file("text\nRome\n", "x.tsv"))) == "csv"
    assert input_format("missing.tsv") == "csv"


# -- BioC
def note(start: int, length: int, kind: str, text: str | None = None, **more: Any) -> dict:
    """An annotation of BioC."""
    place = {"offset": start, "length": length}
    own = {"id": "T", "infons": {"type": kind}, "locations": [place], **more}
    return own if text is None else {**own, "text": text}


def bioc(*documents: dict, **more: Any) -> dict:
    """A collection of BioC."""
    return {"source": "x", "date": "", "key": "k", "infons": {}, "documents": documents, **more}


def document(*passages: dict, **more: Any) -> dict:
    return {"id": "1", "infons": {}, "passages": passages, "relations": [], **more}


TITLE = {"offset": 0, "text": "Old fever", "annotations": [note(4, 5, "Disease", "fever")]}
TEXT = {
    "offset": 10,
    "infons": {"section": "x"},
    "text": "Aspirin lowers fever.",
    "sentences": [],
    "annotations": [note(10, 7, "Chemical", "Aspirin"), note(25, 5, "Disease")],
    "relations": [{"id": "R1"}],
}
FEVER = [
    ("Old fever", [("fever", "Disease")]),
    ("Aspirin lowers fever.", [("Aspirin", "Chemical"), ("fever", "Disease")]),
]
BIOC: dict[str, tuple[Any, list]] = {
    "collection": (bioc(document(TITLE, TEXT)), FEVER),
    "one document": (document(TITLE, TEXT), FEVER),
    "list of documents": ([document(TITLE), document(TEXT)], FEVER),
    "infons of the collection": (bioc(document(TITLE, TEXT), infons={"a": "b"}), FEVER),
    "PubTator's export": ({"PubTator3": [document(TITLE, TEXT, pmid=1, accessions=["a"])]}, FEVER),
    "one location of several": (
        document({**TITLE, "annotations": [note(0, 3, "X", locations=[{"offset": 0}] * 2)]}),
        [("Old fever", [])],
    ),
    "a label": (
        document({**TITLE, "annotations": [note(0, 3, "", infons={"label": "Age"})]}),
        [("Old fever", [("Old", "Age")])],
    ),
    "sentences": (
        document({"offset": 5, "infons": {}, "annotations": [note(16, 2, "Y")], "sentences": [
            {"offset": 5, "text": "Old fever.", "annotations": [note(5, 3, "X", "Old")]},
            {"offset": 16, "text": "It left.", "annotations": []},
        ]}),
        [("Old fever.", [("Old", "X")]), ("It left.", [("It", "Y")])],
    ),
    "sentences of a passage with a text": (
        document({**TITLE, "annotations": [], "sentences": [TITLE]}),
        FEVER[:1],
    ),
    "annotations of the document": (
        document({**TITLE, "annotations": []}, TEXT, annotations=[note(4, 5, "Disease")]),
        FEVER,
    ),
    "a document without passages": (bioc(document(TITLE, TEXT), document()), FEVER),
}  # fmt: skip


@pytest.mark.parametrize("indent", [None, 1], ids=["one-line", "pretty"])
@pytest.mark.parametrize(("value", "expected"), BIOC.values(), ids=BIOC)
def test_bioc_is_read(file: File, value: Any, expected: list, indent: int | None) -> None:
    path = file(json.dumps(value, indent=indent), "data.json")
    records, report = read_records(path)
    assert (found(records), report.format) == (expected, "bioc")
    assert {record.doc for record in records} == {"1"}
    assert (input_format(str(path)), texts(path)) == ("jsonl", [text for text, _ in expected])


def test_bioc_may_have_a_document_a_line(file: File) -> None:
    rows = [document(TITLE, TEXT), bioc(document(TITLE, id="2")), {"text": "Rome", "entities": []}]
    path = file("".join(json.dumps(row) + "\n" for row in rows), "data.jsonl")
    records, report = read_records(path)
    assert found(records) == [*FEVER, FEVER[0], ("Rome", [])]
    assert [(r.id, r.doc) for r in records[:3]] == [("1-0", "1"), ("1-1", "1"), ("2-0", "2")]
    assert report.left_out == {"relations": 1}
    assert texts(path) == [record.text for record in records]


def test_mentions_of_bioc_in_several_places_are_counted(file: File) -> None:
    places = [{"offset": 0, "length": 3}, {"offset": 4, "length": 2}]
    row = document({**TITLE, "annotations": [note(0, 3, "X", "Old fe", locations=places)]})
    assert read_records(file(json.dumps(row), "a.json"))[1].left_out == {
        "discontinuous mentions": 1
    }


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (note(10, 6, "X", "Aspirin"), r"annotation T: .*'Aspiri' in the text, but 'Aspirin'"),
        (note(0, 3, "X"), "lies outside the text"),
        (note(30, 3, "X"), "lies outside the text"),
        (note(10, 0, "X"), "empty or reversed"),
        (note(10, 3, "", infons={"kind": "X"}), r"type in infons .*'kind'.*fields=label=KEY"),
        (note(10, 3, "X", locations=[]), "expected 'locations'"),
        (note(10, 3, "X", locations=[{"offset": "10"}]), "expected whole numbers"),
        ("T1", "expected 'locations'"),
    ],
)
def test_annotations_of_bioc_that_are_wrong_are_refused(file: File, wrong: Any, says: str) -> None:
    row = bioc(document(TITLE), document({**TEXT, "annotations": [wrong]}, id="d2"))
    path = file(json.dumps(row), "a.json")
    with pytest.raises(DataError, match=says) as error:
        read_records(path)
    assert str(error.value).startswith(f"{path}: row 2: document d2, annotation ")
    assert texts(path) == ["Old fever", "Aspirin lowers fever."]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (document({**TITLE, "offset": "0"}), "whole number in 'offset'"),
        (document({**TITLE, "annotations": {}}), "expected a list in 'annotations'"),
        (document({**TITLE, "sentences": 3}), "expected a list in 'sentences'"),
        (document({**TITLE, "sentences": [3]}), "whole number in 'offset'"),
        (document({"offset": 0, "sentences": [], "annotations": [note(0, 1, "X")]}), "in no text"),
    ],
)
def test_passages_of_bioc_that_are_wrong_are_refused(file: File, row: Any, says: str) -> None:
    with pytest.raises(DataError, match=f"a.json:1: .*{says}"):
        read_records(file(json.dumps(row), "a.json"))


@pytest.mark.parametrize(
    ("content", "numbers"),
    [
        ('[{"text": "a", "entities": []}, {"text": "b", "entities": []}]', ["1", "2"]),
        ('[\n{"text": "a", "entities": []},\n{"text": "b", "entities": []}\n]', ["1", "2"]),
        ('{"data": [{"text": "a", "label": []}, {"text": "b", "label": []}]}', ["1", "2"]),
        ('{"text": "a", "entities": []}\n\n{"text": "b", "entities": []}\n', ["1", "3"]),
        ('{"text": "a",\n"entities": []}\n{"text": "b",\n"entities": []}\n', ["1", "3"]),
        ('{"text": "a", "entities": []} {"text": "b", "entities": []}', ["1", "2"]),
        ('{"text": "a", "label": []}\n[{"text": "b", "label": []}, ["c", {}]]', ["1", "2", "3"]),
        ('[["a", {}], ["b", {}]]\n{"text": "c", "entities": []}', ["1", "2", "3"]),
    ],
)
def test_rows_without_identifiers_get_different_ones(
    file: File, content: str, numbers: list[str]
) -> None:
    """Their line, or where a line has several rows, their number among all; also in `predict`."""
    name = str(file(content, "a.json"))
    assert [record.id for record in read_records(name)[0]] == numbers
    assert [row.id for row in read_rows(name, Layout()).rows if isinstance(row, Record)] == numbers


def test_an_error_in_an_array_names_the_row(file: File) -> None:
    """The line would be that in which the array begins."""
    rows = [{"text": "a", "entities": []}, {"text": "b", "entities": [[0, 5, "X"]]}]
    with pytest.raises(DataError, match=r"a\.json: row 2: "):
        read_records(file(json.dumps(rows, indent=1), "a.json"))
    name = str(file(json.dumps([rows[0], {"txt": "b"}]), "a.json"))
    assert [row.number for row in read_rows(name, Layout()).rows if isinstance(row, BadRow)] == [2]


def test_another_key_of_infons_may_hold_the_type_of_bioc(file: File) -> None:
    row = document({**TITLE, "annotations": [note(0, 3, "", infons={"kind": "Age"})]})
    path = file(json.dumps(row), "a.json")
    layout = Layout(fields=("label=kind",))
    assert found(read_records(path, layout)[0]) == [("Old fever", [("Old", "Age")])]


def test_rows_with_passages_of_another_kind_are_no_bioc(file: File) -> None:
    row = {"text": "Rome", "entities": [[0, 4, "LOC"]], "passages": [{"offset": 0, "text": "x"}]}
    assert found(read_records(file(json.dumps(row), "a.json"))[0]) == [("Rome", [("Rome", "LOC")])]
    rows = {"passages": [{"text": "Rome", "entities": [[0, 4, "LOC"]]}]}
    assert found(read_records(file(json.dumps(rows), "a.json"))[0]) == [("Rome", [("Rome", "LOC")])]


@pytest.mark.parametrize("misc", ["SpaceAfter=No", "_", "Entity=(person-1"])
def test_the_words_of_conllu_are_tagged_whatever_its_last_column_holds(
    tmp_path: Path, misc: str
) -> None:
    rows = [
        "# text = zum Rom",
        f"1-2\tzum\t{chr(9).join('_' * 7)}\t_",
        f"1\tzu\t{chr(9).join('_' * 7)}\t{misc}",
        f"2\tdem\t{chr(9).join('_' * 7)}\t_",
        f"3\tRom\t{chr(9).join('_' * 7)}\t_",
        "",
        f"1\tAnna\t{chr(9).join('_' * 7)}\t_",
        "",
    ]
    path = tmp_path / "a.conllu"
    path.write_text("\n".join(rows), "utf-8")
    assert input_format(str(path)) == "columns"
    read = [row.text for row in read_rows(str(path), Layout()).rows if isinstance(row, Record)]
    assert read == ["zu dem Rom", "Anna"]
    with pytest.raises(DataError):
        read_records(path)


def test_ten_cells_alone_are_not_conllu(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\t".join(map(str, range(1, 11))) + "\n", "utf-8")
    assert input_format(str(path)) == "text"
