"""The spaCy component, in spaCy."""

import importlib
import json
import shutil
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import spacy
from conftest import run_python
from spacy.tokens import Doc, Span
from spacy.training import Example

from contrastive_ner.errors import ConfigError, DataError, RepositoryError
from contrastive_ner.models.windows_ner import InputError
from contrastive_ner.serving.inference import load_pipeline

TEXTS = [
    "张三昨天去了华为。",
    "",
    "李小四在北京大学读书，王五在上海工作。",
    " ",
    "赵六见到了钱七。",
]


def blank(model: Any, **config: Any) -> Any:
    """A Chinese pipeline, which divides a text into characters, with the component."""
    nlp = spacy.blank("zh")
    nlp.add_pipe("contrastive_ner", config={"model": str(model), **config})
    return nlp


def found(spans: Any) -> list[tuple]:
    return [(s.start_char, s.end_char, s.label_, round(s._.score, 5)) for s in spans]


def expected(folder: Path, texts: list[str], **options: Any) -> list[list[tuple]]:
    return [
        [(m["start"], m["end"], m["entity_group"], round(m["score"], 5)) for m in mentions]
        for mentions in load_pipeline(folder)(texts, **options)
    ]


# ---------------------------------------------------------------------------------------- mentions
def test_the_package_registers_the_component():
    (entry,) = entry_points(group="spacy_factories", name="contrastive_ner")
    assert entry.load().__name__ == "make_component"


@pytest.mark.slow
def test_an_installed_package_needs_no_import(saved_tagger, tmp_path):
    code = (
        "import sys, spacy; nlp = spacy.blank('zh');"
        "nlp.add_pipe('contrastive_ner', config={'model': sys.argv[1]});"
        "print(len(nlp('张三昨天去了华为。').ents))"
    )
    count = run_python(code, tmp_path, tmp_path / "cache", str(saved_tagger))
    assert int(count) == len(expected(saved_tagger, TEXTS[:1])[0]) > 0


def test_flat_mentions_are_entities_in_the_order_of_the_texts(saved_tagger):
    nlp = blank(saved_tagger)
    gold = expected(saved_tagger, TEXTS)
    assert sum(map(len, gold)) > 4
    for size in (1, 2, 1000):
        assert [found(doc.ents) for doc in nlp.pipe(TEXTS, batch_size=size)] == gold
    assert [found(nlp(text).ents) for text in TEXTS] == gold
    pairs = nlp.pipe(zip(TEXTS, range(5), strict=True), as_tuples=True)
    assert [number for _, number in pairs] == list(range(5))
    copy = Doc(nlp.vocab).from_bytes(nlp(TEXTS[0]).to_bytes())
    assert found(copy.ents) == gold[0]
    assert list(nlp(TEXTS[0]).spans) == []


def test_two_processes_find_the_same(saved_tagger):
    nlp = blank(saved_tagger)  # not loaded yet: each process loads the model
    gold = expected(saved_tagger, TEXTS)
    docs = nlp.pipe(TEXTS, n_process=2, batch_size=2)
    assert [found(doc.ents) for doc in docs] == gold


def test_nested_mentions_are_a_group_of_spans(saved_binder):
    folder, _ = saved_binder
    text = TEXTS[2]
    doc = blank(folder)(text)
    gold = expected(folder, [text])[0]
    own = [(s.start_char, s.end_char, s.label_) for s in doc.spans["sc"]]
    scores = [round(score, 5) for score in doc.spans["sc"].attrs["scores"]]
    assert sorted((*span, score) for span, score in zip(own, scores, strict=True)) == sorted(gold)
    best = {
        at: max(s for *other, s in gold if tuple(other[:2]) == at) for at in {g[:2] for g in gold}
    }
    assert all(
        s._.score == pytest.approx(best[s.start_char, s.end_char], abs=1e-4)
        for s in doc.spans["sc"]
    )
    assert len(own) > len(doc.ents) == 0

    flat = blank(folder, decoding="flat", min_score={"PER": 0.6})(text)
    options = {"decoding": "flat", "min_score": {"PER": 0.6}}
    assert found(flat.ents) == expected(folder, [text], **options)[0]
    assert list(flat.spans) == []

    types = {"动物": "动物：动物的名字。", "a.b [c]": "地点：城市的名字。"}
    nlp = blank(folder, types=types, spans_key="mine", min_score=0.01)
    doc = nlp(text)
    assert {s.label_ for s in doc.spans["mine"]} <= set(types)
    assert len(doc.spans["mine"]) > 1


@pytest.mark.parametrize(
    ("alignment", "spans"),
    [
        ("expand", [("New York-based", "LOC"), ("Anna Lee", "PER")]),
        ("contract", [("Anna Lee", "PER")]),
        ("strict", [("Anna Lee", "PER")]),
    ],
)
def test_mentions_are_aligned_to_tokens(saved_tagger, alignment, spans):
    words = ["New York-based", "Anna", "Lee", "works"]
    component = blank(saved_tagger, alignment=alignment).get_pipe("contrastive_ner")
    doc = with_mentions(
        component, words, (0, 8, "LOC", 0.9), (0, 3, "PER", 0.2), (15, 23, "PER", 0.5)
    )
    assert [(ent.text, ent.label_) for ent in doc.ents] == spans
    assert [ent._.score for ent in doc.ents] == [0.9, 0.5][-len(spans) :]


def with_mentions(component: Any, words: list[str], *mentions: tuple, ents: tuple = ()) -> Any:
    """A document with entities (start, end, label) and what the component writes of mentions."""
    doc = Doc(spacy.blank("en").vocab, words=words)
    doc.ents = [Span(doc, *at) for at in ents]
    names = ("start", "end", "entity_group", "score")
    rows = [dict(zip(names, mention, strict=True)) for mention in mentions]
    config = SimpleNamespace(decoding="flat")
    component._pipeline = lambda texts, **_: [rows for _ in texts]
    component._pipeline.model = SimpleNamespace(config=config)
    return component(doc)


def test_contract_takes_the_tokens_inside(saved_tagger):
    component = blank(saved_tagger, alignment="contract").get_pipe("contrastive_ner")
    doc = with_mentions(component, ["Anna", "Lee", "works"], (0, 6, "PER", 0.5))
    assert [ent.text for ent in doc.ents] == ["Anna"]


@pytest.mark.parametrize(
    ("overwrite", "texts"), [(False, ["Anna", "works in", "Rome"]), (True, ["Anna Lee", "Rome"])]
)
def test_entities_that_are_there_stay_or_give_way(saved_tagger, overwrite, texts):
    component = blank(saved_tagger, overwrite_ents=overwrite).get_pipe("contrastive_ner")
    words = ["Anna", "Lee", "works", "in", "Rome"]
    before = ((0, 1, "GIVEN"), (2, 4, "OTHER"))
    mentions = ((0, 8, "PER", 0.8), (18, 22, "LOC", 0.4))
    if overwrite:
        before = before[:1]
    doc = with_mentions(component, words, *mentions, ents=before)
    assert [ent.text for ent in doc.ents] == texts
    assert doc.ents[-1]._.score == 0.4
    assert (doc.ents[0].label_, doc.ents[0]._.score) == (
        ("PER", 0.8) if overwrite else ("GIVEN", None)
    )


def test_spacy_scores_entities(saved_tagger):
    text = TEXTS[2]
    nlp = blank(saved_tagger)
    ents = [(m[0], m[1], m[2]) for m in expected(saved_tagger, [text])[0]]
    assert nlp.evaluate([Example.from_dict(nlp.make_doc(text), {"entities": ents})])["ents_f"] == 1


def test_spacy_scores_groups_of_spans(saved_binder):
    text = TEXTS[2]
    nlp = blank(saved_binder[0])
    spans = {"spans": {"sc": [m[:3] for m in expected(saved_binder[0], [text])[0]][1:]}}
    scores = nlp.evaluate([Example.from_dict(nlp.make_doc(text), spans)])
    assert scores["spans_sc_r"] == 1 > scores["spans_sc_p"] > 0


# ------------------------------------------------------------------------------------------- saving
def test_a_saved_pipeline_holds_the_model_and_can_be_moved(saved_tagger, tmp_path):
    gold = expected(saved_tagger, TEXTS)
    nlp = blank(saved_tagger, alignment="strict")
    data = nlp.to_bytes()
    nlp.to_disk(tmp_path / "saved")
    shutil.rmtree(saved_tagger)
    (tmp_path / "saved").rename(tmp_path / "moved")
    again = spacy.load(tmp_path / "moved")
    assert [found(doc.ents) for doc in again.pipe(TEXTS)] == gold
    again.to_disk(tmp_path / "moved")  # over itself
    assert found(spacy.load(tmp_path / "moved")(TEXTS[0]).ents) == gold[0]
    from_bytes = blank(saved_tagger, alignment="strict").from_bytes(data)
    assert found(from_bytes(TEXTS[0]).ents) == gold[0]


def test_a_saved_binder_keeps_types_and_options(saved_binder, tmp_path):
    types = {"动物": '动物：“动物”的名字，"$5"。', "a.b [c]": "地点：城市的名字。"}
    nlp = blank(saved_binder[0], types=types, min_score=0.01, spans_key="mine")
    nlp.to_disk(tmp_path / "saved")
    again = spacy.load(tmp_path / "saved")
    own = [
        [(s.text, s.label_) for s in doc.spans["mine"]] for doc in (nlp(TEXTS[2]), again(TEXTS[2]))
    ]
    assert own[0] == own[1] != []


# -------------------------------------------------------------------------------------------- trust
def add_code(folder: Path, marker: Path) -> None:
    """Have a model's code leave a file when it runs."""
    with (folder / "modeling_nerco.py").open("a", encoding="utf-8") as file:
        file.write(f"\nopen({str(marker)!r}, 'w').close()\n")


def test_code_of_a_model_runs_only_if_the_configuration_says_so(
    saved_tagger, tmp_path, modules_cache
):
    marker = tmp_path / "ran"
    add_code(saved_tagger, marker)
    with pytest.raises(RepositoryError, match="not this project's"):
        blank(saved_tagger)(TEXTS[0])
    assert not marker.exists()
    nlp = blank(saved_tagger, trust_remote_code=True)
    assert nlp(TEXTS[0]).ents
    assert marker.exists()
    with pytest.raises(ConfigError, match="runs code of its own"):
        nlp.to_disk(tmp_path / "saved")


def test_a_saved_pipeline_cannot_trust_itself(saved_tagger, tmp_path):
    marker, saved = tmp_path / "ran", tmp_path / "saved"
    blank(saved_tagger).to_disk(saved)
    add_code(saved_tagger, marker)  # the model that config.cfg names
    add_code(saved / "contrastive_ner", marker)
    text = (saved / "config.cfg").read_text("utf-8")
    assert "trust_remote_code = false" in text
    (saved / "config.cfg").write_text(
        text.replace("trust_remote_code = false", "trust_remote_code = true"), "utf-8"
    )
    with pytest.raises(RepositoryError, match="not this project's"):
        spacy.load(saved)
    shutil.rmtree(saved / "contrastive_ner")
    with pytest.raises(ConfigError, match="no such folder"):
        spacy.load(saved)
    assert not marker.exists()


# ------------------------------------------------------------------------------------------- faults
def test_spacy_that_is_missing_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    monkeypatch.delitem(sys.modules, "contrastive_ner.serving.spacy_component", raising=False)
    with pytest.raises(DataError) as refused:
        importlib.import_module("contrastive_ner.serving.spacy_component")
    assert str(refused.value) == "spaCy is not installed: pip install 'contrastive-ner[spacy]'"


def test_scores_that_could_not_be_stored_are_refused(saved_tagger):
    before = spacy.tokens.Span.get_extension("score")
    spacy.tokens.Span.set_extension("score", getter=lambda _: 1.0, force=True)
    try:
        with pytest.raises(ConfigError, match=r"Span\._\.score is an extension with a getter"):
            blank(saved_tagger)
    finally:
        spacy.tokens.Span.set_extension("score", default=before[0], force=True)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"alignment": "wide"}, "alignment is 'wide': expected one of expand, contract, strict"),
        ({"decoding": "deep"}, "decoding is 'deep'"),
        ({"min_score": 7.0}, "min_score is 7.0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"types": {"GPE:city": "地点"}}, "cannot hold 'GPE:city'"),
        ({"types": {"GPE": "${x}"}}, "cannot hold 'GPE'"),
    ],
)
def test_options_are_checked_when_the_component_is_added(saved_tagger, config, said):
    with pytest.raises(InputError, match=said):
        blank(saved_tagger, **config)


def test_what_is_no_model_is_one_line(saved_tagger, tmp_path):
    with pytest.raises(ConfigError, match="model is not set"):
        spacy.blank("zh").add_pipe("contrastive_ner")
    with pytest.raises(ConfigError, match="no such folder"):
        blank(tmp_path / "missing")(TEXTS[0])
    with pytest.raises(InputError, match="BINDER"):
        blank(saved_tagger, types={"A": "a"})(TEXTS[0])
    config = json.loads((saved_tagger / "config.json").read_text("utf-8"))
    (saved_tagger / "config.json").write_text(json.dumps({**config, "model_type": "bert"}), "utf-8")
    with pytest.raises(ConfigError, match="is not a model folder"):
        blank(saved_tagger)(TEXTS[0])
