"""Fitted scores: fits against their definition; what a fit may and must not change."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DataCollatorForTokenClassification

import contrastive_ner as cn
from contrastive_ner.evaluation.metrics import calibration
from contrastive_ner.models.encoder_ner import IGNORED
from contrastive_ner.models.modeling_binder import BinderModel
from contrastive_ner.models.modeling_nerco import NercoForTokenClassification
from contrastive_ner.training import calibration as fits
from contrastive_ner.training.calibration import (
    fit_logistic,
    fit_temperature,
    log_loss,
    logistic_regression,
    mention_scores,
    minimum,
)

TEXTS = [
    "小明在北京大学读书，小红在上海工作。",
    "我们去上海。",
    "小王说他在南京。",
    "今天下雨。",
] * 8


def test_logistic_regression_finds_the_chances_that_made_the_data():
    draw = np.random.default_rng(0)
    x = draw.uniform(-6, 6, 40_000)
    right = draw.random(40_000) < 1 / (1 + np.exp(-(0.45 * x + 0.3)))
    assert logistic_regression(x, right) == pytest.approx((0.45, 0.3), abs=0.05)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-30, 30), st.booleans()), min_size=2, max_size=30))
def test_logistic_regression_is_the_lowest_point(rows):
    x, right = np.array([a for a, _ in rows]), np.array([b for _, b in rows])

    def loss(slope: float, intercept: float) -> float:
        logits = slope * x + intercept
        return np.logaddexp(0, np.where(right, -logits, logits)).sum() + 0.005 * (
            (slope - 1) ** 2 + intercept**2
        )

    slope, intercept = logistic_regression(x, right)
    least = loss(slope, intercept)
    for a, b in ((0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01)):
        assert least <= loss(slope + a, intercept + b) + 1e-9


@given(st.floats(-1, 1))
def test_minimum_of_a_valley(where):
    assert minimum(lambda x: (x - where) ** 2, -1.5, 1.5) == pytest.approx(where, abs=3e-3)


def test_calibration_by_hand():
    gold = [[(0, 1, "A")], [(0, 1, "A"), (2, 3, "B")]]
    found = [[(0, 1, "A", 0.95), (1, 2, "A", 0.92)], [(2, 3, "B", 0.35), (0, 1, "B", 1.0)]]
    result = calibration(found, gold)
    assert [row["mentions"] for row in result["bins"]] == [0, 0, 0, 1, 0, 0, 0, 0, 0, 3]
    assert result["bins"][9] == {
        "mentions": 3,
        "score": pytest.approx(2.87 / 3),
        "right": pytest.approx(1 / 3),
    }
    assert result["ece"] == pytest.approx(0.25 * 0.65 + 0.75 * (2.87 / 3 - 1 / 3))
    assert result["brier"] == pytest.approx((0.05**2 + 0.92**2 + 0.65**2 + 1) / 4)
    assert calibration([[]], [[]])["ece"] == 0


# ------------------------------------------------------------------------------------------ taggers
def tagger_batches(
    model: NercoForTokenClassification, tokenizer, seed: int = 0
) -> list[dict[str, torch.Tensor]]:
    """Batches whose gold tags are the model's own, without a third of the mentions."""
    draw, ids = (
        torch.Generator().manual_seed(seed),
        {label: i for i, label in enumerate(model.config.labels)},
    )
    batches = []
    for text in TEXTS:
        encoded = tokenizer([text], return_tensors="pt")
        mask = torch.ones_like(encoded["input_ids"], dtype=torch.bool)
        mask[:, [0, -1]] = False
        labels = torch.where(mask, 0, IGNORED)
        with torch.no_grad():
            (spans,) = model.decode(model(**encoded), mask)
        for start, end, label, *_ in spans:
            if torch.rand(1, generator=draw) < 0.66:
                labels[0, start + 1 : end + 1] = ids[f"I-{label}"]
                labels[0, start + 1] = ids[f"B-{label}"]
        batches.append({**encoded, "word_mask": mask, "labels": labels})
    return batches


def test_the_temperature_has_the_least_log_loss_and_changes_no_mention(tiny_tagger, character_tok):
    model = tiny_tagger.eval()
    batches = tagger_batches(model, character_tok)

    def decoded() -> list:
        with torch.no_grad():
            return [
                model.decode(model(b["input_ids"], b["attention_mask"]), b["word_mask"])[0]
                for b in batches
            ]

    before = decoded()
    fitted = fit_temperature(model, batches)["score_temperature"]
    assert model.config.score_temperature == 1.0
    gold = [
        [(s, e, label) for s, e, label in spans_of(b["labels"][0].tolist(), model.config.labels)]
        for b in batches
    ]
    losses = {}
    try:
        for factor in (0.8, 1.0, 1.25):
            model.config.score_temperature = min(max(factor * fitted, 0.25), 4.0)
            spans = decoded()
            assert [[span[:3] for span in own] for own in spans] == [
                [span[:3] for span in own] for own in before
            ]
            losses[factor] = log_loss(*mention_scores(spans, gold))
    finally:
        model.config.score_temperature = 1.0
    # The search leaves a thousandth of its interval.
    assert losses[1.0] <= min(losses.values()) + 2e-3


def spans_of(tags: list[int], labels: list[str]) -> list[tuple[int, int, str]]:
    from contrastive_ner.data.schemes import tags_to_spans

    return tags_to_spans([labels[tag] for tag in tags if tag != IGNORED], "BIO")[0]


def test_scores_at_a_temperature_are_those_of_scaled_potentials(tiny_tagger, character_tok):
    model = tiny_tagger.eval()
    encoded = character_tok([TEXTS[0]], return_tensors="pt")
    mask = torch.ones_like(encoded["input_ids"], dtype=torch.bool)
    with torch.no_grad():
        logits = model(**encoded).logits
        # Weak enough that scaling changes no path: the scaled model decodes the same mentions.
        model.config.score_temperature = 2.0
        (found,) = model.decode(SimpleNamespace(logits=logits), mask)
        model.config.score_temperature = 1.0
        parameters = list(model.crf.parameters())
        kept = [p.clone() for p in parameters]
        for parameter in parameters:
            parameter /= 2
        (expected,) = model.decode(SimpleNamespace(logits=logits / 2), mask)
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.copy_(value)
    assert found
    assert [span[:3] for span in found] == [span[:3] for span in expected]
    assert [span.score for span in found] == pytest.approx(
        [span.score for span in expected], abs=1e-6
    )


def test_windows_are_spread_over_all_data(monkeypatch):
    """Data sets of a mixture stand one after the other."""
    monkeypatch.setattr(fits, "WINDOWS", 4)
    assert fits.spread(list("ab")) == ["a", "b"]
    assert fits.spread(list("abcd")) == list("abcd")
    assert fits.spread(list("abcdefghij")) == list("acfh")
    assert fits.spread([]) == []


def test_dev_data_that_say_nothing_leave_the_scores_alone(tiny_tagger, character_tok):
    batches = tagger_batches(tiny_tagger.eval(), character_tok)[:1]
    assert fit_temperature(tiny_tagger, batches) == {}
    assert tiny_tagger.config.score_temperature == 1.0


def test_without_a_limit_no_mention_is_left_out_however_small_its_score(
    tiny_tagger, character_tok, monkeypatch
):
    from contrastive_ner.models import crf_ner

    before = tiny_tagger.pipeline(character_tok)(TEXTS[0])
    monkeypatch.setattr(crf_ner, "span_posterior", lambda *given, **_: np.zeros(len(given[2])))
    after = tiny_tagger.pipeline(character_tok)(TEXTS[0])
    assert before
    assert [{**m, "score": 0} for m in after] == [{**m, "score": 0} for m in before]


@pytest.mark.parametrize("wrong", [0, -1, "1", float("inf"), float("nan")])
def test_a_temperature_must_be_positive(tiny_tagger, wrong):
    fields = {**tiny_tagger.config.to_dict(), "score_temperature": wrong}
    with pytest.raises(ValueError, match="score_temperature is"):
        type(tiny_tagger.config)(**fields)


# ------------------------------------------------------------------------------------------- BINDER
def test_binder_scores_are_the_logistic_function_of_the_margin(saved_binder, character_tok):
    model: BinderModel = saved_binder[1]
    text = "张三在北京大学读书，李四在上海工作。"
    pipe = model.pipeline(character_tok)
    plain = pipe(text)
    model.config.score_slope, model.config.score_intercept = 0.5, -0.25
    fitted = pipe(text)
    assert [{**m, "score": 0} for m in fitted] == [{**m, "score": 0} for m in plain]
    margins = [math.log(m["score"] / (1 - m["score"])) for m in plain]
    assert [m["score"] for m in fitted] == pytest.approx(
        [1 / (1 + math.exp(-(0.5 * x - 0.25))) for x in margins], rel=1e-6
    )
    limit = sorted(m["score"] for m in fitted)[len(fitted) // 2]
    assert pipe(text, min_score=limit + 1e-7) == [m for m in fitted if m["score"] > limit + 1e-7]
    assert all(m["score"] > 0.3 for m in pipe(text, min_score=0.3))
    assert len(pipe(text, min_score=0.3)) > len(plain)


def test_the_fit_of_binder_uses_spans_below_the_threshold(saved_binder, character_tok):
    model: BinderModel = saved_binder[1]
    batches = []
    for text in TEXTS:
        encoded = character_tok([text], return_tensors="pt")
        mask = torch.ones_like(encoded["input_ids"], dtype=torch.bool)
        mask[:, [0, -1]] = False
        with torch.no_grad():
            (spans,) = model.decode(model(**encoded), mask, mask, min_score=0.05)
        # Mentions above a margin of 1 are gold: below it all are wrong, above it all are right.
        rows = [
            [model.config.labels.index(s.label), s.start + 1, s.end]
            for s in spans
            if s.score > 0.73
        ]
        batches.append(
            {
                **encoded,
                "word_mask": mask,
                "word_end_mask": mask,
                "labels": torch.tensor([rows or [[IGNORED] * 3]]),
            }
        )
    fitted = fit_logistic(model, batches)
    assert fitted["score_slope"] > 1
    assert -fitted["score_intercept"] / fitted["score_slope"] == pytest.approx(1, abs=0.3)
    model.config.score_slope, model.config.score_intercept = 0.3, 0.7
    assert fit_logistic(model, batches) == fitted  # regardless of the previous fit


@pytest.mark.parametrize("slope", [0.00003, -1.0, float("nan")])
def test_a_slope_that_no_configuration_may_hold_is_no_fit(saved_binder, monkeypatch, slope):
    scores, right = np.linspace(0.1, 0.9, 40), np.arange(40) % 2 == 0
    monkeypatch.setattr(
        "contrastive_ner.training.calibration.mention_scores", lambda *_: (scores, right)
    )
    monkeypatch.setattr(
        "contrastive_ner.training.calibration.logistic_regression", lambda *_: (slope, 0.0)
    )
    assert fit_logistic(saved_binder[1], []) == {}


@pytest.mark.parametrize(
    ("name", "wrong"), [("score_slope", 0), ("score_slope", "1"), ("score_intercept", float("inf"))]
)
def test_slope_and_intercept_are_checked(saved_binder, name, wrong):
    with pytest.raises(ValueError, match=f"{name} is"):
        type(saved_binder[1].config)(**{**saved_binder[1].config.to_dict(), name: wrong})


# ------------------------------------------------------------------------------- as a library user
def half_right(model: torch.nn.Module, tokenizer) -> list[cn.Record]:
    """Records whose mentions are those that the model finds, without a third of them."""
    draw, pipe = np.random.default_rng(0), model.pipeline(tokenizer)
    return [
        cn.Record(
            str(number),
            text,
            [
                cn.Mention(m["start"], m["end"], m["entity_group"])
                for m in found
                if draw.random() < 0.66
            ],
        )
        for number, (text, found) in enumerate(zip(TEXTS, pipe(TEXTS), strict=True))
    ]


@pytest.fixture(params=["nerco", "binder"])
def model(request: pytest.FixtureRequest) -> torch.nn.Module:
    """A model of each method."""
    if request.param == "nerco":
        return request.getfixturevalue("tiny_tagger")
    return request.getfixturevalue("saved_binder")[1]


def calibrated(model: torch.nn.Module) -> bool:
    return any(
        getattr(model.config, name) != value for name, value in type(model).uncalibrated.items()
    )


def test_a_library_user_can_fit_the_scores(model, character_tok):
    records = half_right(model, character_tok)
    fitted = cn.calibrate(model, records, tokenizer=character_tok)
    assert set(fitted) == set(type(model).uncalibrated)
    assert {name: getattr(model.config, name) for name in fitted} == fitted
    assert calibrated(model)
    reader = cn.text_reader(character_tok, label_unit="token", max_window_tokens=128)
    if model.config.model_type == "nerco":
        features, _ = cn.tag_features(records, reader, model.config.labels)
        rows = [{name: row[name] for name in ("input_ids", "labels")} for row in features]
        data = Dataset.from_list(rows)
        stock = DataCollatorForTokenClassification(character_tok)
        assert cn.calibrate(model, data, data_collator=stock) == fitted
    else:
        data, _ = cn.span_features(records, reader, model.config.labels, max_width=5, overlap=5)
    assert cn.calibrate(model, data) == fitted
    assert cn.calibrate(model.train(), data) == fitted
    assert model.training
    with pytest.raises(cn.ConfigError, match="need tokenizer="):
        cn.calibrate(model, records)
    with pytest.raises(cn.ConfigError, match="the data have text, entities: expected features"):
        cn.calibrate(model, [{"text": "张三", "entities": []}])
    with pytest.raises(cn.ConfigError, match="batch_size is 0"):
        cn.calibrate(model, data, batch_size=0)
    assert cn.calibrate(model, records[:0], tokenizer=character_tok) == {}
    assert not calibrated(model)


def train_a_step(model: torch.nn.Module, tokenizer) -> None:
    mask = torch.tensor([[False, True, True, False]])
    inputs = {"input_ids": torch.tensor([[2, 7, 8, 3]]), "word_mask": mask}
    if model.config.model_type == "binder":
        inputs |= {"word_end_mask": mask, "labels": torch.tensor([[[0, 1, 2]]])}
    else:
        inputs |= {"labels": torch.tensor([[-100, 1, 2, -100]])}
    model.train()(**inputs).loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    model.eval()


CHANGES = {
    "a step": train_a_step,
    "data": lambda model, _: [p.data.mul_(1.01) for p in model.encoder_of_texts().parameters()],
    "a state": lambda model, _: model.load_state_dict(
        {k: v * 1.01 if v.is_floating_point() else v for k, v in model.state_dict().items()}
    ),
    "half": lambda model, _: model.bfloat16(),
    "nothing": lambda model, _: None,
    "an evaluation": lambda model, tokenizer: model.pipeline(tokenizer)(TEXTS),
}


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_a_calibration_ends_with_the_weights_it_was_fitted_to(
    model, character_tok, tmp_path, change, seen
):
    fields = dict.fromkeys(type(model).uncalibrated, 0.5)
    for name, value in fields.items():
        setattr(model.config, name, value)
    model.save_pretrained(tmp_path / "calibrated")
    loaded = type(model).from_pretrained(tmp_path / "calibrated")
    assert calibrated(loaded)
    body = getattr(loaded, "nerco", loaded).encoder
    object.__setattr__(loaded, "encoder_of_texts", lambda: body)
    CHANGES[change](loaded, character_tok)
    keeps = change in ("half", "nothing", "an evaluation")
    if seen:  # in use; otherwise only saved
        loaded.pipeline(character_tok)(TEXTS[:1])
        assert calibrated(loaded) == keeps
    del loaded.encoder_of_texts
    loaded.save_pretrained(tmp_path / "again")
    again = type(model).from_pretrained(tmp_path / "again")
    assert calibrated(again) == keeps
    again.pipeline(character_tok)(TEXTS[:1])
    assert calibrated(again) == keeps


def test_what_is_set_after_training_stays(model, character_tok):
    train_a_step(model, character_tok)
    for name in type(model).uncalibrated:
        setattr(model.config, name, 0.5)
    model.pipeline(character_tok)(TEXTS[:1])
    assert calibrated(model)
