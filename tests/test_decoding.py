"""Scores of the standard Trainer: those of the mentions that the model decodes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LABELS, corpus
from transformers import (
    DataCollatorForTokenClassification,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

import contrastive_ner as cn
from contrastive_ner.evaluation.metrics import precision_recall_f1, span_scores
from contrastive_ner.models.modeling_binder import BinderModel
from contrastive_ner.models.modeling_nerco import NercoForTokenClassification, NercoModel
from contrastive_ner.training.binder import gold_spans

RECORDS = corpus(12)


def arguments(folder: Path, **more: object) -> TrainingArguments:
    return TrainingArguments(
        str(folder), per_device_eval_batch_size=5, report_to="none", use_cpu=True, **more
    )


def tag_data(tagger: NercoForTokenClassification, tokenizer: PreTrainedTokenizerFast) -> list[dict]:
    reader = cn.text_reader(tokenizer, label_unit="token", max_window_tokens=128)
    return cn.tag_features(RECORDS, reader, LABELS)[0]


@pytest.mark.parametrize("batch_eval_metrics", [False, True])
@pytest.mark.parametrize("collator", ["ours", "stock"])
def test_a_tagger_is_scored_by_what_it_decodes(
    tiny_tagger: NercoForTokenClassification,
    character_tok: PreTrainedTokenizerFast,
    tmp_path: Path,
    collator: str,
    batch_eval_metrics: bool,
) -> None:
    torch.nn.init.normal_(tiny_tagger.crf.transitions, std=3.0)
    features = tag_data(tiny_tagger, character_tok)
    pipe = tiny_tagger.pipeline(character_tok)
    found = [
        [(m["start"], m["end"], m["entity_group"]) for m in own]
        for own in pipe([record.text for record in RECORDS])
    ]
    gold = [[(m.start, m.end, m.label) for m in record.entities] for record in RECORDS]
    # The gold labels of every second text are what the model finds there: scores are not zero.
    for number in range(0, len(RECORDS), 2):
        gold[number], row = found[number], features[number]
        row["labels"] = [-100, *[0] * len(RECORDS[number].text), -100]
        for start, end, label in found[number]:
            row["labels"][start + 1] = LABELS.index(f"B-{label}")
            row["labels"][start + 2 : end + 1] = [LABELS.index(f"I-{label}")] * (end - start - 1)
    expected = span_scores(found, gold)["micro"]
    assert 0.1 < expected["f1"] < 1
    stock = DataCollatorForTokenClassification(character_tok)
    if collator == "stock":
        features = [{k: row[k] for k in ("input_ids", "labels")} for row in features]
    trainer = Trainer(
        model=tiny_tagger,
        args=arguments(tmp_path, batch_eval_metrics=batch_eval_metrics),
        eval_dataset=features,
        data_collator=stock if collator == "stock" else cn.TagCollator(0),
        **cn.decoded_metrics(tiny_tagger),
    )
    for _ in range(2):  # nothing is left over from the evaluation before
        scores = trainer.evaluate()
        assert scores["eval_f1"] == pytest.approx(expected["f1"])
        assert scores["eval_precision"] == pytest.approx(expected["precision"])
    if not batch_eval_metrics:
        plain = Trainer(
            model=tiny_tagger,
            args=arguments(tmp_path),
            data_collator=stock if collator == "stock" else cn.TagCollator(0),
        )
        highest = plain.predict(features).predictions.argmax(-1)
        decoded = trainer.predict(features).predictions
        assert (np.where(decoded == -100, highest, decoded) != highest).any()


@pytest.mark.parametrize("decoding", ["nested", "flat"])
def test_binder_is_scored_by_what_it_decodes(
    saved_binder: tuple[Path, BinderModel],
    character_tok: PreTrainedTokenizerFast,
    tmp_path: Path,
    decoding: str,
) -> None:
    model = saved_binder[1]
    model.config.decoding = decoding
    reader = cn.text_reader(character_tok, label_unit="token", max_window_tokens=128)
    types = model.config.labels
    features, _ = cn.span_features(RECORDS, reader, types, max_width=5, overlap=16)
    found = model.pipeline(character_tok)([record.text for record in RECORDS])
    for row, own in zip(features[::2], found[::2], strict=True):
        row["labels"] = [[types.index(m["entity_group"]), m["start"] + 1, m["end"]] for m in own]
    batch = cn.SpanCollator(0)(features)
    wanted = gold_spans(batch["labels"], batch["word_mask"], types)
    sets = [{(m["start"], m["end"], m["entity_group"]) for m in own} for own in found]
    correct = sum(len(a & b) for a, b in zip(sets, wanted, strict=True))
    expected = precision_recall_f1(correct, sum(map(len, sets)), sum(map(len, wanted)))
    assert 0.1 < expected["f1"] < 1
    trainer = Trainer(
        model=model,
        args=arguments(tmp_path),
        eval_dataset=features,
        data_collator=cn.SpanCollator(0),
        **cn.decoded_metrics(model),
    )
    for _ in range(2):
        assert trainer.evaluate()["eval_f1"] == pytest.approx(expected["f1"])


def test_a_model_of_stage_one_has_no_mentions_to_score(
    tiny_tagger: NercoForTokenClassification,
) -> None:
    assert isinstance(tiny_tagger.nerco, NercoModel)
    with pytest.raises(cn.ConfigError, match="decodes no mentions"):
        cn.decoded_metrics(tiny_tagger.nerco)
