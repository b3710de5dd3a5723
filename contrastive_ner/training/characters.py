"""Character tokenizers: one token per code point, with the vocabulary of an existing encoder.

A Chinese tagger labels characters, so its tokenizer must give exactly one token per code point in
training and in inference, also for Latin letters, digits, white space, emoji and a literal "[SEP]".
`character_tokenizer` rewrites a WordPiece or Unigram tokenizer accordingly. The result has no
normaliser, because one that changes lengths breaks the offsets. Instead, each character that the
old normaliser mapped (upper case, full-width and other compatibility forms) becomes a vocabulary
entry of its own, whose embedding is copied from the character it stood for.
"""

import json
import unicodedata

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from contrastive_ner.errors import ConfigError

PROBE = "Ab1 中国，😀[SEP]\n"


def is_character_tokenizer(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether each code point of a probe text is one token, with the matching offsets."""
    if not tokenizer.is_fast:
        return False
    offsets = tokenizer(PROBE, add_special_tokens=False, return_offsets_mapping=True)[
        "offset_mapping"
    ]
    return [tuple(offset) for offset in offsets] == [(i, i + 1) for i in range(len(PROBE))]


def character_tokenizer(
    tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedModel
) -> tuple[PreTrainedTokenizerFast, PreTrainedModel]:
    """Build a tokenizer with one token per code point; enlarge the encoder's embedding in place.

    Old entries keep their ids; new ones follow. Code points that neither the vocabulary nor the old
    normaliser knows become the unknown token.

    Args:
        tokenizer: a fast tokenizer with a WordPiece, Unigram or WordLevel model.
        encoder: the model whose input embedding belongs to it.

    Raises:
        ConfigError: the tokenizer is slow, a byte-level BPE, or lacks a special token.
    """
    if not tokenizer.is_fast:
        raise ConfigError(f"{type(tokenizer).__name__} is a slow tokenizer: expected a fast one")
    kind = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["type"]
    if kind not in ("WordPiece", "Unigram", "WordLevel"):
        raise ConfigError(
            f"a {kind} tokenizer cannot be read by code point: its entries are byte sequences, not "
            "characters; use an encoder with a WordPiece or Unigram vocabulary, or text_unit=word"
        )
    special = {
        name: getattr(tokenizer, f"{name}_token") for name in ("unk", "pad", "cls", "sep", "mask")
    }
    missing = [name for name in ("unk", "pad", "cls", "sep") if special[name] is None]
    if missing:
        raise ConfigError(
            f"the tokenizer has no {', '.join(missing)} token: expected unk, pad, cls and sep; "
            "use an encoder that has them"
        )

    vocabulary = tokenizer.get_vocab()
    rows = _character_rows(vocabulary, tokenizer, kind)
    size = encoder.get_input_embeddings().num_embeddings
    old_size = max(size, max(vocabulary.values()) + 1)
    added = sorted(character for character in rows if character not in vocabulary)
    table = {**vocabulary, **{character: old_size + i for i, character in enumerate(added)}}
    taken = set(table.values())
    # A vocabulary must not have gaps in its ids.
    table |= {f"[unused-row-{i}]": i for i in range(old_size) if i not in taken}
    _grow_embedding(encoder, len(table), old_size, [rows[character] for character in added])

    backend = Tokenizer(models.WordLevel(table, unk_token=special["unk"]))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    cls, sep = special["cls"], special["sep"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B {sep}",
        special_tokens=[(cls, table[cls]), (sep, table[sep])],
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=tokenizer.model_max_length,
        split_special_tokens=True,
        **{f"{name}_token": token for name, token in special.items() if token is not None},
    )
    return fast, encoder


def _character_rows(
    vocabulary: dict[str, int], tokenizer: PreTrainedTokenizerBase, kind: str
) -> dict[str, int]:
    """Code point -> row of the old embedding that it uses."""
    known = {piece: row for piece, row in vocabulary.items() if len(piece) == 1}
    if kind == "Unigram":  # "\u2581x": x at the start of a word; a lone "\u2581" is the space
        for piece, row in vocabulary.items():
            if len(piece) == 2 and piece[0] == "\u2581":
                known.setdefault(piece[1], row)
        if "\u2581" in vocabulary:
            known.setdefault(" ", vocabulary["\u2581"])
    normalizer = tokenizer.backend_tokenizer.normalizer
    rows = dict(known)
    for code in range(0x110000):
        character = chr(code)
        category = unicodedata.category(character)
        if character in known or category in ("Cs", "Co", "Cn"):
            continue
        if category in ("Cc", "Cf", "Zs", "Zl", "Zp"):
            if " " in known:
                rows[character] = known[" "]
            continue
        composed = unicodedata.normalize("NFKC", character)
        old = (
            [normalizer.normalize_str(form).strip(" \u2581") for form in (character, composed)]
            if normalizer is not None
            else []
        )
        forms = (*old, composed, composed.lower())
        stands_for = next((form[0] for form in forms if form and form[0] in known), None)
        if stands_for is not None:
            rows[character] = known[stands_for]
    return rows


@torch.no_grad()
def _grow_embedding(encoder: PreTrainedModel, size: int, old_size: int, copied: list[int]) -> None:
    """Keep the first `old_size` rows, then append a copy of each old row in `copied`."""
    before = encoder.get_input_embeddings().weight.clone()
    encoder.resize_token_embeddings(size, mean_resizing=False)
    weight = encoder.get_input_embeddings().weight
    weight[: len(before)] = before
    if copied:
        weight[old_size:] = before[torch.tensor(copied, device=before.device)]
