"""NerCo (Zhang et al., IJCAI 2023), encoder-only form: encoder -> dropout -> linear layer -> linear-chain CRF.

Sections: config, linear-chain CRF (partition, Viterbi, marginals, span posterior), models, registration.
Stage one trains `NercoModel` by contrast (`trainer_contrastive.py`); stage two trains `NercoForTokenClassification`.
This file travels with the weights: everything that loading a shared model executes is here, in
`encoder_ner.py`, `pipeline_ner.py` and `windows_ner.py`.

Notation: B batch, T tokens, L labelled positions (packed left), C tags, S spans, D width.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput, TokenClassifierOutput

from .crf_ner import ForwardBackward, decode_tags, forward_backward, viterbi
from .encoder_ner import (
    IGNORED,
    SafePreTrainedModel,
    config_object,
    empty_encoder,
    encode,
    pretrained_encoder,
    read_encoder_config,
)
from .pipeline_ner import PIPELINES, NerPipeline
from .windows_ner import InputError, Span, least_scores

AUTO_MAP = {
    "AutoConfig": "modeling_nerco.NercoConfig",
    "AutoModel": "modeling_nerco.NercoModel",
    "AutoModelForTokenClassification": "modeling_nerco.NercoForTokenClassification",
}
FORBIDDEN = (
    -1e4
)  # score of a transition that BIO does not allow: exp() of it is exactly 0, yet it is finite


# ------------------------------------------------------------------------------------------- config
class NercoConfig(PreTrainedConfig):
    """Configuration of both NerCo models.

    Args:
        encoder_config: configuration of the encoder (any encoder-only `AutoModel`), as an object or a dictionary.
        output_dropout: dropout on the encoder's output, in both stages (0.3 in the paper).
        use_crf: decode with a linear-chain CRF; without it tags are independent (a plain token classifier).
        constrain_transitions: forbid tag sequences that are no BIO (I-X after anything but B-X and I-X).
        label_unit: what carries a label: every "token" (character tokenizers) or the first token of every "word".
        max_window_tokens: longest input, special tokens included; longer texts are read in overlapping windows.
        score_temperature: divides emissions and transitions where scores are computed; fitted on development data.

    Labels are `id2label`: "O" first, then BIO tags. Raises ValueError where a value makes no sense.
    """

    model_type = "nerco"
    sub_configs = {"encoder_config": AutoConfig}

    encoder_config: Any = None
    output_dropout: float = 0.3
    use_crf: bool = True
    constrain_transitions: bool = True
    label_unit: str = "word"
    max_window_tokens: int = 128
    score_temperature: float = 1.0

    def __post_init__(self, **kwargs: Any) -> None:
        self.encoder_config = config_object("encoder_config", self.encoder_config)
        kwargs.setdefault("auto_map", dict(AUTO_MAP))
        kwargs.setdefault(
            "custom_pipelines", {task: dict(entry) for task, entry in PIPELINES.items()}
        )
        super().__post_init__(**kwargs)
        if not (isinstance(self.output_dropout, int | float) and 0 <= self.output_dropout < 1):
            raise InputError(
                f"output_dropout is {self.output_dropout!r}: expected a number in [0, 1)"
            )
        for name in ("use_crf", "constrain_transitions"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} is {getattr(self, name)!r}: expected true or false")
        if not (
            isinstance(self.score_temperature, int | float)
            and 0 < self.score_temperature < math.inf
        ):
            raise InputError(
                f"score_temperature is {self.score_temperature!r}: expected a positive number"
            )
        if self.label_unit not in ("token", "word"):
            raise InputError(f"label_unit is {self.label_unit!r}: expected 'token' or 'word'")
        if not isinstance(self.max_window_tokens, int) or self.max_window_tokens < 8:
            raise InputError(
                f"max_window_tokens is {self.max_window_tokens!r}: expected an integer of at least 8"
            )

    @property
    def decoding(self) -> str:
        """Tags cannot overlap."""
        return "flat"

    @property
    def min_overlap(self) -> int:
        """Tokens that windows of a text must share."""
        return 0

    @property
    def labels(self) -> list[str]:
        """Tags in the order of their ids."""
        return [self.id2label[i] for i in range(len(self.id2label))]

    @property
    def entity_types(self) -> list[str]:
        """Entity types in the order of their first tags."""
        return list(dict.fromkeys(label[2:] for label in self.labels if label != "O"))


def check_bio_labels(labels: Sequence[str]) -> None:
    """Raise ValueError unless `labels` is "O" first, then for every type one B- and one I- tag, each once."""
    if not labels or labels[0] != "O":
        raise InputError(
            f"labels start with {labels[:1]}: expected 'O' first, then BIO tags such as 'B-PER', 'I-PER'"
        )
    if len(set(labels)) != len(labels):
        raise InputError(
            f"labels repeat: {sorted(x for x in set(labels) if list(labels).count(x) > 1)}"
        )
    for label in labels[1:]:
        if label[:2] not in ("B-", "I-") or len(label) < 3:
            raise InputError(f"label {label!r} is not BIO (expected 'B-TYPE' or 'I-TYPE')")
        partner = ("I-" if label[0] == "B" else "B-") + label[2:]
        if partner not in labels:
            raise InputError(f"label {label!r} has no partner {partner!r}")


# --------------------------------------------------------------------------------- linear-chain CRF
class _LogPartition(torch.autograd.Function):
    """log Z with the gradient in closed form: token marginals and expected transition counts."""

    @staticmethod
    def forward(
        ctx: Any, emissions: Tensor, transitions: Tensor, start: Tensor, lengths: Tensor
    ) -> Tensor:
        fb = forward_backward(*arrays(emissions, transitions, start, lengths))
        ctx.save_for_backward(transitions)
        ctx.fb, ctx.emission_dtype = fb, emissions.dtype
        return torch.from_numpy(fb.log_z).to(transitions.device, transitions.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (transitions,) = ctx.saved_tensors
        fb: ForwardBackward = ctx.fb
        weight = (grad.cpu().double().numpy() * fb.valid)[..., None]  # (L, B, 1)
        d_emissions = fb.alpha * fb.beta * weight  # (L, B, C)
        inward = fb.potentials * fb.beta / fb.scale[..., None] * weight  # (L, B, C)
        size = inward.shape[-1]
        pairs = fb.alpha[:-1].reshape(-1, size).T @ inward[1:].reshape(-1, size)  # (C, C)
        d_transitions = torch.from_numpy(pairs) * transitions.cpu().double().exp()
        device = transitions.device
        by_row = torch.from_numpy(d_emissions).transpose(0, 1)  # (B, L, C)
        return (
            by_row.to(device, ctx.emission_dtype),
            d_transitions.to(device, transitions.dtype),
            None,
            None,
        )


def arrays(*tensors: Tensor) -> list[np.ndarray]:
    """Tensors as NumPy arrays on the CPU, without gradient; half precision, which NumPy lacks, as float32."""
    detached = (tensor.detach().cpu() for tensor in tensors)
    return [
        (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()
        for tensor in detached
    ]


def crf_log_partition(
    emissions: Tensor, transitions: Tensor, start: Tensor, lengths: Tensor
) -> Tensor:
    """log of the sum over all tag sequences of exp(score), differentiable. (B,). Arguments as in `forward_backward`."""
    return _LogPartition.apply(emissions, transitions, start, lengths)


def crf_marginals(emissions: Tensor, transitions: Tensor, start: Tensor, lengths: Tensor) -> Tensor:
    """P(y_t = c | x): (B, L, C), zero at padding, without gradient."""
    fb = forward_backward(*arrays(emissions, transitions, start, lengths))
    return (
        torch.from_numpy(fb.alpha * fb.beta * fb.valid[..., None]).transpose(0, 1).to(transitions)
    )


def crf_sequence_score(
    emissions: Tensor, transitions: Tensor, start: Tensor, tags: Tensor, lengths: Tensor
) -> Tensor:
    """Score of given tag sequences (B, L): emissions plus transitions plus start. (B,), differentiable."""
    valid = torch.arange(tags.shape[1], device=tags.device)[None, :] < lengths[:, None]  # (B, L)
    tags = tags.masked_fill(~valid, 0)
    unary = emissions.gather(2, tags[..., None]).squeeze(2)  # (B, L)
    binary = transitions[tags[:, :-1], tags[:, 1:]]  # (B, L - 1)
    first = torch.where(valid[:, 0], start[tags[:, 0]], 0.0)
    return first + (unary * valid).sum(1) + (binary * valid[:, 1:]).sum(1)


def crf_viterbi(emissions: Tensor, transitions: Tensor, start: Tensor, lengths: Tensor) -> Tensor:
    """Best tag sequence of each row: (B, L) ids, `IGNORED` at padding. Arguments as in `forward_backward`."""
    return torch.from_numpy(viterbi(*arrays(emissions, transitions, start, lengths))).to(
        emissions.device
    )


def bio_penalties(labels: Sequence[str]) -> tuple[Tensor, Tensor]:
    """(C, C) and (C,): 0 where BIO allows a transition or a first tag, `FORBIDDEN` where it does not."""
    size = len(labels)
    transitions, start = torch.zeros(size, size), torch.zeros(size)
    for j, label in enumerate(labels):
        if label.startswith("I-"):
            start[j] = FORBIDDEN
            for i, previous in enumerate(labels):
                if previous not in ("B-" + label[2:], label):
                    transitions[i, j] = FORBIDDEN
    return transitions, start


class LinearChainCRF(nn.Module):
    """The CRF's parameters: transition scores, zero at first, no start or end scores (as in the paper's code).

    With `use_transitions=False` they stay zero and do not train: tags are then independent of each other and one decoder,
    one posterior serve the plain token classifier as well. `constrain` adds `FORBIDDEN` where BIO does not allow a step.
    """

    penalty: Tensor
    start_penalty: Tensor

    def __init__(
        self, labels: Sequence[str], *, constrain: bool, use_transitions: bool = True
    ) -> None:
        super().__init__()
        self.labels, self.constrain = list(labels), constrain
        size = len(self.labels)
        self.transitions = nn.Parameter(torch.empty(size, size)) if use_transitions else None
        self.register_buffer("penalty", torch.empty(size, size), persistent=False)
        self.register_buffer("start_penalty", torch.empty(size), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zero transitions; penalties from the labels. `init` leaves alone what a checkpoint has filled."""
        transitions, start = bio_penalties(self.labels)
        if self.transitions is not None:
            init.zeros_(self.transitions)
        init.copy_(self.penalty, transitions * self.constrain)
        init.copy_(self.start_penalty, start * self.constrain)

    def scores(self) -> tuple[Tensor, Tensor]:
        """Transition scores (C, C) and start scores (C,) in float32."""
        penalty = self.penalty.float()
        transitions = penalty if self.transitions is None else self.transitions.float() + penalty
        return transitions, self.start_penalty.float()


# ------------------------------------------------------------------------------------------- models
def pack_left(values: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Move the kept positions of each row to its left: (B, T, ...), (B, T) -> (B, L, ...), lengths (B,)."""
    lengths = keep.sum(1)
    longest = max(int(lengths.max()), 1) if keep.numel() else 1
    order = (~keep).to(torch.uint8).argsort(dim=1, stable=True)[:, :longest]  # (B, L)
    index = order.reshape(*order.shape, *[1] * (values.dim() - 2)).expand(-1, -1, *values.shape[2:])
    return values.gather(1, index), lengths


class NercoPreTrainedModel(SafePreTrainedModel):
    config_class = NercoConfig
    base_model_prefix = "nerco"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    # The Trainer must divide the loss by the number of accumulated batches: it is a mean over sentences.
    accepts_loss_kwargs = False

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LinearChainCRF):
            module.reset_parameters()


class NercoModel(NercoPreTrainedModel):
    """Encoder and output dropout: what stage one trains and what `AutoModel` opens."""

    _keys_to_ignore_on_load_unexpected = [r"^classifier\.", r"^crf\."]

    def __init__(self, config: NercoConfig) -> None:
        super().__init__(config)
        self.encoder = empty_encoder(config.encoder_config)
        self.dropout = nn.Dropout(config.output_dropout)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.encoder.set_input_embeddings(value)

    @classmethod
    def from_encoder(cls, name_or_path: str, **config: Any) -> "NercoModel":
        """A new model around a pretrained encoder. `config`: fields of `NercoConfig`."""
        model = cls(NercoConfig(encoder_config=read_encoder_config(name_or_path), **config))
        model.load_encoder(name_or_path)
        return model

    def load_encoder(self, name_or_path: str) -> None:
        """Replace the encoder's weights by those of a pretrained one (safetensors only)."""
        self.encoder = pretrained_encoder(name_or_path, self.config.encoder_config)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> BaseModelOutput:
        """input_ids, attention_mask: (B, T) -> last_hidden_state (B, T, D), after the output dropout."""
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
        return BaseModelOutput(
            last_hidden_state=self.dropout(outputs.last_hidden_state),
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )


class NercoForTokenClassification(NercoPreTrainedModel):
    """NerCo's tagger: `NercoModel`, a linear layer, a linear-chain CRF. Stage two, and what users load."""

    def __init__(self, config: NercoConfig) -> None:
        super().__init__(config)
        check_bio_labels(config.labels)
        self.nerco = NercoModel(config)
        self.classifier = nn.Linear(config.encoder_config.hidden_size, len(config.labels))
        self.crf = LinearChainCRF(
            config.labels, constrain=config.constrain_transitions, use_transitions=config.use_crf
        )
        self.post_init()

    @classmethod
    def from_encoder(
        cls, name_or_path: str, labels: Sequence[str], **config: Any
    ) -> "NercoForTokenClassification":
        """A new tagger around a pretrained encoder.

        Args:
            name_or_path: folder or Hub name of any encoder-only model with safetensors weights.
            labels: BIO tags, "O" first: ["O", "B-PER", "I-PER", ...].
            config: further fields of `NercoConfig`, e.g. `use_crf=False`.

        Raises:
            ValueError: the labels are not BIO, or the encoder cannot be read.
        """
        check_bio_labels(labels)
        encoder_config = read_encoder_config(name_or_path)
        names = {
            "id2label": dict(enumerate(labels)),
            "label2id": {label: i for i, label in enumerate(labels)},
        }
        model = cls(NercoConfig(encoder_config=encoder_config, **names, **config))
        model.nerco.load_encoder(name_or_path)
        return model

    def get_input_embeddings(self) -> nn.Module:
        return self.nerco.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.nerco.set_input_embeddings(value)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        word_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> TokenClassifierOutput | tuple:
        """(B, T) ids -> logits (B, T, C), the emissions of the CRF; with `labels` also the loss.

        Args:
            labels: (B, T) tag ids, -100 where there is none.
            word_mask: (B, T) bool, the positions that carry a label: no [CLS], [SEP], padding, sub-word tail. Without it, the
                positions whose label is not -100.
        """
        outputs = self.nerco(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        logits = self.classifier(outputs.last_hidden_state)  # (B, T, C)
        loss = None
        if labels is not None:
            keep = labels != IGNORED
            loss = self.loss(logits, labels, keep if word_mask is None else keep & word_mask.bool())
        result = TokenClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return result if return_dict is None or return_dict else result.to_tuple()

    def loss(self, logits: Tensor, labels: Tensor, word_mask: Tensor) -> Tensor:
        """Mean over sentences: CRF negative log-likelihood, or without CRF the sentence's mean token cross-entropy.

        logits (B, T, C), labels (B, T), word_mask (B, T). Sentences without a labelled position do not count.
        """
        emissions, lengths = pack_left(logits.float(), word_mask)  # (B, L, C), (B,)
        tags, _ = pack_left(labels, word_mask)  # (B, L)
        present = lengths > 0
        if self.config.use_crf:
            transitions, start = self.crf.scores()
            gold = crf_sequence_score(emissions, transitions, start, tags, lengths)
            per_sentence = crf_log_partition(emissions, transitions, start, lengths) - gold  # (B,)
        else:
            valid = torch.arange(tags.shape[1], device=tags.device)[None, :] < lengths[:, None]
            tags = tags.masked_fill(~valid, IGNORED)
            per_token = F.cross_entropy(
                emissions.transpose(1, 2), tags, reduction="none", ignore_index=IGNORED
            )  # (B, L)
            per_sentence = per_token.sum(1) / lengths.clamp_min(1)
        return (per_sentence * present).sum() / present.sum().clamp_min(1)

    @torch.no_grad()
    def viterbi(self, logits: Tensor, word_mask: Tensor) -> Tensor:
        """Best tags at the labelled positions, -100 elsewhere: (B, T, C), (B, T) -> (B, T)."""
        emissions, lengths = pack_left(logits.float(), word_mask.bool())
        path = crf_viterbi(emissions, *self.crf.scores(), lengths)
        tags = torch.full(word_mask.shape, IGNORED, dtype=path.dtype, device=path.device)
        tags[word_mask.bool()] = path[path != IGNORED]
        return tags

    @torch.no_grad()
    def decode(
        self,
        outputs: TokenClassifierOutput,
        word_mask: Tensor,
        word_end_mask: Tensor | None = None,
        min_score: float | Mapping[str, float] | None = None,
        top_k: int | None = None,
    ) -> list[list[Span]]:
        """Spans of each row over its labelled positions, in order, each with its posterior probability at `score_temperature`.

        An orphan I-X (possible only with `constrain_transitions=False`) opens a span as B-X would; the score counts both readings.

        Args:
            outputs: of `forward`. word_mask: (B, T) as in `forward`.
            word_end_mask: the last tokens of words, which BINDER's `decode` needs; a tag stands on the first one.
            min_score: in (0, 1), also by entity type: spans whose score is not above it are left out.
            top_k: give the posteriors of the best so many types of each span, too.
        """
        packed = pack_left(outputs.logits, word_mask.bool())  # (B, L, C), (B,)
        emissions, lengths, transitions, start = arrays(*packed, *self.crf.scores())
        found = decode_tags(
            emissions,
            lengths,
            transitions,
            start,
            self.config.labels,
            temperature=self.config.score_temperature,
            accept_orphans=not self.config.constrain_transitions,
            least=least_scores(min_score, self.config.entity_types),
            top_k=top_k,
        )
        return [[Span(*mention) for mention in row] for row in found]

    def pipeline(self, tokenizer: Any, **kwargs: Any) -> NerPipeline:
        """The project's NER pipeline around this model object.

        `pipeline("ner", model=DIR, trust_remote_code=True)` finds it by itself; given a model *object* the library's factory
        silently takes its stock class, which ignores the CRF.
        """
        return NerPipeline(model=self, tokenizer=tokenizer, task="ner", **kwargs)


# ------------------------------------------------------------------------------------- registration
NercoConfig.register_for_auto_class()
NercoModel.register_for_auto_class("AutoModel")
NercoForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")
