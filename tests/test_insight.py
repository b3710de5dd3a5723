"""explain, audit and select: vectors, probabilities, folds, rankings, reports, commands."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import arguments, corpus

from benchmarks.insight import joined, measured_ranking, planted, tags_of
from contrastive_ner.cli import main
from contrastive_ner.data.records import Mention, Record
from contrastive_ner.data.writers import write_records
from contrastive_ner.errors import ConfigError
from contrastive_ner.insight.audit import Audit, disagreements
from contrastive_ner.insight.folds import divide
from contrastive_ner.insight.neighbours import explain, space_of
from contrastive_ner.insight.report import audit_page, explain_page, marked
from contrastive_ner.insight.selection import select, spread
from contrastive_ner.insight.views import views
from contrastive_ner.models.crf_ner import tag_table
from contrastive_ner.serving.inference import load_pipeline, tag_records

TEXTS = ["张三昨天去了华为。", "李小四在北京大学读书，王五在上海工作。", "赵六见到了钱七。"]


@pytest.fixture(params=["nerco", "binder"])
def pipeline(request: pytest.FixtureRequest) -> Any:
    """The pipeline of an untrained tagger or BINDER model that finds mentions in any text."""
    if request.param == "nerco":
        return load_pipeline(request.getfixturevalue("saved_tagger"))
    return load_pipeline(request.getfixturevalue("saved_binder")[0])


def unannotated(texts: list[str]) -> list[Record]:
    return [Record(f"t{number}", text) for number, text in enumerate(texts)]


# -------------------------------------------------------------------------------------------- views
def test_probabilities_are_the_scores_of_the_pipeline(pipeline):
    records = unannotated(TEXTS)
    found = tag_records(pipeline, records).mentions
    assert sum(map(len, found)) > 4
    for view, mentions in zip(views(pipeline, records, batch_size=2), found, strict=True):
        for m in mentions:
            place = view.place(m.start, m.end)
            assert view.space.probability(place, m.label) == pytest.approx(m.score, abs=1e-4)
            assert view.space.probability(place, "no such type") == 0.0
            assert 0 <= view.space.nothing(place) <= 1 - m.score + 1e-6


def test_a_taggers_vector_is_the_mean_of_its_encoded_tokens(saved_tagger):
    pipeline = load_pipeline(saved_tagger)
    (view,) = views(pipeline, unannotated(TEXTS[:1]))
    ids = torch.tensor([pipeline.tokenizer(TEXTS[0])["input_ids"]])
    with torch.inference_mode():
        states = pipeline.model.nerco(ids).last_hidden_state[0, 1:-1]
    states = torch.nn.functional.normalize(states, dim=-1)
    mean = torch.nn.functional.normalize(states[6:8].mean(0), dim=-1)
    assert torch.allclose(view.space.vectors([view.place(6, 8)])[0], mean, atol=1e-5)


def test_states_of_long_texts_are_those_of_the_nearer_window(saved_tagger):
    pipeline = load_pipeline(saved_tagger)
    text = "张三昨天去了华为。" * 40  # several windows
    (view,) = views(pipeline, unannotated([text]))
    assert len(view.space.states) == len(text)
    assert torch.allclose(view.space.states.norm(dim=-1), torch.ones(len(text)), atol=1e-4)
    record = Record("long", text)
    for m in tag_records(pipeline, [record]).mentions[0][:5]:
        assert view.space.probability(view.place(m.start, m.end), m.label) > 0


def test_margins_of_a_tagger_are_those_of_its_posteriors(saved_tagger):
    pipeline = load_pipeline(saved_tagger)
    (view,) = views(pipeline, unannotated(TEXTS[:1]))
    tags = view.space.tags
    assert np.allclose(tags.sum(1), 1)
    best = np.sort(tags, axis=1)[:, ::-1]
    doubt, vector = view.space.doubts(view.whole)
    assert doubt == pytest.approx((1 - best[:, 0] + best[:, 1]).sum(), rel=1e-5)
    assert vector.norm() == pytest.approx(1, abs=1e-5)
    assert tag_table(pipeline.model.config.labels).types == view.space.table.types


def test_a_lone_surrogate_is_no_obstacle(pipeline):
    rows = explain(pipeline, unannotated(["李明远\ud800教授"]), corpus(3))
    page = explain_page(rows, "model").encode("utf-8").decode("utf-8")
    assert "\ufffd" in page


def test_crossing_boundaries_are_shown_in_two_lines():
    row = {
        "record": "r", "kind": "both", "suspicion": 0.9, "text": "abcdefgh", "neighbours": [],
        "annotated": {"start": 0, "end": 5, "label": "X"},
        "model": {"start": 3, "end": 8, "label": "X"},
    }  # fmt: skip
    page = audit_page(Audit([row]), [row], "train.jsonl")
    assert '<mark class="bad">abcde<small>' in page
    assert '<mark class="good">defgh<small>' in page


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--train", "train.jsonl", "--output", "train.jsonl"], "train.jsonl is an input"),
        (["--train", "train.jsonl", "--report", "texts.txt"], "texts.txt is an input"),
        (["--train", "train.jsonl", "--output", "x", "--report", "x"], "are one file, x"),
        (
            ["--train", "train.jsonl", "--output", "there.jsonl"],
            "there.jsonl exists, and was",
        ),
        (["--train", "train.jsonl", "--report", "there.jsonl"], "is not a report"),
        (["--train", "train.jsonl", "--report", "-"], "--report is -"),
        (["--train", "train.jsonl", "--report", "gone/x.html"], "in a folder that is there"),
    ],
)
def test_outputs_never_replace_what_is_there(tmp_path, capsys, monkeypatch, options, said):
    """They are checked before the model, which is none here, is loaded."""
    monkeypatch.chdir(tmp_path)
    write_records(corpus(2), tmp_path / "train.jsonl")
    (tmp_path / "texts.txt").write_text("张三\n", "utf-8")
    (tmp_path / "there.jsonl").write_text("{}\n", "utf-8")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert main(["explain", "no-model", "texts.txt", *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_training_texts_are_read_as_their_configuration_says(saved_tagger, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = {"text": "张三去了", "entities": [{"start": 0, "end": 1, "label": "PER"}]}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    (tmp_path / "mine.yaml").write_text("train_file: train.jsonl\noffsets: inclusive\n", "utf-8")
    (tmp_path / "texts.txt").write_text(TEXTS[0], "utf-8")
    for _ in range(2):  # a report may be replaced
        command = ["explain", str(saved_tagger), "texts.txt", "--train", "mine.yaml"]
        assert main([*command, "--output", "rows.jsonl"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text("utf-8").splitlines()]
    words = {n["word"] for row in rows for m in row["entities"] for n in m["neighbours"]}
    assert words == {"张三"}


def test_the_texts_of_a_document_are_read_together(saved_binder):
    pipeline = load_pipeline(saved_binder[0])
    alone = unannotated(TEXTS)
    joined = [Record(r.id, r.text, doc="d") for r in alone]
    for view, record in zip(views(pipeline, joined), joined, strict=True):
        assert view.record is record
        first, last = view.whole
        assert last - first == len(record.text)
    found = tag_records(pipeline, joined).mentions
    for view, mentions in zip(views(pipeline, joined), found, strict=True):
        # A mention at the edge may have lost the line end that its span had.
        for m in (m for m in mentions if m.start > 0 and m.end < len(view.record.text)):
            chance = view.space.probability(view.place(m.start, m.end), m.label)
            assert chance == pytest.approx(m.score, abs=1e-4)


# ------------------------------------------------------------------------------------------ explain
def test_neighbours_are_the_nearest_training_mentions(pipeline):
    train, texts = corpus(8), unannotated([*TEXTS, "", corpus(1)[0].text])
    rows = explain(pipeline, texts, train, neighbours=3)
    space = space_of(views(pipeline, train))
    assert len(space.mentions) == 16
    everywhere = {
        (r.id, m.start, m.end): v for (r, m), v in zip(space.mentions, space.vectors, strict=True)
    }
    entities = 0
    for view, row in zip(views(pipeline, texts), rows, strict=True):
        for entity in row["entities"]:
            entities += 1
            query = view.space.vectors([view.place(entity["start"], entity["end"])])[0]
            others = [
                float(v @ query)
                for (record, *_), v in everywhere.items()
                if train[int(record[1:])].text != row["text"]
            ]
            near = [n["similarity"] for n in entity["neighbours"]]
            assert near == pytest.approx(sorted(others, reverse=True)[:3], abs=1e-5)
            same = sum(n["label"] == entity["label"] for n in entity["neighbours"])
            assert entity["agreeing"] == same
    assert entities > 4


# -------------------------------------------------------------------------------------------- audit
def test_folds_share_no_text_and_every_model_sees_every_type():
    records = corpus(30)
    records += [Record("again", records[0].text), Record("doc1", "甲", doc="d")]
    records += [Record("doc2", "乙", doc="d"), Record("rare", "丙丁", [Mention(0, 1, "LOC")])]
    records += [Record(f"few{i}", f"戊{i}", [Mention(0, 1, "GPE")]) for i in range(3)]
    folds = divide(records, 4)
    assert folds == divide(records, 4)
    assert folds[0] == folds[30]
    assert folds[31] == folds[32]
    assert folds[33] is None  # the only text with a LOC
    sizes = [folds.count(fold) for fold in range(4)]
    assert max(sizes) - min(sizes) <= 2
    for fold in range(4):
        rest = [r for r, own in zip(records, folds, strict=True) if own != fold]
        assert {m.label for r in rest for m in r.entities} == {"PER", "ORG", "LOC", "GPE"}
    for wrong in (0, 1, 1000):
        with pytest.raises(ConfigError, match="folds is"):
            divide(records, wrong)


def test_disagreements_name_what_the_data_and_the_model_say(saved_tagger):
    pipeline = load_pipeline(saved_tagger)
    record = Record("r", TEXTS[1])
    (own,) = tag_records(pipeline, [record]).mentions
    assert disagreements(pipeline, [Record("r", TEXTS[1], own)]) == []
    wrong = own[0]._replace(label="ORG" if own[0].label == "PER" else "PER")
    planted = [wrong, *own[2:]]  # one of another type, one missing
    rows = disagreements(pipeline, [Record("r", TEXTS[1], planted)])
    assert [(row["kind"], row["start"], row["end"]) for row in rows] == [
        ("type", *own[0][:2]),
        ("missing", *own[1][:2]),
    ]
    assert rows[0]["annotated"]["label"] == wrong.label
    assert rows[0]["model"]["label"] == own[0].label
    assert rows[1]["annotated"] is None
    assert rows[1]["model"] == {
        "start": own[1].start,
        "end": own[1].end,
        "label": own[1].label,
        "word": record.text[own[1].start : own[1].end],
        "score": own[1].score,
    }
    for row in rows:  # there is no other text
        assert row["suspicion"] == pytest.approx((1 - row["probability"] + row["instead"]) / 2)
        assert row["instead"] == pytest.approx(row["model"]["score"])


def test_adjacent_tokens_of_a_ranking_are_joined_where_the_first_is():
    ranked = [(0, 3), (1, 0), (0, 5), (0, 4), (1, 2), (2, 7)]
    found = [{(0, 3), (0, 4), (0, 5)}, {(1, 0)}, {(1, 2)}, {(2, 7)}]
    assert joined(ranked) == found


def test_neighbours_raise_or_lower_the_suspicion(saved_tagger):
    pipeline = load_pipeline(saved_tagger)
    records = corpus(20)
    rows = disagreements(pipeline, records, neighbours=4)
    assert {"spurious", "missing"} <= {row["kind"] for row in rows}
    for view in views(pipeline, records):
        for row in (row for row in rows if row["record"] == view.record.id):
            label = (row["annotated"] or row["model"])["label"]
            same = sum(n["label"] == label for n in row["neighbours"]) / 4
            assert row["agreeing"] == (same if row["annotated"] else 1 - same)
            against = 1 - row["probability"], row["instead"], 1 - row["agreeing"]
            assert row["suspicion"] == pytest.approx(sum(against) / 3)
            place = view.place(row["start"], row["end"])
            tags = view.space.tags[slice(*place)]
            if row["model"] is None:
                o = pipeline.model.config.labels.index("O")
                assert row["instead"] == pytest.approx(float(tags[:, o].min()))
            else:
                assert row["instead"] == row["model"]["score"]
            if row["annotated"]:
                names = [f"B-{label}", *[f"I-{label}"] * (len(tags) - 1)]
                ids = [pipeline.model.config.labels.index(name) for name in names]
                least = min(float(tag[number]) for tag, number in zip(tags, ids, strict=True))
                inside = pipeline.model.config.labels.index(f"I-{label}")
                behind = view.space.tags[place[1] : place[1] + 1, inside]
                least = min(least, 1 - float(behind.sum()))
                assert row["probability"] == pytest.approx(least)


@pytest.mark.parametrize("cut", ["left", "right"])
def test_annotations_that_are_cut_short_are_suspicious(saved_tagger, cut):
    """The tags of what is left of a mention are as the model has them: its end is not."""
    pipeline = load_pipeline(saved_tagger)
    record = Record("r", TEXTS[1])
    (own,) = tag_records(pipeline, [record]).mentions
    number, long = next((i, m) for i, m in enumerate(own) if m.end - m.start > 1)
    short = (
        long._replace(start=long.start + 1) if cut == "left" else long._replace(end=long.end - 1)
    )
    planted = [*own[:number], short, *own[number + 1 :]]
    rows = disagreements(pipeline, [Record("r", TEXTS[1], planted)])
    (row,) = (row for row in rows if row["annotated"] and row["start"] == short.start)
    (view,) = views(pipeline, [record])
    labels = pipeline.model.config.labels
    begin, inside = labels.index(f"B-{long.label}"), labels.index(f"I-{long.label}")
    first, last = view.place(long.start, long.end)
    tags = view.space.tags
    limit = tags[first + 1, begin] if cut == "left" else 1 - tags[last - 1, inside]
    assert row["probability"] <= limit + 1e-6
    assert limit < 0.5


def test_texts_of_one_document_or_with_equal_texts_share_a_fold():
    records = [Record(str(i), f"t{i // 2}", [Mention(0, 1, "A")], doc=f"d{i}") for i in range(20)]
    records += [Record("x", "t0"), Record("y", "other", doc="d1"), Record("z", "t9", doc="d0")]
    folds = divide(records, 5)
    fold_of: dict[tuple[str, Any], set] = {}
    for record, fold in zip(records, folds, strict=True):
        for key in (("text", record.text), ("doc", record.doc)):
            if key[1] is not None:
                fold_of.setdefault(key, set()).add(fold)
    assert all(len(found) == 1 for found in fold_of.values())
    assert folds[0] == folds[19] == folds[20] == folds[21] == folds[22]  # t0, d1, t9 by others
    with pytest.raises(ConfigError, match="expected at least 2 documents or texts that differ"):
        divide([Record("a", "t"), Record("b", "t")], 2)


def test_audit_leaves_a_folder_of_others_alone(files, tiny_encoder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone").mkdir()
    (tmp_path / "someone" / "dev.jsonl").write_text("precious", "utf-8")
    command = ["audit", *arguments(files, tiny_encoder, tmp_path / "run", method="crf")[1:]]
    assert main([*command, "--folds", "2", "--folder", "someone"]) == 2
    error = capsys.readouterr().err
    assert "someone holds other data than those of this audit (dev.jsonl)" in error
    assert (tmp_path / "someone" / "dev.jsonl").read_text("utf-8") == "precious"
    assert [path.name for path in (tmp_path / "someone").iterdir()] == ["dev.jsonl"]
    assert not list(tmp_path.glob(".audit-*"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["crf", "binder"])
def test_planted_errors_come_first(files, tiny_encoder, tmp_path, capsys, method):
    records = corpus(120)
    planted = set()
    for number in range(0, 120, 15):
        person, company = records[number].entities
        kind = number // 15 % 3
        if kind == 0:
            records[number].entities = [person._replace(label="ORG"), company]
        elif kind == 1:
            records[number].entities = [company]
        else:
            records[number].entities = [person._replace(end=person.end + 1), company]
        planted.add(records[number].id)
    write_records(records, tmp_path / "train.jsonl")
    types = tmp_path / "types.yaml"
    types.write_text(
        "types:\n  PER: {description: 人物的名字。}\n  ORG: {description: 公司的名字。}\n"
    )
    extra = (
        {"types_file": types, "stage1_epochs": 0, "head_epochs": 0} if method == "binder" else {}
    )
    options = arguments(
        files, tiny_encoder, tmp_path / "run", method=method, stage2_epochs=6, **extra
    )
    options[options.index(next(o for o in options if o.startswith("train_file")))] = (
        f"train_file={tmp_path / 'train.jsonl'}"
    )
    out = tmp_path / "out.jsonl"
    command = ["audit", *options[1:], "--folds", "3", "--output", str(out)]
    assert main([*command, "--report", str(tmp_path / "a.html")]) == 0
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    first = [row["record"] for row in rows[: len(planted)]]
    assert len(planted & set(first)) >= 0.8 * len(planted)
    assert all(a["suspicion"] >= b["suspicion"] for a, b in pairwise(rows))
    page = (tmp_path / "a.html").read_text("utf-8")
    assert "Labels to check" in page
    assert main([*command, "--report", str(tmp_path / "b.html")]) == 0  # nothing is trained again
    assert (tmp_path / "b.html").read_text("utf-8") == page


# ------------------------------------------------------------------------------------------- select
def test_texts_are_chosen_by_doubt_and_difference(pipeline):
    records = unannotated([*TEXTS, TEXTS[0], " ", *(record.text for record in corpus(6))])
    rows = select(pipeline, records, 5, annotated=[TEXTS[2]])
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
    texts = [row["text"] for row in rows]
    assert len(set(texts)) == 5
    assert TEXTS[2] not in texts
    assert rows[0]["doubt"] == max(row["doubt"] for row in rows)
    assert rows[0]["distance"] == 1
    assert select(pipeline, records, 5, annotated=[record.text for record in records]) == []


def test_choices_of_binder_are_read_in_their_documents(saved_binder):
    pipeline = load_pipeline(saved_binder[0])
    records = [Record(f"t{i}", text, doc=f"d{i // 3}") for i, text in enumerate([*TEXTS, "王五。"])]
    records += [Record("u", record.text, doc="e") for record in corpus(2)]
    records[0].fields = {"url": "x"}
    predicted = dict(
        zip((r.text for r in records), tag_records(pipeline, records).mentions, strict=True)
    )
    rows = select(pipeline, records, 4, annotated=[TEXTS[1]])
    doubts = {
        view.record.text: view.space.doubts(view.whole)[0] for view in views(pipeline, records)
    }
    for row in rows:
        wanted = [(m.start, m.end, m.label) for m in predicted[row["text"]]]
        assert [(m["start"], m["end"], m["label"]) for m in row["entities"]] == wanted
        assert row["doubt"] == pytest.approx(doubts[row["text"]], rel=1e-4)
    (first,) = (row for row in select(pipeline, records, 6) if row["id"] == "t0")
    assert first["url"] == "x"


def test_doubts_of_long_texts_are_summed_in_parts(pipeline, monkeypatch):
    (view,) = views(pipeline, unannotated(["".join(TEXTS) * 5]))
    total, direction = view.space.doubts(view.whole)
    monkeypatch.setattr("contrastive_ner.insight.views.STARTS_AT_ONCE", 7)
    again, other = view.space.doubts(view.whole)
    assert again == pytest.approx(total, rel=1e-5)
    torch.testing.assert_close(other, direction, atol=1e-5, rtol=1e-4)


def test_other_types_are_those_of_the_space(saved_binder):
    pipeline = load_pipeline(saved_binder[0])
    records = unannotated(TEXTS)
    types = {"人": "人的名字"}
    found = tag_records(pipeline, records, types=types).mentions
    for view, mentions in zip(views(pipeline, records, types=types), found, strict=True):
        for m in mentions:
            chance = view.space.probability(view.place(m.start, m.end), "人")
            assert chance == pytest.approx(m.score, abs=1e-4)
    rows = select(pipeline, records, 3, types=types)
    assert [row["doubt"] for row in rows] != [row["doubt"] for row in select(pipeline, records, 3)]


def test_choices_follow_a_loop_over_all_texts():
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(40, 8), dim=-1)
    doubts = torch.rand(40)
    chosen: list[int] = []
    for _ in range(10):
        gains = [
            -1.0
            if i in chosen
            else float(doubts[i])
            * min([1.0, *(1 - float(vectors[i] @ vectors[j]) for j in chosen)])
            for i in range(40)
        ]
        chosen.append(int(np.argmax(gains)))
    assert [number for number, _ in spread(doubts, vectors, 10)] == chosen
    assert len(spread(doubts, vectors[:1].expand(40, -1), 100)) == 40


# --------------------------------------------------------------------------------- reports, command
SCRIPT = "<script>alert('张三')</script>去了华为&。"


def test_spans_nest_and_cross_in_marked_text():
    spans = [(0, 4, "ORG", ""), (0, 2, "<i>", "bad"), (3, 6, "PER", "")]
    html = marked("ab<d&f", spans)
    assert re.sub("<small>.*?</small>|</?mark[^>]*>", "", html) == "ab&lt;d&amp;f"
    assert html.count("<mark") == html.count("</mark>") == 3
    assert "&lt;i&gt;" in html


def test_reports_show_texts_as_texts(pipeline):
    train = [Record("<b>", SCRIPT, [Mention(15, 17, "<u>")]), *corpus(3)]
    rows = explain(pipeline, unannotated([SCRIPT]), train)
    page = explain_page(rows, "<model>")
    assert rows[0]["entities"]
    for tag in ("<script", "<b>x", "<u>", "<model"):
        assert tag not in page
    assert "&lt;script&gt;" in re.sub("<small>.*?</small>|</?mark[^>]*>", "", page)


@pytest.mark.parametrize("name", ["explain", "select"])
def test_commands_write_a_report_and_rows(saved_tagger, tmp_path: Path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_records(corpus(8), tmp_path / "train.jsonl")
    (tmp_path / "texts.txt").write_text("\n".join([*TEXTS, SCRIPT]), "utf-8")
    options = {"explain": ["--train", "train.jsonl"], "select": ["--number", "2"]}[name]
    assert main([name, str(saved_tagger), "texts.txt", *options, "--output", "-"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == {"explain": 4, "select": 2}[name]
    page = (tmp_path / f"{name}.html").read_text("utf-8")
    assert page.startswith("<!doctype html>")
    assert "<script" not in page
    assert not re.search(r"https?:|src=|href=|url\(|@import", page)
    for row in rows:
        for entity in row["entities"]:
            assert 0 <= entity["start"] < entity["end"] <= len(row["text"])


def test_commands_refuse_what_they_cannot_use(saved_tagger, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), "utf-8")
    write_records([Record("r", TEXTS[0])], tmp_path / "none.jsonl")
    model = str(saved_tagger)
    write_records(unannotated(TEXTS), tmp_path / "done.jsonl")
    for command, said in (
        (["explain", model, "texts.txt", "--train", "none.jsonl"], "have no mention"),
        (["explain", model, "texts.txt", "--train", "gone.jsonl"], "no such file"),
        (["select", model, "texts.txt", "--annotated", "done.jsonl"], "found none"),
        (["select", model, "texts.txt", "--number", "0"], "expected at least 1"),
    ):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert list(tmp_path.glob("*.html")) == []


# ---------------------------------------------------------------------------------------- benchmark
def test_planted_errors_are_where_tags_changed():
    records = corpus(100)
    copies, changed = planted(records, 0.2, 0)
    assert (copies, changed) == planted(records, 0.2, 0)
    touched = 0
    for number, (before, after) in enumerate(zip(records, copies, strict=True)):
        spans = [(i, i + 1) for i in range(len(after.text))]
        old, new = tags_of(before, spans), tags_of(after, spans)
        different = {i for i in range(len(old)) if old[i] != new[i]}
        assert changed.get(str(number), set()) == different
        touched += bool(different)
    assert 20 <= touched <= 40


def test_a_ranking_counts_hits_and_different_errors():
    changed = {"a": {2, 3, 7}, "b": {1}}
    found = [("a", {2}), ("a", {3}), ("c", set()), ("a", {7}), ("b", {1})] + [("c", set())] * 45
    assert measured_ranking(found, changed) == {"ranked": 50, "at_50": 0.08, "errors_in_200": 3}
