"""NerCo (Zhang et al., IJCAI 2023), encoder-only: encoder -> dropout -> linear layer -> CRF.

Sections: config, models, registration. Stage one trains `NercoModel` with a contrastive loss
(`contrastive_ner.training.contrastive`); stage two trains `NercoForTokenClassification`. This file
travels with the weights: loading a shared model executes only `adapters_ner.py`, `batches_ner.py`,
`checks_ner.py`, `crf_layer_ner.py`, `crf_ner.py`, `encoder_ner.py`, `flat_ner.py`, `fusion_ner.py`,
`lattice_ner.py`, `lexicon_ner.py`, `matching_ner.py`, `pipeline_ner.py`, `strict_ner.py`,
`windows_ner.py` and this.

Notation: B batch, T tokens, L labelled positions (packed left), C tags, D hidden size.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.modeling_outputs import BaseModelOutput, TokenClassifierOutput

from .adapters_ner import is_adapter  # noqa: F401 - transformers 5.6 copies direct imports only
from .batches_ner import in_batches  # noqa: F401 - the same
from .checks_ner import refuse_label_smoothing
from .crf_layer_ner import (
    LinearChainCRF,
    arrays,
    check_bio_labels,
    crf_viterbi,
    pack_left,
    tagging_loss,
    with_new_tags,
)
from .crf_ner import decode_tags
from .encoder_ner import (
    IGNORED,
    SafePreTrainedModel,
    config_object,
    empty_encoder,
    encode,
    pretrained_encoder,
    read_encoder_config,
)
from .flat_ner import FlatLattice
from .fusion_ner import (
    LexiconAdapter,
    LexiconConfig,
    LexiconModel,
    adapter_for,
    lattice_for,
    lattice_states,
    lexicon_inputs,
)
from .lattice_ner import LATTICE  # noqa: F401 - as above
from .lexicon_ner import LEXICON  # noqa: F401 - as above
from .matching_ner import INPUTS  # noqa: F401 - as above
from .pipeline_ner import PIPELINES, NerPipeline
from .strict_ner import StrictConfig  # noqa: F401 - as above
from .windows_ner import InputError, Span, least_scores

AUTO_MAP = {
    "AutoConfig": "modeling_nerco.NercoConfig",
    "AutoModel": "modeling_nerco.NercoModel",
    "AutoModelForTokenClassification": "modeling_nerco.NercoForTokenClassification",
}


# ------------------------------------------------------------------------------------------- config
class NercoConfig(LexiconConfig):
    """Configuration of both NerCo models; `LexiconConfig` has the fields for a lexicon.

    Args:
        encoder_config: of any encoder-only `AutoModel`, as an object or a dictionary.
        output_dropout: dropout on the encoder's output, in both stages (paper: 0.3).
        use_crf: decode with a linear-chain CRF; otherwise tags are independent, as in a plain
            token classifier.
        constrain_transitions: forbid invalid BIO sequences (I-X after any tag except B-X and I-X).
        label_unit: what carries a label: every "token" (character tokenizers) or the first token
            of every "word".
        max_window_tokens: longest input, including special tokens; longer texts are read in
            overlapping windows.
        joiner: what stood between the words of the training data, "" or " "; None: it had none.
        score_temperature: divides emissions and transitions when mention scores are computed;
            fitted on development data.

    Labels are in `id2label`: "O" first, then BIO tags. Raises `InputError` for invalid values.
    """

    model_type = "nerco"
    sub_configs = {"encoder_config": AutoConfig}

    encoder_config: Any = None
    output_dropout: float = 0.3
    use_crf: bool = True
    constrain_transitions: bool = True
    label_unit: str = "word"
    max_window_tokens: int = 128
    joiner: str | None = None
    score_temperature: float = 1.0

    def __post_init__(self, **kwargs: Any) -> None:
        self.encoder_config = config_object("encoder_config", self.encoder_config)
        kwargs.setdefault("auto_map", dict(AUTO_MAP))
        kwargs.setdefault(
            "custom_pipelines", {task: dict(entry) for task, entry in PIPELINES.items()}
        )
        super().__post_init__(**kwargs)

    def _validate(self) -> None:
        super()._validate()
        if not (isinstance(dropout := self.output_dropout, int | float) and 0 <= dropout < 1):
            raise InputError(f"output_dropout is {dropout!r}: expected a number in [0, 1)")
        for name in ("use_crf", "constrain_transitions"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} is {getattr(self, name)!r}: expected true or false")
        temperature = self.score_temperature
        if not (isinstance(temperature, int | float) and 0 < temperature < math.inf):
            raise InputError(f"score_temperature is {temperature!r}: expected a positive number")
        if self.label_unit not in ("token", "word"):
            raise InputError(f"label_unit is {self.label_unit!r}: expected 'token' or 'word'")
        if not isinstance(window := self.max_window_tokens, int) or window < 8:
            raise InputError(f"max_window_tokens is {window!r}: expected an integer of at least 8")

    @property
    def decoding(self) -> str:
        """Always "flat": tagged mentions cannot overlap."""
        return "flat"

    @property
    def min_overlap(self) -> int:
        """Least number of tokens that consecutive windows of a text must share."""
        return 0

    @property
    def labels(self) -> list[str]:
        """Tags in the order of their ids."""
        return [self.id2label[i] for i in range(len(self.id2label))]

    @property
    def entity_types(self) -> list[str]:
        """Entity types in the order of their first tags."""
        return list(dict.fromkeys(label[2:] for label in self.labels if label != "O"))


# ------------------------------------------------------------------------------------------- models
class NercoPreTrainedModel(LexiconModel, SafePreTrainedModel):
    """What both models share: settings for transformers, and weight initialisation."""

    config_class = NercoConfig
    base_model_prefix = "nerco"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    # A mean over sentences: the Trainer must divide the loss by the number of accumulated batches.
    accepts_loss_kwargs = False
    uncalibrated = {"score_temperature": 1.0}

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LinearChainCRF | LexiconAdapter | FlatLattice):
            module.reset_parameters()

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's input embeddings."""
        return self.base_model.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the encoder's input embeddings."""
        self.base_model.encoder.set_input_embeddings(value)


class NercoModel(NercoPreTrainedModel):
    """Encoder and output dropout: trained in stage one, and opened by `AutoModel`."""

    _keys_to_ignore_on_load_unexpected = [r"^classifier\.", r"^crf\."]
    must_be_complete = False

    def __init__(self, config: NercoConfig) -> None:
        super().__init__(config)
        self.encoder = empty_encoder(config.encoder_config)
        self.dropout = nn.Dropout(config.output_dropout)
        self.lexicon_adapter = adapter_for(config, self.encoder)
        self.lattice = lattice_for(config)
        self.post_init()

    @classmethod
    def from_encoder(cls, name_or_path: str, **config: Any) -> "NercoModel":
        """A new model with a pretrained encoder. `config`: fields of `NercoConfig`."""
        model = cls(NercoConfig(encoder_config=read_encoder_config(name_or_path), **config))
        model.load_encoder(name_or_path)
        return model

    def load_encoder(self, name_or_path: str) -> None:
        """Replace the encoder by a pretrained one (safetensors only)."""
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
        lexicon_words: Tensor | None = None,
        lexicon_tags: Tensor | None = None,
        word_chars: Tensor | None = None,
        word_types: Tensor | None = None,
        lattice_chars: Tensor | None = None,
        lattice_words: Tensor | None = None,
    ) -> BaseModelOutput:
        """input_ids, attention_mask (B, T) -> last_hidden_state (B, T, D), after the dropout.

        A model with a lexicon also reads the tensors of `lexicon_arrays` or `lattice_arrays`.
        """
        words = (lexicon_words, lexicon_tags, word_chars, word_types)
        if any(tensor is not None for tensor in words):
            inputs_embeds = lexicon_inputs(self.encoder, self.lexicon_adapter, input_ids, words)
            input_ids = None
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
        states = lattice_states(
            self.lattice, outputs.last_hidden_state, lattice_chars, lattice_words
        )
        layers = outputs.get("hidden_states")
        if layers is not None and self.lattice is not None:
            layers = (*layers, states)
        return BaseModelOutput(
            last_hidden_state=self.dropout(states),
            hidden_states=layers,
            attentions=outputs.get("attentions"),
        )


class NercoForTokenClassification(NercoPreTrainedModel):
    """The tagger: `NercoModel`, linear layer, CRF. Trained in stage two, and loaded by users."""

    _saved_labels: list[str] | None = None  # of the head that was loaded

    def __init__(self, config: NercoConfig) -> None:
        super().__init__(config)
        check_bio_labels(config.labels)
        self.nerco = NercoModel(config)
        self.classifier = nn.Linear(config.state_size, len(config.labels))
        self.crf = LinearChainCRF(
            config.labels, constrain=config.constrain_transitions, use_transitions=config.use_crf
        )
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, labels: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """A saved tagger; with `labels`, a new tagger on a saved `NercoModel` (stage two).

        Args:
            args, kwargs: of `SafePreTrainedModel.from_pretrained`.
            labels: BIO tags of the new tagger, as in `from_encoder`.

        Raises:
            InputError: as there; the labels are not BIO; or the folder holds a tagger with a head
                for other labels, or for these in another order.
        """
        if labels is None:
            return super().from_pretrained(*args, **kwargs)
        check_bio_labels(labels)
        names = {label: number for number, label in enumerate(labels)}
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs |= {"id2label": dict(enumerate(labels)), "label2id": names}
        model, info = super().from_pretrained(*args, **kwargs, output_loading_info=True)
        missing = [
            k for k in sorted(info["missing_keys"]) if not k.startswith(("classifier.", "crf."))
        ]
        if missing:
            raise InputError(f"weights are missing: {', '.join(missing[:10])}")
        if model._saved_labels not in (None, list(labels)):
            raise InputError(
                f"there is a tagger, with the labels {', '.join(model._saved_labels)}: expected a "
                "NercoModel; open the tagger without labels, then call add_labels or rename_labels"
            )
        return (model, info) if wants_info else model

    def _after_loading(
        self, place: Any, content: dict[str, Any], files: list[Any], lacking: set[str]
    ) -> None:
        """Refuse the labels of a head in another order, which would exchange its types.

        Renamed labels have the same types in the same order, under other names.
        """
        ids = content.get("id2label")
        if "classifier.weight" in lacking or not isinstance(ids, Mapping):
            return
        self._saved_labels = [ids[number] for number in sorted(ids, key=int)]
        saved, own = self._saved_labels, self.config.labels
        kept = [label for number, label in enumerate(own) if saved[number : number + 1] == [label]]
        if len(kept) < len(set(saved) & set(own)):
            raise InputError(
                f"{place}: its head has the labels {', '.join(saved)}, in this order, and "
                f"{', '.join(own)} would exchange them: leave out the labels, or call rename_labels"
            )

    @classmethod
    def from_encoder(
        cls, name_or_path: str, labels: Sequence[str], **config: Any
    ) -> "NercoForTokenClassification":
        """A new tagger with a pretrained encoder.

        Args:
            name_or_path: folder or Hub name of any encoder-only model with safetensors weights.
            labels: BIO tags, "O" first: ["O", "B-PER", "I-PER", ...].
            config: further fields of `NercoConfig`, e.g. `use_crf=False`.

        Raises:
            InputError: the labels are not BIO, or the encoder cannot be read.
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
        lexicon_words: Tensor | None = None,
        lexicon_tags: Tensor | None = None,
        word_chars: Tensor | None = None,
        word_types: Tensor | None = None,
        lattice_chars: Tensor | None = None,
        lattice_words: Tensor | None = None,
    ) -> TokenClassifierOutput | tuple:
        """input_ids (B, T) -> logits (B, T, C), the CRF's emissions; with `labels` also the loss.

        Args:
            labels: (B, T) tag ids, -100 where there is none.
            word_mask: (B, T) bool, the positions that carry a label, which excludes [CLS], [SEP],
                padding and sub-word tails; by default where `labels` is not -100.
        """
        outputs = self.nerco(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            lexicon_words=lexicon_words,
            lexicon_tags=lexicon_tags,
            word_chars=word_chars,
            word_types=word_types,
            lattice_chars=lattice_chars,
            lattice_words=lattice_words,
        )
        logits = self.classifier(outputs.last_hidden_state)  # (B, T, C)
        loss = None
        if labels is not None:
            keep = labels != IGNORED
            loss = self.loss(logits, labels, keep if word_mask is None else keep & word_mask.bool())
            self.forget_if_training(loss)
        elif self.training and self.config.use_crf:
            refuse_label_smoothing()
        result = TokenClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return result if return_dict is None or return_dict else result.to_tuple()

    def loss(self, logits: Tensor, labels: Tensor, word_mask: Tensor) -> Tensor:
        """Mean over sentences of the CRF's negative log-likelihood.

        Without CRF, of each sentence's mean token cross-entropy. Sentences without labelled
        positions do not count. logits (B, T, C), labels (B, T), word_mask (B, T).
        """
        return tagging_loss(self.crf, logits, labels, word_mask, use_crf=self.config.use_crf)

    @torch.no_grad()
    def add_labels(self, *types: str) -> None:
        """Add entity types: a B- and an I- tag each, behind the others.

        Every other weight stays; the new tags begin far less likely than O, so that decoding finds
        what it found before, until they are trained. Make optimisers afterwards.

        Raises:
            InputError: a type is there already, or is not a name.
        """
        wrong = [
            t for t in types if not isinstance(t, str) or not t or t in self.config.entity_types
        ]
        if wrong or len(set(types)) < len(types):
            raise InputError(
                f"{', '.join(map(repr, wrong or types))}: expected new names of entity types, "
                f"other than {', '.join(self.config.entity_types)}, each once"
            )
        labels = [*self.config.labels, *(f"{tag}-{t}" for t in types for tag in "BI")]
        self.classifier, self.crf = with_new_tags(self.classifier, self.crf, labels)
        self._set_labels(labels)

    def rename_labels(self, names: Mapping[str, str]) -> None:
        """Give entity types other names: {old: new}. No weight changes.

        Raises:
            InputError: a type is not there, or two would have the same name.
        """
        unknown = sorted(set(names) - set(self.config.entity_types))
        if unknown:
            raise InputError(
                f"entity type {', '.join(unknown)} is not there: "
                f"expected some of {', '.join(self.config.entity_types)}"
            )
        labels = [x[:2] + names.get(x[2:], x[2:]) if x != "O" else x for x in self.config.labels]
        check_bio_labels(labels)
        self.crf.labels = labels
        self._set_labels(labels)

    def _set_labels(self, labels: Sequence[str]) -> None:
        self.num_labels = len(labels)
        self.config.id2label = dict(enumerate(labels))
        self.config.label2id = {label: number for number, label in enumerate(labels)}
        self.keep_calibration()

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
        """Spans of each row over its labelled positions, in order.

        Scores are posterior probabilities at `score_temperature`. An orphan I-X (possible only with
        `constrain_transitions=False`) opens a span like B-X; its score covers both readings.

        Args:
            outputs: of `forward`.
            word_mask: (B, T) as in `forward`.
            word_end_mask: unused; BINDER's `decode` needs it.
            min_score: in (0, 1), for all entity types or by type; keep only spans that exceed it.
            top_k: also return the posteriors of the K best types of each span.
        """
        self.check_calibration()
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
        """A `NerPipeline` with this model.

        `pipeline("ner", model=DIR, trust_remote_code=True)` also gives a `NerPipeline`; but with a
        model *object*, `pipeline` warns and uses the stock class, which ignores the CRF.
        """
        return NerPipeline(model=self, tokenizer=tokenizer, task="ner", **kwargs)


# ------------------------------------------------------------------------------------- registration
NercoConfig.register_for_auto_class()
NercoModel.register_for_auto_class("AutoModel")
NercoForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")
