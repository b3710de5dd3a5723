"""Run configuration: its keys, their help and what they may be; validated before heavy imports."""

import argparse
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from contrastive_ner.data.layout import FIELDS, FORMATS, Layout
from contrastive_ner.data.schemes import READ_SCHEMES
from contrastive_ner.errors import ConfigError, shown
from contrastive_ner.models.lexicon_ner import FUSIONS, LONGEST_WORD, MAX_WORD_LENGTH
from contrastive_ner.training.mixtures import EQUAL_TYPES, check_mixture, set_configs
from contrastive_ner.training.values import check_range, convert

METHODS = ("ce", "crf", "nerco", "binder")
PHASES = ("stage1", "head", "full")


def option(default: Any, help: str) -> Any:
    """Field of `RunConfig` with a default and the help text that `train --help` shows."""
    return field(default=default, metadata={"help": help})


CHOICES: dict[str, tuple[str, ...]] = {
    "method": METHODS,
    "format": ("auto", *FORMATS),
    "text_unit": ("auto", "character", "word"),
    "lexicon_fusion": FUSIONS,
    "unseen_types": ("refuse", "missed"),
    "stage1_loss": ("nerco", "supcon"),
    "stage1_classes": ("types", "tags"),
    "stage1_reduction": ("sum", "mean"),
    "stage1_select": ("knn", "prototype", "loss"),
    "optimizer": ("adamw", "sgd"),
    "schedule": ("linear", "constant"),
    "bf16": ("auto", "true", "false"),
    "type_encoder": ("untied", "tied", "frozen"),
    "threshold": ("token", "global"),
    "decoding": ("auto", "nested", "flat"),
    "several_labels": ("auto", "true", "false"),
    "equal_types": EQUAL_TYPES,
}


@dataclass
class RunConfig:
    """All settings of a training run; the help text of each field explains it.

    Values after "paper" are those of NerCo (section 4 and released code), after "BINDER" those of
    the BINDER paper.
    """

    output_dir: str = option(
        "runs/{method}-{seed}", "run directory; {method} and {seed} are replaced by their values"
    )
    method: str = option(
        "nerco",
        "ce (independent tags), crf, nerco (contrastive stage one, then CRF tagger) or binder "
        "(spans of types given by descriptions)",
    )
    seed: int = option(0, "random seed of weights, dropout and batches")

    encoder: str = option(
        "encoders/zh-char-mini",
        "folder or Hub name of an encoder with safetensors weights; ${NAME} is replaced by the "
        "environment variable NAME, here and in file names",
    )
    init_model: str = option(
        "",
        "folder of a trained model (RUN/model) to go on from, instead of encoder: its encoder, "
        "tokenizer and the weights of the types that the data still have; others start afresh",
    )
    lexicon_fusion: str = option(
        "none",
        "none, or how the model reads the words of a lexicon: adapter (added to the input "
        "embeddings; any lexicon can be given when the model is used) or flat (a layer on the "
        "encoder with a vector for each word; paper); not for binder",
    )
    lexicon_file: str = option(
        "", "lexicon: one word per line, with a tab and a type if it has one; saved with the model"
    )
    max_word_length: int = option(
        MAX_WORD_LENGTH, "lexicon: characters of the longest word; longer ones are left out"
    )
    lexicon_dropout: float = option(0.1, "lexicon: share of a text's words that training hides")
    lexicon_absent: float = option(0.1, "lexicon: share of the texts trained on without any word")
    lattice_heads: int = option(10, "lexicon_fusion flat: attention heads (paper: 8 or 10)")
    lattice_head_size: int = option(20, "lexicon_fusion flat: size of each head (paper: 20)")
    lattice_vectors: str = option(
        "", "lexicon_fusion flat: file of 50-dimensional vectors of characters and words; or none"
    )
    lattice_bigram_vectors: str = option("", "lexicon_fusion flat: the same of pairs of characters")
    train_file: str = option("", "training data (required); ${NER_DATA} defaults to data")
    dev_file: str = option("", "development data (required); every choice is made on it")
    test_file: str = option("", "test data, scored once at the end; empty: none")

    unseen_types: str = option(
        "refuse",
        "types that occur in test alone: refuse, or missed (count their mentions as missed; the "
        "model is not trained for them)",
    )

    train_texts: int = option(0, "train on the first N texts only; 0: all")

    format: str = option("auto", f"file format: auto, {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    encoding: str = option("utf-8", "encoding of text files, such as gb18030 or big5")
    tag_scheme: str = option(
        "auto", f"tag scheme: auto, {', '.join(READ_SCHEMES[:-1])} or {READ_SCHEMES[-1]}"
    )
    delimiter: str = option(
        "auto",
        "column separator: auto, tab, space, comma, semicolon, or any (runs of spaces and tabs)",
    )
    token_column: int = option(0, "index of the token column, from 0")
    tag_columns: tuple[int, ...] = option(
        (),
        "indices of the tag columns, as 2,3 or '2 3', several for nested mentions; empty: the "
        "trailing ones",
    )
    indexed_characters: bool = option(
        False, "the token column holds a character and an index, as in Weibo NER"
    )
    joiner: str = option("auto", "separator between tokens in the text: auto, none or space")
    offsets: str = option(
        "auto",
        "what start and end of mentions count: auto, half_open, inclusive (the end is the last "
        "character) or utf16 (UTF-16 units)",
    )
    tag_names: tuple[str, ...] = option(
        (), "names of integer tags, in their order, as O,B-PER,I-PER"
    )
    fields: tuple[str, ...] = option(
        (),
        "keys of JSON or columns of data sets under other names than ours, as "
        f"text=body,entities=spans; names: {', '.join(FIELDS)}",
    )
    documents_of: int = option(
        0,
        "number of consecutive texts that are a document, which binder reads as one text; 0: by "
        "the marks of the format (-DOCSTART-, doc), 1: each text by itself",
    )

    text_unit: str = option(
        "auto", "unit that gets a label: character (Chinese), word, or auto (by the training text)"
    )
    max_window_tokens: int = option(
        128,
        "longest model input in tokens, special tokens included; longer texts are split (training) "
        "or read in overlapping windows (prediction; binder: always)",
    )
    output_dropout: float = option(
        0.3, "dropout on the encoder output, in both stages (paper: 0.3)"
    )
    encoder_dropout: float | None = option(
        None, "dropout inside the encoder; empty: as in the encoder's configuration"
    )
    use_crf: bool = option(True, "put a CRF on top (paper: yes); method=ce never has one")
    constrain_transitions: bool = option(True, "forbid tag sequences that are not BIO (paper: no)")

    stage1_epochs: int = option(
        5, "stage one (contrastive): epochs; 0: no stage one (paper: at most 100)"
    )
    stage1_batch_size: int = option(
        32, "stage one: sentences per contrastive batch (paper: 20 to 40)"
    )
    stage1_chunk_size: int = option(
        0,
        "stage one: sentences embedded at once, for batches that do not fit into memory; "
        "0: the whole batch",
    )
    stage1_learning_rate: float = option(
        2e-4, "stage one: learning rate of the encoder (2e-5 to 5e-5 for a base-size one)"
    )
    stage1_weight_decay: float = option(0.05, "stage one: weight decay (paper: 0.05)")
    stage1_warmup: float = option(
        0.1, "stage one: warm-up, as a fraction of the steps (paper: 0.05 to 0.1)"
    )
    stage1_temperature: float = option(
        0.08, "stage one: temperature of the contrastive loss (paper: 0.07 to 0.08)"
    )
    stage1_loss: str = option(
        "nerco", "stage one: loss, nerco (pairwise; paper) or supcon (Khosla et al.)"
    )
    stage1_classes: str = option(
        "types", "stage one: what is contrasted, types (paper) or tags (B- and I- tokens apart)"
    )
    stage1_with_o: bool = option(False, "stage one: also use O tokens as anchors (paper: no)")
    stage1_reduction: str = option("sum", "stage one: sum (paper) or mean of the loss over classes")
    stage1_projection: int = option(
        0,
        "stage one: width of a projection head that the loss reads, thrown away afterwards; 0: the "
        "loss reads the encoder's output (paper)",
    )
    stage1_freeze_layers: int = option(
        0, "stage one: freeze the embeddings and the lowest N layers; 0: nothing"
    )
    stage1_freeze_encoder: bool = option(
        False, "stage one: freeze the encoder, and train what reads the lexicon alone (paper: yes)"
    )
    stage1_select: str = option(
        "knn",
        "stage one: select the best epoch by knn or prototype (F1 of token types on dev) or loss "
        "(on dev; paper)",
    )
    stage1_reference_tokens: int = option(
        20000, "stage one: number of training tokens that knn and prototype compare dev tokens with"
    )
    stage1_patience: int = option(
        10, "stage one: stop after N epochs without improvement (paper: 10)"
    )

    head_epochs: int = option(
        2, "stage two, head-only phase: epochs with the encoder frozen; 0: no such phase"
    )
    head_only_learning_rate: float = option(1e-3, "stage two, head-only phase: learning rate")

    stage2_epochs: int = option(
        10,
        "stage two, full phase: epochs; ce, crf and binder train for the total of all three phases",
    )
    stage2_batch_size: int = option(16, "stage two: sentences per batch (paper: 10)")
    stage2_gradient_accumulation: int = option(1, "stage two: batches per optimiser step")
    stage2_learning_rate: float = option(
        2e-4,
        "stage two, full phase: learning rate of the encoder (2e-5 to 5e-5 for a base-size one)",
    )
    stage2_head_learning_rate: float = option(
        1e-3,
        "stage two, full phase: learning rate of the linear layer and the CRF; binder: of the "
        "projections",
    )
    stage2_weight_decay: float = option(0.05, "stage two: weight decay (paper: 0 to 0.05)")
    stage2_warmup: float = option(
        0.1, "stage two: warm-up, as a fraction of the steps (paper: 0 to 0.1)"
    )
    stage2_patience: int = option(
        15, "stage two: stop after N epochs without improvement on dev (paper: 15)"
    )

    stage2_contrastive_weight: float = option(
        0.0,
        "stage two, full phase: weight of a contrastive loss added to the tagging loss "
        "(paper's text: none; released code: 1)",
    )

    stage2_contrastive_after_dropout: bool = option(
        False,
        "stage two: take that contrastive loss on what the linear layer reads, after the output "
        "dropout (NerCo's released code), instead of before it",
    )
    stage2_unfreeze_epoch: int = option(
        0,
        "stage two, full phase: first epoch that trains the encoder; before it, the encoder is "
        "frozen with its dropout on, and patience does not count (paper: 21, and "
        "stage2_learning_rate 0.05 of stage2_head_learning_rate); 0: all epochs do",
    )

    optimizer: str = option("adamw", "optimiser of all phases: adamw or sgd (momentum 0.9; paper)")
    schedule: str = option(
        "linear", "learning rate after the warm-up: linear (falls to 0) or constant (paper)"
    )
    clip_value: float = option(
        0.0, "clip each number of the gradient to this size (paper: 5); 0: clip its norm to 1"
    )

    class_weight_power: float = option(
        0.0,
        "weight of rare types in training: a type with n of N mentions of T types weighs about "
        "(N / (T n)) ** power; 0: all alike, 1: the same total for each type",
    )
    lora_rank: int = option(
        0,
        "full phase: train low-rank changes of this rank of the encoder's linear layers (LoRA; the "
        "extra peft) instead of its weights, and merge them; 0: all weights",
    )

    data_sets: dict[str, Any] | None = option(  # noqa: RUF009 - its default is None
        None,
        "binder: several data sets instead of one, by their names; under each name train_file, "
        "dev_file, types_file, and if need be test_file, weight (how often an epoch goes through "
        "it), train_texts, unseen_types and keys of its format. A batch comes from one set, and "
        "only the set's types are candidates in it",
    )
    equal_types: str = option(
        "",
        "binder: types of the same name in several data_sets: merge (one type) or apart (called "
        "SET:TYPE); empty: one type if they are described alike, else refused",
    )
    types_file: str = option("", "binder: YAML file that describes the entity types (required)")
    type_encoder: str = option(
        "untied",
        "binder: encoder of the types: untied (a second one; BINDER), tied (the one for texts) or "
        "frozen (a second one, not trained)",
    )
    type_variants: bool = option(
        False,
        "binder: in training, describe a type also by its name, and by name and description",
    )
    types_per_batch: int = option(
        0, "binder: types drawn per training step, those with a mention first; 0: all (BINDER)"
    )
    projection_size: int = option(
        128, "binder: dimension of the space shared by spans and types (BINDER: 128)"
    )
    projection_dropout: float = option(0.1, "binder: dropout on the projections (BINDER: 0.1)")
    start_weight: float = option(0.2, "binder: weight of the loss on starts (BINDER: 0.2)")
    end_weight: float = option(0.2, "binder: weight of the loss on ends (BINDER: 0.2)")
    span_weight: float = option(0.6, "binder: weight of the loss on spans (BINDER: 0.6)")
    threshold_weight: float = option(
        0.5, "binder: share of the loss on thresholds; the rest is on mentions (BINDER: 0.5)"
    )
    initial_temperature: float = option(
        0.07, "binder: temperature of the scores before training, which learns it (BINDER: 0.07)"
    )
    width_embedding_size: int = option(
        0, "binder: size of the embedding of a span's width; 0: projection_size"
    )
    threshold: str = option(
        "token",
        "binder: score that a mention must exceed, token (of the text's first token; BINDER) or "
        "global (one learned value for all types; an ablation of the paper)",
    )
    max_span_width: int = option(
        0,
        "binder: longest span in tokens; 0: the longest mention in train, at most 30 (BINDER: 30)",
    )
    window_overlap: int = option(
        0,
        "binder: tokens shared by consecutive windows; 0: max_span_width, at least 16 (BINDER: 16)",
    )
    decoding: str = option(
        "auto", "binder: nested, flat or auto (nested if training mentions overlap)"
    )
    several_labels: str = option(
        "auto", "binder: whether a span may have several types: true, false or auto (as in train)"
    )

    bf16: str = option(
        "auto", "train in bfloat16: auto (where the hardware supports it), true or false"
    )
    eval_batch_size: int = option(32, "windows per evaluation batch")
    report_to: tuple[str, ...] = option(
        (),
        "also report losses and scores of training to tensorboard, wandb, trackio or another one "
        "that the Trainer knows; several: a,b",
    )
    keep_checkpoints: bool = option(False, "keep the checkpoints of complete phases")

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                listed = ", ".join(filter(None, allowed))
                found = shown(getattr(self, name))
                raise ConfigError(f"{name} is {found}: expected one of {listed}")
        for item in fields(self):
            check_range(item.name, getattr(self, item.name))
        layout_of(self)  # checks its values
        if self.data_sets is not None:
            check_mixture(self)
        if not self.start_weight + self.end_weight + self.span_weight:
            raise ConfigError(
                "start_weight, end_weight and span_weight are 0: expected at least one above 0, as "
                "nothing would be learned"
            )
        if self.stage2_unfreeze_epoch > self.full_epochs:
            raise ConfigError(
                f"stage2_unfreeze_epoch is {self.stage2_unfreeze_epoch}, and the full phase has "
                f"{self.full_epochs} epochs: the encoder would never be trained; expected at most "
                f"{self.full_epochs}"
            )
        if self.max_window_tokens < 8:
            raise ConfigError(f"max_window_tokens is {self.max_window_tokens}: expected at least 8")
        if not 2 <= self.max_word_length <= LONGEST_WORD:
            raise ConfigError(
                f"max_word_length is {self.max_word_length}: expected 2 to {LONGEST_WORD}"
            )
        if self.lexicon_fusion != "flat" and (self.lattice_vectors or self.lattice_bigram_vectors):
            raise ConfigError(
                f"lattice_vectors or lattice_bigram_vectors is given, and lexicon_fusion is "
                f"{self.lexicon_fusion}: expected flat, or no vectors"
            )
        if self.method == "binder" and 2 * self.max_span_width > self.max_window_tokens:
            raise ConfigError(
                f"max_span_width is {self.max_span_width}: expected at most half of "
                f"max_window_tokens, {self.max_window_tokens // 2}; raise max_window_tokens or "
                "lower max_span_width"
            )
        if self.method == "binder" and self.lexicon_fusion != "none":
            raise ConfigError(
                f"lexicon_fusion is {self.lexicon_fusion}: method=binder reads no lexicon; "
                "expected none, or method ce, crf or nerco"
            )
        fusion = self.method != "nerco" or self.lexicon_fusion != "none"
        if self.stage1_freeze_encoder and not fusion:
            raise ConfigError(
                "stage1_freeze_encoder is true: nothing is left to train in stage one with "
                "lexicon_fusion none; expected false, or lexicon_fusion adapter or flat"
            )
        if set("{}") & set(self.filled("", "")):
            raise ConfigError(
                f"output_dir is {self.output_dir!r}: only {{method}} and {{seed}} are filled in"
            )

    def remarks(self) -> list[str]:
        """Keys that are set and have no effect."""
        found = []
        if self.documents_of and self.method != "binder":
            found.append(
                f"documents_of has no effect: method={self.method} reads each text by itself"
            )
        if self.stage2_contrastive_weight and self.method == "binder":
            found.append("stage2_contrastive_weight has no effect: BINDER's loss is contrastive")
        if self.equal_types and self.data_sets is None:
            found.append("equal_types has no effect without data_sets")
        return found

    @property
    def full_epochs(self) -> int:
        """Epochs of the full phase; all methods but nerco add those of nerco's other phases."""
        others = 0 if self.method == "nerco" else self.stage1_epochs + self.head_epochs
        return self.stage2_epochs + others

    @property
    def sets(self) -> dict[str, "RunConfig"]:
        """For each of `data_sets`, the configuration of a run on it alone."""
        return set_configs(self, convert)

    @property
    def run_dir(self) -> Path:
        """`output_dir` with method and seed filled in."""
        return Path(self.filled(self.method, str(self.seed)))

    def filled(self, method: str, seed: str) -> str:
        """`output_dir` with {method} and {seed} replaced."""
        return self.output_dir.replace("{method}", method).replace("{seed}", seed)

    def to_dict(self) -> dict[str, Any]:
        """Values by key, as JSON stores them."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


def layout_of(source: RunConfig | argparse.Namespace) -> Layout:
    """Layout of the data files, from a configuration or a command's options."""
    return Layout(
        **{f.name: convert(f.name, getattr(source, f.name), f.type) for f in fields(Layout)}
    )


def is_first_process() -> bool:
    """Whether this process prints and writes: the only one, or the first under torchrun."""
    return int(os.environ.get("RANK", "0")) == 0
