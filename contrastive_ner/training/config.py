"""A run's configuration: a dataclass read from YAML and `key=value`, validated before anything heavy is imported."""

import argparse
import os
import types
import typing
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from contrastive_ner.data.readers import Layout
from contrastive_ner.errors import ConfigError

METHODS = ("ce", "crf", "nerco", "binder")


PHASES = ("stage1", "head", "full")


def option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class RunConfig:
    """Everything that a training run depends on. Defaults marked (paper) are NerCo's, section 4 and code; (BINDER): of its paper."""

    output_dir: str = option(
        "runs/{method}-{seed}", "run directory; {method} and {seed} are filled in"
    )
    method: str = option(
        "nerco",
        "ce (independent tags), crf, nerco (contrastive stage one, then crf), or binder (by descriptions)",
    )
    seed: int = option(0, "seed of weights, dropout and batches")

    encoder: str = option(
        "encoders/zh-char-mini",
        "folder or Hub name of an encoder with safetensors weights; ${NAME} is filled in",
    )
    train_file: str = option(
        "", "training data; ${NER_DATA} is the environment variable of that name, default data/"
    )
    dev_file: str = option("", "development data: every choice is made on it")
    test_file: str = option("", "test data, scored once at the end; may be empty")

    train_texts: int = option(0, "learn from the first N texts of train only; 0: all")

    format: str = option("auto", "auto, columns, jsonl, cluener or datasets")
    tag_scheme: str = option("auto", "auto, IOB1, BIO, BIOES or BMES")
    delimiter: str = option("auto", "columns are parted by: auto, tab or space")
    token_column: int = option(0, "column of the token")
    tag_columns: tuple[int, ...] = option(
        (), "columns of tags, several for nested mentions; empty: the trailing ones"
    )
    indexed_characters: bool = option(
        False, "the token column holds a character and an index, as Weibo NER's"
    )
    joiner: str = option("auto", "what stands between tokens in the text: auto, none or space")

    text_unit: str = option(
        "auto", "what carries a label: character (Chinese), word, or auto by the training text"
    )
    max_window_tokens: int = option(
        128, "longest model input; longer texts are split (training) or windowed (prediction)"
    )
    output_dropout: float = option(
        0.3, "dropout on the encoder's output in both stages (paper: 0.3)"
    )
    encoder_dropout: float | None = option(
        None, "dropout inside the encoder; empty: as the encoder's configuration says"
    )
    use_crf: bool = option(True, "a CRF on top (paper: yes); method=ce never has one")
    constrain_transitions: bool = option(True, "forbid tag sequences that are no BIO (paper: no)")

    stage1_epochs: int = option(5, "stage one (contrastive): epochs (paper: at most 100)")
    stage1_batch_size: int = option(
        32, "stage one: sentences in a contrastive batch (paper: 20 to 40)"
    )
    stage1_chunk_size: int = option(
        0, "stage one: sentences embedded at once, for batches beyond memory; 0: the whole batch"
    )
    stage1_learning_rate: float = option(
        2e-4, "stage one: learning rate of the encoder (2e-5 to 5e-5 for one of base size)"
    )
    stage1_weight_decay: float = option(0.05, "stage one: weight decay (paper: 0.05)")
    stage1_warmup: float = option(
        0.1, "stage one: share of the steps with rising learning rate (paper: 0.05 to 0.1)"
    )
    stage1_temperature: float = option(0.08, "stage one: temperature (paper: 0.07 to 0.08)")
    stage1_loss: str = option(
        "nerco", "stage one: nerco (the paper's pairwise loss) or supcon (Khosla et al.)"
    )
    stage1_with_o: bool = option(False, "stage one: O tokens are anchors, too (paper: no)")
    stage1_reduction: str = option("sum", "stage one: sum (paper) or mean over the classes")
    stage1_freeze_layers: int = option(
        0, "stage one: freeze the embeddings and the lowest N layers"
    )
    stage1_select: str = option(
        "knn",
        "stage one: best epoch by knn or prototype (F1 of dev token types) or by dev loss (paper)",
    )
    stage1_reference_tokens: int = option(
        20000, "stage one: training tokens that knn and prototype compare with"
    )
    stage1_patience: int = option(
        10, "stage one: stop after N epochs without a better one (paper: 10)"
    )

    head_epochs: int = option(
        2, "stage two, head-only phase: epochs with the encoder fixed; 0: no such phase"
    )
    head_only_learning_rate: float = option(1e-3, "stage two, head-only phase: learning rate")

    stage2_epochs: int = option(
        10, "stage two, full phase: epochs; ce, crf and binder get the epochs of all three phases"
    )
    stage2_batch_size: int = option(16, "stage two: sentences in a batch (paper: 10)")
    stage2_gradient_accumulation: int = option(1, "stage two: batches in an optimiser step")
    stage2_learning_rate: float = option(
        2e-4,
        "stage two, full phase: learning rate of the encoder (2e-5 to 5e-5 for one of base size)",
    )
    stage2_head_learning_rate: float = option(
        1e-3,
        "stage two, full phase: learning rate of linear layer and CRF, of BINDER's projections",
    )
    stage2_weight_decay: float = option(0.05, "stage two: weight decay (paper: 0 to 0.05)")
    stage2_warmup: float = option(
        0.1, "stage two: share of the steps with rising learning rate (paper: 0 to 0.1)"
    )
    stage2_patience: int = option(
        15, "stage two: stop after N epochs without a better dev F1 (paper: 15)"
    )

    stage2_contrastive_weight: float = option(
        0.0, "stage two, full phase: weight of a contrastive loss beside the tagger's (paper: none)"
    )

    types_file: str = option("", "binder: YAML file that describes the entity types")
    type_encoder: str = option(
        "untied", "binder: untied (BINDER: a second encoder for the types), tied, or frozen"
    )
    type_variants: bool = option(
        False, "binder: in training a type is also given by its name alone, and by both"
    )
    types_per_batch: int = option(
        0, "binder: types drawn for each training step, those with a mention first; 0: all (BINDER)"
    )
    projection_size: int = option(128, "binder: size of the space of spans and types (BINDER: 128)")
    projection_dropout: float = option(0.1, "binder: dropout on the projections (BINDER: 0.1)")
    max_span_width: int = option(
        0,
        "binder: tokens of the longest span; 0: of train's longest mention, at most 30 (BINDER: 30)",
    )
    window_overlap: int = option(
        0, "binder: tokens that windows share; 0: max_span_width, at least 16 (BINDER: 16)"
    )
    decoding: str = option(
        "auto", "binder: nested, flat, or auto: nested where training mentions overlap"
    )
    several_labels: str = option(
        "auto", "binder: whether a span may have several types: true, false, or auto as in training"
    )

    bf16: str = option(
        "auto", "bfloat16 arithmetic in training: auto (where the hardware has it), true or false"
    )
    eval_batch_size: int = option(32, "windows in a batch of evaluation")
    keep_checkpoints: bool = option(False, "keep a phase's checkpoints after it is complete")

    def __post_init__(self) -> None:
        choices = {
            "method": METHODS,
            "text_unit": ("auto", "character", "word"),
            "stage1_loss": ("nerco", "supcon"),
            "stage1_reduction": ("sum", "mean"),
            "stage1_select": ("knn", "prototype", "loss"),
            "bf16": ("auto", "true", "false"),
            "type_encoder": ("untied", "tied", "frozen"),
            "decoding": ("auto", "nested", "flat"),
            "several_labels": ("auto", "true", "false"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}: expected one of {', '.join(allowed)}"
                )
        for item in fields(self):
            value = getattr(self, item.name)
            if (
                item.type is int
                and item.name not in ("seed", "token_column")
                and value < _smallest(item.name)
            ):
                raise ConfigError(
                    f"{item.name} is {value}: expected at least {_smallest(item.name)}"
                )
            if item.name.endswith("_weight") and not value >= 0:
                raise ConfigError(f"{item.name} is {value}: expected zero or a positive number")
            if item.name.endswith(("learning_rate", "temperature")) and not value > 0:
                raise ConfigError(f"{item.name} is {value}: expected a positive number")
            if (
                item.name.endswith(("dropout", "warmup"))
                and value is not None
                and not 0 <= value < 1
            ):
                raise ConfigError(f"{item.name} is {value}: expected a number in [0, 1)")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed is {self.seed}: expected 0 to 2**32 - 1")
        if self.max_window_tokens < 8:
            raise ConfigError(f"max_window_tokens is {self.max_window_tokens}: expected at least 8")
        try:
            self.output_dir.format(method=self.method, seed=self.seed)
        except (KeyError, IndexError, ValueError) as error:
            raise ConfigError(
                f"output_dir is {self.output_dir!r}: only {{method}} and {{seed}} are filled in"
            ) from error

    @property
    def run_dir(self) -> Path:
        return Path(self.output_dir.format(method=self.method, seed=self.seed))

    def to_dict(self) -> dict[str, Any]:
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


def _smallest(name: str) -> int:
    may_be_zero = {"stage1_epochs", "stage1_chunk_size", "head_epochs", "stage1_freeze_layers"}
    return (
        0
        if name
        in may_be_zero | {"types_per_batch", "max_span_width", "window_overlap", "train_texts"}
        else 1
    )


def load_config(path: str | Path, overrides: typing.Sequence[str] = ()) -> RunConfig:
    """Configuration from a YAML file and "key=value" strings. `base: other.yaml` in a file takes another one's values first.

    Raises:
        ConfigError: no such file, unknown key, wrong type or value.
    """
    values = _read_yaml(Path(path))
    for item in overrides:
        key, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"{item!r}: expected key=value")
        values[key] = value
    known = {item.name: item for item in fields(RunConfig)}
    hints = typing.get_type_hints(RunConfig)
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(
            f"{path}: unknown key {', '.join(unknown)}; run_ner.py train --help lists the keys"
        )
    return RunConfig(**{key: convert(key, value, hints[key]) for key, value in values.items()})


def _read_yaml(path: Path, derived: tuple[Path, ...] = ()) -> dict[str, Any]:
    import yaml

    if path.resolve() in derived:
        raise ConfigError(f"{path}: its base leads back to itself")
    if not path.is_file():
        raise ConfigError(f"{path}: no such configuration file")
    try:
        values = yaml.safe_load(path.read_text("utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(values).__name__}")
    base = values.pop("base", None)
    return (
        values
        if base is None
        else {**_read_yaml(path.parent / base, (*derived, path.resolve())), **values}
    )


def convert(key: str, value: Any, kind: Any) -> Any:
    """`value`, from YAML or the command line, as the type of its field."""
    if isinstance(kind, types.UnionType):
        if value is None or value == "":
            return None
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    try:
        if typing.get_origin(kind) is tuple:
            items = value.split(",") if isinstance(value, str) else value
            return tuple(int(item) for item in items if item != "")
        if kind is bool:
            return {"true": True, "false": False}[str(value).lower()]
        if kind is str:
            return (
                str(value).lower()
                if isinstance(value, bool)
                else ("" if value is None else str(value))
            )
        return int(str(value)) if kind is int else float(value)
    except (ValueError, KeyError, TypeError) as error:
        wanted = "true or false" if kind is bool else getattr(kind, "__name__", str(kind))
        raise ConfigError(f"{key} is {value!r}: expected {wanted}") from error


def layout_of(source: RunConfig | argparse.Namespace) -> Layout:
    """How files are laid out, from a configuration or a command's options."""
    return Layout(
        **{f.name: convert(f.name, getattr(source, f.name), f.type) for f in fields(Layout)}
    )


def is_first_process() -> bool:
    """Whether this process prints and writes: the only one, or the first of those that torchrun started."""
    return int(os.environ.get("RANK", "0")) == 0
