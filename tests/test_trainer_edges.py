"""Corners of the Trainers, and of models in training: right or refused, never ignored."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import arguments, corpus
from datasets import Dataset
from test_trainer import LABELS, features, make_trainer, stage_two
from transformers import AutoModel, Trainer

import contrastive_ner as cn
from contrastive_ner.cli import main
from contrastive_ner.errors import ConfigError, DataError
from contrastive_ner.models.modeling_binder import BinderModel
from contrastive_ner.models.modeling_nerco import NercoForTokenClassification, NercoModel
from contrastive_ner.training.batches import SpanCollator, TagCollator
from contrastive_ner.training.binder import BinderTrainer, SpanCounts
from contrastive_ner.training.contrastive import ContrastiveTrainer
from contrastive_ner.training.decoding import decoded_metrics
from contrastive_ner.training.losses import semantic_classes
from contrastive_ner.training.sentence_trainer import SentenceTrainer

# -- stage one
STEPS = {"eval_strategy": "no", "max_steps": 1, "per_device_train_batch_size": 8}


def gradient_norm(trainer: ContrastiveTrainer) -> float:
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    trainer.train()
    return next(row["grad_norm"] for row in trainer.state.log_history if "grad_norm" in row)


def test_accumulated_gradients_of_any_encoder_are_divided(
    tiny_encoder: Path, character_tok: Any, tmp_path: Path
) -> None:
    """`BertModel.forward` takes any keyword: the Trainer takes it to divide the loss itself."""
    norms = []
    for model in (NercoModel.from_encoder(str(tiny_encoder), label_unit="token"), None):
        trainer = make_trainer(
            tiny_encoder, character_tok, tmp_path, gradient_accumulation_steps=2,
            logging_steps=1, **STEPS,
        )  # fmt: skip
        own = model or AutoModel.from_pretrained(tiny_encoder)
        again = ContrastiveTrainer(
            own,
            trainer.args,
            None,
            trainer.train_dataset,
            label_classes=semantic_classes(LABELS),
        )
        norms.append(gradient_norm(again))
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


def test_several_evaluation_sets_and_predict_with_other_columns(
    tiny_encoder: Path, character_tok: Any, tmp_path: Path
) -> None:
    trainer = make_trainer(tiny_encoder, character_tok, tmp_path, remove_unused_columns=True)
    rows = [{**row, "text": "x"} for row in trainer.eval_dataset]
    trainer.eval_dataset = {"a": rows, "b": rows[:4]}
    scores = trainer.evaluate()
    assert {"eval_a_knn_f1", "eval_b_knn_f1"} <= scores.keys()
    assert trainer.predict(rows).metrics["test_knn_f1"] == scores["eval_a_knn_f1"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"compute_metrics": lambda _: {"x": 1.0}}, "compute_metrics is"),
        ({"compute_loss_func": lambda *_, **__: 0}, "compute_loss_func is"),
        ({"preprocess_logits_for_metrics": lambda a, _: a}, "preprocess_logits_for_metrics is"),
        ({"model": None, "model_init": lambda: None}, "model is missing"),
        ({"train_dataset": None}, "train_dataset: expected a data set with a length, found none"),
        (
            {"train_dataset": Dataset.from_list([{"input_ids": [1]}]).to_iterable_dataset()},
            "train_dataset: expected a data set with a length, found IterableDataset",
        ),
        ({"train_dataset": [{"input_ids": [1]}]}, "expected labels in each row"),
        ({"label_classes": [0, 1]}, "expected one for each label id, found the label 4"),
    ],
)
def test_what_stage_one_cannot_use_is_refused(
    tiny_encoder: Path, character_tok: Any, tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    usual = make_trainer(tiny_encoder, character_tok, tmp_path, **STEPS)
    options = {
        "model": usual.model, "args": usual.args, "train_dataset": usual.train_dataset,
        "label_classes": usual.label_classes,
    }  # fmt: skip
    with pytest.raises(ConfigError, match=said):
        ContrastiveTrainer(**{**options, **given}).train()


def test_a_projection_head_does_not_survive_an_interruption(
    tiny_encoder: Path, character_tok: Any, tmp_path: Path
) -> None:
    trainer = make_trainer(tiny_encoder, character_tok, tmp_path, projection_size=8, **STEPS)
    plain = NercoModel.from_encoder(str(tiny_encoder), label_unit="token")
    before = set(plain.state_dict())
    usual, widths = trainer.contrastive_loss, []

    def interrupted(embeddings: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        widths.append(embeddings.shape[-1])
        if len(widths) == 1:
            raise KeyboardInterrupt
        return usual(embeddings, classes)

    trainer.contrastive_loss = interrupted
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert set(trainer.model.state_dict()) == before
    assert not trainer.model._forward_hooks
    trainer.train()
    assert widths == [8, 8]
    assert set(trainer.model.state_dict()) == before


# -- scores of decoded mentions
@pytest.mark.parametrize("method", ["crf", "binder"])
def test_texts_without_labels_are_predicted(
    tiny_encoder: Path, character_tok: Any, tmp_path: Path, method: str
) -> None:
    make = stage_two(Trainer, method, tiny_encoder, character_tok, tmp_path)
    model = make().model
    trainer = make(**decoded_metrics(model))
    wanted = trainer.predict(trainer.eval_dataset).predictions
    rows = [{k: v for k, v in row.items() if k != "labels"} for row in trainer.eval_dataset]
    found = trainer.predict(rows)
    assert found.label_ids is None
    if method == "crf":
        np.testing.assert_array_equal(found.predictions, wanted)
    else:
        np.testing.assert_array_equal(found.predictions[:, 1], wanted[:, 1])
        assert not found.predictions[:, [0, 2]].any()


def test_rows_without_labels_and_masks_say_what_is_missing(
    tiny_encoder: Path, character_tok: Any, tmp_path: Path
) -> None:
    make = stage_two(Trainer, "crf", tiny_encoder, character_tok, tmp_path)
    model = make().model
    rows = [{"input_ids": row["input_ids"]} for row in features(character_tok, 4)]
    with pytest.raises(DataError, match="neither labels nor word_mask"):
        TagCollator(0)(rows)
    with pytest.raises(ConfigError, match="have no labels and no word_mask"):
        decoded_metrics(model)["preprocess_logits_for_metrics"](torch.zeros(1, 2, 5), None)
    assert "labels" not in SpanCollator(0)(
        [{"input_ids": [1], "word_mask": [True], "word_end_mask": [True]}]
    )


@pytest.mark.parametrize("method", ["crf", "binder"])
def test_scores_of_batches_that_are_not_joined(
    tiny_encoder: Path, character_tok: Any, tmp_path: Path, method: str
) -> None:
    scores, weights = [], {}
    for joined in (True, False):
        make = stage_two(
            Trainer, method, tiny_encoder, character_tok, tmp_path, eval_do_concat_batches=joined,
            per_device_eval_batch_size=3,
        )  # fmt: skip
        model = make().model
        model.load_state_dict(weights or model.state_dict())
        weights = model.state_dict()
        scores.append(make(**decoded_metrics(model)).evaluate()["eval_f1"])
    assert scores[0] == scores[1]


def test_a_binder_trainer_takes_decoded_metrics(
    tiny_encoder: Path, character_tok: Any, tmp_path: Path
) -> None:
    make = stage_two(BinderTrainer, "binder", tiny_encoder, character_tok, tmp_path)
    model = make().model
    usual = make(compute_metrics=SpanCounts()).evaluate()
    assert make(**decoded_metrics(model)).evaluate()["eval_f1"] == usual["eval_f1"]


@pytest.mark.parametrize("method", ["crf", "binder"])
def test_an_interrupted_evaluation_leaves_no_counts(
    tiny_encoder: Path, character_tok: Any, tmp_path: Path, method: str
) -> None:
    trainer_class = BinderTrainer if method == "binder" else SentenceTrainer
    make = stage_two(
        trainer_class, method, tiny_encoder, character_tok, tmp_path, batch_eval_metrics=True,
        per_device_eval_batch_size=2,
    )  # fmt: skip
    model = make().model
    scores = decoded_metrics(model) if method == "crf" else {"compute_metrics": SpanCounts()}
    trainer = make(**scores)
    wanted = trainer.evaluate()
    usual, batches = trainer.data_collator, []

    def fails(rows: list[dict]) -> Any:
        batches.append(rows)
        if len(batches) == 3:
            raise RuntimeError("out of memory")
        return usual(rows)

    trainer.data_collator = fails
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.evaluate()
    again = trainer.evaluate()
    for name in ("eval_precision", "eval_recall", "eval_f1"):
        assert again[name] == wanted[name]
    found = trainer.compute_metrics
    totals = getattr(found, "__self__", found).totals
    assert not np.any(np.asarray(totals))


# -- models
def test_a_pipeline_of_a_model_in_training_has_no_dropout(
    tiny_encoder: Path, character_tok: Any
) -> None:
    tagger = NercoForTokenClassification.from_encoder(str(tiny_encoder), LABELS, label_unit="token")
    binder = BinderModel.from_encoders(
        str(tiny_encoder), descriptions={"PER": "人物"}, label_unit="token", tokenizer=character_tok
    )
    text = corpus(1)[0].text
    for model in (tagger, binder):
        pipeline = model.pipeline(character_tok)
        wanted = pipeline(text)
        model.train()
        assert pipeline(text) == pipeline(text) == wanted
        assert model.training


@pytest.mark.parametrize("kind", ["tagger", "stage one", "binder"])
def test_a_model_with_more_token_embeddings_is_saved_and_loaded(
    tiny_encoder: Path, character_tok: Any, tmp_path: Path, kind: str
) -> None:
    model: Any
    if kind == "tagger":
        model = NercoForTokenClassification.from_encoder(
            str(tiny_encoder), LABELS, label_unit="token"
        )
    elif kind == "stage one":
        model = NercoModel.from_encoder(str(tiny_encoder), label_unit="token")
    else:
        model = BinderModel.from_encoders(
            str(tiny_encoder), descriptions={"PER": "人物"}, label_unit="token",
            tokenizer=character_tok,
        )  # fmt: skip
    rows = model.get_input_embeddings().num_embeddings
    model.resize_token_embeddings(rows + 8)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert again.get_input_embeddings().num_embeddings == rows + 8
    assert "vocab_size" not in again.config.to_dict()
    if kind == "binder":
        assert again.type_encoder.get_input_embeddings().num_embeddings == rows + 8


def test_a_new_head_has_no_calibration(tiny_encoder: Path, tmp_path: Path) -> None:
    tagger = NercoForTokenClassification.from_encoder(str(tiny_encoder), LABELS, label_unit="token")
    tagger.config.score_temperature = 0.5
    tagger.keep_calibration()
    tagger.save_pretrained(tmp_path / "tagger")
    same = NercoForTokenClassification.from_pretrained(tmp_path / "tagger")
    assert same.config.score_temperature == 0.5
    base = NercoModel.from_pretrained(tmp_path / "tagger")
    base.save_pretrained(tmp_path / "base")
    new, _ = NercoForTokenClassification.from_pretrained(
        tmp_path / "base", labels=LABELS, output_loading_info=True
    )
    assert new.config.score_temperature == 1.0


# -- NerTrainer
ROWS = [{"text": "张三去了", "entities": [{"start": 0, "end": 2, "label": "PER"}]}] * 4


def test_a_run_keeps_its_data_when_other_data_are_refused(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    args = {"method": "crf", "output_dir": tmp_path / "run", "stage1_epochs": 0, "head_epochs": 0,
            "stage2_epochs": 1}  # fmt: skip
    trainer = cn.NerTrainer(tiny_encoder, args, ROWS, ROWS)
    metrics = trainer.train()
    files = {path.name: path.read_bytes() for path in trainer.data_dir.iterdir()}
    assert set(files) == {"train.jsonl", "dev.jsonl", "train.yaml"}
    other = [{"text": "李四去了", "entities": ROWS[0]["entities"]}] * 4
    with pytest.raises(ConfigError, match=r"holds a run of other data \(train.jsonl\)"):
        cn.NerTrainer(tiny_encoder, args, other, ROWS).train()
    with pytest.raises(ConfigError, match="holds a run of another configuration"):
        cn.NerTrainer(tiny_encoder, {**args, "stage2_epochs": 2}, ROWS, ROWS).train()
    assert {path.name: path.read_bytes() for path in trainer.data_dir.iterdir()} == files
    assert cn.NerTrainer(tiny_encoder, args, ROWS, ROWS).train() == metrics


@pytest.mark.parametrize("kind", ["torch", "numpy", "pandas", "arrow"])
def test_data_sets_of_any_format_are_written_alike(tmp_path: Path, kind: str) -> None:
    from contrastive_ner.library.ner_trainer import write_rows

    data = Dataset.from_list([{**row, "score": 0.5} for row in ROWS])
    write_rows(data, tmp_path / "plain.jsonl")
    write_rows(data.with_format(kind), tmp_path / "other.jsonl")
    assert (tmp_path / "plain.jsonl").read_bytes() == (tmp_path / "other.jsonl").read_bytes()
    numbers = [{"text": "张三", "entities": [[np.int64(0), np.int64(2), "PER"]], "x": np.ones(2)}]
    write_rows(numbers, tmp_path / "numbers.jsonl")
    written = (tmp_path / "numbers.jsonl").read_text("utf-8")
    assert written == '{"text": "张三", "entities": [[0, 2, "PER"]], "x": [1.0, 1.0]}\n'


def test_names_of_columns_and_types_are_checked(tiny_encoder: Path, tmp_path: Path) -> None:
    args = {"method": "crf", "output_dir": str(tmp_path / "run")}
    with pytest.raises(ConfigError, match=r"column_mapping is \{column: name\}.* found 'body'"):
        cn.NerTrainer(tiny_encoder, args, ROWS, ROWS, column_mapping={"text": "body"})
    with pytest.raises(ConfigError, match="types are for method binder"):
        cn.NerTrainer(tiny_encoder, args, ROWS, ROWS, types={"PER": "人物"})


@pytest.mark.parametrize(
    ("kind", "classes"), [("types", [0, 1, 1, 2, 2]), ("tags", [0, 1, 2, 3, 4])]
)
def test_stage_one_contrasts_types_or_tags(
    files: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    kind: str, classes: list[int],
) -> None:  # fmt: skip
    given = []

    class StoppedError(Exception):
        pass

    def recorded(**arguments: Any) -> Any:
        given.append(arguments["label_classes"])
        raise StoppedError

    monkeypatch.setattr("contrastive_ner.training.phases.ContrastiveTrainer", recorded)
    with pytest.raises(StoppedError):
        main(arguments(files, tiny_encoder, tmp_path / "run", stage1_classes=kind))
    assert given == [classes]
