"""Stage one: its batches, criteria, arguments and Trainer."""

import random
from pathlib import Path

import pytest
import torch
from conftest import LABELS
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast, set_seed

from data_ner import FeatureCollator, Mention, Record, training_features
from losses_contrastive import semantic_classes
from modeling_nerco import NercoForTokenClassification, NercoModel
from pipeline_ner import TextReader
from trainer_contrastive import (
    ContrastiveTrainer,
    ContrastiveTrainingArguments,
    freeze_lowest_layers,
    knn_classes,
    prototype_classes,
    sentence_batches,
    token_f1,
)

CORPUS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=8), min_size=1, max_size=60)


def offers_a_pair(batch: list[int], sentences: list[list[int]]) -> bool:
    classes = [c for number in batch for c in sentences[number] if c > 0]
    return len(set(classes)) < len(classes)


@given(CORPUS, st.integers(1, 12), st.integers(0, 5), st.integers(0, 5))
@settings(deadline=None)
def test_batches_hold_every_sentence_once_in_equal_sizes(sentences, batch_size, seed, epoch):
    batches = sentence_batches(sentences, batch_size, seed, epoch)
    assert sorted(number for batch in batches for number in batch) == list(range(len(sentences)))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= batch_size


@given(CORPUS, st.integers(2, 12), st.integers(0, 5), st.integers(0, 5))
@settings(deadline=None)
def test_batches_are_a_function_of_seed_and_epoch(sentences, batch_size, seed, epoch):
    first = sentence_batches(sentences, batch_size, seed, epoch)
    random.random(), torch.rand(1)
    assert sentence_batches(sentences, batch_size, seed, epoch) == first


def test_batches_differ_between_epochs_and_seeds():
    sentences = [[0, 1, 1, 0]] * 40
    batches = {str(sentence_batches(sentences, 8, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(batches) == 9


def test_every_batch_offers_a_pair_where_the_data_allow():
    # Four sentences with a pair of their own among forty, four batches: random batches would leave some without.
    sentences = [[0] * 5 for _ in range(36)] + [[1, 1, 0]] * 4
    for epoch in range(20):
        assert all(offers_a_pair(batch, sentences) for batch in sentence_batches(sentences, 10, 0, epoch))


def test_two_sentences_with_one_token_of_a_class_share_a_batch():
    sentences = [[0, 0]] * 6 + [[0, 1], [2, 0], [1, 0], [0, 2]]
    for epoch in range(20):
        assert all(offers_a_pair(batch, sentences) for batch in sentence_batches(sentences, 5, 0, epoch))


def test_knn_and_prototypes_find_the_clusters():
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(3)
    classes = torch.arange(3).repeat(30)
    references = centres[classes] + 0.1 * torch.randn(90, 3, generator=generator)
    queries = centres + 0.1 * torch.randn(3, 3, generator=generator)
    assert knn_classes(queries, references, classes, neighbours=5).tolist() == [0, 1, 2]
    assert prototype_classes(queries, references, classes).tolist() == [0, 1, 2]


def test_knn_tie_goes_to_the_nearer_class():
    references = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    query = torch.tensor([[0.4, 0.6]])
    assert knn_classes(query, references, torch.tensor([1, 2]), neighbours=2).tolist() == [2]


def test_token_f1_ignores_true_outside_tokens():
    gold = torch.tensor([0, 0, 1, 2, 2])
    assert token_f1(gold, gold) == 1.0
    assert token_f1(torch.tensor([0, 0, 1, 0, 2]), gold) == pytest.approx(2 * 2 / (2 + 3))
    assert token_f1(torch.zeros(5), torch.zeros(5)) == 0.0


# --------------------------------------------------------------------------------------------------------------- trainer
def features(tokenizer: PreTrainedTokenizerFast, count: int = 24) -> list[dict]:
    """张三 is a person, 华为 an organisation."""
    records = [
        Record(str(i), f"张三{'又' * (i % 3)}去华为了", [Mention(0, 2, "PER"), Mention(3 + i % 3, 5 + i % 3, "ORG")]) for i in range(count)
    ]
    return training_features(records, TextReader(tokenizer, label_unit="token", max_window_tokens=64), LABELS)[0]


def make_trainer(tiny_encoder: Path, tokenizer: PreTrainedTokenizerFast, output: Path, **arguments) -> ContrastiveTrainer:
    set_seed(0)
    defaults = {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    data = features(tokenizer)
    return ContrastiveTrainer(
        model=NercoModel.from_encoder(str(tiny_encoder), label_unit="token"),
        args=ContrastiveTrainingArguments(output_dir=str(output), **{**defaults, **arguments}),
        train_dataset=data,
        eval_dataset=data[:8],
        data_collator=FeatureCollator(tokenizer.pad_token_id),
        label_classes=semantic_classes(LABELS),
    )


@pytest.mark.parametrize("arguments", [{}, {"with_o": True}, {"class_reduction": "mean"}, {"contrastive_loss": "supcon"}, {"bf16": True}])
def test_stage_one_lowers_the_loss(tiny_encoder, character_tok, tmp_path, arguments):
    trainer = make_trainer(tiny_encoder, character_tok, tmp_path, **arguments)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < before
    assert after["eval_knn_f1"] == 1.0


def test_stage_one_moves_every_trainable_parameter(tiny_encoder, character_tok, tmp_path):
    trainer = make_trainer(tiny_encoder, character_tok, tmp_path, num_train_epochs=1)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    still = [name for name, parameter in trainer.model.named_parameters() if torch.equal(parameter, before[name])]
    assert still == []


def test_frozen_layers_and_embeddings_stay(tiny_encoder, character_tok, tmp_path):
    trainer = make_trainer(tiny_encoder, character_tok, tmp_path, num_train_epochs=1, freeze_layers=1)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, parameter in trainer.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {name for name in before if ".layer.1." in name}


def test_freezing_everything_is_refused(tiny_encoder, character_tok, tmp_path):
    with pytest.raises(ValueError, match="no parameter is left to train"):
        make_trainer(tiny_encoder, character_tok, tmp_path, freeze_layers=2)
    with pytest.raises(ValueError, match="expected 0 to 2"):
        make_trainer(tiny_encoder, character_tok, tmp_path, freeze_layers=3)
    with pytest.raises(ValueError, match="expected 0 to 2"):
        freeze_lowest_layers(NercoModel.from_encoder(str(tiny_encoder)).encoder, -1)


def test_criteria_do_not_depend_on_the_batch_size(tiny_encoder, character_tok, tmp_path):
    small = make_trainer(tiny_encoder, character_tok, tmp_path, per_device_eval_batch_size=1, per_device_train_batch_size=2).evaluate()
    large = make_trainer(tiny_encoder, character_tok, tmp_path, per_device_eval_batch_size=8, per_device_train_batch_size=8).evaluate()
    for name in ("eval_knn_f1", "eval_prototype_f1"):
        assert small[name] == pytest.approx(large[name])


def test_trainer_walks_through_the_sampler_s_epochs(tiny_encoder, character_tok, tmp_path):
    trainer = make_trainer(tiny_encoder, character_tok, tmp_path, num_train_epochs=2)
    seen: list[torch.Tensor] = []
    plain = trainer.compute_loss
    trainer.compute_loss = lambda model, inputs, **k: (seen.append(inputs["input_ids"].clone()), plain(model, inputs, **k))[1]
    trainer.train()
    sentences = [[semantic_classes(LABELS)[x] for x in f["labels"] if x >= 0] for f in trainer.train_dataset]
    expected = [batch for epoch in range(2) for batch in sentence_batches(sentences, 8, trainer.args.seed, epoch)]
    assert len(seen) == len(expected)
    for ids, batch in zip(seen, expected, strict=True):
        assert torch.equal(ids, trainer.data_collator([trainer.train_dataset[i] for i in batch])["input_ids"])


def test_best_epoch_by_criterion_is_loaded_at_the_end(tiny_encoder, character_tok, tmp_path):
    trainer = make_trainer(
        tiny_encoder,
        character_tok,
        tmp_path,
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
    )
    trainer.train()
    best = min(row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best, rel=1e-5)


def test_stage_one_model_starts_stage_two(tiny_encoder, character_tok, tmp_path):
    trainer = make_trainer(tiny_encoder, character_tok, tmp_path / "run", num_train_epochs=1)
    trainer.train()
    trainer.model.save_pretrained(tmp_path / "stage1")
    tagger = NercoForTokenClassification.from_encoder(str(tiny_encoder), LABELS, label_unit="token")
    tagger.nerco = NercoModel.from_pretrained(tmp_path / "stage1")
    for name, parameter in tagger.nerco.named_parameters():
        assert torch.equal(parameter, trainer.model.get_parameter(name))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"contrastive_loss": "triplet"}, "expected nerco or supcon"),
        ({"contrastive_temperature": 0.0}, "expected a positive number"),
        ({"class_reduction": "max"}, "expected sum or mean"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveTrainingArguments(output_dir=str(tmp_path), **arguments)
