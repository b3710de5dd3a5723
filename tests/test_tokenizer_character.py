"""Character tokenizers: one token per code point for any text and original vocabulary."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from conftest import ENCODER
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BertConfig,
    BertModel,
    ByT5Tokenizer,
    PreTrainedTokenizerFast,
)

from contrastive_ner.training.characters import character_tokenizer, is_character_tokenizer

BERT_SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
XLMR_SPECIAL = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
PIECES = [
    "[SEP]",
    "</s>",
    "<mask>",
    "[unused-row-3]",
    "the",
    "\r\n\n\n",
    "e\u0301",
    "ＡＢ１",
    "中国",
    "👩‍👩‍👧",
    "▁",
    "\x00",
    "ﬁ",
    "  ",
]
any_text = st.lists(
    st.sampled_from(PIECES) | st.text(st.characters(exclude_categories=["Cs"]))
).map("".join)


def wrap(backend: Tokenizer, special: dict[str, str]) -> PreTrainedTokenizerFast:
    names = {f"{name}_token": token for name, token in special.items()}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **names)


def word_piece(*, without: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """Uncased, like BERT's; the entries of `without` leave holes in the ids."""
    pieces = [
        *BERT_SPECIAL.values(),
        *"abcdefghijklmnopqrstuvwxyz0123456789,.!中国人北京",
        "the",
        "##a",
        "##京",
        "## ",
    ]
    vocabulary = {piece: i for i, piece in enumerate(pieces) if piece not in without}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=ends
    )
    return wrap(backend, BERT_SPECIAL)


def unigram() -> PreTrainedTokenizerFast:
    """Cased, with NFKC and metaspace, like XLM-R's; "X" and "▁" only at the start of a word."""
    pieces = [
        *XLMR_SPECIAL.values(),
        "▁",
        "▁X",
        "▁the",
        *"abcdefghijklmnopqrstuvwyzAB0123456789,.!中国人北京",
        "中国",
    ]
    backend = Tokenizer(
        models.Unigram([(piece, -1.0 - i) for i, piece in enumerate(pieces)], unk_id=1)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    ends = [(token, pieces.index(token)) for token in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=ends
    )
    return wrap(backend, XLMR_SPECIAL)


def byte_level() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = {piece: i for i, piece in enumerate([*XLMR_SPECIAL.values(), *alphabet])}
    backend = Tokenizer(models.BPE(pieces, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return wrap(backend, XLMR_SPECIAL)


def encoder(rows: int) -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=rows,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        pad_token_id=0,
    )
    return BertModel(config, add_pooling_layer=False)


class Converted(NamedTuple):
    old: PreTrainedTokenizerFast
    old_rows: Tensor
    new: PreTrainedTokenizerFast
    reloaded: PreTrainedTokenizerFast
    encoder: BertModel

    @property
    def rows(self) -> Tensor:
        return self.encoder.get_input_embeddings().weight.detach()

    def row(self, character: str) -> int:
        """The embedding row of a character in a text."""
        [token] = self.new(character, add_special_tokens=False)["input_ids"]
        return token


KINDS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "WordPiece": word_piece,
    "Unigram": unigram,
}


@pytest.fixture(scope="module")
def conversions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Converted]:
    made = {}
    for kind, build in KINDS.items():
        folder, old = tmp_path_factory.mktemp(kind), build()
        model = encoder(len(old) + 2)  # two more rows than entries, as in XLM-R
        old_rows = model.get_input_embeddings().weight.detach().clone()
        new, model = character_tokenizer(old, model)
        new.save_pretrained(folder)
        model.save_pretrained(folder)
        made[kind] = Converted(
            old,
            old_rows,
            new,
            AutoTokenizer.from_pretrained(folder),
            BertModel.from_pretrained(folder),
        )
    return made


@pytest.fixture(params=list(KINDS))
def converted(request: pytest.FixtureRequest, conversions: dict[str, Converted]) -> Converted:
    return conversions[request.param]


def assert_one_token_per_code_point(
    tokenizer: PreTrainedTokenizerFast, text: str, rows: int
) -> None:
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    assert [tuple(offset) for offset in encoding["offset_mapping"]] == [
        (i, i + 1) for i in range(len(text))
    ]
    assert all(0 <= token < rows for token in encoding["input_ids"])


# --------------------------------------------------------------------------------------- one to one
@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=200)
@given(text=any_text)
def test_every_code_point_is_one_token_with_its_offsets(
    conversions: dict[str, Converted], kind: str, text: str
) -> None:
    made = conversions[kind]
    assert_one_token_per_code_point(made.new, text, len(made.rows))


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=200)
@given(text=any_text)
def test_saved_tokenizer_reads_every_text_as_before(
    conversions: dict[str, Converted], kind: str, text: str
) -> None:
    made = conversions[kind]
    assert_one_token_per_code_point(made.reloaded, text, len(made.rows))
    assert made.reloaded(text)["input_ids"] == made.new(text)["input_ids"]


def test_all_of_unicode_is_one_to_one(converted: Converted) -> None:
    for start in range(0, 0x110000, 0x10000):
        text = "".join(
            chr(code) for code in range(start, start + 0x10000) if not 0xD800 <= code < 0xE000
        )
        assert_one_token_per_code_point(converted.reloaded, text, len(converted.rows))


@settings(deadline=None, max_examples=100)
@given(text=any_text)
def test_bundled_encoder_is_one_to_one(character_tok: PreTrainedTokenizerFast, text: str) -> None:
    assert_one_token_per_code_point(
        character_tok, text, AutoConfig.from_pretrained(ENCODER).vocab_size
    )


@pytest.mark.parametrize(
    "literal", ["[SEP]", "[CLS]", "[PAD]", "</s>", "<s>", "<mask>", "[unused-row-47]"]
)
def test_a_literal_special_token_stays_text(converted: Converted, literal: str) -> None:
    ids = converted.reloaded(literal, add_special_tokens=False)["input_ids"]
    assert len(ids) == len(literal)
    known = {
        converted.new.convert_tokens_to_ids(token) for token in converted.new.all_special_tokens
    }
    assert set(ids) & known <= {converted.new.unk_token_id}


def test_special_tokens_surround_the_text(converted: Converted) -> None:
    new, old = converted.reloaded, converted.old
    a, b = converted.row("a"), converted.row("b")
    assert new("ab")["input_ids"] == [old.cls_token_id, a, b, old.sep_token_id]
    assert new("a", "b")["input_ids"] == [
        old.cls_token_id,
        a,
        old.sep_token_id,
        b,
        old.sep_token_id,
    ]
    assert new("")["input_ids"] == [old.cls_token_id, old.sep_token_id]
    assert new(["a", "ab"], padding=True)["input_ids"][0][-1] == old.pad_token_id
    assert (new.unk_token, new.mask_token_id, new.model_max_length) == (
        old.unk_token,
        old.mask_token_id,
        64,
    )


# ---------------------------------------------------------------------------------------- embedding
def test_old_rows_and_ids_are_unchanged(converted: Converted) -> None:
    assert torch.equal(converted.rows[: len(converted.old_rows)], converted.old_rows)
    vocabulary = converted.reloaded.get_vocab()
    assert {
        piece: vocabulary[piece] for piece in converted.old.get_vocab()
    } == converted.old.get_vocab()


def test_embedding_has_exactly_one_row_per_entry(converted: Converted) -> None:
    vocabulary = converted.reloaded.get_vocab()
    assert sorted(vocabulary.values()) == list(range(len(converted.rows)))
    assert converted.encoder.config.vocab_size == len(converted.rows)


@pytest.mark.parametrize(
    ("kind", "form", "piece"),
    [
        ("WordPiece", "中", "中"),
        ("WordPiece", "A", "a"),
        ("WordPiece", "ａ", "a"),
        ("WordPiece", "Ａ", "a"),
        ("WordPiece", "É", "e"),
        ("WordPiece", "１", "1"),
        ("WordPiece", "①", "1"),
        ("WordPiece", "，", ","),
        ("WordPiece", "ﬁ", "f"),
        ("WordPiece", "㎏", "k"),
        ("Unigram", "中", "中"),
        ("Unigram", "A", "A"),
        ("Unigram", "Ａ", "A"),
        ("Unigram", "Z", "z"),
        ("Unigram", "Ｚ", "z"),
        ("Unigram", "X", "▁X"),
        ("Unigram", "Ｘ", "▁X"),
        ("Unigram", "１", "1"),
        ("Unigram", "，", ","),
        ("Unigram", " ", "▁"),
        ("Unigram", "\u3000", "▁"),
        ("Unigram", "\n", "▁"),
    ],
)
def test_a_form_reads_the_row_of_the_character_it_stands_for(
    conversions: dict[str, Converted], kind: str, form: str, piece: str
) -> None:
    made = conversions[kind]
    old_row = made.old.get_vocab()[piece]
    assert made.row(form) != made.new.unk_token_id
    assert torch.equal(made.rows[made.row(form)], made.old_rows[old_row])


@pytest.mark.parametrize("character", ["龘", "😀", "\u0378", "\U0010ffff", "\ue000"])
def test_an_unknown_character_is_the_unknown_token(converted: Converted, character: str) -> None:
    assert converted.row(character) == converted.old.unk_token_id


def hole_warnings(tokenizer: PreTrainedTokenizerFast, folder: Path) -> str:
    """What the tokenizers library logs about the ids when it saves.

    Uses a new process, because the library reads its log level at import.
    """
    tokenizer.save_pretrained(folder)
    code = "import sys, tokenizers; tokenizers.Tokenizer.from_file(sys.argv[1]).save(sys.argv[1])"
    command = [sys.executable, "-c", code, str(folder / "tokenizer.json")]
    done = subprocess.run(
        command,
        env={**os.environ, "TOKENIZERS_LOG": "warn"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_holes_in_the_ids_are_filled(tmp_path: Path) -> None:
    old, model = word_piece(without=("q", "北", "## ")), encoder(80)
    old_rows = model.get_input_embeddings().weight.detach().clone()
    assert "holes" in hole_warnings(old, tmp_path / "old")

    new, model = character_tokenizer(old, model)
    assert hole_warnings(new, tmp_path / "new") == ""

    rows = model.get_input_embeddings().weight
    vocabulary = AutoTokenizer.from_pretrained(tmp_path / "new").get_vocab()
    assert sorted(vocabulary.values()) == list(range(len(rows)))
    assert torch.equal(rows[:80], old_rows)
    assert vocabulary["京"] == old.get_vocab()["京"]
    assert new("q北", add_special_tokens=False)["input_ids"] == [old.unk_token_id] * 2


# ---------------------------------------------------------------------------------- what is refused
def test_byte_level_bpe_is_refused_with_an_explanation() -> None:
    tokenizer = byte_level()
    with pytest.raises(
        ValueError,
        match=r"BPE tokenizer cannot be read by code point.*WordPiece or Unigram.*text_unit=word",
    ):
        character_tokenizer(tokenizer, encoder(len(tokenizer)))


def test_a_slow_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match="ByT5Tokenizer is a slow tokenizer"):
        character_tokenizer(ByT5Tokenizer(), encoder(8))


@pytest.mark.parametrize("name", ["cls", "sep", "pad"])
def test_a_missing_special_token_is_named(name: str) -> None:
    tokenizer = word_piece()
    setattr(tokenizer, f"{name}_token", None)
    with pytest.raises(ValueError, match=f"has no {name} token"):
        character_tokenizer(tokenizer, encoder(len(tokenizer)))


def test_is_character_tokenizer_recognises_one_to_one(
    converted: Converted, character_tok: PreTrainedTokenizerFast
) -> None:
    assert is_character_tokenizer(converted.new)
    assert is_character_tokenizer(converted.reloaded)
    assert is_character_tokenizer(character_tok)


@pytest.mark.parametrize("build", [word_piece, unigram, byte_level, ByT5Tokenizer])
def test_is_character_tokenizer_rejects_others(build: Callable) -> None:
    assert not is_character_tokenizer(build())
