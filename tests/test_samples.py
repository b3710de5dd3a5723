"""The sample corpus fulfils its README, and its splits are made from its source."""

import importlib.util
import shutil
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT

from contrastive_ner.data.readers import read_records
from contrastive_ner.data.records import Mention, Record

SPLITS = ("train", "dev", "test")
SAMPLES = ROOT / "samples"


def load_convert() -> ModuleType:
    spec = importlib.util.spec_from_file_location("samples_convert", SAMPLES / "convert.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


convert = load_convert()


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Record]]:
    return {name: read_records(SAMPLES / "zh" / f"{name}.jsonl")[0] for name in SPLITS}


@pytest.fixture
def corpus_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the corpus source, where `convert.main` runs."""
    shutil.copytree(SAMPLES / "zh" / "source", tmp_path / "zh" / "source")
    shutil.copy(SAMPLES / "README.md", tmp_path)
    monkeypatch.setattr(convert, "HERE", tmp_path)
    monkeypatch.setattr("sys.argv", ["convert.py"])
    return tmp_path / "zh"


def everything(splits: dict[str, list[Record]]) -> list[Record]:
    return [record for records in splits.values() for record in records]


def test_splits_are_what_convert_makes_from_the_source(corpus_copy: Path) -> None:
    convert.main()
    for name in SPLITS:
        assert (corpus_copy / f"{name}.jsonl").read_bytes() == (
            SAMPLES / "zh" / f"{name}.jsonl"
        ).read_bytes()


def test_check_writes_nothing(corpus_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["convert.py", "--check"])
    convert.main()
    assert [path.name for path in corpus_copy.iterdir()] == ["source"]


def test_source_is_in_the_splits_once(splits: dict[str, list[Record]]) -> None:
    source = [
        record
        for path in (SAMPLES / "zh" / "source").glob("*.txt")
        for record in convert.read_source(path)
    ]
    assert sorted(everything(splits), key=lambda record: record.id) == sorted(
        source, key=lambda record: record.id
    )
    assert len({record.id for record in source}) == len(source)


def test_corpus_is_large_enough_to_learn_from(splits: dict[str, list[Record]]) -> None:
    records = everything(splits)
    nested = {
        (record.id, inner)
        for record in records
        for inner in record.entities
        for outer in record.entities
        if outer != inner and outer.start <= inner.start and inner.end <= outer.end
    }
    assert len(records) >= 700
    assert len(nested) >= 150


@pytest.mark.parametrize("name", SPLITS)
def test_every_split_has_the_six_types_and_no_other(
    splits: dict[str, list[Record]], name: str
) -> None:
    types = {mention.label for record in splits[name] for mention in record.entities}
    assert types == {"PER", "ORG", "LOC", "GPE", "TITLE", "PRODUCT"}


def test_every_split_has_a_fair_share_of_every_register(splits: dict[str, list[Record]]) -> None:
    registers = Counter(record.id.rpartition("-")[0] for record in everything(splits))
    for name, share in convert.SHARES.items():
        own = Counter(record.id.rpartition("-")[0] for record in splits[name])
        assert {r: own[r] / n for r, n in registers.items()} == pytest.approx(
            dict.fromkeys(registers, share), abs=0.1
        )


def test_no_text_is_there_twice(splits: dict[str, list[Record]]) -> None:
    texts = Counter(record.text.strip() for record in everything(splits))
    assert [text for text, count in texts.items() if count > 1] == []


def test_no_document_straddles_splits(splits: dict[str, list[Record]]) -> None:
    documents = [
        (name, doc)
        for name, records in splits.items()
        for doc in {record.doc for record in records}
    ]
    assert None not in {doc for _, doc in documents}
    assert [doc for doc, count in Counter(doc for _, doc in documents).items() if count > 1] == []


def test_mentions_have_no_blank_or_markup_at_their_edges(splits: dict[str, list[Record]]) -> None:
    surfaces = {r.text[m.start : m.end] for r in everything(splits) for m in r.entities}
    assert [s for s in surfaces if s != s.strip() or s[0] in "[|《" or s[-1] in "]|》，。"] == []


def test_mentions_nest_but_do_not_cross(splits: dict[str, list[Record]]) -> None:
    crossing = [
        (record.id, a, b)
        for record in everything(splits)
        for a in record.entities
        for b in record.entities
        if a.start < b.start < a.end < b.end
    ]
    assert crossing == []


# ------------------------------------------------------------------------------------------- markup
@pytest.mark.parametrize(
    ("line", "text", "mentions"),
    [
        ("人", "人", []),
        ("去[北京|GPE]", "去北京", [Mention(1, 3, "GPE")]),
        ("[[北京|GPE]大学|ORG]", "北京大学", [Mention(0, 2, "GPE"), Mention(0, 4, "ORG")]),
        ("[[北京|GPE]|ORG]", "北京", [Mention(0, 2, "GPE"), Mention(0, 2, "ORG")]),
        ("[中|GPE][美|GPE]", "中美", [Mention(0, 1, "GPE"), Mention(1, 2, "GPE")]),
        (r"\[a\|b\]\\[王\|二|PER]", r"[a|b]\王|二", [Mention(6, 9, "PER")]),
    ],
)
def test_markup_is_read(line: str, text: str, mentions: list[Mention]) -> None:
    assert convert.parse_markup(line) == (text, mentions)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("去[北京]", "column 5: ] without a type"),
        ("去[北京|CITY]", "column 5: expected .*TYPE.* PER, ORG, LOC, GPE, TITLE, PRODUCT"),
        ("去[北京|]", "column 5: expected"),
        ("去[北京|GPE", "column 5: expected"),
        ("去北京|GPE]", "column 4: expected .* closes"),
        ("去[北京", "not closed"),
        ("[[北京|GPE]大学", "not closed"),
        ("去[|GPE]", "column 3: empty mention"),
        ("[[北京|GPE]|GPE]", "twice"),
    ],
)
def test_wrong_markup_is_refused(line: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        convert.parse_markup(line)


def test_wrong_markup_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "news.txt"
    path.write_text("# doc: a\n去[北京|GPE]\n\n去[北京]\n", "utf-8")
    with pytest.raises(SystemExit, match=rf"{path}:4: column 5"):
        convert.read_source(path)


def test_repeated_sentence_is_refused_and_nothing_written(corpus_copy: Path) -> None:
    """The same text occurs with and without a mention."""
    first = convert.read_source(corpus_copy / "source" / "news.txt")[0].text
    with (corpus_copy / "source" / "social.txt").open("a", encoding="utf-8") as file:
        file.write(f"\n{first}\n")
    with pytest.raises(SystemExit, match="repeats"):
        convert.main()
    assert [path.name for path in corpus_copy.iterdir()] == ["source"]


def test_readme_states_the_counts_of_the_corpus():
    assert convert.counts_table(convert.make_splits()) in (SAMPLES / "README.md").read_text("utf-8")
