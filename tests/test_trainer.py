"""Stage one: its batches, criteria, arguments and Trainer."""

import random
from pathlib import Path

import pytest
import torch
from conftest import LABELS, corpus
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast, Trainer, TrainingArguments, set_seed

from contrastive_ner.data.records import Mention, Record
from contrastive_ner.errors import ConfigError
from contrastive_ner.models.modeling_binder import BinderModel
from contrastive_ner.models.modeling_nerco import NercoForTokenClassification, NercoModel
from contrastive_ner.models.pipeline_ner import text_reader
from contrastive_ner.training.batches import (
    EpochBatches,
    SpanCollator,
    TagCollator,
    sentence_batches,
)
from contrastive_ner.training.binder import BinderTrainer, SpanCounts
from contrastive_ner.training.contrastive import (
    ContrastiveTrainer,
    ContrastiveTrainingArguments,
    freeze_lowest_layers,
)
from contrastive_ner.training.criteria import (
    chunks_of,
    classes_of,
    knn_classes,
    prototype_classes,
    token_f1,
)
from contrastive_ner.training.features import span_features, tag_features
from contrastive_ner.training.gathering import gather_tokens
from contrastive_ner.training.joint import JointTrainer
from contrastive_ner.training.losses import pairwise_contrastive_loss, semantic_classes
from contrastive_ner.training.sentence_trainer import SentenceTrainer

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
    batches = {
        str(sentence_batches(sentences, 8, seed, epoch)) for seed in range(3) for epoch in range(3)
    }
    assert len(batches) == 9


def test_every_batch_offers_a_pair_where_the_data_allow():
    # Of forty sentences four have a pair of their own, for four batches: some random batches would
    # have none.
    sentences = [[0] * 5 for _ in range(36)] + [[1, 1, 0]] * 4
    for epoch in range(20):
        assert all(
            offers_a_pair(batch, sentences) for batch in sentence_batches(sentences, 10, 0, epoch)
        )


def test_two_sentences_with_one_token_of_a_class_share_a_batch():
    sentences = [[0, 0]] * 6 + [[0, 1], [2, 0], [1, 0], [0, 2]]
    for epoch in range(20):
        assert all(
            offers_a_pair(batch, sentences) for batch in sentence_batches(sentences, 5, 0, epoch)
        )


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


# ------------------------------------------------------------------------------------------ trainer
def features(tokenizer: PreTrainedTokenizerFast, count: int = 24) -> list[dict]:
    """张三 is a person, 华为 an organisation."""
    records = [
        Record(
            str(i),
            f"张三{'又' * (i % 3)}去华为了",
            [Mention(0, 2, "PER"), Mention(3 + i % 3, 5 + i % 3, "ORG")],
        )
        for i in range(count)
    ]
    return tag_features(
        records, text_reader(tokenizer, label_unit="token", max_window_tokens=64), LABELS
    )[0]


def make_trainer(
    tiny_encoder: Path, tokenizer: PreTrainedTokenizerFast, output: Path, **arguments
) -> ContrastiveTrainer:
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
        data_collator=TagCollator(tokenizer.pad_token_id),
        label_classes=semantic_classes(LABELS),
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"with_o": True},
        {"class_reduction": "mean"},
        {"contrastive_loss": "supcon"},
        {"bf16": True},
        {"projection_size": 8},
    ],
)
def test_stage_one_lowers_the_loss(tiny_encoder, character_tok, tmp_path, arguments):
    trainer = make_trainer(tiny_encoder, character_tok, tmp_path, **arguments)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    # Of the last epoch: the projection head is gone afterwards.
    losses = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    assert losses[-1] < before
    after = trainer.evaluate()
    assert after.get("eval_loss", losses[-1]) == pytest.approx(losses[-1], rel=1e-4)
    assert after["eval_knn_f1"] == 1.0


def test_stage_one_moves_every_trainable_parameter(tiny_encoder, character_tok, tmp_path):
    trainer = make_trainer(tiny_encoder, character_tok, tmp_path, num_train_epochs=1)
    before = {
        name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()
    }
    trainer.train()
    still = [
        name
        for name, parameter in trainer.model.named_parameters()
        if torch.equal(parameter, before[name])
    ]
    assert still == []


def test_a_projection_head_is_trained_and_thrown_away(tiny_encoder, character_tok, tmp_path):
    trainer = make_trainer(
        tiny_encoder,
        character_tok,
        tmp_path,
        num_train_epochs=2,
        projection_size=5,
        save_strategy="epoch",
        load_best_model_at_end=True,
    )
    head = trainer.model.projection
    before = [parameter.detach().clone() for parameter in head.parameters()]
    batch = trainer._prepare_inputs(trainer.data_collator(trainer.train_dataset[:4]))
    without_dropout(trainer)
    rows, classes = trainer.token_embeddings(trainer.model.train(), batch)
    model = trainer.model.eval()
    states = model(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    first, _, last = head
    kept = states[batch["labels"] >= 0]
    expected = last(torch.nn.functional.gelu(first(kept)))
    assert rows.shape == (len(classes), 5)
    torch.testing.assert_close(rows, expected)
    trainer.train()
    assert all(not torch.equal(p, old) for p, old in zip(head.parameters(), before, strict=True))
    plain = NercoModel.from_encoder(str(tiny_encoder), label_unit="token")
    assert trainer.model.state_dict().keys() == plain.state_dict().keys()
    assert not trainer.model._forward_hooks
    with pytest.raises(ConfigError, match="projection_size is -1: expected at least 0"):
        make_trainer(tiny_encoder, character_tok, tmp_path, projection_size=-1)


def test_frozen_layers_and_embeddings_stay(tiny_encoder, character_tok, tmp_path):
    trainer = make_trainer(
        tiny_encoder, character_tok, tmp_path, num_train_epochs=1, freeze_layers=1
    )
    before = {
        name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()
    }
    trainer.train()
    moved = {
        name
        for name, parameter in trainer.model.named_parameters()
        if not torch.equal(parameter, before[name])
    }
    assert moved == {name for name in before if ".layer.1." in name}


def test_freezing_everything_is_refused(tiny_encoder, character_tok, tmp_path):
    with pytest.raises(ValueError, match="no parameter is left to train"):
        make_trainer(tiny_encoder, character_tok, tmp_path, freeze_layers=2)
    with pytest.raises(ValueError, match="expected 0 to 2"):
        make_trainer(tiny_encoder, character_tok, tmp_path, freeze_layers=3)
    with pytest.raises(ValueError, match="no parameter is left to train without a lexicon"):
        make_trainer(tiny_encoder, character_tok, tmp_path, freeze_encoder=True)
    with pytest.raises(ValueError, match="expected 0 to 2"):
        freeze_lowest_layers(NercoModel.from_encoder(str(tiny_encoder)).encoder, -1)


def test_criteria_do_not_depend_on_the_batch_size(tiny_encoder, character_tok, tmp_path):
    small = make_trainer(
        tiny_encoder,
        character_tok,
        tmp_path,
        per_device_eval_batch_size=1,
        per_device_train_batch_size=2,
    ).evaluate()
    large = make_trainer(
        tiny_encoder,
        character_tok,
        tmp_path,
        per_device_eval_batch_size=8,
        per_device_train_batch_size=8,
    ).evaluate()
    for name in ("eval_knn_f1", "eval_prototype_f1"):
        assert small[name] == pytest.approx(large[name])


def test_trainer_walks_through_the_sampler_s_epochs(tiny_encoder, character_tok, tmp_path):
    trainer = make_trainer(tiny_encoder, character_tok, tmp_path, num_train_epochs=2)
    seen: list[torch.Tensor] = []
    plain = trainer.compute_loss
    trainer.compute_loss = lambda model, inputs, **k: (
        seen.append(inputs["input_ids"].clone()),
        plain(model, inputs, **k),
    )[1]
    trainer.train()
    sentences = [
        [semantic_classes(LABELS)[x] for x in f["labels"] if x >= 0] for f in trainer.train_dataset
    ]
    expected = [
        batch
        for epoch in range(2)
        for batch in sentence_batches(sentences, 8, trainer.args.seed, epoch)
    ]
    assert len(seen) == len(expected)
    for ids, batch in zip(seen, expected, strict=True):
        assert torch.equal(
            ids, trainer.data_collator([trainer.train_dataset[i] for i in batch])["input_ids"]
        )


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


# --------------------------------------------------------------------------------- gradient caching
def one_step(
    trainer: ContrastiveTrainer, batch: dict[str, torch.Tensor]
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one training step, with a fixed random seed."""
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.zero_grad()
    torch.manual_seed(7)
    loss = float(trainer.training_step(trainer.model, batch))
    return loss, {
        name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None
    }


def without_dropout(trainer: ContrastiveTrainer) -> ContrastiveTrainer:
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return trainer


@pytest.mark.parametrize(
    "options",
    [{}, {"with_o": True}, {"contrastive_loss": "supcon"}, {"projection_size": 6}],
    ids=str,
)
@pytest.mark.parametrize("chunk_size", [1, 3, 8, 23])
def test_chunks_give_the_gradient_of_the_whole_batch(
    tiny_encoder, character_tok, tmp_path, chunk_size, options
):
    whole = without_dropout(make_trainer(tiny_encoder, character_tok, tmp_path, **options))
    chunked = without_dropout(
        make_trainer(tiny_encoder, character_tok, tmp_path, chunk_size=chunk_size, **options)
    )
    batch = whole.data_collator(whole.train_dataset)
    loss, gradients = one_step(whole, batch)
    found_loss, found = one_step(chunked, batch)
    assert found_loss == pytest.approx(loss, rel=1e-6)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-5)


def test_chunks_are_embedded_twice_under_the_same_dropout(tiny_encoder, character_tok, tmp_path):
    """With dropout, gradients equal those of chunks embedded once, with their graphs."""
    trainer = make_trainer(tiny_encoder, character_tok, tmp_path, chunk_size=5)
    batch = trainer.data_collator(trainer.train_dataset)
    loss, gradients = one_step(trainer, batch)
    trainer.model.zero_grad()
    torch.manual_seed(7)
    parts = [
        trainer.token_embeddings(trainer.model.train(), chunk) for chunk in chunks_of(batch, 5)
    ]
    embeddings, classes = (torch.cat(part) for part in zip(*parts, strict=True))
    expected = trainer.contrastive_loss(embeddings, classes)
    expected.backward()
    assert loss == pytest.approx(float(expected), rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            gradient, trainer.model.get_parameter(name).grad, atol=1e-6, rtol=1e-5
        )


class SavedBytes:
    """Peak bytes that autograd keeps for the backward pass."""

    def __init__(self) -> None:
        self.now = self.peak = 0

    def pack(self, tensor: torch.Tensor) -> "SavedBytes.Held":
        return SavedBytes.Held(self, tensor)

    class Held:
        def __init__(self, account: "SavedBytes", tensor: torch.Tensor) -> None:
            self.account, self.tensor = account, tensor
            # Parameters do not count.
            self.size = 0 if tensor.is_leaf else tensor.numel() * tensor.element_size()
            account.now += self.size
            account.peak = max(account.peak, account.now)

        def __del__(self) -> None:
            self.account.now -= self.size


def peak_of_step(trainer: ContrastiveTrainer, sentences: int) -> int:
    account = SavedBytes()
    batch = trainer.data_collator(trainer.train_dataset[:sentences])
    with torch.autograd.graph.saved_tensors_hooks(account.pack, lambda held: held.tensor):
        one_step(trainer, batch)
    return account.peak


def test_memory_of_chunks_does_not_grow_with_the_batch(tiny_encoder, character_tok, tmp_path):
    chunked = make_trainer(tiny_encoder, character_tok, tmp_path, chunk_size=3)
    whole = make_trainer(tiny_encoder, character_tok, tmp_path)
    assert peak_of_step(whole, 24) > 3 * peak_of_step(whole, 6), "the premise: the plain batch does"
    # Only one vector per token, without a graph, grows with the batch.
    token_vectors = (24 - 6) * 7 * 32 * 4 * 2
    assert peak_of_step(chunked, 24) <= peak_of_step(chunked, 6) + token_vectors


def test_accumulated_chunks_are_scaled_as_accumulated_batches(
    tiny_encoder, character_tok, tmp_path
):
    """With two accumulated batches per step, runs with and without chunks end the same."""
    ends = []
    for chunk_size in (0, 2):
        options = {
            "gradient_accumulation_steps": 2,
            "num_train_epochs": 1,
            "learning_rate": 1e-4,
            "eval_strategy": "no",
        }
        trainer = without_dropout(
            make_trainer(tiny_encoder, character_tok, tmp_path, chunk_size=chunk_size, **options)
        )
        trainer.train()
        ends.append(
            {
                name: parameter.detach().clone()
                for name, parameter in trainer.model.named_parameters()
            }
        )
    for name, parameter in ends[0].items():
        torch.testing.assert_close(ends[1][name], parameter, atol=2e-5, rtol=1e-3)


# -------------------------------------------------------------------------------- several processes
@given(CORPUS, st.integers(1, 6), st.integers(0, 3), st.integers(1, 4), st.booleans())
@settings(deadline=None)
def test_processes_get_equal_parts_without_a_repeated_sentence(
    sentences, batch_size, epoch, processes, paired
):
    if len(sentences) < processes:
        with pytest.raises(ValueError, match="expected at least one for each"):
            sentence_batches(sentences, batch_size, 0, epoch, processes=processes, paired=paired)
        return
    samplers = [
        EpochBatches(sentences, batch_size, 0, paired=paired, process=process, processes=processes)
        for process in range(processes)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    parts = [list(sampler) for sampler in samplers]
    assert {len(part) for part in parts} == {len(samplers[0])}
    for batch in zip(*parts, strict=True):
        assert len({len(part) for part in batch}) == 1
        assert 1 <= len(batch[0]) <= batch_size
    seen = [number for part in parts for batch in part for number in batch]
    assert len(seen) == len(set(seen)) == len(sentences) - len(sentences) % processes


def test_sentences_left_out_are_others_in_every_epoch():
    sentences = [[0, 1, 1]] * 9
    left_out = {
        (
            set(range(9))
            - {n for batch in sentence_batches(sentences, 2, 0, epoch, processes=2) for n in batch}
        ).pop()
        for epoch in range(20)
    }
    assert len(left_out) > 3


def test_one_process_gathers_nothing():
    embeddings, classes = torch.randn(3, 2, requires_grad=True), torch.tensor([0, 1, 1])
    assert gather_tokens(embeddings, classes) == (embeddings, classes)


# ----------------------------------------------------------------------------------- joint training
@pytest.mark.parametrize("after_dropout", [False, True])
def test_joint_loss_is_the_tagger_s_plus_the_weighted_contrast(
    tiny_encoder, character_tok, tmp_path, after_dropout
):
    rate = 0.5 if after_dropout else 0.0
    model = NercoForTokenClassification.from_encoder(
        str(tiny_encoder), LABELS, label_unit="token", output_dropout=rate
    )
    data = features(character_tok)
    trainer = JointTrainer(
        model=model,
        args=TrainingArguments(
            str(tmp_path), use_cpu=True, report_to="none", remove_unused_columns=False
        ),
        train_dataset=data,
        data_collator=TagCollator(character_tok.pad_token_id),
        label_classes=semantic_classes(LABELS),
        weight=0.3,
        temperature=0.1,
        after_dropout=after_dropout,
    )
    batch = trainer.data_collator(data[:8])
    for module in model.nerco.encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.train()
    torch.manual_seed(3)
    outputs = model(**batch, output_hidden_states=True)
    torch.manual_seed(3)  # the same mask
    contrast = pairwise_contrastive_loss(
        torch.nn.functional.dropout(outputs.hidden_states[-1], rate),
        classes_of(batch["labels"], semantic_classes(LABELS)),
        temperature=0.1,
    )
    torch.manual_seed(3)
    torch.testing.assert_close(trainer.compute_loss(model, batch), outputs.loss + 0.3 * contrast)
    model.eval()
    torch.testing.assert_close(trainer.compute_loss(model, batch), model(**batch).loss)


# --------------------------------------------------------------------- fields of TrainingArguments
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("label_smoothing_factor", 0.1),
        ("train_sampling_strategy", "group_by_length"),
        ("auto_find_batch_size", True),
        ("dataloader_drop_last", True),
        ("label_names", ["tags"]),
        ("debug", "underflow_overflow"),
        ("accelerator_config", {"split_batches": True}),
    ],
)
def test_fields_that_cannot_work_are_refused(tiny_encoder, character_tok, tmp_path, field, value):
    with pytest.raises(ConfigError, match=rf"{field}.* is .*: expected .* because") as refusal:
        make_trainer(tiny_encoder, character_tok, tmp_path, **{field: value})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("trainer_class", [Trainer, SentenceTrainer])
@pytest.mark.parametrize("method", ["crf", "ce", "binder"])
def test_label_smoothing_is_refused_where_it_would_replace_the_loss(
    tiny_encoder, character_tok, tmp_path, trainer_class, method
):
    trainer = stage_two(
        trainer_class, method, tiny_encoder, character_tok, tmp_path, label_smoothing_factor=0.1
    )
    if method == "ce":
        assert trainer().train().training_loss > 0
        return
    with pytest.raises(ValueError, match="label_smoothing_factor is "):
        trainer().train()


def test_a_loss_of_the_caller_s_own_is_left_alone(tiny_encoder, character_tok, tmp_path):
    trainer = stage_two(Trainer, "crf", tiny_encoder, character_tok, tmp_path)(
        compute_loss_func=lambda outputs, labels, **_: outputs["logits"].square().mean()
    )
    assert trainer.train().training_loss > 0


@pytest.mark.parametrize("method", ["crf", "binder"])
@pytest.mark.parametrize(
    "fields",
    [
        {"neftune_noise_alpha": 5.0},
        {"gradient_checkpointing": True},
        pytest.param(
            {"torch_compile": True, "torch_compile_backend": "eager"}, marks=pytest.mark.slow
        ),
        pytest.param(
            {"dataloader_num_workers": 1, "dataloader_persistent_workers": True},
            marks=pytest.mark.slow,
        ),
        {"include_for_metrics": ["inputs", "loss"]},
        {"prediction_loss_only": True},
        {"eval_do_concat_batches": False},
        {"batch_eval_metrics": True},
        {"remove_unused_columns": True},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_other_fields_work(tiny_encoder, character_tok, tmp_path, method, fields):
    trainer_class = BinderTrainer if method == "binder" else SentenceTrainer
    trainer = stage_two(trainer_class, method, tiny_encoder, character_tok, tmp_path, **fields)(
        compute_metrics=SpanCounts() if method == "binder" else None
    )
    trainer.train()
    scores = trainer.evaluate()
    assert scores["eval_loss"] > 0
    if method == "binder" and "prediction_loss_only" not in fields:
        assert scores["eval_f1"] >= 0


def stage_two(trainer_class, method, tiny_encoder, tokenizer, output, **fields):
    """Makes a Trainer of two steps for a method; further arguments are those of the Trainer."""
    reader = text_reader(tokenizer, label_unit="token", max_window_tokens=64)
    if method == "binder":
        descriptions = {"PER": "人物", "ORG": "机构"}
        data = span_features(corpus(8), reader, list(descriptions), max_width=5, overlap=16)[0]
        model = BinderModel.from_encoders(
            str(tiny_encoder), descriptions=descriptions, label_unit="token", max_span_width=5
        )
    else:
        data = features(tokenizer, 8)
        model = NercoForTokenClassification.from_encoder(
            str(tiny_encoder), LABELS, label_unit="token", use_crf=method == "crf"
        )
    collator = SpanCollator if method == "binder" else TagCollator
    return lambda **given: trainer_class(
        model=model,
        args=TrainingArguments(
            str(output),
            **{
                "max_steps": 2,
                "per_device_train_batch_size": 4,
                "report_to": "none",
                "use_cpu": True,
                "disable_tqdm": True,
                "save_strategy": "no",
                "dataloader_pin_memory": False,
                **fields,
            },
        ),
        train_dataset=data,
        eval_dataset=data,
        data_collator=collator(tokenizer.pad_token_id),
        **given,
    )
