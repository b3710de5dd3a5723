"""Byte-level tokenizers (RoBERTa, GPT-2): first words are read like others, offsets stay exact."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import run_python
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizerFast,
)

from contrastive_ner.cli import main
from contrastive_ner.data.records import Mention, Record
from contrastive_ner.data.writers import write_records
from contrastive_ner.models.pipeline_ner import reads_after_space, text_reader
from contrastive_ner.models.windows_ner import TextReader, Tokenized, word_spans
from contrastive_ner.serving.inference import load_pipeline, tag_records
from contrastive_ner.training.encoder import encoder_tokenizer

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
PLACES = ("Berlin", "Paris", "Oslo", "Rome")
TYPES = "types:\n  LOC: A place, such as a town.\n"
CUT = Regex(r"\p{L}+|\s+|[^\s\p{L}]+")
READ = """
import json, sys
from transformers import pipeline
found = pipeline("ner", model=sys.argv[1], trust_remote_code=True)
print(json.dumps([m["word"] for m in found(sys.argv[2], min_score=1e-6)]))
"""


def sentences(count: int, first: int = 0) -> list[Record]:
    """Sentences that begin with a place, three to a document."""
    records = []
    for i in range(first, first + count):
        place = PLACES[i % len(PLACES)]
        text = f"{place} is where Berlin and Paris met in {i}."
        records.append(Record(f"s{i}", text, [Mention(0, len(place), "LOC")], doc=f"d{i // 3}"))
    return records


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    texts = [f"{name} and {name}\n{name}" for name in PLACES for _ in range(9)]
    tokenizer.train_from_iterator([*texts, *(r.text for r in sentences(9))], trainer)
    return tokenizer


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of tiny encoders whose tokenizers are RoBERTa's, GPT-2's, and one of two steps."""
    folder = tmp_path_factory.mktemp("byte_level")
    model = json.loads(byte_level().to_str())["model"]
    roberta = RobertaTokenizerFast(
        vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]]
    )
    gpt = byte_level()
    gpt.post_processor = processors.ByteLevel(trim_offsets=True)
    steps = byte_level()
    steps.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(CUT, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    wrapped = {
        name: PreTrainedTokenizerFast(tokenizer_object=own, pad_token="<pad>", unk_token="<unk>")
        for name, own in (("gpt", gpt), ("steps", steps))
    }
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = RobertaConfig(
        vocab_size=len(roberta), **sizes, intermediate_size=32, max_position_embeddings=140
    )
    for name, tokenizer in {"roberta": roberta, **wrapped}.items():
        RobertaModel(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return {name: str(folder / name) for name in ("roberta", *wrapped)}


def tokens_of(text: Tokenized) -> list[list[int]]:
    """Token ids of each position."""
    places = zip(text.first_token, text.last_token, strict=True)
    return [text.ids[first : last + 1] for first, last in places]


@cache
def reader_of(place: str) -> TextReader:
    return text_reader(encoder_tokenizer(place), label_unit="word", max_window_tokens=4096)


def read(place: str, text: str) -> Tokenized:
    return reader_of(place).tokenize([text])[0]


@pytest.mark.parametrize("name", ["roberta", "gpt", "steps"])
def test_first_words_are_read_like_others(encoders: dict[str, str], name: str) -> None:
    for gap in ("\n", " ", "  ", "\t", "\n\n", "\xa0", "\u3000", " \n"):
        text = read(encoders[name], f"Berlin{gap}Berlin{gap}Paris")
        berlin, again, paris = tokens_of(text)
        assert berlin == again, gap
        assert len(berlin) == 1
        assert tokens_of(read(encoders[name], f"{gap}Paris")) == [paris]
        width = len(gap)
        assert text.spans == [(0, 6), (6 + width, 12 + width), (12 + 2 * width, 17 + 2 * width)]


@settings(max_examples=40, deadline=None)
@given(st.text(st.sampled_from("aB é中\n\t\u3000😀,-\u0301<>Berlin")))
def test_a_text_is_read_as_inside_a_text(encoders: dict[str, str], text: str) -> None:
    for place in encoders.values():
        alone, inside = read(place, text), read(place, f"x {text}")
        if not word_spans(text) or "\u0301" in text[:1]:
            continue
        assert tokens_of(alone) == tokens_of(inside)[1:]
        assert [(a + 2, b + 2) for a, b in alone.spans] == inside.spans[1:]
        assert {start for start, _ in alone.spans} <= {start for start, _ in word_spans(text)}


def test_a_model_saved_without_the_setting_reads_as_before(encoders: dict[str, str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(encoders["roberta"])
    assert not reads_after_space(tokenizer)
    reader = text_reader(tokenizer, label_unit="word", max_window_tokens=64)
    (text,) = reader.tokenize(["Berlin\nBerlin is"])
    assert text.ids == tokenizer("Berlin\nBerlin is", add_special_tokens=False)["input_ids"]
    assert text.spans == [(0, 6), (7, 13), (14, 16)]


@pytest.mark.parametrize("name", ["roberta", "gpt", "steps"])
def test_the_setting_is_saved_with_the_tokenizer(
    encoders: dict[str, str], name: str, tmp_path: Path
) -> None:
    tokenizer = encoder_tokenizer(encoders[name])
    tokenizer.save_pretrained(tmp_path)
    text = "Berlin\nParis 😀"
    for loader in (AutoTokenizer, PreTrainedTokenizerFast):
        again = loader.from_pretrained(tmp_path)
        assert reads_after_space(again)
        reader = text_reader(again, label_unit="word", max_window_tokens=64)
        assert reader.tokenize([text])[0] == read(encoders[name], text)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, encoders: dict[str, str]) -> Path:
    """A BINDER run on documents of three sentences."""
    folder = tmp_path_factory.mktemp("roberta")
    for split, count, first in (("train", 24, 0), ("dev", 6, 30)):
        write_records(sentences(count, first), folder / f"{split}.jsonl")
    (folder / "types.yaml").write_text(TYPES, "utf-8")
    (folder / "config.yaml").write_text("stage1_epochs: 0\nhead_epochs: 0\nbf16: false\n", "utf-8")
    values = {
        "method": "binder",
        "output_dir": folder / "run",
        "encoder": encoders["roberta"],
        "types_file": folder / "types.yaml",
        **{f"{split}_file": folder / f"{split}.jsonl" for split in ("train", "dev")},
        "stage2_epochs": 5,
        "stage2_batch_size": 4,
        "stage2_learning_rate": 3e-3,
        "stage2_head_learning_rate": 1e-2,
        "projection_size": 16,
    }
    options = [f"{key}={value}" for key, value in values.items()]
    assert main(["train", str(folder / "config.yaml"), *options]) == 0
    return folder / "run"


@pytest.mark.slow
def test_a_trained_model_reads_first_words_like_others(run: Path) -> None:
    pipeline = load_pipeline(run / "model")
    assert reads_after_space(pipeline.tokenizer)
    config = pipeline.model.config
    texts = {label: own[0] for label, own in config.descriptions.items()}
    again = pipeline.model.encode_types(texts, pipeline.tokenizer)
    torch.testing.assert_close(again.vectors, pipeline.model.types.vectors)
    records = sentences(6, 30)
    found = tag_records(pipeline, records)
    assert [[m[:3] for m in own] for own in found.mentions] == [
        [m[:3] for m in r.entities] for r in records
    ]


@pytest.mark.slow
def test_the_stock_pipeline_reads_alike(run: Path, tmp_path: Path) -> None:
    text = "Berlin met.\nBerlin met."
    expected = [m["word"] for m in load_pipeline(run / "model")(text, min_score=1e-6)]
    found = run_python(READ, tmp_path, tmp_path / "cache", str(run / "model"), text)
    assert json.loads(found.splitlines()[-1]) == expected


@pytest.mark.slow
def test_an_exported_model_reads_alike(run: Path, tmp_path: Path) -> None:
    from contrastive_ner.serving.export import export
    from contrastive_ner.serving.runtime_onnx import OnnxPipeline

    export(run / "model", tmp_path / "onnx")
    assert json.loads((tmp_path / "onnx" / "ner.json").read_text("utf-8"))["after_space"] is True
    texts = [r.text for r in sentences(3)] + ["Berlin\nParis", "\n\tOslo 😀", "", "<mask>Rome"]
    own, found = load_pipeline(run / "model")(texts), OnnxPipeline(tmp_path / "onnx")(texts)
    for a, b in zip(own, found, strict=True):
        assert [(m["start"], m["end"], m["entity_group"]) for m in a] == [
            (m["start"], m["end"], m["entity_group"]) for m in b
        ]
