"""The bundled encoder: files as its README lists them, one token per code point."""

import hashlib
import re

import pytest
from conftest import ENCODER, ROOT
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

FILES = ("model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json")
LISTED = dict(
    re.findall(
        r"^\| `([\w.]+)` \| `([0-9a-f]{64})` \|$", (ENCODER / "README.md").read_text("utf-8"), re.M
    )
)


def test_readme_lists_every_file_of_the_encoder() -> None:
    assert set(LISTED) == set(FILES)
    assert {p.name for p in ENCODER.iterdir()} == {*FILES, "README.md"}


@pytest.mark.parametrize("name", FILES)
def test_file_has_the_sha256_of_the_readme(name: str) -> None:
    assert hashlib.sha256((ENCODER / name).read_bytes()).hexdigest() == LISTED[name]


def test_binary_files_stay_below_40_mb() -> None:
    assert (
        sum(
            p.stat().st_size
            for p in (ROOT / "encoders").rglob("*")
            if p.suffix in (".safetensors", ".json")
        )
        < 40e6
    )


def test_size_of_the_encoder_is_the_documented_one() -> None:
    config = AutoConfig.from_pretrained(ENCODER)
    assert (config.num_hidden_layers, config.hidden_size, config.max_position_embeddings) == (
        6,
        384,
        512,
    )
    model = AutoModel.from_pretrained(ENCODER, add_pooling_layer=False)
    assert sum(p.numel() for p in model.parameters()) == 15_219_456


@pytest.mark.parametrize(
    "text",
    [
        "张三在北京大学读书。",
        "iPhone 15\t發表\n會",
        "㈱Ａ①　龘\ufeff🙂👨‍👩‍👧",
        "[SEP][MASK]",
        "e\u0301ﬁ",
    ],
)
def test_every_code_point_is_one_token(text: str, character_tok: PreTrainedTokenizerFast) -> None:
    coded = character_tok(text, return_offsets_mapping=True)
    assert len(coded["input_ids"]) == len(text) + 2
    assert coded["offset_mapping"][1:-1] == [(i, i + 1) for i in range(len(text))]
