"""Lexicon fusion in torch: its settings, the files next to a model, and the adapter.

The lattice layer is in `flat_ner`. This file travels with the weights.

Notation: B batch, T tokens, K words of a token, U words of a batch, D embedding size, H hidden
size of the adapter.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear
from transformers import initialization as init
from transformers.utils import cached_file

from .flat_ner import FlatLattice
from .lattice_ner import LATTICE, Vocabulary
from .lexicon_ner import (
    FUSIONS,
    LEXICON,
    LONGEST_WORD,
    MAX_WORD_LENGTH,
    Lexicon,
    check_fusion,
    check_length,
)
from .matching_ner import INPUTS, WORD_CHARS
from .strict_ner import StrictConfig
from .windows_ner import InputError

HIDDEN = 256  # size of what the adapter knows of a word, at most
TAGS = 4  # none, begin, middle, end
EMBEDDING_SCALE = 0.05  # root mean square of the numbers of an encoder's input embeddings, about


# ------------------------------------------------------------------------------------------- config
class LexiconConfig(StrictConfig):
    """Fields of a configuration that concern a lexicon.

    Args:
        lexicon_fusion: "none", or how the model reads the words of a lexicon: "adapter" (added to
            the input embeddings) or "flat" (a lattice layer on the encoder, as published).
        max_word_length: of the longest word of a lexicon, in characters; longer ones are left out.
        lexicon_types: types of words that the model was trained with; others count as none.
        lexicon_dropout: share of the words that training hides, a text at a time.
        lexicon_absent: share of the texts that training reads without any word.
        lexicon: of the lexicon next to the weights: words, longest_word and sha256.
        lattice_heads: flat: number of attention heads.
        lattice_head_size: flat: size of each; heads times size numbers describe a token.
        lattice: flat: facts of the `Vocabulary` next to the weights.

    They are in config.json only if there is a fusion. Raises `InputError` for invalid values.
    """

    lexicon_fusion: str = "none"
    max_word_length: int = MAX_WORD_LENGTH
    lexicon_types: Any = ()
    lexicon_dropout: float = 0.1
    lexicon_absent: float = 0.1
    lexicon: Any = None
    lattice_heads: int = 10
    lattice_head_size: int = 20
    lattice: Any = None

    def _validate(self) -> None:
        super()._validate()
        if self.lexicon_fusion not in FUSIONS:
            raise InputError(
                f"lexicon_fusion is {self.lexicon_fusion!r}: expected one of {', '.join(FUSIONS)}"
            )
        longest = self.max_word_length
        if not isinstance(longest, int) or not 2 <= longest <= LONGEST_WORD:
            raise InputError(
                f"max_word_length is {longest!r}: expected an integer from 2 to {LONGEST_WORD}"
            )
        for name in ("lexicon_dropout", "lexicon_absent"):
            share = getattr(self, name)
            if not isinstance(share, int | float) or not 0 <= share < 1:
                raise InputError(f"{name} is {share!r}: expected a number in [0, 1)")
        types = self.lexicon_types
        if not isinstance(types, list | tuple) or len({t for t in types if isinstance(t, str)}) < (
            len(types)
        ):
            raise InputError(f"lexicon_types is {types!r:.60}: expected names, each once")
        self.lexicon_types = list(types)
        if not isinstance(self.lexicon, Mapping | None):
            raise InputError(f"lexicon is {self.lexicon!r:.60}: expected the facts of a lexicon")
        if self.lexicon_fusion == "flat":
            self._check_lattice()

    def _check_lattice(self) -> None:
        facts = self.lattice if isinstance(self.lattice, Mapping) else {}
        given = {
            "lattice_heads": self.lattice_heads,
            "lattice_head_size": self.lattice_head_size,
            **{name: facts.get(name) for name in ("entries", "bigrams")},
        }
        for name, number in given.items():
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise InputError(
                    f"lexicon_fusion is flat, and {name} is {number!r:.60}: expected an integer of "
                    "at least 1; lattice takes the facts of a Vocabulary"
                )

    @property
    def state_size(self) -> int:
        """Numbers that describe a token to the linear layer, and to stage one."""
        if self.lexicon_fusion == "flat":
            return self.lattice_heads * self.lattice_head_size
        return self.encoder_config.hidden_size

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        content = super().to_dict()
        for name in LexiconConfig.__annotations__:
            if self.lexicon_fusion == "none" or (
                self.lexicon_fusion == "adapter" and name.startswith("lattice")
            ):
                content.pop(name, None)
        return content


# ---------------------------------------------------------------------------------------- the model
class LexiconModel:
    """What a model with `lexicon_fusion` has besides its weights: the lexicon next to them."""

    base_model: Any
    config: Any

    @property
    def lexicon(self) -> Lexicon | None:
        """The lexicon that the model is saved with, and that its pipeline uses by default."""
        return self.base_model.__dict__.get("_lexicon")

    @lexicon.setter
    def lexicon(self, lexicon: Lexicon | None) -> None:
        """Raises `InputError` if the model reads no words, or no words as long as these."""
        facts = None
        if lexicon is not None:
            check_fusion(self.config)
            check_length(lexicon, self.config.max_word_length)
            facts = lexicon.facts()
            for remark in lexicon.remarks(self.config.lexicon_types):
                warnings.warn(remark, stacklevel=2)
        self.base_model.__dict__["_lexicon"] = lexicon
        for config in (self.config, self.base_model.config):
            config.lexicon = None if facts is None else dict(facts)

    @property
    def vocabulary(self) -> Vocabulary | None:
        """What has a vector in the lattice layer; None without such a layer."""
        return self.base_model.__dict__.get("_vocabulary")

    @vocabulary.setter
    def vocabulary(self, vocabulary: Vocabulary) -> None:
        """Raises `InputError` if the configuration describes another one."""
        if vocabulary.facts() != self.config.lattice:
            raise InputError("expected the Vocabulary whose facts() the configuration has")
        self.base_model.__dict__["_vocabulary"] = vocabulary

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """`PreTrainedModel.save_pretrained`; also writes the lexicon and the vocabulary."""
        for name, own in ((LEXICON, self.lexicon), (LATTICE, self.vocabulary)):
            if own is not None and kwargs.get("is_main_process", True):
                Path(save_directory).mkdir(parents=True, exist_ok=True)
                own.write(Path(save_directory) / name)
        return super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]

    def _get_files_timestamps(self, working_dir: Any) -> dict[str, float]:
        """Of the files before saving: what is written already counts as new to the Hub."""
        known = super()._get_files_timestamps(working_dir)  # type: ignore[misc]
        return {name: time for name, time in known.items() if name not in (LEXICON, LATTICE)}

    def _load_beside(self, place: Any, where: Mapping[str, Any]) -> None:
        """Read the lexicon next to the weights, and the vocabulary of a lattice layer.

        There may be no lexicon: users can be asked to fetch it.

        Raises:
            InputError: they are not those that config.json describes, or a vocabulary is missing.
        """
        options: Any = {"_raise_exceptions_for_missing_entries": False, **where}
        if self.config.lexicon_fusion == "flat":
            path = cached_file(place, LATTICE, **options)
            if path is None:
                raise InputError(f"{place}: {LATTICE} is missing: copy the model again")
            vocabulary = Vocabulary.read(path, dict(self.config.lattice))
            self.base_model.__dict__["_vocabulary"] = vocabulary
        facts = self.config.lexicon
        if self.config.lexicon_fusion == "none" or facts is None:
            return
        path = cached_file(place, LEXICON, **options)
        if path is None:
            return
        longest = self.config.max_word_length
        lexicon = Lexicon.read(path, max_word_length=longest, written=True)
        if lexicon.facts() != dict(facts):
            raise InputError(
                f"{place}: {LEXICON} is not the lexicon that config.json describes: copy the model "
                "again, or give another lexicon to the pipeline"
            )
        self.base_model.__dict__["_lexicon"] = lexicon


class LexiconAdapter(nn.Module):
    """Adds what a lexicon says of a token to its input embedding; no weight belongs to a word.

    A word that covers token t with a tag (begin, middle, end) becomes
    f = tanh(W_1 mean(embeddings of its characters) + Tag[tag] + Length[length] + Type[type]), and
    a = softmax over these words, and over none of them with score 0, of e_t^T W_a f. The embedding
    e_t becomes e_t + W_o (sum of a f). W_o is zero at first: the model is then the plain one.

    Args:
        width: D, size of the encoder's input embeddings.
        types: number of types of words.
        dropout: share of the words of a text that training hides.
        absent: share of the texts that training reads without words.
    """

    word: Tensor
    tag: Tensor
    length: Tensor
    kind: Tensor
    query: Tensor
    output: Tensor

    def __init__(self, width: int, types: int, *, dropout: float, absent: float) -> None:
        super().__init__()
        self.dropout, self.absent = dropout, absent
        hidden = min(width, HIDDEN)
        sizes = {
            "word": (hidden, width),  # W_1
            "tag": (TAGS, hidden),
            "length": (WORD_CHARS + 1, hidden),
            "kind": (types + 1, hidden),  # 0: no type
            "query": (hidden, width),  # W_a, transposed
            "output": (width, hidden),  # W_o
        }
        # Not as linear layers and embeddings, which transformers would fill as it fills any other.
        for name, size in sizes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(size)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Random weights that give f values of about 1; zero for W_o."""
        init.normal_(self.word, std=1 / (EMBEDDING_SCALE * self.word.shape[1] ** 0.5))
        for table in (self.tag, self.length, self.kind):
            init.normal_(table, std=0.5)
        init.normal_(self.query, std=0.02)
        init.zeros_(self.output)

    def forward(
        self,
        embeddings: Tensor,
        lexicon_words: Tensor,
        lexicon_tags: Tensor,
        characters: Tensor,
        present: Tensor,
        word_types: Tensor,
    ) -> Tensor:
        """Input embeddings (B, T, D) with what the words say.

        Args:
            embeddings: (B, T, D).
            lexicon_words, lexicon_tags, word_types: as from `lexicon_arrays`.
            characters: embeddings of the characters of the words (U, 8, D).
            present: which of them are there (U, 8).
        """
        count = present.sum(1)  # (U,)
        mean = (characters * present[..., None]).sum(1) / count.clamp_min(1)[:, None]  # (U, D)
        words = linear(mean, self.word) + self.length[count] + self.kind[word_types]  # (U, H)
        table = torch.tanh(words[:, None] + self.tag).flatten(0, 1)  # (U * tags, H)
        if self.training:
            lexicon_words = self.hidden(lexicon_words, len(count))
        f = embedding(lexicon_words * TAGS + lexicon_tags, table)  # (B, T, K, H)
        scores = (f * linear(embeddings, self.query)[:, :, None]).sum(-1).float()  # (B, T, K)
        scores = scores.masked_fill(lexicon_words == 0, torch.finfo(scores.dtype).min)
        none = torch.zeros_like(scores[..., :1])
        weights = torch.cat([none, scores], dim=-1).softmax(-1)[..., 1:].to(f.dtype)  # (B, T, K)
        return embeddings + linear((weights[..., None] * f).sum(2), self.output)

    def hidden(self, lexicon_words: Tensor, count: int) -> Tensor:
        """Numbers of words (B, T, K), some of them replaced by 0, no word: see the class."""
        rows, device = len(lexicon_words), lexicon_words.device
        keep = torch.rand(rows, count, device=device) >= self.dropout  # (B, U)
        keep &= torch.rand(rows, 1, device=device) >= self.absent
        return lexicon_words * keep.gather(1, lexicon_words.flatten(1)).view_as(lexicon_words)


def adapter_for(config: Any, encoder: Any) -> LexiconAdapter | None:
    """The adapter of a model with this configuration and encoder; None if it has none."""
    if config.lexicon_fusion != "adapter":
        return None
    width, types = encoder.get_input_embeddings().weight.shape[1], len(config.lexicon_types)
    return LexiconAdapter(
        width, types, dropout=config.lexicon_dropout, absent=config.lexicon_absent
    )


def lexicon_inputs(
    encoder: Any,
    adapter: LexiconAdapter | None,
    input_ids: Tensor | None,
    words: Sequence[Tensor | None],
) -> Tensor:
    """An encoder's input embeddings (B, T, D) with what the words of a lexicon say.

    Args:
        adapter: of the model, or None.
        words: the tensors `INPUTS`, as from `lexicon_arrays`.

    Raises:
        InputError: some of them are missing, or the model has no adapter.
    """
    there = [tensor for tensor in words if tensor is not None]
    if adapter is None or input_ids is None or len(there) < len(words):
        raise InputError(
            f"expected {', '.join(INPUTS)} and input_ids together, and a model with "
            "lexicon_fusion: adapter"
        )
    lexicon_words, lexicon_tags, word_chars, word_types = there
    embed, present = encoder.get_input_embeddings(), word_chars >= 0
    characters = embed(word_chars.clamp_min(0))  # (U, 8, D)
    return adapter(embed(input_ids), lexicon_words, lexicon_tags, characters, present, word_types)


# ------------------------------------------------------------------------------------------ lattice
def lattice_for(config: Any) -> FlatLattice | None:
    """The lattice layer of a model with this configuration; None if it has none."""
    if config.lexicon_fusion != "flat":
        return None
    return FlatLattice(
        config.lattice["entries"],
        config.lattice["bigrams"],
        config.encoder_config.hidden_size,
        heads=config.lattice_heads,
        head_size=config.lattice_head_size,
        max_tokens=config.max_window_tokens,
        max_word_length=config.max_word_length,
    )


def lattice_states(
    layer: FlatLattice | None, states: Tensor, chars: Tensor | None, words: Tensor | None
) -> Tensor:
    """What a lattice layer makes of an encoder's states (B, T, D): (B, T, H); without one, these.

    Args:
        layer: of the model, or None.
        states: of the encoder.
        chars, words: the tensors `LATTICE_INPUTS`, as from `lattice_arrays`.

    Raises:
        InputError: they are missing, or the model has no such layer.
    """
    if layer is None and chars is None and words is None:
        return states
    if layer is None or chars is None or words is None:
        raise InputError(
            "expected lattice_chars and lattice_words together, and a model with lexicon_fusion: "
            "flat, which reads no text without them (its pipeline makes them)"
        )
    return layer(states, *chars.unbind(-1), *words.unbind(-1))
