"""Types from a few examples: old mentions to the last digit, where a fit holds, faults."""

import copy
import json
import logging
import warnings
from pathlib import Path

import pytest
import torch
from conftest import corpus
from transformers import PreTrainedTokenizerFast

from contrastive_ner.cli import main
from contrastive_ner.data.records import Mention, Record
from contrastive_ner.data.writers import write_records
from contrastive_ner.errors import ConfigError, DataError
from contrastive_ner.evaluation.metrics import span_scores
from contrastive_ner.models.modeling_binder import BinderConfig, BinderModel
from contrastive_ner.models.modeling_nerco import NercoForTokenClassification
from contrastive_ner.models.types_binder import TypeEmbeddings
from contrastive_ner.models.windows_ner import InputError, Span, best_labels, flat_spans
from contrastive_ner.serving.export import settings_of
from contrastive_ner.training import new_types
from contrastive_ner.training.new_types import (
    ExampleText,
    ExampleWindow,
    add_types,
    fit_vector,
    folds_of,
    read_examples,
)

Saved = tuple[Path, BinderModel]
ORDINAL = {"ORDINAL": "次序：表示第几的词，如第三次。"}
NOTHING = torch.zeros(0)
TEXTS = [record.text for record in corpus(12, 300)]


def examples(count: int, offset: int = 0) -> list[Record]:
    """Texts of the small corpus with a mention of a new type each, and those of ORG."""
    records = []
    for record in corpus(count, offset):
        begin, end = record.text.index("第"), record.text.index("次") + 1
        own = [m for m in record.entities if m.label == "ORG"]
        records.append(Record(record.id, record.text, [*own, Mention(begin, end, "ORDINAL")]))
    return records


def found(model: BinderModel, tokenizer: PreTrainedTokenizerFast, **options: object) -> list:
    return model.pipeline(tokenizer)(TEXTS, **options)


def split(rows: list, new: str = "ORDINAL") -> tuple[list, list]:
    """The mentions of all other types, and those of the new one."""
    old = [[m for m in row if m["entity_group"] != new] for row in rows]
    return old, [m for row in rows for m in row if m["entity_group"] == new]


# ---------------------------------------------------------------------------------- old mentions
@pytest.mark.parametrize(("decoding", "several"), [("nested", True), ("flat", False)])
def test_old_mentions_stay_to_the_last_digit(
    saved_binder: Saved,
    character_tok: PreTrainedTokenizerFast,
    tmp_path: Path,
    decoding: str,
    several: bool,
) -> None:
    _, model = saved_binder
    model.config.decoding, model.config.several_labels = decoding, several
    before, low = found(model, character_tok), found(model, character_tok, min_score=0.3)
    assert any(before)
    report = add_types(model, character_tok, ORDINAL, examples(3))["ORDINAL"]
    assert (report["texts"], report["mentions"], report["folds"]) == (3, 3, 3)
    again = {"PLACE": "地点：山、河、湖、海的名字。"}
    add_types(model, character_tok, again, [Record("1", "长江", [Mention(0, 2, "PLACE")])])
    model.save_pretrained(tmp_path / "more")
    for other in (model, BinderModel.from_pretrained(tmp_path / "more")):
        for options, expected in (({}, before), ({"min_score": 0.3}, low)):
            rows = found(other, character_tok, **options)
            rows = [[m for m in row if m["entity_group"] != "PLACE"] for row in rows]
            assert split(rows)[0] == expected
        assert other.config.later_types == ["ORDINAL", "PLACE"]


def test_a_type_is_learnt_that_its_description_does_not_find(
    saved_binder: Saved, character_tok: PreTrainedTokenizerFast
) -> None:
    model = saved_binder[1]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    report = add_types(model, character_tok, ORDINAL, examples(6))["ORDINAL"]
    assert report["left_out"]["gold"] == report["described"]["gold"] == 6
    assert report["left_out"]["f1"] > 0.7 > 0.1 > report["described"]["f1"]
    wanted = {(r.text, m.start, m.end) for r in examples(6) for m in r.entities[1:]}
    rows = model.pipeline(character_tok)([record.text for record in examples(6)])
    mentions = {
        (record.text, m["start"], m["end"])
        for record, row in zip(examples(6), rows, strict=True)
        for m in row
        if m["entity_group"] == "ORDINAL"
    }
    assert mentions == wanted
    for name, value in model.state_dict().items():
        if name != "type_vectors" and "description" not in name:
            assert torch.equal(value, state[name]), name


def test_later_types_give_way() -> None:
    spans = [Span(0, 2, "A", 0.6), Span(1, 3, "NEW", 0.9), Span(3, 4, "NEW", 0.5)]
    assert [s.label for s in flat_spans(spans)] == ["NEW", "NEW"]
    assert [s[:3] for s in flat_spans(spans, ["NEW"])] == [(0, 2, "A"), (3, 4, "NEW")]
    twice = [Span(0, 2, "A", 0.6), Span(0, 2, "NEW", 0.9), Span(0, 2, "NEWER", 0.95)]
    assert [s.label for s in best_labels(twice)] == ["NEWER"]
    assert [s.label for s in best_labels(twice, ["NEW", "NEWER"])] == ["A"]
    assert [s.label for s in best_labels(twice[1:], ["NEW", "NEWER"])] == ["NEW"]


# ------------------------------------------------------------------------------- where a fit holds
@pytest.fixture
def fitted(saved_binder: Saved, character_tok: PreTrainedTokenizerFast) -> BinderModel:
    model = saved_binder[1]
    model.add_labels(ORDINAL, character_tok)
    model.fit_label("ORDINAL", torch.linspace(-1, 1, 16))
    return model


def test_a_fit_survives_saving_copies_names_and_further_types(
    fitted: BinderModel, character_tok: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    vectors = fitted.types.vectors
    described = fitted.encode_types({"X": ORDINAL["ORDINAL"]}, character_tok).vectors[2, 0]
    assert not torch.allclose(vectors[2, 3], described)
    torch.testing.assert_close(copy.deepcopy(fitted).types.vectors, vectors)
    assert torch.equal(copy.deepcopy(fitted).types.vectors[2, 3], vectors[2, 3])
    fitted.save_pretrained(tmp_path / "saved")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        loaded = BinderModel.from_pretrained(tmp_path / "saved")
        assert torch.equal(loaded.types.vectors, vectors)
        loaded.rename_labels({"ORDINAL": "NUMBER", "PER": "PERSON"})
        loaded.add_labels({"T": "时间"}, character_tok)
        assert torch.equal(loaded.types.vectors[:, :4], vectors)
        assert loaded.config.later_types == ["NUMBER"]
        loaded.save_pretrained(tmp_path / "renamed")
        again = BinderModel.from_pretrained(tmp_path / "renamed")
        assert torch.equal(again.types.vectors[:, :4], vectors)
        fitted.export_frozen(tmp_path / "frozen")
        frozen = BinderModel.from_pretrained(tmp_path / "frozen")
        assert torch.equal(frozen.types.vectors, vectors)
        assert found(frozen, character_tok) == found(fitted, character_tok)
        half = BinderModel.from_pretrained(tmp_path / "saved", dtype=torch.bfloat16)
        assert half.fits_hold
        half.save_pretrained(tmp_path / "half")
        assert BinderModel.from_pretrained(tmp_path / "half").fits_hold
        half.export_frozen(tmp_path / "half-frozen")
        assert BinderModel.from_pretrained(tmp_path / "half-frozen").fits_hold
        assert half.fits_hold


def test_given_types_know_which_of_them_are_fitted(
    fitted: BinderModel, character_tok: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    vector = fitted.types.vectors[2, 3]
    given = fitted.encode_types({**ORDINAL, "T": "时间"}, character_tok)
    assert torch.equal(given.vectors[2, 0], vector)
    assert list(given.fitted) == ["ORDINAL"]
    bare = fitted.encode_types({"ORDINAL": "别的"}, character_tok)
    assert bare.fitted == {} == given.remove("ORDINAL").fitted
    assert list(bare.remove("ORDINAL").add(given).fitted) == ["ORDINAL"]
    given.save(tmp_path / "types.safetensors")
    loaded = TypeEmbeddings.load(tmp_path / "types.safetensors")
    assert loaded.fitted == given.fitted
    expected = found(fitted, character_tok, types=given)
    assert split(expected)[1]
    fitted.save_pretrained(tmp_path / "saved")
    again = BinderModel.from_pretrained(tmp_path / "saved")
    assert found(again, character_tok, types=loaded) == expected
    again.config.fits = {}  # a model with the same weights, and types of its own
    assert found(again, character_tok, types=loaded) == expected
    with torch.no_grad():
        again.heads.span.weight.mul_(1.5)
    with pytest.raises(InputError, match=r"ORDINAL are stale: .* fitted to the spans of other"):
        found(again, character_tok, types=loaded)
    found(again, character_tok, types=loaded.remove("ORDINAL"))


def test_saving_while_fits_do_not_hold_forgets_nothing(fitted: BinderModel, tmp_path: Path) -> None:
    vectors, fits = fitted.types.vectors, copy.deepcopy(fitted.config.fits)
    weight = fitted.heads.span.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(1.5)
    with pytest.warns(UserWarning, match="found by description again"):
        fitted.save_pretrained(tmp_path / "other")
    assert BinderModel.from_pretrained(tmp_path / "other").config.fits == {}
    assert fitted.config.fits == fits
    with torch.no_grad():
        weight.copy_(before)
    assert torch.equal(fitted.types.vectors, vectors)


def test_a_fit_to_other_weights_is_noticed(
    fitted: BinderModel, character_tok: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    fitted.save_pretrained(tmp_path / "saved")
    described = fitted.encode_types({"X": ORDINAL["ORDINAL"]}, character_tok).vectors[2, 0]
    weight = fitted.heads.span.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(1.5)
    with pytest.warns(UserWarning, match="ORDINAL: found by description again"):
        torch.testing.assert_close(fitted.types.vectors[2, 3], described)
    with torch.no_grad():
        weight.copy_(before)
    assert fitted.fits_hold
    state = {**fitted.state_dict(), "heads.span.weight": 2 * before}
    config = BinderConfig.from_pretrained(tmp_path / "saved")
    other = BinderModel.from_pretrained(None, config=config, state_dict=state)
    with pytest.warns(UserWarning, match="fit again with add_types"):
        other.types  # noqa: B018
    other.save_pretrained(tmp_path / "other")
    assert BinderModel.from_pretrained(tmp_path / "other").config.fits == {}
    fitted.config.descriptions = {**fitted.config.descriptions, "ORDINAL": ["另外"]}
    assert fitted.config.fits == {}


def test_a_change_of_a_few_weights_is_noticed_and_a_rounded_copy_is_none(
    fitted: BinderModel, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        half = copy.deepcopy(fitted).to(torch.bfloat16)
        assert half.fits_hold
        assert copy.deepcopy(half).float().fits_hold
    for model in (fitted, half):
        with torch.no_grad():
            model.encoder.embeddings.word_embeddings.weight[100:400] *= -5
        with pytest.warns(UserWarning, match="found by description again"):
            assert not model.fits_hold
        model.save_pretrained(tmp_path / "other")
        assert BinderModel.from_pretrained(tmp_path / "other").config.fits == {}


def test_only_what_is_found_as_fitted_gives_way(
    fitted: BinderModel, character_tok: PreTrainedTokenizerFast
) -> None:
    fitted.config.decoding, fitted.config.several_labels = "flat", False
    plain = copy.deepcopy(fitted)
    plain.config.fits = {}
    described = {"PER": "人的名字", "ORDINAL": "别的次序"}  # not the text that was fitted

    def spans(model: BinderModel, **options: object) -> list:
        """Without scores: a copy encodes its types anew."""
        rows = found(model, character_tok, **options)
        return [[(m["start"], m["end"], m["entity_group"]) for m in row] for row in rows]

    assert any(spans(fitted, types=described))
    assert spans(fitted, types=described) == spans(plain, types=described)
    given = fitted.types
    assert spans(plain, types=given) == spans(fitted)
    assert settings_of(fitted.pipeline(character_tok), given)["later_types"] == ["ORDINAL"]
    with torch.no_grad():
        fitted.heads.span.weight.mul_(1.5)
        plain.heads.span.weight.mul_(1.5)
    with pytest.warns(UserWarning, match="found by description again"):
        assert spans(fitted) == spans(plain)
    assert settings_of(fitted.pipeline(character_tok), None)["later_types"] == []


def test_a_training_step_ends_a_fit(fitted: BinderModel) -> None:
    mask = torch.tensor([[False, True, True, False]])
    batch = {"input_ids": torch.tensor([[2, 7, 8, 3]]), "word_mask": mask, "word_end_mask": mask}
    with pytest.warns(UserWarning, match="since the model is trained"):
        fitted.train()(**batch, labels=torch.tensor([[[3, 1, 2]]])).loss.backward()
    assert fitted.config.fits == {}
    assert fitted.config.labels[3] == "ORDINAL"


@pytest.mark.parametrize(
    "fits", [{"PER": [1.0]}, {"PER": [float("nan")] * 16}, {"X": [0.0] * 16}, {"PER": 3}]
)
def test_fits_that_make_no_sense_are_refused(saved_binder: Saved, fits: dict) -> None:
    content = {**saved_binder[1].config.to_dict(), "fits": fits}
    with pytest.raises(InputError, match="fits"):
        BinderConfig.from_dict(content)


# -------------------------------------------------------------------------------- several at once
def test_types_that_compete_are_tested_as_they_are_fitted(
    saved_binder: Saved, character_tok: PreTrainedTokenizerFast
) -> None:
    """By hand: in a flat model, both types are fitted without the text that is left out."""
    model = saved_binder[1]
    model.config.decoding, model.config.several_labels = "flat", False
    types = {**ORDINAL, "WHOLE": "次序和数字的整体。"}
    rows = []
    for number, record in enumerate(examples(4)):
        last = record.entities[-1]
        more = [Mention(last.start, last.end + 1, "WHOLE")] if number % 2 else []
        rows.append(Record(record.id, record.text, [*record.entities, *more]))
    wanted: dict[str, list] = {label: [] for label in types}
    for out in (1, 3, 0, 2):  # those with a mention of the rarer type first
        other = copy.deepcopy(model)
        other.add_labels(types, character_tok)
        start = other.types.vectors[2]
        scale = other.heads.log_scale[2].detach().exp()
        for label in types:
            texts = read_examples(other, character_tok, [label], rows)[label][0]
            windows = [w for n, text in enumerate(texts) if n != out for w in text.windows]
            vector = start[other.config.labels.index(label)]
            other.fit_label(label, fit_vector(vector, scale, windows))
        mentions = other.pipeline(character_tok)(rows[out].text)
        for label in types:
            own = [(m["start"], m["end"]) for m in mentions if m["entity_group"] == label]
            wanted[label].append((out, own))
    report = add_types(model, character_tok, types, rows)
    for label, by_text in wanted.items():
        found_there = [[Mention(*m, label) for m in own] for _, own in by_text]
        gold = [[m for m in rows[n].entities if m.label == label] for n, _ in by_text]
        assert report[label]["left_out"] == span_scores(found_there, gold)["micro"]
        assert report[label]["folds"] == 4


def test_a_type_with_one_text_is_not_tested_beside_one_with_more(
    saved_binder: Saved, character_tok: PreTrainedTokenizerFast
) -> None:
    types = {**ORDINAL, "RIVER": "河流的名字。"}
    rows = [*examples(3), Record("r", "长江", [Mention(0, 2, "RIVER")])]
    report = add_types(saved_binder[1], character_tok, types, rows)
    assert report["ORDINAL"]["folds"] == 4
    assert report["ORDINAL"]["left_out"]["gold"] == 3
    assert (report["RIVER"]["folds"], report["RIVER"]["left_out"]) == (0, None)
    assert report["RIVER"]["described"]["gold"] == 1


def test_mentions_where_windows_overlap_count_once(
    saved_binder: Saved, character_tok: PreTrainedTokenizerFast
) -> None:
    model = saved_binder[1]
    model.config.max_window_tokens = 16
    parts = examples(6)
    text = "".join(record.text for record in parts)
    shifts = [sum(len(r.text) for r in parts[:n]) for n in range(len(parts))]
    moved = [
        Mention(m.start + shift, m.end + shift, m.label)
        for shift, record in zip(shifts, parts, strict=True)
        for m in record.entities
    ]
    report = add_types(model, character_tok, ORDINAL, [Record("1", text, moved)])["ORDINAL"]
    assert report["mentions"] == 6


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_on_the_way_leaves_the_model_as_it_was(
    fitted: BinderModel,
    character_tok: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
) -> None:
    fitted.train()  # so that types are encoded again, all at once
    before, content = found(fitted, character_tok), fitted.config.to_dict()
    fitted.train()
    state = {name: value.clone() for name, value in fitted.state_dict().items()}
    calls = []

    def fails(*given: object) -> torch.Tensor:
        calls.append(given)
        if len(calls) == 2:
            raise error
        return fit_vector(*given)

    monkeypatch.setattr(new_types, "fit_vector", fails)
    rows = [Record("1", "长江第一", [Mention(0, 2, "RIVER")])]
    rows.append(Record("2", "黄河", [Mention(0, 2, "RIVER")]))
    with pytest.raises(error):
        add_types(fitted, character_tok, {"RIVER": "河"}, rows)
    assert fitted.training
    assert fitted.config.to_dict() == content
    assert found(fitted, character_tok) == before
    after = fitted.state_dict()
    assert state.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in state.items())
    assert fitted.fits_hold


# ------------------------------------------------------------------------------------------ faults
def test_examples_that_teach_nothing_are_refused_and_change_nothing(
    saved_binder: Saved,
    tiny_tagger: NercoForTokenClassification,
    character_tok: PreTrainedTokenizerFast,
) -> None:
    model = saved_binder[1]
    before = copy.deepcopy(model.config.to_dict())

    def refused(error: type, message: str, texts: list[Record], types: dict = ORDINAL) -> None:
        with pytest.raises(error, match=message):
            add_types(model, character_tok, types, texts)
        assert model.config.to_dict() == before

    refused(DataError, r"'ORDINAL', found none in 3 texts \(their types: ORG, PER\)", corpus(3))
    refused(DataError, r"found none in 0 texts \(their types: none\)", [])
    refused(DataError, "found also ORDINAL", examples(2), {"T": "时间"})
    wide = Record("1", "第一百二十三次", [Mention(0, 7, "ORDINAL")])
    refused(DataError, "1 wider than max_span_width, 5 tokens", [wide])
    refused(InputError, "PER is there already", corpus(2), {"PER": "人"})
    refused(InputError, "expected a text that says", examples(2), {"ORDINAL": " "})
    refused(ConfigError, "types is empty", examples(2), {})
    with pytest.raises(ConfigError, match="a tagger learns further types by training"):
        add_types(tiny_tagger, character_tok, ORDINAL, examples(2))
    model.export_frozen(saved_binder[0] / "frozen")
    frozen = BinderModel.from_pretrained(saved_binder[0] / "frozen")
    with pytest.raises(InputError, match="exported without its type encoder"):
        add_types(frozen, character_tok, ORDINAL, examples(2))


def test_a_model_with_an_adapter_is_refused(
    saved_binder: Saved, character_tok: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    model = saved_binder[1]
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["query"]))
    with pytest.raises(ConfigError, match="a model without adapters"):
        add_types(model, character_tok, ORDINAL, examples(2))
    with pytest.raises(InputError, match="merge or delete them before the export"):
        model.export_frozen(tmp_path / "frozen")


def test_a_type_may_have_several_descriptions(
    saved_binder: Saved, character_tok: PreTrainedTokenizerFast
) -> None:
    model = saved_binder[1]
    several = {label: [text, "第几"] for label, text in ORDINAL.items()}
    assert add_types(model, character_tok, several, examples(2))["ORDINAL"]["mentions"] == 2
    assert model.config.descriptions["ORDINAL"] == several["ORDINAL"]


def test_one_example_and_crossing_mentions(
    saved_binder: Saved, character_tok: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    model = saved_binder[1]
    report = add_types(model, character_tok, ORDINAL, examples(1))["ORDINAL"]
    assert (report["folds"], report["left_out"], report["mentions"]) == (0, None, 1)
    assert model.fits_hold
    text = "北京大学第一医院"
    crossing = [Mention(0, 4, "A"), Mention(2, 6, "A"), Mention(4, 8, "A"), Mention(0, 8, "A")]
    rows = [Record("1", text, crossing), Record("2", text, crossing), Record("3", text[:4], [])]
    with caplog.at_level(logging.WARNING, "contrastive_ner"):
        report = add_types(model, character_tok, {"A": "人物：人的名字。"}, rows)["A"]
    assert "A is described as PER is" in caplog.text
    assert (report["texts"], report["mentions"], report["folds"]) == (3, 6, 0)  # equal texts
    assert "2 wider than max_span_width" in caplog.text


@pytest.mark.parametrize(("count", "folds"), [(1, 0), (2, 2), (20, 20), (21, 10), (200, 10)])
def test_folds_leave_each_text_out_once_and_mentions_in(count: int, folds: int) -> None:
    teaches = [count == 2 or n % 3 != 1 for n in range(count)]
    texts = [
        ExampleText(Record(str(n), f"{n}"), [], [ExampleWindow(NOTHING, [1] * own)])
        for n, own in enumerate(teaches)
    ]
    found_folds = folds_of([texts])
    assert len(found_folds) == folds
    assert not folds or sorted(n for fold in found_folds for n in fold) == list(range(count))
    for fold in found_folds:
        assert any(own for n, own in enumerate(teaches) if n not in fold)


def test_a_text_whose_mentions_cannot_be_learnt_teaches_nothing(
    saved_binder: Saved, character_tok: PreTrainedTokenizerFast
) -> None:
    wide = Record("w", "第一百二十三次", [Mention(0, 7, "ORDINAL")])
    report = add_types(saved_binder[1], character_tok, ORDINAL, [*examples(1), wide])["ORDINAL"]
    assert (report["texts"], report["mentions"], report["folds"]) == (2, 1, 0)
    assert report["described"]["gold"] == 2


# ----------------------------------------------------------------------------------------- command
def test_the_command_writes_a_model_that_is_whole(
    saved_binder: Saved, character_tok: PreTrainedTokenizerFast, tmp_path: Path, capsys
) -> None:
    folder, model = saved_binder
    before = found(model, character_tok)
    texts, types = tmp_path / "few.jsonl", tmp_path / "new.yaml"
    write_records(examples(2), texts)
    types.write_text(f"types: {json.dumps(ORDINAL)}\n", "utf-8")
    command = ["add-type", str(folder), "--types", str(types), "--examples", str(texts)]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "ORDINAL: 2 texts, 2 mentions; 2 fits, each tested on texts left out: P " in out
    added = BinderModel.from_pretrained(f"{folder}-added")
    assert split(found(added, character_tok))[0] == before
    assert main(command) == 2
    assert "-added exists; choose another folder with --output" in capsys.readouterr().err
    twice = [*command, "--output", str(tmp_path / "twice")]
    twice[1] = f"{folder}-added"
    assert main(twice) == 2
    assert "ORDINAL is there already" in capsys.readouterr().err
    assert not (tmp_path / "twice").exists()
    write_records(corpus(3), texts)
    assert main([*command, "--output", str(tmp_path / "none")]) == 2
    assert f"{texts}: expected mentions of 'ORDINAL', found none" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} >= {"model", "model-added"}
    assert not list(tmp_path.glob(".*"))


def test_a_score_depends_on_its_margin_alone(saved_binder: Saved) -> None:
    """Not on its place among others: the last digit of vectorised functions does."""
    model = saved_binder[1]
    model.config.score_slope, model.config.score_intercept = 0.83, -0.17
    margins = torch.randn(257, generator=torch.Generator().manual_seed(0)) * 4
    together = model._scores_of(margins).tolist()
    assert together == [float(model._scores_of(margin[None])) for margin in margins]
    torch.testing.assert_close(
        torch.tensor(together, dtype=torch.float64), (0.83 * margins.double() - 0.17).sigmoid()
    )
    assert model._scores_of(torch.tensor([-1e6, 1e6])).tolist() == [0.0, 1.0]
