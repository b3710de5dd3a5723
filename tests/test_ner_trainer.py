"""`NerTrainer` and the tags of data sets: what the command line does, from a program."""

import json
from pathlib import Path

import pytest
import torch
from conftest import corpus
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from safetensors.torch import load_file

import contrastive_ner as cn
from contrastive_ner.cli import main
from contrastive_ner.data.schemes import spans_to_tags
from contrastive_ner.data.tables import hub_arguments

KEYS = {
    "method": "crf", "stage1_epochs": 0, "head_epochs": 0, "stage2_epochs": 4, "bf16": False,
    "encoder_dropout": 0, "stage2_batch_size": 8, "stage2_learning_rate": 5e-3,
    "stage2_head_learning_rate": 2e-2,
}  # fmt: skip
BIO = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG"]


def tagged(count: int, offset: int, names: list[str], scheme: str) -> Dataset:
    """The small corpus as characters with classes of a scheme, under names of its own."""
    rows: dict[str, list] = {"chars": [], "klass": [], "extra": []}
    for record in corpus(count, offset):
        spans = [(m.start, m.end, m.label) for m in record.entities]
        tags = spans_to_tags(spans, len(record.text), scheme)
        rows["chars"].append(list(record.text))
        rows["klass"].append([names.index(tag) for tag in tags])
        rows["extra"].append(b"not text")
    kinds = {"chars": List(Value("string")), "klass": List(ClassLabel(names=names))}
    return Dataset.from_dict(rows, features=Features({**kinds, "extra": Value("binary")}))


def test_one_call_is_the_run_of_the_command_line(tiny_encoder: Path, tmp_path: Path) -> None:
    names = ["O", *(f"{p}-{t}" for t in ("PER", "ORG") for p in "BILU")]
    train, dev = tagged(40, 0, names, "BILOU"), tagged(12, 100, names, "BILOU")
    mapping = {"chars": "tokens", "klass": "tags"}
    args = {**KEYS, "output_dir": str(tmp_path / "run")}
    trainer = cn.NerTrainer(tiny_encoder, args, train, dev, column_mapping=mapping)
    with pytest.raises(cn.ConfigError, match=r"call train\(\) first"):
        trainer.evaluate()
    metrics = trainer.train()
    assert metrics["dev"]["micro"]["f1"] > 0.5
    assert trainer.evaluate()["micro"] == metrics["dev"]["micro"]
    other = trainer.evaluate(tagged(12, 200, names, "BILOU"))
    assert other["micro"]["gold"] == sum(len(r.entities) for r in corpus(12, 200))
    text = corpus(1, 100)[0].text
    assert trainer.pipeline(text) == cn.load_pipeline(trainer.model_dir)(text)
    assert (trainer.model_dir / "README.md").is_file()

    assert cn.NerTrainer(tiny_encoder, args, train, dev, column_mapping=mapping).train() == metrics

    command = str(tmp_path / "run-data" / "train.yaml")
    assert main(["train", command, f"output_dir={tmp_path / 'again'}"]) == 0
    weights, same = (
        load_file(tmp_path / name / "model" / "model.safetensors") for name in ("run", "again")
    )
    assert all(torch.equal(weights[key], same[key]) for key in weights)

    args = {**KEYS, "output_dir": str(tmp_path / "on"), "stage2_epochs": 1}
    further = cn.NerTrainer(trainer.model_dir, args, corpus(40, 0), corpus(12, 100))
    assert further.config.init_model == str(trainer.model_dir)
    assert further.train()["dev"]["micro"]["f1"] > 0.5
    with pytest.raises(cn.ConfigError, match="licence: expected one of base_model, branch"):
        further.push_to_hub("user/name", license="mit", licence="mit")
    with pytest.raises(cn.ConfigError, match="names no license"):
        further.push_to_hub("user/name", license="")


def test_binder_takes_descriptions_and_a_configuration_file(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    types = {"PER": "人名", "ORG": "机构"}
    config = tmp_path / "args.yaml"
    values = {**KEYS, "method": "binder", "output_dir": str(tmp_path / "run")}
    config.write_text(json.dumps({**values, "stage2_epochs": 1}), "utf-8")
    trainer = cn.NerTrainer(tiny_encoder, config, corpus(40, 0), corpus(12, 100), types=types)
    assert set(trainer.train()["dev"]["per_type"]) <= {"PER", "ORG"}
    assert trainer.pipeline.model.config.model_type == "binder"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": torch.nn.Linear(1, 1)}, "model is a Linear: expected the folder or Hub name"),
        ({"args": {"metod": "crf"}}, "metod"),
        ({"args": {"train_file": "x"}}, "train_file: expected as an argument of NerTrainer"),
        ({"args": 3}, "args is a int: expected a mapping"),
        ({"eval_dataset": None}, "eval_dataset is missing"),
        ({"column_mapping": {"a": "nothing"}}, "with a name of text, tokens"),
        ({"column_mapping": {"body": "text"}}, "column_mapping names body; its columns are text"),
        ({"train_dataset": []}, "train data set: expected rows, found none"),
        ({"train_dataset": ["text"]}, "train data set: row 0: expected a mapping"),
        ({"train_dataset": DatasetDict({"a": Dataset.from_dict({"text": ["x"]})})}, "one split"),
        (
            {
                "train_dataset": Dataset.from_dict(
                    {"tokens": [["a"]], "tags": [[-1]]},
                    features=Features(
                        {"tokens": List(Value("string")), "tags": List(ClassLabel(names=BIO))}
                    ),
                )
            },
            "row 0: expected classes from 0 to 4, found -1",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tiny_encoder, tmp_path, given, said) -> None:
    data = Dataset.from_list([{"text": "张三", "entities": [{"start": 0, "end": 2, "label": "P"}]}])
    usual = {"model": tiny_encoder, "train_dataset": data, "eval_dataset": data}

    def train() -> None:
        trainer = cn.NerTrainer(**{**usual, **given})
        trainer.config.output_dir = str(tmp_path / "run")
        trainer.data_dir = tmp_path / "data"
        trainer.train()

    with pytest.raises(cn.UserError, match=said) as raised:
        train()
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


# -------------------------------------------------------------------------------------- tags to BIO
@pytest.mark.parametrize(
    ("scheme", "prefixes"),
    [("IO", [""]), ("BIO", ["B-", "I-"]), ("BILOU", ["B-", "I-", "L-", "U-"]),
     ("BIOES", ["B-", "I-", "E-", "S-"]), ("BMES", ["B-", "M-", "E-", "S-"]),
     ("IOB1", ["I-", "B-"])],
)  # fmt: skip
def test_tags_of_any_scheme_become_bio(scheme: str, prefixes: list[str]) -> None:
    names = ["O", *(f"{p}{t}" for t in ("PER", "ORG", "LOC") for p in prefixes)]
    data = tagged(40, 0, names, scheme)
    assert cn.bio_labels_of(data, "klass") == cn.bio_labels(["LOC", "ORG", "PER"])
    made = cn.with_bio_tags(data, "klass")
    assert made.column_names == data.column_names
    labels = made.features["klass"].feature.names
    for record, tags in zip(corpus(40, 0), made["klass"], strict=True):
        spans = [(m.start, m.end, m.label) for m in record.entities]
        expected = spans_to_tags(spans, len(record.text), "BIO")
        assert [labels[tag] for tag in tags] == expected


def test_a_type_without_inside_tag_and_strings_have_both_labels() -> None:
    data = Dataset.from_dict({"tokens": [["a", "b"]], "ner_tags": [["B-X", "O"]]})
    assert cn.bio_labels_of(data) == ["O", "B-X", "I-X"]
    assert cn.with_bio_tags(data)["ner_tags"][0] == [1, 0]
    with pytest.raises(cn.DataError, match="a column of tags such as ner_tags, found tokens"):
        cn.bio_labels_of(data.remove_columns("ner_tags"))
    with pytest.raises(cn.DataError, match="expected a column x, found tokens, ner_tags"):
        cn.with_bio_tags(data, "x")


def test_names_of_the_hub_have_a_configuration_and_a_revision() -> None:
    assert hub_arguments("a/b") == {"path": "a/b", "name": None, "revision": None}
    assert hub_arguments("a/b:c#main") == {"path": "a/b", "name": "c", "revision": "main"}
    assert hub_arguments("a/b#0f")["revision"] == "0f"
