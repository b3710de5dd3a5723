"""The library as users of transformers use it: other labels, stage one and two by hand."""

from pathlib import Path

import pytest
import torch
from conftest import LABELS, corpus
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from transformers import (
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    PreTrainedTokenizerFast,
)

import contrastive_ner as cn
from contrastive_ner.models.modeling_binder import BinderModel
from contrastive_ner.models.modeling_nerco import NercoForTokenClassification, NercoModel
from contrastive_ner.models.windows_ner import InputError

TEXTS = ["张三在北京大学读书，李四在上海工作。", "我们去上海。" * 10, ""]


def found(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast) -> list[list[tuple]]:
    """Mentions as (start, end, type, score)."""
    return [
        [(m["start"], m["end"], m["entity_group"], m["score"]) for m in own]
        for own in model.pipeline(tokenizer)(TEXTS)
    ]


# ------------------------------------------------------------------------------------- other labels
@pytest.mark.parametrize("use_crf", [True, False])
def test_a_tagger_learns_further_types_and_keeps_what_it_finds(
    tiny_encoder: Path, character_tok: PreTrainedTokenizerFast, tmp_path: Path, use_crf: bool
) -> None:
    torch.manual_seed(1)
    model = NercoForTokenClassification.from_encoder(
        str(tiny_encoder), LABELS, label_unit="token", use_crf=use_crf
    ).eval()
    torch.nn.init.normal_(model.classifier.weight, std=2.0)
    if use_crf:
        torch.nn.init.normal_(model.crf.transitions, std=3.0)
    model.config.score_temperature = 1.5
    before = found(model, character_tok)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.add_labels("LOC", "TIME")
    new = ["B-LOC", "I-LOC", "B-TIME", "I-TIME"]
    assert model.config.labels == [*LABELS, *new]
    assert model.config.label2id["I-TIME"] == model.num_labels - 1 == len(LABELS) + 3
    assert torch.equal(model.classifier.weight[: len(LABELS)], state["classifier.weight"])
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.save_pretrained(tmp_path)
    for other in (model, NercoForTokenClassification.from_pretrained(tmp_path)):
        after = found(other, character_tok)
        assert [[m[:3] for m in own] for own in after] == [[m[:3] for m in own] for own in before]
        for own, old in zip(after, before, strict=True):
            assert [m[3] for m in own] == pytest.approx([m[3] for m in old], abs=0.02)
        assert other.config.score_temperature == 1.5
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    inputs = character_tok(["上海"], return_tensors="pt")
    for _ in range(40):
        loss = model.train()(**inputs, labels=torch.tensor([[-100, 5, 6, -100]])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert {m["entity_group"] for m in model.eval().pipeline(character_tok)("上海")} == {"LOC"}


def test_a_taggers_types_are_renamed(
    tiny_tagger: NercoForTokenClassification,
    character_tok: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    before = found(tiny_tagger, character_tok)
    tiny_tagger.rename_labels({"PER": "ORG", "ORG": "PER"})
    tiny_tagger.save_pretrained(tmp_path)
    names = {"PER": "ORG", "ORG": "PER"}
    for other in (tiny_tagger, NercoForTokenClassification.from_pretrained(tmp_path)):
        assert other.config.labels == ["O", "B-ORG", "I-ORG", "B-PER", "I-PER"]
        assert found(other, character_tok) == [
            [(start, end, names[label], score) for start, end, label, score in own]
            for own in before
        ]


def test_binder_learns_further_types_and_keeps_what_it_finds(
    saved_binder: tuple[Path, BinderModel], character_tok: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = saved_binder[1]
    before, vectors = found(model, character_tok), model.types.vectors
    model.add_labels(
        {"LOC": "地点：山、河、湖、海的名字，如长江。", "T": ["时间", "日期"]}, character_tok
    )
    model.save_pretrained(tmp_path / "more")
    for other in (model, BinderModel.from_pretrained(tmp_path / "more")):
        assert other.config.labels == ["PER", "ORG", "GPE", "LOC", "T"]
        torch.testing.assert_close(other.types.vectors[:, :3], vectors)
        own = [[m for m in row if m[2] not in ("LOC", "T")] for row in found(other, character_tok)]
        assert [[m[:3] for m in row] for row in own] == [[m[:3] for m in row] for row in before]
    model.rename_labels({"LOC": "PLACE", "PER": "PERSON"})
    model.save_pretrained(tmp_path / "renamed")
    for other in (model, BinderModel.from_pretrained(tmp_path / "renamed")):
        assert other.config.labels == ["PERSON", "ORG", "GPE", "PLACE", "T"]
        assert {m[2] for row in found(other, character_tok) for m in row} <= set(
            other.config.labels
        )
    mask = torch.tensor([[False, True, True, False]])
    model.train()(
        input_ids=torch.tensor([[2, 7, 8, 3]]),
        word_mask=mask,
        word_end_mask=mask,
        labels=torch.tensor([[[4, 1, 2]]]),
    ).loss.backward()


def test_names_that_make_no_sense_are_refused(
    tiny_tagger: NercoForTokenClassification,
    saved_binder: tuple[Path, BinderModel],
    character_tok: PreTrainedTokenizerFast,
) -> None:
    binder = saved_binder[1]
    for names in (["PER"], ["LOC", "LOC"], [""]):
        with pytest.raises(InputError, match="expected new names"):
            tiny_tagger.add_labels(*names)
    for texts in ({"PER": "x"}, {"LOC": " "}, {"LOC": "字" * 600}):
        with pytest.raises(InputError):
            binder.add_labels(texts, character_tok)
    for model in (tiny_tagger, binder):
        before = model.config.labels
        with pytest.raises(InputError, match="is not there"):
            model.rename_labels({"LOC": "PLACE"})
        with pytest.raises(InputError):
            model.rename_labels({"PER": "ORG"})
        assert model.config.labels == before


# -------------------------------------------------------------------------------- stage one and two
def stock_data(tokenizer: PreTrainedTokenizerFast) -> Dataset:
    """What the usual token-classification scripts make, other columns included."""
    reader = cn.text_reader(tokenizer, label_unit="token", max_window_tokens=128)
    rows = cn.tag_features(corpus(16), reader, LABELS)[0]
    return Dataset.from_list(
        [
            {"id": str(i), "input_ids": r["input_ids"], "labels": r["labels"]}
            for i, r in enumerate(rows)
        ]
    )


def stage_one(tmp_path: Path, **more: object) -> cn.ContrastiveTrainingArguments:
    return cn.ContrastiveTrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=8, use_cpu=True, **more
    )


def test_stage_one_takes_a_tagger_and_stock_features(
    tiny_tagger: NercoForTokenClassification,
    character_tok: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    data, body = stock_data(character_tok), tiny_tagger.nerco.encoder
    before = body.embeddings.word_embeddings.weight.clone()
    trainer = cn.ContrastiveTrainer(
        tiny_tagger,
        stage_one(tmp_path, remove_unused_columns=True),
        train_dataset=data,
        eval_dataset=data,
        data_collator=DataCollatorForTokenClassification(character_tok),
    )
    assert trainer.label_classes == [0, 1, 1, 2, 2]
    trainer.train()
    assert 0 <= trainer.evaluate()["eval_knn_f1"] <= 1
    assert not torch.equal(tiny_tagger.nerco.encoder.embeddings.word_embeddings.weight, before)


def test_stage_one_trains_a_model_with_the_code_of_its_repository(
    saved_tagger: Path, character_tok: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = AutoModelForTokenClassification.from_pretrained(saved_tagger, trust_remote_code=True)
    assert not isinstance(model, NercoForTokenClassification), "the repository's class"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = stock_data(character_tok)
    trainer = cn.ContrastiveTrainer(
        model, stage_one(tmp_path), train_dataset=data, eval_dataset=data
    )
    trainer.train()
    assert 0 <= trainer.evaluate()["eval_knn_f1"] <= 1
    changed = [name for name, value in model.state_dict().items() if not value.equal(before[name])]
    assert changed
    assert all(name.startswith("nerco.encoder") for name in changed)
    assert list(model.pipeline(character_tok)(TEXTS))


def test_stage_one_reads_the_classes_from_the_data_set(
    tiny_encoder: Path, character_tok: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = NercoModel.from_encoder(str(tiny_encoder), label_unit="token")
    data = stock_data(character_tok)
    with pytest.raises(cn.ConfigError, match="label_classes is missing"):
        cn.ContrastiveTrainer(model, stage_one(tmp_path), train_dataset=data)
    rows = [{**row, "labels": [max(x, 0) for x in row["labels"]]} for row in data]
    named = Features(
        {
            "id": Value("string"),
            "input_ids": Sequence(Value("int64")),
            "labels": Sequence(ClassLabel(names=LABELS)),
        }
    )
    data = Dataset.from_list(rows, features=named)
    trainer = cn.ContrastiveTrainer(model, stage_one(tmp_path), train_dataset=data)
    assert trainer.label_classes == [0, 1, 1, 2, 2]
    trainer.train()


def test_stage_two_starts_from_stage_one_in_one_call(
    tiny_encoder: Path, tiny_tagger: NercoForTokenClassification, tmp_path: Path
) -> None:
    body = NercoModel.from_encoder(str(tiny_encoder), label_unit="token", output_dropout=0.1)
    torch.nn.init.normal_(body.encoder.embeddings.word_embeddings.weight)
    body.save_pretrained(tmp_path / "stage1")
    tagger = NercoForTokenClassification.from_pretrained(tmp_path / "stage1", labels=LABELS)
    assert tagger.config.labels == LABELS
    assert tagger.config.output_dropout == 0.1
    for name, value in body.state_dict().items():
        assert torch.equal(tagger.nerco.state_dict()[name], value)
    assert tagger.classifier.weight.abs().max() < 1
    assert tagger.crf.transitions.abs().max() == 0
    tagger.save_pretrained(tmp_path / "stage2")
    again = NercoForTokenClassification.from_pretrained(tmp_path / "stage2", labels=LABELS)
    assert torch.equal(again.classifier.weight, tagger.classifier.weight)
    others = ["O", "B-A", "I-A", "B-B", "I-B"]
    with pytest.raises(InputError, match="there is a tagger"):
        NercoForTokenClassification.from_pretrained(tmp_path / "stage2", labels=others)
    with pytest.raises(InputError, match="expected 'O' first"):
        NercoForTokenClassification.from_pretrained(tmp_path / "stage1", labels=["B-A", "I-A"])
    with pytest.raises(InputError, match="weights are missing"):
        NercoForTokenClassification.from_pretrained(
            tmp_path / "stage1", id2label=dict(enumerate(LABELS))
        )


def test_labels_in_another_order_do_not_exchange_types(saved_tagger: Path) -> None:
    order = ["O", "B-ORG", "I-ORG", "B-PER", "I-PER"]
    with pytest.raises(InputError, match="would exchange them"):
        NercoForTokenClassification.from_pretrained(saved_tagger, id2label=dict(enumerate(order)))
    names = ["O", "B-PERSON", "I-PERSON", "B-ORG", "I-ORG"]
    renamed = NercoForTokenClassification.from_pretrained(
        saved_tagger, id2label=dict(enumerate(names))
    )
    assert renamed.config.labels == names
