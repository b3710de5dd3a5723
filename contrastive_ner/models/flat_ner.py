"""The word lattice of NerCo as published (FLAT on an encoder). This file travels with the weights.

One layer reads the n characters of a text and the m words of a lexicon that occur in it. For an
element with its first and last character s and e, inclusive:

    x_char = W_c drop([char; bigram; encoder state]) + b,   x_word = W_l drop(word) + b
    P[l, d] = relu(W_p [PE(d); PE(d - l)] + b)             with d = s_i - s_j and d - l = e_i - e_j
    a_ij = (q_i + u) . x_j + (q_i + v) . (W_r P)           per head; not scaled, keys not projected
    y = LN(x + softmax(a) V),  z = LN(y + FFN(y))          one LayerNorm for both

Only characters are kept, so that only they are queries, for which e_i = s_i and l >= 0 is the
length of the word less one. W_r P then depends on weights and on two small numbers alone: a table
(l, d) replaces the n (n + m) products of the definition.

Notation: B batch, T tokens, M words, H = heads x head size, D the encoder's size, N distinct l.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from .adapters_ner import WeightsState, weights_state
from .lattice_ner import PADDING, UNKNOWN
from .windows_ner import InputError

VECTOR_SIZE = 50  # of characters, words and bigrams
EMBEDDING_DROPOUT, FEED_FORWARD_DROPOUT = 0.5, 0.15
MOST_PRODUCTS = 2**26  # numbers that are computed at once
WORD_DROPOUT = 0.01


def sinusoids(positions: Tensor, size: int) -> Tensor:
    """Fixed encodings of positions (...) -> (..., size): sines, then cosines.

    The frequencies fall from 1 to 1 / 10000.
    """
    half = size // 2
    steps = torch.arange(half, dtype=torch.float32, device=positions.device)
    frequencies = torch.exp(-math.log(10000.0) / max(half - 1, 1) * steps)
    angles = positions.float()[..., None] * frequencies
    return F.pad(torch.cat([angles.sin(), angles.cos()], -1), (0, size % 2))


class FlatLattice(nn.Module):
    """The lattice layer: encoder states and ids -> states of the characters.

    Args:
        vocabulary: number of characters and words, which share a table, with padding and unknown.
        bigrams: number of bigrams, likewise.
        encoder_size: dimension of the encoder's states.
        heads: attention heads.
        head_size: dimension of each.
        max_tokens: longest input, in tokens.
        max_word_length: longest word, in characters.
    """

    def __init__(
        self,
        vocabulary: int,
        bigrams: int,
        encoder_size: int,
        *,
        heads: int = 10,
        head_size: int = 20,
        max_tokens: int = 256,
        max_word_length: int = 30,
    ) -> None:
        super().__init__()
        self.heads, self.head_size, self.size = heads, head_size, heads * head_size
        self.max_tokens, self.max_word_length = max_tokens, max_word_length
        self.entries = nn.Embedding(vocabulary, VECTOR_SIZE, padding_idx=PADDING)
        self.bigrams = nn.Embedding(bigrams, VECTOR_SIZE, padding_idx=PADDING)
        self.char_projection = nn.Linear(2 * VECTOR_SIZE + encoder_size, self.size)
        self.word_projection = nn.Linear(VECTOR_SIZE, self.size)
        self.position = nn.Linear(2 * self.size, self.size)  # W_p
        self.relation = nn.Linear(self.size, self.size, bias=False)  # W_r; a bias would cancel
        self.query = nn.Linear(self.size, self.size)
        self.value = nn.Linear(self.size, self.size)
        self.u = nn.Parameter(torch.zeros(heads, head_size))
        self.v = nn.Parameter(torch.zeros(heads, head_size))
        self.wide = nn.Linear(self.size, 3 * self.size)
        self.narrow = nn.Linear(3 * self.size, self.size)
        self.norm = nn.LayerNorm(self.size)
        self._table: tuple[WeightsState, Tensor] | None = None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Vectors U(+-sqrt(3 / 50)), whose expected squared length is 1; Xavier for matrices."""
        for table in (self.entries, self.bigrams):
            init.uniform_(table.weight, -math.sqrt(3 / VECTOR_SIZE), math.sqrt(3 / VECTOR_SIZE))
            init.zeros_(table.weight[PADDING])
        for part in self.modules():
            if isinstance(part, nn.Linear):
                init.xavier_uniform_(part.weight)
        init.xavier_uniform_(self.u)
        init.xavier_uniform_(self.v)

    def forward(
        self,
        states: Tensor,
        char_ids: Tensor,
        bigram_ids: Tensor,
        word_ids: Tensor,
        word_first: Tensor,
        word_last: Tensor,
    ) -> Tensor:
        """States (B, T, D) -> states of the characters (B, T, H).

        Args:
            states: of the encoder.
            char_ids: (B, T), 0 where there is no character, as at [CLS], [SEP] and padding; what is
                returned there means nothing.
            bigram_ids: (B, T), of each character and the next one.
            word_ids: (B, M), 0 is padding. Words may overlap, and their order does not matter.
            word_first, word_last: (B, M), their first and last tokens.

        Raises:
            InputError: the input or a word is too long for the model.
        """
        lengths = (word_last - word_first) * (word_ids != PADDING)  # (B, M), less one
        self._check(char_ids, lengths)
        chars = torch.cat(
            [
                self._vectors(self.entries, char_ids),
                self._vectors(self.bigrams, bigram_ids),
                states,
            ],
            -1,
        )
        chars = self.char_projection(F.dropout(chars, EMBEDDING_DROPOUT, self.training))
        words = F.dropout(self._vectors(self.entries, word_ids), EMBEDDING_DROPOUT, self.training)
        x = torch.cat([chars, self.word_projection(words)], 1)  # (B, T + M, H)
        keep = torch.cat([char_ids, word_ids], 1) != PADDING  # (B, T + M)
        starts = torch.arange(char_ids.shape[1], device=char_ids.device).expand_as(char_ids)
        first = torch.cat([starts, word_first * (word_ids != PADDING)], 1)  # (B, T + M)
        attended = self._attend(chars, x, keep, first, F.pad(lengths, (char_ids.shape[1], 0)))
        y = self.norm(chars + attended)
        hidden = F.dropout(F.relu(self.wide(y)), FEED_FORWARD_DROPOUT, self.training)
        return self.norm(y + F.dropout(self.narrow(hidden), FEED_FORWARD_DROPOUT, self.training))

    def _check(self, char_ids: Tensor, lengths: Tensor) -> None:
        tokens, longest = char_ids.shape[1], int(lengths.max()) + 1 if lengths.numel() else 1
        if tokens > self.max_tokens:
            raise InputError(
                f"an input of {tokens} tokens: the model reads {self.max_tokens} at most"
            )
        if longest > self.max_word_length or (lengths.numel() and int(lengths.min()) < 0):
            raise InputError(
                f"word_first and word_last: expected words of 1 to {self.max_word_length} tokens"
            )

    def _vectors(self, table: nn.Embedding, ids: Tensor) -> Tensor:
        """Rows of a table (B, L, 50); in training an id now and then becomes the unknown one."""
        if self.training:
            drawn = torch.rand(ids.shape, device=ids.device) < WORD_DROPOUT
            ids = ids.masked_fill(drawn & (ids != PADDING), UNKNOWN)
        return table(ids)

    def _attend(
        self, chars: Tensor, x: Tensor, keep: Tensor, first: Tensor, lengths: Tensor
    ) -> Tensor:
        """Attention of characters (B, T, H) to all of x (B, L, H): (B, T, H)."""
        batch, tokens, _ = chars.shape
        by_head = (self.heads, self.head_size)
        query = self.query(chars).view(batch, tokens, *by_head).transpose(1, 2)  # (B, h, T, s)
        keys = x.view(batch, -1, *by_head).permute(0, 2, 3, 1)  # (B, h, s, L)
        scores = (query + self.u[:, None]) @ keys  # (B, h, T, L)
        present, place = lengths.unique(return_inverse=True)  # (N,), (B, L)
        table = self.relations(present, tokens)  # (h, N (2T - 1), s)
        here = torch.arange(tokens, device=first.device)[:, None]  # (T, 1)
        column = place[:, None] * (2 * tokens - 1) + here - first[:, None] + tokens - 1  # (B, T, L)
        # A few rows at a time: the products with all lengths and distances, (B, h, T, N (2T - 1)),
        # take more memory than anything else.
        rows = max(1, MOST_PRODUCTS // (self.heads * tokens * table.shape[1]))
        products = [
            ((own + self.v[:, None]) @ table.transpose(1, 2)).gather(
                3, at[:, None].expand(-1, self.heads, -1, -1)
            )
            for own, at in zip(query.split(rows), column.split(rows), strict=True)
        ]
        scores = scores + torch.cat(products)
        exact = scores.to(torch.promote_types(scores.dtype, torch.float32))
        lowest = torch.finfo(exact.dtype).min
        weights = exact.masked_fill(~keep[:, None, None], lowest).softmax(-1)
        values = self.value(x).view(batch, -1, *by_head).transpose(1, 2)  # (B, h, L, s)
        return (weights.to(values.dtype) @ values).transpose(1, 2).reshape(batch, tokens, -1)

    def relations(self, lengths: Tensor, tokens: int) -> Tensor:
        """W_r P of word lengths less one (N,), at the distances 1 - T .. T - 1: (h, N (2T - 1), s).

        In training it is computed, for what a batch needs; otherwise all of it once, until the
        weights change.
        """
        if self.training or torch.is_grad_enabled():
            distances = torch.arange(1 - tokens, tokens, device=lengths.device)
            table = self._relations(lengths, distances)
        else:
            now = weights_state(self.position, self.relation)
            if self._table is None or not now.same(self._table[0]):
                edge = self.max_tokens
                everywhere = torch.arange(1 - edge, edge, device=lengths.device)
                every = torch.arange(self.max_word_length, device=lengths.device)
                with torch.autocast(lengths.device.type, enabled=False):
                    self._table = now, self._relations(every, everywhere)
            middle = self.max_tokens - tokens
            table = self._table[1][lengths, middle : middle + 2 * tokens - 1]
        return table.reshape(-1, self.heads, self.head_size).transpose(0, 1)

    def _relations(self, lengths: Tensor, distances: Tensor) -> Tensor:
        """(N,), (K,) -> (N, K, H). W_p [PE(d); PE(d - l)] is a sum of two smaller products."""
        at_start, at_end = self.position.weight.split(self.size, 1)  # (H, H)
        ends = distances - lengths[:, None]  # (N, K)
        kind = at_start.dtype
        first = F.linear(sinusoids(distances, self.size).to(kind), at_start, self.position.bias)
        last = F.linear(sinusoids(ends, self.size).to(kind), at_end)
        return self.relation(F.relu(first + last))
