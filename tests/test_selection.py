"""BINDER's score on dev, by which the best epoch is chosen, is that of `evaluate` on documents."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast, TrainingArguments

from contrastive_ner.data.documents import join_documents
from contrastive_ner.data.records import Mention, Record
from contrastive_ner.models.modeling_binder import BinderModel
from contrastive_ner.models.pipeline_ner import text_reader
from contrastive_ner.models.windows_ner import flat_spans, prepare
from contrastive_ner.serving.inference import evaluate_records
from contrastive_ner.training import binder as training
from contrastive_ner.training.batches import SpanCollator
from contrastive_ner.training.features import span_features

TYPES = {"PER": "人物：人的名字。", "ORG": "机构：公司、学校的名字。"}
WIDTH = 4
TEXT = "张三 昨天第一次去了华为，李四与王五在北京大学读书。"


def records() -> list[Record]:
    """Documents of one to seven texts, some longer than a window; with mentions out of reach."""
    found = []
    for i in range(14):
        mentions = [Mention(0, 2, "PER"), Mention(10 + i % 3, 12, "ORG"), Mention(13, 15, "PER")]
        if i % 5 == 0:
            mentions.append(Mention(13, 15 + WIDTH, "ORG"))  # too wide
        doc = None if i == 3 else f"d{i // 7}"
        found.append(Record(f"r{i}", TEXT, mentions, doc))
    return [*found, Record("empty", " ", [Mention(0, 1, "PER")])]  # on no position


@pytest.fixture(scope="module")
def model(tiny_encoder: Path) -> BinderModel:
    torch.manual_seed(3)
    model = BinderModel.from_encoders(
        str(tiny_encoder),
        descriptions=TYPES,
        label_unit="token",
        max_window_tokens=32,
        max_span_width=WIDTH,
        projection_size=16,
    )
    for parameter in (*model.heads.parameters(), *model.type_heads.parameters()):
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def selected(
    model: BinderModel, tokenizer: PreTrainedTokenizerFast, folder: Path, batch: int
) -> dict[str, float]:
    """What the Trainer reports on the records."""
    reader = text_reader(tokenizer, label_unit="token", max_window_tokens=32)
    documents = join_documents(records())
    rows = prepare(reader, [d.record.text for d in documents], min_overlap=WIDTH)
    assert max(len(row.windows) for row in rows) > 3
    features, _ = span_features(
        [d.record for d in documents], reader, list(TYPES), max_width=WIDTH, overlap=None
    )
    assert len(features) == sum(len(row.windows) for row in rows)
    features = [{**row, "number": number} for number, row in enumerate(features)]
    counts = training.DocumentCounts(documents, rows)
    trainer = training.BinderTrainer(
        model=model,
        args=TrainingArguments(
            str(folder),
            report_to="none",
            remove_unused_columns=False,
            use_cpu=True,
            batch_eval_metrics=True,
            per_device_eval_batch_size=batch,
        ),
        eval_dataset=features,
        data_collator=SpanCollator(0),
        compute_metrics=counts,
    )
    trainer.documents = counts
    first = trainer.evaluate()
    again = trainer.evaluate()
    assert first["eval_f1"] == again["eval_f1"]  # nothing is left of an earlier evaluation
    return first


@pytest.mark.parametrize("decoding", ["nested", "flat"])
def test_the_dev_score_is_that_of_evaluate(
    model: BinderModel,
    character_tok: PreTrainedTokenizerFast,
    tmp_path: Path,
    decoding: str,
) -> None:
    model.config.decoding = decoding
    pipeline = model.pipeline(character_tok)
    expected = evaluate_records(pipeline, records())["all_mentions"]
    assert expected["gold"] == sum(len(record.entities) for record in records()) == 46
    assert 0 < expected["f1"] < 1
    for batch in (3, 64):
        found = selected(model, character_tok, tmp_path, batch)
        assert {name: found[f"eval_{name}"] for name in ("precision", "recall", "f1")} == {
            name: pytest.approx(expected[name]) for name in ("precision", "recall", "f1")
        }


def test_a_model_that_finds_thousands_of_spans_keeps_few(
    model: BinderModel,
    character_tok: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model.config.decoding = "flat"
    kept: list[int] = []

    def flat(spans: list[tuple]) -> list[tuple]:
        kept.append(len(spans))
        return flat_spans(spans)

    monkeypatch.setattr(training, "KEPT", 5)
    monkeypatch.setattr(training, "flat_spans", flat)
    found = selected(model, character_tok, tmp_path, 64)
    assert 0 < found["eval_f1"] < 1
    assert max(kept) > 5
