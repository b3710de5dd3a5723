"""BINDER (Zhang et al., ICLR 2023): a bi-encoder that scores spans against type descriptions.

Sections: config; scores of starts, ends and spans; losses; model; registration. The text encoder
represents tokens and spans, the type encoder the descriptions of entity types. A span is a mention
of a type if its score exceeds the type's threshold, which is the score of the text's first token.
Mentions may therefore nest, a span may have several types, and a new type only needs a description.
This file travels with the weights: loading a shared model executes only this file,
`adapters_ner.py`, `batches_ner.py`, `checks_ner.py`, `encoder_ner.py`, `pipeline_ner.py`,
`strict_ner.py`, `types_binder.py` and `windows_ner.py`.

Notation: B windows, L tokens, E entity types, H hidden size, D projection size, W maximum span
width, M rows of labels, N cells: (window, start, width - 1) triples.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers import initialization as init
from transformers.utils import ModelOutput

from .adapters_ner import WeightsState, files_digest, weights_digest, weights_state
from .batches_ner import in_batches  # noqa: F401 - transformers 5.6 copies direct imports only
from .checks_ner import refuse_label_smoothing
from .encoder_ner import (
    IGNORED,
    SafePreTrainedModel,
    config_object,
    empty_encoder,
    encode,
    pretrained_encoder,
    read_encoder_config,
)
from .lattice_ner import LATTICE  # noqa: F401 - as above
from .lexicon_ner import LEXICON  # noqa: F401 - transformers 5.6 copies direct imports only
from .matching_ner import INPUTS  # noqa: F401 - as above
from .pipeline_ner import PIPELINES, NerPipeline
from .strict_ner import StrictConfig
from .types_binder import TypeEmbeddings, check_descriptions, description_ids
from .windows_ner import DECODINGS, InputError, Span, best_labels, check_options, least_scores

AUTO_MAP = {
    "AutoConfig": "modeling_binder.BinderConfig",
    "AutoModel": "modeling_binder.BinderModel",
    "AutoModelForTokenClassification": "modeling_binder.BinderModel",
}
TYPE_ENCODERS = ("untied", "tied", "frozen", "none")
THRESHOLDS = ("token", "global")
CUT = -1  # in a row of labels: this end of the mention lies outside the window
TYPES_AT_ONCE = 64  # descriptions per forward pass of the type encoder, except in training
# Numbers computed at a time when a CPU scores spans without gradient: as many as its cache holds.
CELL_BUDGET = 2**20


# ------------------------------------------------------------------------------------------- config
class BinderConfig(StrictConfig):
    """Configuration of BINDER.

    Args:
        encoder_config: of the text encoder, any encoder-only `AutoModel`, as an object or a
            dictionary.
        type_encoder_config: the same for the type encoder; None if there is no separate one.
        type_encoder: "untied" (paper: two encoders), "tied" (one encoder for both), "frozen" (two;
            the type encoder keeps its pretrained weights) or "none" (types are stored vectors; see
            `BinderModel.export_frozen`).
        descriptions: {entity type: its texts}. The first text represents the type; training draws
            one of them at each step.
        description_tokens: number of tokens in the longest text.
        projection_size: size of the space shared by spans and types (paper: 128).
        projection_dropout: dropout on the projections (paper: 0.1).
        initial_temperature: of the scores, before training; it is learned (paper: 0.07).
        width_embedding_size: size of the embedding of a span's width; 0: `projection_size`.
        threshold: "token" (the score of the text's first token; paper) or "global" (one learned
            value for all texts and types; the paper's ablation).
        max_span_width: longest span that can be found, in tokens.
        types_per_batch: number of types drawn for each training step, those with a mention first;
            0 means all.
        decoding: "nested" (every span above its threshold) or "flat" (the best of overlapping
            spans).
        several_labels: whether a span may have more than one type.
        margins: {entity type: margin by which a span must exceed the threshold}; 0 by default.
        start_weight, end_weight, span_weight, threshold_weight: weights of the losses (paper: 0.2,
            0.2, 0.6; 0.5).
        label_unit: where spans may start and end: at every "token" (character tokenizers) or at
            "word" boundaries.
        max_window_tokens: longest input, including special tokens; longer texts are read in
            overlapping windows.
        joiner: what stood between the words of the training data, "" or " "; None: it had none.
        score_slope, score_intercept: a span's score is sigmoid(slope * margin + intercept); fitted
            on development data.
        type_fingerprint: of the weights that encode types; written by `save_pretrained`.
        type_weights: the same of the weights that are saved, where these are a rounded copy of
            those that encoded the types (half precision); otherwise empty.
        fits: {entity type: the vector that spans are compared with instead of that of its
            description}; see `BinderModel.fit_label`.
        fit_weights: fingerprint of the weights that `fits` holds for.

    Raises `InputError` for invalid values and unknown names.
    """

    model_type = "binder"
    sub_configs = {"encoder_config": AutoConfig, "type_encoder_config": AutoConfig}

    encoder_config: Any = None
    type_encoder_config: Any = None
    type_encoder: str = "untied"
    descriptions: dict[str, list[str]] = field(default_factory=dict)
    description_tokens: int = 1
    projection_size: int = 128
    projection_dropout: float = 0.1
    initial_temperature: float = 0.07
    width_embedding_size: int = 0
    threshold: str = "token"
    max_span_width: int = 30
    types_per_batch: int = 0
    decoding: str = "nested"
    several_labels: bool = True
    margins: dict[str, float] = field(default_factory=dict)
    start_weight: float = 0.2
    end_weight: float = 0.2
    span_weight: float = 0.6
    threshold_weight: float = 0.5
    label_unit: str = "word"
    max_window_tokens: int = 128
    joiner: str | None = None
    score_slope: float = 1.0
    score_intercept: float = 0.0
    type_fingerprint: str = ""
    type_weights: str = ""
    fits: dict[str, list[float]] = field(default_factory=dict)
    fit_weights: str = ""
    id2label: dict[int, str] | dict[str, str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.encoder_config = config_object("encoder_config", self.encoder_config)
        self.type_encoder_config = config_object("type_encoder_config", self.type_encoder_config)
        kwargs.setdefault("auto_map", dict(AUTO_MAP))
        kwargs.setdefault(
            "custom_pipelines", {task: dict(entry) for task, entry in PIPELINES.items()}
        )
        check_descriptions(self.descriptions)
        given: Mapping[Any, str] = self.id2label or dict(enumerate(self.descriptions))
        ids = {int(number): label for number, label in given.items()}
        if self.descriptions:
            # The keys in config.json are sorted alphabetically: the ids give the order of vectors.
            numbers = list(range(len(ids)))
            if sorted(ids.values()) != sorted(self.descriptions) or sorted(ids) != numbers:
                raise InputError(
                    f"id2label names {sorted(ids.values())}: "
                    f"expected the types of descriptions, {sorted(self.descriptions)}"
                )
            self._set_types({ids[number]: self.descriptions[ids[number]] for number in numbers})
        super().__post_init__(**kwargs)

    def __setattr__(self, key: str, value: Any) -> None:
        """Set a field. Other names in `id2label` rename the types.

        Descriptions are set before a model is made; a model refuses others than those it has read.

        Raises:
            InputError: `id2label` or `num_labels` ask for more or fewer types than are described.
        """
        is_built = "type_weights" in self.__dict__
        if is_built and key == "descriptions":
            check_descriptions(value)
            self.margins = {k: own for k, own in self.margins.items() if k in value}
            texts = {label: own[0] for label, own in self.descriptions.items()}
            self.fits = {
                k: own for k, own in self.fits.items() if k in value and value[k][0] == texts[k]
            }
            self._set_types(value)
        elif (
            is_built
            and self.descriptions
            and key in ("id2label", "label2id")
            and isinstance(value, Mapping)
        ):
            pairs = value.items() if key == "id2label" else ((v, k) for k, v in value.items())
            ids = {int(number): label for number, label in pairs}
            old, numbers = self.labels, range(len(self.labels))
            if sorted(ids) != list(numbers) or len(set(ids.values())) != len(ids):
                raise InputError(
                    f"{key} has {len(ids)} entries, {sorted(set(ids.values()))}: expected a name "
                    f"for each of the types {', '.join(old)}; further types need descriptions"
                )
            if [ids[number] for number in numbers] == old:
                return
            names = {old[number]: ids[number] for number in numbers}
            self.margins = {names[label]: margin for label, margin in self.margins.items()}
            self.fits = {names[label]: vector for label, vector in self.fits.items()}
            self._set_types({names[label]: texts for label, texts in self.descriptions.items()})
        else:
            super().__setattr__(key, value)

    def _set_types(self, descriptions: Mapping[str, list[str]]) -> None:
        """Set the descriptions, in the order of the types' ids, and what follows from them."""
        ids = dict(enumerate(descriptions))
        self.__dict__.update(
            descriptions={label: list(texts) for label, texts in descriptions.items()},
            id2label=ids,
            label2id={label: number for number, label in ids.items()},
        )

    def _validate(self) -> None:
        super()._validate()
        for name, allowed in {
            "type_encoder": TYPE_ENCODERS,
            "decoding": DECODINGS,
            "threshold": THRESHOLDS,
            "label_unit": ("token", "word"),
        }.items():
            if getattr(self, name) not in allowed:
                expected = ", ".join(map(repr, allowed))
                raise InputError(f"{name} is {getattr(self, name)!r}: expected one of {expected}")
        if not (isinstance(dropout := self.projection_dropout, int | float) and 0 <= dropout < 1):
            raise InputError(f"projection_dropout is {dropout!r}: expected a number in [0, 1)")
        if not isinstance(self.several_labels, bool):
            raise InputError(f"several_labels is {self.several_labels!r}: expected true or false")
        if not (isinstance(t := self.initial_temperature, int | float) and 0 < t < math.inf):
            raise InputError(f"initial_temperature is {t!r}: expected a positive number")
        least = {
            "projection_size": 1,
            "width_embedding_size": 0,
            "max_span_width": 1,
            "description_tokens": 1,
            "types_per_batch": 0,
            "max_window_tokens": 8,
        }
        for name, smallest in least.items():
            if not isinstance(getattr(self, name), int) or getattr(self, name) < smallest:
                raise InputError(
                    f"{name} is {getattr(self, name)!r}: expected an integer of at least {smallest}"
                )
        for name in ("start_weight", "end_weight", "span_weight", "threshold_weight"):
            weight = getattr(self, name)
            if not (isinstance(weight, int | float) and 0 <= weight < math.inf):
                raise InputError(f"{name} is {weight!r}: expected zero or a positive number")
        self._validate_types()
        for name, least_value in {"score_slope": 0.0, "score_intercept": -math.inf}.items():
            value = getattr(self, name)
            if not (isinstance(value, int | float) and least_value < value < math.inf):
                raise InputError(
                    f"{name} is {value!r}: expected a {'positive ' * (name == 'score_slope')}number"
                )
        # Windows that share most of their tokens would be too many.
        if 2 * self.max_span_width > self.max_window_tokens:
            raise InputError(
                f"max_span_width is {self.max_span_width}: "
                f"expected at most half of max_window_tokens, {self.max_window_tokens // 2}"
            )
        if self.threshold_weight > 1:
            raise InputError(
                f"threshold_weight is {self.threshold_weight!r}: expected a number in [0, 1]"
            )

    def _validate_types(self) -> None:
        if not isinstance(self.margins, Mapping) or not all(
            isinstance(value, int | float) and math.isfinite(value)
            for value in self.margins.values()
        ):
            raise InputError(f"margins is {self.margins!r}: expected {{entity type: number}}")
        if not isinstance(self.fits, Mapping) or not all(
            isinstance(own, list)
            and len(own) == self.projection_size
            and all(isinstance(number, int | float) and math.isfinite(number) for number in own)
            for own in self.fits.values()
        ):
            raise InputError(
                f"fits is {self.fits!s:.60}: expected {{entity type: list of "
                f"{self.projection_size} numbers}}"
            )
        for name in ("margins", "fits"):
            unknown = sorted(set(getattr(self, name)) - set(self.descriptions))
            if unknown and self.descriptions:
                raise InputError(
                    f"{name} name {', '.join(unknown)}: "
                    f"expected types of descriptions, {', '.join(self.descriptions)}"
                )

    @property
    def labels(self) -> list[str]:
        """Entity types in the order of their ids."""
        return list(self.descriptions)

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weights of the losses, as arguments of `total_loss`."""
        kinds = ("start", "end", "span", "threshold")
        return {kind: getattr(self, f"{kind}_weight") for kind in kinds}

    @property
    def entity_types(self) -> list[str]:
        """The same as `labels`; NerCo's labels are tags."""
        return self.labels

    @property
    def later_types(self) -> list[str]:
        """Entity types that were fitted to examples, in the order of their ids.

        Where only one of several spans may stay, theirs give way to those of all types before.
        """
        return [label for label in self.descriptions if label in self.fits]

    @property
    def min_overlap(self) -> int:
        """Tokens that consecutive windows must share, so that some window contains each span."""
        return self.max_span_width

    @property
    def texts_per_type(self) -> int:
        """The largest number of description texts of a type; at least 1."""
        return max((len(texts) for texts in self.descriptions.values()), default=1)


# -------------------------------------------------------------------- scores of starts, ends, spans
class Projected(NamedTuple):
    """Tokens and widths, projected into the space of the types.

    `start`, `end`: (B, L, D), normalised. `left`, `right` (B, L, D) and `width` (W, D) are the
    parts whose sum is the projection of a span.
    """

    start: Tensor
    end: Tensor
    left: Tensor
    right: Tensor
    width: Tensor


class BinderScores(NamedTuple):
    """Scores in float32: start, end (B, E, L), span (B, E, L, W) at [first token, width - 1].

    The threshold stands at the first token: start[..., 0], end[..., 0], span[..., 0, 0].
    Spans that are not candidates score the smallest finite number.
    """

    start: Tensor
    end: Tensor
    span: Tensor


class TextHeads(nn.Module):
    """Projections of tokens and spans, and the temperatures.

    `log_scale` (3,) holds log(1 / temperature) for starts, ends and spans, `threshold` (3,) their
    global thresholds as cosines, None if the first token's scores are the thresholds.
    """

    def __init__(self, hidden_size: int, config: BinderConfig) -> None:
        super().__init__()
        size, width_size = config.projection_size, config.width_embedding_size
        width_size = width_size or size
        self.start = nn.Linear(hidden_size, size)
        self.end = nn.Linear(hidden_size, size)
        self.span = nn.Linear(2 * hidden_size + width_size, size)
        self.width = nn.Embedding(config.max_span_width, width_size)
        self.log_scale = nn.Parameter(torch.empty(3))
        is_global = config.threshold == "global"
        self.threshold = nn.Parameter(torch.empty(3)) if is_global else None
        self.dropout = config.projection_dropout
        self.initial_temperature = config.initial_temperature
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the initial temperatures and thresholds."""
        init.constant_(self.log_scale, math.log(1 / self.initial_temperature))
        if self.threshold is not None:
            init.zeros_(self.threshold)

    def with_threshold(self, kind: int, scores: Tensor, is_first: Tensor) -> Tensor:
        """Scores of a kind (0 starts, 1 ends, 2 spans), with the threshold at the first token.

        `is_first`, which can be broadcast, tells where that is.
        """
        if self.threshold is None:
            return scores
        return torch.where(
            is_first, self.log_scale[kind].float().exp() * self.threshold[kind].float(), scores
        )

    def forward(self, hidden: Tensor) -> Projected:
        """hidden (B, L, H) -> projections.

        The span head is split: W [h_i; h_j; D_w] + b = W_s h_i + W_e h_j + (W_d D_w + b).

        Raises:
            InputError: the span head has an adapter, which would have no effect.
        """
        if hasattr(self.span, "base_layer"):
            raise InputError(
                "an adapter on heads.span has no effect: leave it out "
                "(exclude_modules=['heads.span']), or train the heads whole "
                "(modules_to_save=['heads', 'type_heads'])"
            )
        hidden = hidden.to(floating(self.start))
        first, last, width = self.span.weight.split(
            [hidden.shape[-1], hidden.shape[-1], self.width.embedding_dim], dim=1
        )
        start, end = (
            normalised(head(hidden), self.dropout, self.training) for head in (self.start, self.end)
        )  # (B, L, D)
        left, right = F.linear(hidden, first).float(), F.linear(hidden, last).float()  # (B, L, D)
        return Projected(
            start, end, left, right, F.linear(self.width.weight, width, self.span.bias).float()
        )

    def span_vectors(self, parts: Projected, cells: Tensor) -> Tensor:
        """Projections of spans: cells (N, 3) window, first token, width - 1 -> unit (N, D)."""
        row, first, width = cells.unbind(1)
        at = row * parts.left.shape[1] + first  # (N,) index into the tokens of all windows
        spans = parts.left.flatten(0, 1).index_select(0, at)  # (N, D)
        spans += parts.right.flatten(0, 1).index_select(0, at + width)
        spans += parts.width.index_select(0, width)
        return normalised(spans, self.dropout, self.training)

    def span_scores(
        self, parts: Projected, cells: Tensor, types: Tensor, apart: Sequence[int] = ()
    ) -> Tensor:
        """Scores of spans: cells (N, 3) as in `span_vectors`; types (E, D) -> (N, E).

        The last digit of a product depends on its shape: types `apart` are multiplied one by one,
        and so leave the scores of the others as they are without them.
        """
        spans = self.span_vectors(parts, cells)
        # Scale the types rather than the scores: there are fewer of them.
        scale = self.log_scale[2].float().exp()
        if not apart:
            scores = spans @ (scale * types).T
        else:
            together = [number for number in range(len(types)) if number not in apart]
            scores = spans.new_empty(len(spans), len(types))
            scores[:, together] = spans @ (scale * types[together]).T
            for number in apart:
                scores[:, number] = spans @ (scale * types[number])
        return self.with_threshold(2, scores, (cells[:, 1] == 0)[:, None])


class TypeHeads(nn.Module):
    """Projections of entity types for starts, ends and spans."""

    def __init__(self, hidden_size: int, config: BinderConfig) -> None:
        super().__init__()
        self.start, self.end, self.span = (
            nn.Linear(hidden_size, config.projection_size) for _ in range(3)
        )
        self.dropout = config.projection_dropout

    def forward(self, states: Tensor) -> Tensor:
        """First-token states (E, H) -> vectors for starts, ends, spans: (3, E, D)."""
        heads = (self.start, self.end, self.span)
        return torch.stack(
            [normalised(head(states), self.dropout, self.training) for head in heads]
        )


def floating(head: nn.Linear) -> torch.dtype:
    """The type of a projection's numbers. `InputError` if it was quantised."""
    if not head.weight.is_floating_point():
        raise InputError(
            "the projections are quantised, and spans cannot be scored with them: leave them as "
            "they are (llm_int8_skip_modules=['heads', 'type_heads'])"
        )
    return head.weight.dtype


def normalised(projection: Tensor, dropout: float, training: bool) -> Tensor:
    """Dropout, then L2 normalisation over the last dimension, in float32."""
    return F.normalize(F.dropout(projection.float(), dropout, training), dim=-1)


def candidate_spans(word_mask: Tensor, word_end_mask: Tensor, max_width: int) -> Tensor:
    """Spans from the first token of a word to the last token of a word.

    (B, L), (B, L) -> (B, L, W) bool at [first token, width - 1].
    """
    ends = F.pad(word_end_mask.bool(), (0, max_width - 1)).unfold(1, max_width, 1)  # (B, L, W)
    return word_mask.bool()[:, :, None] & ends


def in_parts(cells: Tensor, types: Tensor) -> tuple[Tensor, ...]:
    """Cells (N, 3) in chunks that limit the projections and scores in memory; types (E, D)."""
    budget = CELL_BUDGET if cells.device.type == "cpu" else 64 * CELL_BUDGET
    return cells.split(max(budget // (types.shape[0] + types.shape[1]), 1))


# ------------------------------------------------------------------------------------------- losses
def contrast(
    scores: Tensor,
    negative: Tensor,
    rows: Tensor,
    types: Tensor,
    cells: Tensor,
    weights: Tensor,
    pairs: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mention loss and threshold loss of one kind of candidates (paper: sections 3.2, 3.3).

    The threshold, candidate 0, is part of every denominator. With Z = log sum exp over negatives
    and threshold, the loss of a mention with score s is log(exp Z + exp s) - s = softplus(Z - s):
    other mentions of its type do not enter its denominator.

    Args:
        scores: (B, E, C) of C candidates.
        negative: (B, E, C) bool, the candidates that are not mentions of the type.
        rows, types, cells: (M,) window, type and candidate of each mention.
        weights: (M,) of the mentions in their loss.
        pairs: (B, E) bool, the pairs of window and type that count; by default all.

    Returns:
        Mention loss, a mean over mentions (0 if there are none); threshold loss, a mean over all
        pairs of window and type.
    """
    threshold = scores[..., 0]  # (B, E)
    others = scores.masked_fill(~negative, torch.finfo(scores.dtype).min).logsumexp(-1)  # (B, E)
    partition = torch.logaddexp(others, threshold)  # (B, E)
    mentions = F.softplus(partition[rows, types] - scores[rows, types, cells])  # (M,)
    excess = partition - threshold if pairs is None else (partition - threshold)[pairs]
    return (weights * mentions).sum() / max(len(mentions), 1), excess.mean()


def check_labels(labels: Tensor, word_mask: Tensor, word_end_mask: Tensor, types: int) -> None:
    """Raise `InputError` for a mention of an unknown type, or one that does not fit words.

    Such a mention has no score, and its loss would be huge. Arguments as in `binder_losses`.
    """
    rows = (labels[..., 0] != IGNORED).nonzero()[:, 0]
    kinds, first, last = labels[labels[..., 0] != IGNORED].unbind(-1)
    length = word_mask.shape[1]
    wrong = (kinds < 0) | (kinds >= types) | ((first != CUT) & (last != CUT) & (first > last))
    for token, mask in ((first, word_mask), (last, word_end_mask)):
        is_there = mask.bool()[rows, token.clamp(0, length - 1)] & (token >= 0) & (token < length)
        wrong |= (token != CUT) & ~is_there
    if bool(wrong.any()):
        number = int(wrong.nonzero()[0, 0])
        found = [int(values[number]) for values in (kinds, first, last)]
        raise InputError(
            f"labels: {found} in row {int(rows[number])}: expected the number of one of {types} "
            "types, the first token of a word and the last token of a word"
        )


def binder_losses(
    scores: BinderScores,
    labels: Tensor,
    word_mask: Tensor,
    word_end_mask: Tensor,
    weights: Tensor | None = None,
    pairs: Tensor | None = None,
) -> dict[str, Tensor]:
    """Six scalar losses: {"mention_start", "threshold_start", ..."_end", ..."_span"}.

    Args:
        scores: of all windows of a batch.
        labels: (B, M, 3) mentions as type, first token, last token (inclusive); rows of -100 are
            padding. `CUT` instead of a token means that it lies outside the window; the visible
            token then counts neither as a negative nor as a mention. A mention wider than W has no
            span score and only trains starts and ends.
        word_mask, word_end_mask: (B, L) first and last tokens of words.
        weights: (B, M) of the mentions in the mention losses; by default 1.
        pairs: (B, E) bool, the types whose mentions each window names; by default all.
    """
    known = labels[..., 0] != IGNORED  # (B, M)
    weight = (
        torch.ones(known.shape, device=labels.device)[known] if weights is None else weights[known]
    )
    rows = known.nonzero()[:, 0]
    types, first, last = labels[known].unbind(-1)
    whole = (first != CUT) & (last != CUT)
    losses: dict[str, Tensor] = {}
    for kind, values, mask, token in (
        ("start", scores.start, word_mask, first),
        ("end", scores.end, word_end_mask, last),
    ):
        negative = mask.bool()[:, None, :].repeat(1, values.shape[1], 1)  # (B, E, L)
        visible = token != CUT
        negative[rows[visible], types[visible], token[visible]] = False
        losses[f"mention_{kind}"], losses[f"threshold_{kind}"] = contrast(
            values, negative, rows[whole], types[whole], token[whole], weight[whole], pairs
        )
    max_width = scores.span.shape[-1]
    inside = whole & (last - first < max_width)
    at = rows[inside], types[inside], first[inside] * max_width + (last - first)[inside]
    candidates = candidate_spans(word_mask, word_end_mask, max_width)
    negative = candidates[:, None].repeat(1, scores.span.shape[1], 1, 1).flatten(2)  # (B, E, L * W)
    negative[at] = False
    losses["mention_span"], losses["threshold_span"] = contrast(
        scores.span.flatten(2), negative, *at, weight[inside], pairs
    )
    return losses


def total_loss(
    losses: Mapping[str, Tensor],
    *,
    start: float = 0.2,
    end: float = 0.2,
    span: float = 0.6,
    threshold: float = 0.5,
) -> Tensor:
    """Weighted sum of `binder_losses` over starts, ends and spans.

    Each adds its weight times (1 - threshold) * mention loss + threshold * threshold loss.
    """
    weights = {"start": start, "end": end, "span": span}
    parts = [
        weight
        * ((1 - threshold) * losses[f"mention_{kind}"] + threshold * losses[f"threshold_{kind}"])
        for kind, weight in weights.items()
    ]
    return torch.stack(parts).sum()


# -------------------------------------------------------------------------------------------- model
@dataclass
class BinderOutput(ModelOutput):
    """`loss` if labels were given; `last_hidden_state` (B, L, H) of the text encoder.

    `decode` scores spans from `last_hidden_state`.
    """

    loss: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class BinderModel(SafePreTrainedModel):
    """BINDER, for the standard Trainer, `AutoModel` and `pipeline("ner")`.

    The vectors of the trained types are stored. Training encodes types at every step. Each use
    compares the weights with those that encoded the types, and stores new vectors if these are not
    in force any more: after training, and after an adapter was loaded, switched or merged. A copy
    that is only rounded or moved (`half()`, `to()`, loading in bfloat16) keeps the vectors.
    """

    config_class = BinderConfig
    base_model_prefix = "binder"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    # The Trainer must divide the loss by the number of accumulated batches. A step over several
    # batches or processes thus averages the means of batches, whereas a single large batch would
    # average over all mentions.
    accepts_loss_kwargs = False
    # Weights of the types (E,) in the mention losses of training; not saved.
    mention_weights: Tensor | None = None
    uncalibrated = {"score_slope": 1.0, "score_intercept": 0.0}

    description_ids: Tensor
    description_lengths: Tensor
    type_vectors: Tensor

    def __init__(self, config: BinderConfig) -> None:
        super().__init__(config)
        self.encoder = empty_encoder(config.encoder_config)
        self.heads = TextHeads(config.encoder_config.hidden_size, config)
        self.type_encoder: PreTrainedModel | None = None
        if config.type_encoder in ("untied", "frozen"):
            self.type_encoder = empty_encoder(config.type_encoder_config)
        if config.type_encoder != "none":
            has_own = self.type_encoder is not None
            type_config = config.type_encoder_config if has_own else config.encoder_config
            self.type_heads = TypeHeads(type_config.hidden_size, config)
            shape = len(config.descriptions), config.texts_per_type
            self.register_buffer(
                "description_ids", torch.zeros(*shape, config.description_tokens, dtype=torch.long)
            )
            self.register_buffer("description_lengths", torch.zeros(shape, dtype=torch.long))
        self.register_buffer(
            "type_vectors", torch.zeros(3, len(config.descriptions), config.projection_size)
        )
        self._must_encode = True
        self._texts_read = [*config.descriptions.values()]  # what the buffers above belong to
        self._must_read = False  # them, from the texts of the configuration
        self._stored_state: WeightsState | None = None
        self._fitted_state: WeightsState | None = None  # weights that the fits hold for
        self._fitted_digest = ""  # of these; other than `config.fit_weights` if they were rounded
        self._unfit_state: WeightsState | None = None  # weights that they do not hold for
        self._text_digest: tuple[WeightsState, str] | None = None  # of `_text_weights`
        self.register_load_state_dict_post_hook(_weights_were_loaded)
        self.post_init()
        self._freeze()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, TextHeads):
            module.reset_parameters()

    def _freeze(self) -> None:
        if self.config.type_encoder == "frozen" and self.type_encoder is not None:
            self.type_encoder.requires_grad_(False)

    def _after_loading(
        self, place: Any, content: dict[str, Any], files: list[Path], lacking: set[str]
    ) -> None:
        """Trust the stored vectors if they were saved together with the weights of the files."""
        self._freeze()
        has_adapter = getattr(self, "_hf_peft_config_loaded", False)
        is_whole = not any(name.startswith(("encoder.", "heads.")) for name in lacking)
        may_hold = self.config.fits and files and is_whole and not has_adapter
        if may_hold and files_digest(files, "encoder.", "heads.") == self.config.fit_weights:
            self._fitted_state = weights_state(self.encoder, self.heads)
            if self.device.type != "meta":  # as `verify` loads it
                self._fitted_digest = weights_digest(self.encoder, self.heads)
        expected = self.config.type_weights or self.config.type_fingerprint
        is_new = self._texts_differ(content) or any("description_" in name for name in lacking)
        self._must_read = is_new
        if is_new or lacking or self.config.type_encoder == "none" or not (expected and files):
            return
        encoder = "encoder." if self.type_encoder is None else "type_encoder."
        if not has_adapter and files_digest(files, encoder, "type_heads.") == expected:
            self._must_encode, self._stored_state = False, self._types_state()

    def _texts_differ(self, content: dict[str, Any]) -> bool:
        """Whether the model is to have other descriptions than the config.json it is read from."""
        saved, ids = content.get("descriptions"), content.get("id2label")
        if not isinstance(saved, Mapping) or not isinstance(ids, Mapping):
            return False
        labels = [ids[number] for number in sorted(ids, key=int)]
        return [saved[label] for label in labels] != list(self.config.descriptions.values())

    def _load_beside(self, place: Any, where: dict[str, Any]) -> None:
        """Read descriptions that are not those of the files by the tokenizer that is with them.

        Raises:
            InputError: there are such descriptions, and no tokenizer or no type encoder.
        """
        if not self._must_read:
            return
        self._check_type_encoder()
        try:
            revision = getattr(self.config, "_commit_hash", None) or "main"
            given = {"revision": revision, **where}
            tokenizer = PreTrainedTokenizerFast.from_pretrained(place, **given)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{place}: other descriptions were asked for, and there is no tokenizer to read "
                "them: load the model with its own descriptions, then call add_labels"
            ) from error
        self._tokenize_descriptions(tokenizer)
        self._must_read = False

    def _tokenize_descriptions(self, tokenizer: Any) -> None:
        """Token ids of all descriptions of the configuration; the vectors are then stale."""
        config = self.config
        type_config = config.type_encoder_config or config.encoder_config
        ids = [
            description_ids(tokenizer, label, texts, type_config)
            for label, texts in config.descriptions.items()
        ]
        longest = max(len(row) for rows in ids for row in rows)
        config.description_tokens = max(longest, config.description_tokens)
        device, size = self.type_vectors.device, config.projection_size
        shape = len(ids), config.texts_per_type
        self.description_ids = torch.zeros(
            *shape, config.description_tokens, dtype=torch.long, device=device
        )
        self.description_lengths = torch.zeros(shape, dtype=torch.long, device=device)
        self.type_vectors = self.type_vectors.new_zeros(3, len(ids), size)
        if (weights := self.mention_weights) is not None and len(weights) < len(ids):
            more = weights.new_ones(len(ids) - len(weights))
            self.mention_weights = torch.cat([weights, more])
        self._set_descriptions(ids)
        self._must_encode = True

    @classmethod
    def from_encoders(
        cls,
        text: str,
        types: str | None = None,
        *,
        descriptions: Mapping[str, str | Sequence[str]],
        tokenizer: Any = None,
        **config: Any,
    ) -> "BinderModel":
        """A new model with pretrained encoders.

        Args:
            text: folder or Hub name of any encoder-only model with safetensors weights.
            types: the same for the type encoder; by default `text`.
            descriptions: {entity type: text, or several texts of which the first represents it}.
            tokenizer: of both encoders; by default that of `text`.
            config: further fields of `BinderConfig`, e.g. `type_encoder="tied"`.

        Raises:
            InputError: a description is missing or too long, an encoder cannot be read, the
                vocabularies differ, or the tokenizer does not start texts with a special token.
        """
        texts = {k: [v] if isinstance(v, str) else list(v) for k, v in descriptions.items()}
        if not texts:
            raise InputError("descriptions is empty: expected {entity type: text}")
        check_descriptions(texts)
        if tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(text, trust_remote_code=False)
        check_special_token(tokenizer)
        kind = config.get("type_encoder", "untied")
        if kind == "none" or (kind == "tied" and types is not None):
            raise InputError(
                f"type_encoder is {kind!r}: a new model needs a type encoder, "
                "and a tied one is the text encoder itself"
            )
        encoder_config = read_encoder_config(text)
        type_config = None if kind == "tied" else read_encoder_config(types or text)
        if type_config is not None and type_config.vocab_size != encoder_config.vocab_size:
            raise InputError(
                f"vocabularies of {encoder_config.vocab_size} and {type_config.vocab_size} tokens: "
                "one tokenizer must serve both encoders"
            )
        ids = {
            label: description_ids(tokenizer, label, own, type_config or encoder_config)
            for label, own in texts.items()
        }
        new_config = BinderConfig(
            encoder_config=encoder_config,
            type_encoder_config=type_config,
            descriptions=texts,
            description_tokens=max(len(row) for rows in ids.values() for row in rows),
            **config,
        )
        model = cls(new_config)
        model.encoder = pretrained_encoder(text, encoder_config)
        if type_config is not None:
            model.type_encoder = pretrained_encoder(types or text, type_config)
            model._freeze()
        model._set_descriptions(list(ids.values()))
        return model

    def add_labels(self, descriptions: Mapping[str, str | Sequence[str]], tokenizer: Any) -> None:
        """Add entity types for good: they are saved, trained, and found by default.

        No weight changes, and the spans of the other types keep their scores.

        Args:
            descriptions: {entity type: text, or several texts of which the first represents it}.
            tokenizer: the model's tokenizer.

        Raises:
            InputError: a type is there already, a description is blank or too long, or the model
                has no type encoder.
        """
        self._check_type_encoder()
        new = {k: [v] if isinstance(v, str) else list(v) for k, v in descriptions.items()}
        check_descriptions(new)
        twice = sorted(set(new) & set(self.config.descriptions))
        if twice:
            raise InputError(f"entity type {', '.join(twice)} is there already")
        before = self.config.descriptions
        self._store_types()
        vectors = self.type_vectors
        self.config.descriptions = {**before, **new}
        try:
            self._tokenize_descriptions(tokenizer)
        except BaseException:
            self.config.descriptions = before
            raise
        self._store_types()
        self.type_vectors[:, : len(before)] = vectors  # to the last digit

    def fit_label(self, label: str, vector: Tensor) -> None:
        """Compare spans with `vector` (D,) to find a type, not with the vector of its description.

        That holds for the weights in force: with others, the type is found by its description
        again, and a training step ends it for good. A type of several that claim a span or
        overlapping ones gives way if it was fitted later. `training.new_types.add_types` finds the
        vector.

        Raises:
            InputError: the type is not there, or the vector is not one of the model's.
        """
        config = self.config
        if label not in config.descriptions:
            raise InputError(
                f"entity type {label!r} is not there: expected one of {', '.join(config.labels)}"
            )
        if vector.shape != (config.projection_size,) or not bool(vector.isfinite().all()):
            raise InputError(
                f"a vector of shape {tuple(vector.shape)}: "
                f"expected {config.projection_size} finite numbers"
            )
        if self.fits_hold:
            config.fits = {**config.fits, label: vector.detach().float().tolist()}
            return
        config.fits = {}  # of other weights; an error on the way leaves none of these
        config.fit_weights = weights_digest(self.encoder, self.heads)
        self._fitted_state = weights_state(self.encoder, self.heads)
        self._fitted_digest = config.fit_weights
        config.fits = {label: vector.detach().float().tolist()}

    @property
    def fits_hold(self) -> bool:
        """Whether there are fits of types, and the weights in force are those that they hold for.

        A copy that was moved or rounded keeps them.
        """
        if not self.config.fits:
            return False
        now = weights_state(self.encoder, self.heads)
        if now.same(self._fitted_state):
            return True
        if now.same(self._unfit_state):
            return False
        digest = weights_digest(self.encoder, self.heads)
        if digest not in (self.config.fit_weights, self._fitted_digest):
            self._unfit_state = now
            self._warn_of_fits("they were fitted to the spans of other weights")
            return False
        self._fitted_state, self._fitted_digest = now, digest
        return True

    @property
    def later_types(self) -> list[str]:
        """Types that are found as fitted to examples, which give way to the others."""
        return self.config.later_types if self.fits_hold else []

    def _text_weights(self) -> str:
        """Fingerprint of the weights in force that represent spans."""
        if self.fits_hold:
            return self.config.fit_weights
        now = weights_state(self.encoder, self.heads)
        if self._text_digest is None or not now.same(self._text_digest[0]):
            self._text_digest = now, weights_digest(self.encoder, self.heads)
        return self._text_digest[1]

    def _warn_of_fits(self, reason: str) -> None:
        warnings.warn(
            f"{', '.join(self.config.later_types)}: found by description again, not as fitted to "
            f"examples, since {reason}; fit again with add_types",
            stacklevel=3,
        )

    def forget_if_training(self, loss: Tensor) -> None:
        """Forget calibration and fits if `loss` is that of a training step."""
        super().forget_if_training(loss)
        if self.training and loss.requires_grad and self.config.fits:
            self._warn_of_fits("the model is trained")
            self.config.fits, self.config.fit_weights = {}, ""

    def rename_labels(self, names: Mapping[str, str]) -> None:
        """Give entity types other names: {old: new}. Descriptions and weights stay.

        Raises:
            InputError: a type is not there, or two would have the same name.
        """
        unknown = sorted(set(names) - set(self.config.labels))
        if unknown:
            raise InputError(
                f"entity type {', '.join(unknown)} is not there: "
                f"expected some of {', '.join(self.config.labels)}"
            )
        labels = [names.get(label, label) for label in self.config.labels]
        self.config.id2label = dict(enumerate(labels))

    def _set_descriptions(self, ids: Sequence[Sequence[Sequence[int]]]) -> None:
        """Store the token ids of each type's texts; a type with fewer texts repeats them."""
        variants = range(self.config.texts_per_type)
        padded, lengths = pad_texts([rows[v % len(rows)] for rows in ids for v in variants])
        stored = self.description_ids.zero_()
        stored[..., : padded.shape[1]] = padded.view(*stored.shape[:2], -1).to(stored.device)
        self._texts_read = [*self.config.descriptions.values()]
        self.description_lengths.copy_(lengths.view_as(self.description_lengths))

    def get_input_embeddings(self) -> nn.Module:
        """The text encoder's input embeddings."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the text encoder's input embeddings."""
        self.encoder.set_input_embeddings(value)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """Resize the embeddings of both encoders, which share a tokenizer."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        if self.type_encoder is not None:
            own = self.type_encoder.resize_token_embeddings(*args, **kwargs)
            self.config.type_encoder_config.vocab_size = own.num_embeddings
        return embeddings

    def train(self, mode: bool = True) -> "BinderModel":
        """Set training or evaluation mode. A frozen type encoder stays in evaluation mode."""
        super().train(mode)
        self._must_encode |= mode  # the weights are about to change
        if self.config.type_encoder == "frozen" and self.type_encoder is not None:
            self.type_encoder.eval()
        return self

    # -- types
    @property
    def _types_read_by(self) -> PreTrainedModel:
        return self.encoder if self.type_encoder is None else self.type_encoder

    def _encode_texts(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Vectors of descriptions with the current weights: (E, tokens), (E,) -> (3, E, D)."""
        ids = ids[:, : int(lengths.max())]
        attention = torch.arange(ids.shape[1], device=ids.device)[None, :] < lengths[:, None]
        trains = torch.is_grad_enabled() and self.config.type_encoder != "frozen"
        with torch.set_grad_enabled(trains):
            outputs = encode(self._types_read_by, input_ids=ids, attention_mask=attention.long())
            states = outputs.last_hidden_state[:, 0]  # (E, H)
        with torch.autocast(ids.device.type, enabled=False):
            return self.type_heads(states.to(floating(self.type_heads.span)))

    @torch.no_grad()
    def _encode_exactly(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """`_encode_texts` without dropout and mixed precision.

        Stored vectors then depend only on weights and texts.
        """
        modes = {module: module.training for module in self.modules()}
        try:
            for module in modes:
                module.training = False
            with torch.autocast(ids.device.type, enabled=False):
                parts = [
                    self._encode_texts(i, n)
                    for i, n in zip(
                        ids.split(TYPES_AT_ONCE), lengths.split(TYPES_AT_ONCE), strict=True
                    )
                ]
        finally:
            for module, mode in modes.items():
                module.training = mode
        return torch.cat(parts, dim=1).float()

    def _check_type_encoder(self) -> None:
        if self.config.type_encoder == "none":
            raise InputError(
                "this model was exported without its type encoder: "
                "it knows only the types that it was exported with"
            )

    def encode_types(self, descriptions: Mapping[str, str], tokenizer: Any) -> TypeEmbeddings:
        """Encode entity types, for `decode(types=...)` and `pipeline(types=...)`.

        Args:
            descriptions: {label: text}.
            tokenizer: the model's tokenizer.

        Raises:
            InputError: a description is blank or too long, or the model has no type encoder.
        """
        self._check_type_encoder()
        if not descriptions:
            raise InputError("descriptions is empty: expected {entity type: text}")
        check_descriptions({label: [text] for label, text in descriptions.items()})
        type_config = self.config.type_encoder_config or self.config.encoder_config
        rows = [
            description_ids(tokenizer, label, [text], type_config)[0]
            for label, text in descriptions.items()
        ]
        ids, lengths = pad_texts(rows)
        vectors = self._encode_exactly(ids.to(self.device), lengths.to(self.device))
        self._store_types()
        return self._embeddings(dict(descriptions), vectors)

    @property
    def types(self) -> TypeEmbeddings:
        """The trained types."""
        self._store_types()
        texts = {label: texts[0] for label, texts in self.config.descriptions.items()}
        return self._embeddings(texts, self.type_vectors.clone())

    def _embeddings(self, texts: dict[str, str], vectors: Tensor) -> TypeEmbeddings:
        """Types by the vectors (3, E, D) of their texts; fits replace those of the same types.

        The weights in force are those of the last `_store_types`.
        """
        config = self.config
        fits = config.fits if self.fits_hold else {}
        fitted = [k for k in texts if k in fits and texts[k] == config.descriptions[k][0]]
        for label in fitted:
            vectors[2, list(texts).index(label)] = vectors.new_tensor(fits[label])
        held = dict.fromkeys(fitted, config.fit_weights)
        return TypeEmbeddings(texts, vectors, config.type_fingerprint, held)

    @property
    def type_fingerprint(self) -> str:
        """SHA-256 of the weights that encode types; vectors from other weights are meaningless."""
        self._store_types()
        return self.config.type_fingerprint

    @property
    def vectors_are_stale(self) -> bool:
        """Whether the stored vectors are those of other weights than the ones in force.

        The next use then encodes the types again. Set it to have that done in any case.
        """
        if self.config.type_encoder == "none":
            return False
        return self._must_encode or not self._types_state().same(self._stored_state)

    @vectors_are_stale.setter
    def vectors_are_stale(self, value: bool) -> None:
        """Have the types encoded at the next use, or trust the vectors of `_stored_state`."""
        self._must_encode = value

    def _types_state(self) -> WeightsState:
        """State of the weights that encode types."""
        return weights_state(self._types_read_by, self.type_heads)

    def _store_types(self) -> bool:
        """Store new vectors of the trained types if other weights are in force; whether it did."""
        self._check_texts()
        if self.config.type_encoder == "none":
            return False
        state = self._types_state()
        if not self._must_encode and state.same(self._stored_state):
            return False
        self.type_vectors.copy_(
            self._encode_exactly(self.description_ids[:, 0], self.description_lengths[:, 0])
        )
        self.config.type_fingerprint = weights_digest(self._types_read_by, self.type_heads)
        self.config.type_weights = ""
        self._must_encode, self._stored_state = self.training, state
        return True

    def _apply(self, fn: Any, recurse: bool = True) -> "BinderModel":
        """Move or convert the weights, as `to` and `half` do; a copy keeps its stored vectors."""
        state = None
        if self.config.type_encoder != "none" and not self._must_encode:
            state = self._types_state()
        stored, is_fresh = self._stored_state, False
        if state is not None and stored is not None:
            is_fresh = state.same(stored) or state.is_copy_of(stored)  # after copy.deepcopy
        holds = self.config.fits and self._fitted_state is not None and self.fits_hold
        before = self._fitted_state
        super()._apply(fn, recurse)
        if holds and before is not None:
            copy = weights_state(self.encoder, self.heads)
            if copy.is_copy_of(before):
                self._fitted_state = copy
                self._fitted_digest = weights_digest(self.encoder, self.heads)
        if state is not None and is_fresh and (copied := self._types_state()).is_copy_of(state):
            self._stored_state = copied
        return self

    def _weights_of(self, labels: Tensor) -> Tensor | None:
        """Weights (B, M) of the mentions in training, if types have any: labels (B, M, 3)."""
        if not self.training or self.mention_weights is None:
            return None
        return self.mention_weights.to(labels.device)[labels[..., 0].clamp_min(0)]

    def _check_texts(self) -> None:
        """Raise `InputError` if the configuration has other descriptions than the model has read.

        Their vectors would be those of other types. Types may have been renamed.
        """
        if [*self.config.descriptions.values()] != self._texts_read:
            raise InputError(
                "config.descriptions was changed, and the model has not read the new texts: use "
                "add_labels, rename_labels, or from_pretrained(DIR, descriptions=...)"
            )

    def _drawn_types(self, labels: Tensor, type_mask: Tensor | None = None) -> Tensor:
        """Numbers of the types of a step: those that count in some window, by `type_mask` (B, E).

        With `types_per_batch`, of these the ones with a mention in the batch, and others that are
        drawn to fill up.
        """
        device, size = labels.device, self.config.types_per_batch
        count = len(self.config.descriptions)
        chosen = torch.arange(count, device=device)
        if self.config.type_encoder == "none":
            return chosen
        if type_mask is not None:
            chosen = type_mask.any(0).nonzero()[:, 0]
        if self.training and 0 < size < len(chosen):
            order = torch.full((count,), 2.0, device=device)
            order[chosen] = torch.rand(len(chosen), device=device)
            mentioned = labels[..., 0][labels[..., 0] != IGNORED]
            order[mentioned] = -1.0
            chosen = order.argsort()[: max(size, int((order < 0).sum()))].sort().values
        return chosen

    def _training_types(
        self, labels: Tensor, chosen: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Vectors (3, E, D) of the types of a step, and labels (B, M, 3) that index these types.

        Draws one text of each type. `chosen`: of `_drawn_types`.
        """
        self._check_texts()
        if self.config.type_encoder == "none":
            return self.type_vectors, labels
        self._must_encode = True
        device, count = labels.device, len(self.config.descriptions)
        chosen = self._drawn_types(labels) if chosen is None else chosen
        if len(chosen) < count:
            place = torch.full((count,), IGNORED, device=device)
            place[chosen] = torch.arange(len(chosen), device=device)
            known = labels[..., 0] != IGNORED
            labels = labels.clone()
            labels[..., 0] = torch.where(known, place[labels[..., 0].clamp_min(0)], IGNORED)
        variant = torch.zeros_like(chosen)
        if self.training and self.config.texts_per_type > 1:
            variant = torch.randint(self.config.texts_per_type, chosen.shape, device=device)
        ids, lengths = self.description_ids, self.description_lengths
        return self._encode_texts(ids[chosen, variant], lengths[chosen, variant]), labels

    # -- scores
    def scores(
        self, hidden: Tensor, word_mask: Tensor, word_end_mask: Tensor, types: Tensor | None = None
    ) -> BinderScores:
        """Scores of all candidates.

        Args:
            hidden: (B, L, H) states of the text encoder.
            word_mask, word_end_mask: (B, L) first and last tokens of words.
            types: (3, E, D) vectors; by default those of the trained types.
        """
        starts, ends, spans = self.types.vectors if types is None else types  # each (E, D)
        with torch.autocast(hidden.device.type, enabled=False):
            heads = self.heads
            parts = heads(hidden)
            scale = heads.log_scale.float().exp()
            start = scale[0] * torch.einsum("bld,kd->bkl", parts.start, starts.float())
            end = scale[1] * torch.einsum("bld,kd->bkl", parts.end, ends.float())
            is_first = torch.arange(hidden.shape[1], device=hidden.device) == 0
            start, end = (
                heads.with_threshold(kind, own, is_first) for kind, own in enumerate((start, end))
            )
            width = min(self.config.max_span_width, hidden.shape[1])
            candidates = candidate_spans(word_mask, word_end_mask, width)
            candidates[:, 0, 0] = True  # the threshold
            cells = candidates.nonzero()  # (N, 3)
            groups = [cells] if torch.is_grad_enabled() else in_parts(cells, spans)
            values = torch.cat(
                [heads.span_scores(parts, group, spans.float()) for group in groups]
            )  # (N, E)
            band = values.new_full((*candidates.shape, len(spans)), torch.finfo(values.dtype).min)
            band = band.index_put(tuple(cells.unbind(1)), values)  # (B, L, W, E)
        return BinderScores(start, end, band.permute(0, 3, 1, 2))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        word_mask: Tensor | None = None,
        word_end_mask: Tensor | None = None,
        type_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> BinderOutput | tuple:
        """input_ids (B, L) -> states (B, L, H) of the text; with `labels` also the loss.

        Args:
            labels: (B, M, 3) type, first token and last token of mentions; see `binder_losses`.
            word_mask, word_end_mask: (B, L) first and last tokens of words; needed with `labels`.
            type_mask: (B, E) bool, the types whose mentions `labels` name in each window; the
                others are no candidates there. By default all.
        """
        outputs = encode(
            self.encoder,
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        hidden, loss = outputs.last_hidden_state, None
        if labels is not None:
            if word_mask is None or word_end_mask is None:
                raise InputError("labels need word_mask and word_end_mask: pass both")
            check_labels(labels, word_mask, word_end_mask, len(self.config.descriptions))
            weights = self._weights_of(labels)
            if torch.is_grad_enabled():
                chosen = self._drawn_types(labels, type_mask)
                types, labels = self._training_types(labels, chosen)
                type_mask = None if type_mask is None else type_mask[:, chosen]
            else:
                types = self.types.vectors
            scores = self.scores(hidden, word_mask, word_end_mask, types)
            losses = binder_losses(scores, labels, word_mask, word_end_mask, weights, type_mask)
            loss = total_loss(losses, **self.config.loss_weights)
            self.forget_if_training(loss)
        elif self.training:
            refuse_label_smoothing()
        result = BinderOutput(
            loss=loss,
            last_hidden_state=hidden,
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )
        return result if return_dict is None or return_dict else result.to_tuple()

    @torch.no_grad()
    def decode(
        self,
        outputs: BinderOutput,
        word_mask: Tensor,
        word_end_mask: Tensor,
        types: TypeEmbeddings | None = None,
        min_score: float | Mapping[str, float] | None = None,
        top_k: int | None = None,
    ) -> list[list[Span]]:
        """Spans of each row over its words, in order: all that exceed their type's threshold.

        `score` is sigmoid(slope * margin + intercept), with the margin to the threshold and
        `config.score_slope`, `config.score_intercept`. Spans may nest; `windows_ner.flat_spans`
        makes them flat.

        Args:
            outputs: of `forward`.
            word_mask, word_end_mask: (B, L) first and last tokens of words.
            types: from `encode_types`; by default the trained types.
            min_score: in (0, 1), for all types or by type; `score` must exceed it. Replaces the
                threshold and `config.margins`.
            top_k: also return the scores of the K best types of each span.

        Raises:
            InputError: the types were encoded by other weights.
        """
        check_options(min_score=min_score, top_k=top_k)
        self.check_calibration()
        own = self.types
        types = own if types is None else types
        if types.fingerprint != own.fingerprint:
            raise InputError(
                "the types are stale: they were encoded by other weights; "
                "encode them again with this model's encode_types"
            )
        is_given = types is not own  # the model's own were checked when they were made
        if is_given and types.fitted and set(types.fitted.values()) != {self._text_weights()}:
            raise InputError(
                f"the types {', '.join(types.fitted)} are stale: they were fitted to the spans of "
                "other weights; take those of this model, or remove them"
            )
        if outputs.last_hidden_state is None:
            raise InputError("outputs has no last_hidden_state: expected the output of forward")
        margins = self._least_margins(types.labels, min_score)
        hits = self._spans_above_threshold(
            outputs.last_hidden_state,
            word_mask.bool(),
            word_end_mask.bool(),
            types,
            margins,
            min(top_k or 0, len(types)),
        )
        found = self._as_spans(hits, word_mask, types.labels)
        if not self.config.several_labels:
            found = [best_labels(spans, list(types.fitted)) for spans in found]
        return found

    def _as_spans(
        self, hits: Sequence[tuple[Tensor, ...]], word_mask: Tensor, labels: Sequence[str]
    ) -> list[list[Span]]:
        """The result of `_spans_above_threshold` as spans over the words of each row."""
        position = word_mask.long().cumsum(1)  # (B, L) words that began up to here
        found: list[list[Span]] = [[] for _ in range(len(word_mask))]
        cells, numbers, margins, best, best_margins = (
            torch.cat(parts) for parts in zip(*hits, strict=True)
        )
        row, first, width = cells.unbind(1)
        columns = [
            row,
            position[row, first] - 1,
            position[row, first + width],
            numbers,
            self._scores_of(margins),
        ]
        others = zip(best.tolist(), self._scores_of(best_margins).tolist(), strict=True)
        for i, start, end, number, score, own in zip(
            *(column.tolist() for column in columns), others, strict=True
        ):
            more = tuple((labels[n], s) for n, s in zip(*own, strict=True))
            found[i].append(Span(start, end, labels[number], score, more))
        return found

    def _scores_of(self, margins: Tensor) -> Tensor:
        """Scores of margins in float64: in float32, all margins from 17 on would score 1.

        One by one: the last digit of torch's results depends on their places in the tensor.
        """
        slope, intercept = self.config.score_slope, self.config.score_intercept
        values = [slope * margin + intercept for margin in margins.flatten().tolist()]
        scores = [1 / (1 + math.exp(-x)) if x > -700 else 0.0 for x in values]
        return torch.tensor(scores, dtype=torch.float64).view(margins.shape)

    def _least_margins(
        self, labels: Sequence[str], min_score: float | Mapping[str, float] | None
    ) -> Tensor:
        """(E,) margins by which a span's score must exceed the threshold of each type."""
        least = least_scores(min_score, labels)
        slope, intercept = self.config.score_slope, self.config.score_intercept

        def margin(score: float) -> float:
            return (math.log(score / (1 - score)) - intercept) / slope

        return torch.tensor(
            [
                margin(least[label]) if label in least else self.config.margins.get(label, 0.0)
                for label in labels
            ]
        )

    def _spans_above_threshold(
        self,
        hidden: Tensor,
        word_mask: Tensor,
        word_end_mask: Tensor,
        types: TypeEmbeddings,
        margins: Tensor,
        top_k: int,
    ) -> list[tuple[Tensor, ...]]:
        """Spans that exceed their threshold by more than `margins` (E,).

        Computes scores in chunks, never all at once. Returns parts of: cells (n, 3), types (n,),
        margins (n,), and the best types (n, top_k) of the cells with their margins.
        """
        heads = self.heads
        vectors = types.vectors[2].to(hidden.device).float()  # (E, D)
        apart = [n for n, label in enumerate(types.labels) if label in types.fitted]
        with torch.autocast(hidden.device.type, enabled=False):
            parts = heads(hidden)
            width = min(self.config.max_span_width, hidden.shape[1])
            first = torch.zeros(len(hidden), 3, dtype=torch.long, device=hidden.device)
            first[:, 0] = torch.arange(len(hidden), device=hidden.device)
            threshold = heads.span_scores(parts, first, vectors, apart)  # (B, E)
            limit = threshold + margins.to(hidden.device)  # (B, E)
            none = first[:0, :1].expand(0, top_k)
            found: list[tuple[Tensor, ...]] = [
                (first[:0], first[:0, 0], threshold.new_empty(0), none, none.to(threshold))
            ]
            candidates = candidate_spans(word_mask, word_end_mask, width)
            # Window by window: all cells of a chunk share a row of limits; scores are read once.
            for row, own in enumerate(candidates.nonzero().split(candidates.sum((1, 2)).tolist())):
                for cells in in_parts(own, vectors[len(apart) :]):
                    scores = heads.span_scores(parts, cells, vectors, apart)  # (n, E)
                    at, number = (scores > limit[row]).nonzero(as_tuple=True)
                    best, best_of = (scores[at] - threshold[row]).topk(top_k)
                    found.append(
                        (
                            cells[at],
                            number,
                            scores[at, number] - threshold[row, number],
                            best_of,
                            best,
                        )
                    )
        return found

    # -- saving
    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """`PreTrainedModel.save_pretrained`, with type vectors that match the weights."""
        is_new = self._store_types()
        if not is_new and self.config.type_encoder != "none":
            saved = weights_digest(self._types_read_by, self.type_heads)
            is_same = saved == self.config.type_fingerprint
            self.config.type_weights = "" if is_same else saved
        state = kwargs.get("state_dict")
        if state is not None and "type_vectors" in state:  # may hold outdated vectors
            kwargs["state_dict"] = {**state, "type_vectors": self.type_vectors}
        fits = self.config.fits, self.config.fit_weights
        self.config.fits, self.config.fit_weights = self._fits_to_save()
        try:
            return super().save_pretrained(*args, **kwargs)
        finally:  # those that do not hold now may do so once an adapter is off
            self.config.fits, self.config.fit_weights = fits

    def _fits_to_save(self) -> tuple[dict[str, list[float]], str]:
        """The fits that hold, and the fingerprint of the weights as they are written."""
        if not self.fits_hold:
            return {}, ""
        return self.config.fits, weights_digest(self.encoder, self.heads)

    def export_frozen(self, folder: str | Path) -> None:
        """Save without the type encoder: about half the size of a model with two encoders.

        The saved model keeps the trained types but cannot encode others. Save the tokenizer
        separately.

        Raises:
            InputError: the model has adapters.
        """
        if getattr(self, "_hf_peft_config_loaded", False):
            raise InputError("the model has adapters: merge or delete them before the export")
        self.check_calibration()
        self._store_types()
        fits, fit_weights = self._fits_to_save()
        config = BinderConfig.from_dict(
            {
                **self.config.to_dict(),
                "type_encoder": "none",
                "type_encoder_config": None,
                "fits": fits,
                "fit_weights": fit_weights,
            }
        )
        frozen = type(self)(config).to(self.dtype)
        dropped = ("type_encoder.", "type_heads.", "description_")
        weights = self.state_dict().items()
        frozen.load_state_dict({k: v for k, v in weights if not k.startswith(dropped)})
        frozen.save_pretrained(folder)

    def pipeline(self, tokenizer: Any, **kwargs: Any) -> NerPipeline:
        """A `NerPipeline` with this model.

        `pipeline("ner", model=DIR, trust_remote_code=True)` also gives a `NerPipeline`; but with a
        model *object*, `pipeline` warns and uses the stock class.
        """
        return NerPipeline(model=self, tokenizer=tokenizer, task="ner", **kwargs)


def _weights_were_loaded(model: BinderModel, _: Any) -> None:
    model._must_encode = True


def check_special_token(tokenizer: Any) -> None:
    """Raise `InputError` unless the tokenizer puts a special token before a text."""
    if not tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"][0]:
        raise InputError(
            "the tokenizer puts no special token before a text: "
            "BINDER's thresholds are the scores of that token"
        )


def pad_texts(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids of texts, padded with 0, and their lengths: (E, tokens), (E,)."""
    lengths = [len(row) for row in rows]
    longest = max(lengths)
    padded = [[*row, *[0] * (longest - len(row))] for row in rows]
    return torch.tensor(padded), torch.tensor(lengths)


# ------------------------------------------------------------------------------------- registration
BinderConfig.register_for_auto_class()
BinderModel.register_for_auto_class("AutoModel")
BinderModel.register_for_auto_class("AutoModelForTokenClassification")
