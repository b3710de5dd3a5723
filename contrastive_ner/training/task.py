"""Build a task from a configuration: data, entity types, tokenizer, encoder and features."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive_ner.data.joining import is_chinese
from contrastive_ner.data.layout import ReadReport
from contrastive_ner.data.readers import read_files
from contrastive_ner.data.records import Record, entity_types
from contrastive_ner.data.schemes import bio_labels
from contrastive_ner.errors import ConfigError, DataError
from contrastive_ner.files import expand, fresh_folder, move_folder, seal
from contrastive_ner.logs import log
from contrastive_ner.models.lexicon_ner import Lexicon
from contrastive_ner.provenance import clone_root
from contrastive_ner.training.config import RunConfig, layout_of
from contrastive_ner.training.lattice import Lattice, lattice_of
from contrastive_ner.training.lexicon import load_lexicon, report_coverage, with_lexicon
from contrastive_ner.training.mixtures import in_set, joint_types
from contrastive_ner.training.start import is_intact, refuse_trained, source_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from contrastive_ner.models.windows_ner import TextReader
    from contrastive_ner.training.batches import SpanCollator, TagCollator
    from contrastive_ner.training.binder import DocumentCounts
    from contrastive_ner.training.features import AlignReport, SpanReport

WIDEST_SPAN = 30  # BINDER's limit in decoding
LEAST_OVERLAP = 16  # overlap of BINDER's windows, in tokens
# Keys of the configuration that are also fields of the model.
BINDER_FIELDS = (
    "type_encoder",
    "types_per_batch",
    "projection_size",
    "projection_dropout",
    "start_weight",
    "end_weight",
    "span_weight",
    "threshold_weight",
    "initial_temperature",
    "width_embedding_size",
    "threshold",
)


@dataclass
class Data:
    """Data of a run: records and reports by split, and the entity types.

    For BINDER also {entity type: texts}, the description first; and of several data sets each by
    itself, with the names that its types have among all.
    """

    records: dict[str, list[Record]]
    reports: dict[str, ReadReport]
    types: list[str]
    descriptions: dict[str, list[str]] = field(default_factory=dict)
    sets: dict[str, "Data"] = field(default_factory=dict)


@dataclass
class Task:
    """What every phase needs: configuration, types, encoder (folder or Hub name) and features.

    `features` has the splits train and dev; `binder_fields` are fields of `BinderConfig`;
    `weights` those of the types, by name, empty if all are alike; `joiner` is what stands between
    the words of the data, None if they have none; `lexicon` the words that the model reads;
    `lattice` is what a lattice layer begins with; `documents` counts BINDER's mentions on dev.
    """

    config: RunConfig
    types: list[str]
    label_unit: str
    encoder: str
    features: dict[str, list[dict]]
    binder_fields: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    joiner: str | None = None
    lexicon: Lexicon | None = None
    lattice: Lattice | None = None
    documents: "DocumentCounts | None" = None

    @property
    def labels(self) -> list[str]:
        """BIO labels of a tagger."""
        return bio_labels(self.types)

    @property
    def collator(self) -> "TagCollator | SpanCollator":
        """Collator that turns the features into batches."""
        from contrastive_ner.training.batches import SpanCollator, TagCollator

        pad_token_id = encoder_tokenizer(self.encoder).pad_token_id or 0
        return (
            SpanCollator(pad_token_id)
            if self.config.method == "binder"
            else TagCollator(pad_token_id)
        )

    @property
    def model_fields(self) -> dict[str, Any]:
        """Fields of `NercoConfig` or `BinderConfig` that the run sets."""
        shared = {
            "label_unit": self.label_unit,
            "max_window_tokens": self.config.max_window_tokens,
            "joiner": self.joiner,
        }
        if self.config.method == "binder":
            return {**shared, **self.binder_fields}
        has_crf = self.config.method != "ce" and self.config.use_crf
        if self.lexicon is not None:
            names = ("lexicon_fusion", "max_word_length", "lexicon_dropout", "lexicon_absent")
            shared |= {name: getattr(self.config, name) for name in names}
            shared["lexicon_types"] = self.lexicon.types
        if self.lattice is not None:
            sizes = ("lattice_heads", "lattice_head_size")
            shared |= {name: getattr(self.config, name) for name in sizes}
            shared["lattice"] = self.lattice.vocabulary.facts()
        return {
            **shared,
            "output_dropout": self.config.output_dropout,
            "use_crf": has_crf,
            # Without a CRF there are no transitions to constrain: `ce` is plain argmax per token.
            "constrain_transitions": has_crf and self.config.constrain_transitions,
        }


def prepare_task(
    config: RunConfig, data: Data
) -> tuple[Task, dict[str, "AlignReport | SpanReport"]]:
    """The task of a run, and by split a report on which mentions became features.

    Raises:
        ConfigError: the encoder or tokenizer cannot be used.
        DataError: train or dev has no usable mention.
    """
    from contrastive_ner.models.pipeline_ner import text_reader

    lexicon = load_lexicon(config)
    source = source_of(config, data.types)
    tokenizer, label_unit = load_tokenizer(source, data)
    encoder, tokenizer = prepare_encoder(source, tokenizer, label_unit)
    reader = text_reader(
        tokenizer, label_unit=label_unit, max_window_tokens=config.max_window_tokens
    )
    lattice = None
    if config.method == "binder":
        features, reports, fields, documents = build_span_features(config, data, reader)
    else:
        if config.lexicon_fusion == "flat" and lexicon is not None:
            lattice = lattice_of(config, (r.text for r in data.records["train"]), reader, lexicon)
        built_tags = build_tag_features(config, data, reader, lexicon, lattice)
        features, reports, fields, documents = built_tags
    for split, report in reports.items():
        log.info("%s: %s", split, report)
        if not report.mentions and split != "test":
            there = sum(len(record.entities) for record in data.records[split])
            reason = (
                "none is on token boundaries; is text_unit right for these data?"
                if there
                else "the data have none"
            )
            if there and config.method == "binder" and report.misaligned < there:
                reason = f"all are wider than max_span_width, {fields['max_span_width']}; raise it"
            raise DataError(f"{split}: expected mentions to learn or select by: {reason}")
    weights = {}
    if config.class_weight_power:
        from contrastive_ner.training.weights import type_weights

        weights = type_weights(data.records["train"], data.types, config.class_weight_power)
        log.info("weights: %s", ", ".join(f"{name} {w:.2f}" for name, w in weights.items()))
    joiner = next((r.joiner for r in data.reports.values() if r.joiner is not None), None)
    built = (features, fields, weights, joiner, lexicon, lattice, documents)
    task = Task(config, data.types, label_unit, encoder, *built)
    if lexicon is not None:
        report_coverage(features, task.labels)
    return task, reports


# --------------------------------------------------------------------------------------------- data
def load_data(config: RunConfig) -> Data:
    """Read and log the splits.

    Raises:
        ConfigError: a required file is not named.
        DataError: a file cannot be read, train has no entity, or a type does not occur in train or
            in the types file.
    """
    for remark in config.remarks():
        log.warning(remark)
    return load_sets(config) if config.data_sets else load_set(config)


def load_set(config: RunConfig) -> Data:
    """`load_data` of a single data set."""
    if not config.train_file or not config.dev_file:
        raise ConfigError(
            "train_file and dev_file are needed: set them in the configuration or as key=value"
        )
    files = {"train": config.train_file, "dev": config.dev_file, "test": config.test_file}
    splits = [split for split, path in files.items() if path]
    read = read_files([expand(files[split]) for split in splits], layout_of(config))
    records, reports = {}, {}
    for split, (own, report) in zip(splits, read, strict=True):
        records[split], reports[split] = own, report
        if split == "train" and config.train_texts:
            records[split] = own[: config.train_texts]
        mentions = sum(len(record.entities) for record in records[split])
        log.info("%s: %d texts, %d mentions", split, len(records[split]), mentions)
        for remark in report.remarks():
            log.info("%s: %s", split, remark)
    types = entity_types(records["train"])
    if not types:
        raise DataError(
            f"{config.train_file}: expected annotated texts, found no entity at all in "
            f"{len(records['train'])} texts"
        )
    asked = dict(records)
    if config.unseen_types == "missed":
        asked.pop("test", None)
    if config.method == "binder":
        descriptions = describe_types(config, asked)
        return Data(records, reports, list(descriptions), descriptions)
    for split, own in asked.items():
        unknown = sorted(set(entity_types(own)) - set(types))
        if unknown:
            raise DataError(
                f"{reports[split].path}: entity type {', '.join(unknown)} does not occur in train "
                f"({', '.join(types)})"
                + ("; unseen_types=missed counts it as missed" if split == "test" else "")
            )
    return Data(records, reports, types)


def load_sets(config: RunConfig) -> Data:
    """Read and log several data sets, and join them; see `load_data` and `joint_types`."""
    loaded = {}
    for name, own in config.sets.items():
        log.info("data set %s", name)
        loaded[name] = load_set(own)
    names, joint = joint_types(
        {name: data.descriptions for name, data in loaded.items()}, config.equal_types
    )
    sets = {
        name: Data(
            {split: in_set(name, own, names[name]) for split, own in data.records.items()},
            data.reports,
            list(names[name].values()),
            {label: joint[label] for label in names[name].values()},
        )
        for name, data in loaded.items()
    }
    log.info("%d types of %d data sets: %s", len(joint), len(sets), ", ".join(joint))
    records: dict[str, list[Record]] = {}
    reports: dict[str, ReadReport] = {}
    for name, data in sets.items():
        for split, own_records in data.records.items():
            records.setdefault(split, []).extend(own_records)
            report = data.reports[split]
            before = reports.setdefault(split, replace(report, path="", repaired_tags=0))
            before.path = f"{before.path}, {name}: {report.path}".removeprefix(", ")
            before.repaired_tags += report.repaired_tags
    return Data(records, reports, list(joint), joint, sets)


def describe_types(config: RunConfig, records: dict[str, list[Record]]) -> dict[str, list[str]]:
    """{entity type: [description, *variants]} of all types in the types file.

    Raises:
        ConfigError: no types file is configured.
        DataError: the file is invalid or lacks a type of the data.
    """
    from contrastive_ner.data.descriptions import check_types, read_types

    if not config.types_file:
        raise ConfigError(
            "method=binder needs types_file: a description of every entity type (see the examples "
            "in configs/types/)"
        )
    types = read_types(expand(config.types_file))
    check_types(
        types, entity_types(record for own in records.values() for record in own), config.types_file
    )
    unused = check_types(types, entity_types(records["train"]), config.types_file)
    if unused:
        log.info("types with no mention in train: %s", ", ".join(unused))
    return {
        t.label: [t.description, t.name, f"{t.name}: {t.description}"][
            : None if config.type_variants else 1
        ]
        for t in types
    }


# ------------------------------------------------------------------------------------------ encoder
def encoder_place(name: str) -> str:
    """Location of an encoder: a folder or a name on the Hub.

    A relative folder that does not exist here is looked up in the clone that the package runs from,
    never on the Hub.

    Raises:
        InputError: the name can only be that of a folder, and there is none.
    """
    from contrastive_ner.models.encoder_ner import check_place

    place, folder = expand(name), encoder_folder(name)
    if folder is not None:
        return str(folder)
    check_place(place)
    return place


def encoder_folder(name: str) -> Path | None:
    """The folder of an encoder, here or in the clone; None if there is none of this name."""
    place, root = Path(expand(name)), clone_root()
    if place.is_dir():
        return place
    return root / place if root is not None and (root / place).is_dir() else None


def encoder_tokenizer(place: str) -> "PreTrainedTokenizerBase":
    """The tokenizer of an encoder; a byte-level one reads first words like others.

    Without that, a word of RoBERTa's vocabulary has other tokens at the start of a text or a line
    than inside it. The setting is saved with the model, and is that of `reads_after_space`.
    """
    from transformers import AutoTokenizer

    from contrastive_ner.models.pipeline_ner import is_byte_level, reads_after_space

    tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    if is_byte_level(tokenizer) and not reads_after_space(tokenizer):
        return AutoTokenizer.from_pretrained(place, trust_remote_code=False, add_prefix_space=True)
    return tokenizer


def load_tokenizer(config: RunConfig, data: Data) -> tuple["PreTrainedTokenizerBase", str]:
    """The encoder's tokenizer, and the label unit: "token" for character text, otherwise "word".

    Raises:
        ConfigError: the encoder cannot be loaded, or its input is shorter than max_window_tokens.
    """
    from transformers import AutoConfig

    from contrastive_ner.models.encoder_ner import longest_input

    place = encoder_place(config.encoder)
    refuse_trained(place)
    try:
        # Code that comes with an encoder is refused, not run.
        tokenizer = encoder_tokenizer(place)
        encoder_config = AutoConfig.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"encoder {config.encoder!r} could not be loaded: {str(error).splitlines()[0]}"
        ) from error
    longest = longest_input(encoder_config, tokenizer)
    if config.max_window_tokens > longest:
        raise ConfigError(
            f"max_window_tokens is {config.max_window_tokens}: the encoder reads {longest} at most"
        )
    chosen = config.text_unit == "character"
    character = reads_characters(data) if config.text_unit == "auto" else chosen
    return tokenizer, "token" if character else "word"


def reads_characters(data: Data) -> bool:
    """Whether texts are read by characters, not by words; of several sets, all alike."""
    character = is_chinese(record.text for record in data.records["train"])
    for name, own in data.sets.items():
        if is_chinese(record.text for record in own.records["train"]) != character:
            unit = "character" if character else "word"
            log.warning("data set %s: read by %s, as all are; see text_unit", name, unit)
    return character


def prepare_encoder(
    config: RunConfig, tokenizer: "PreTrainedTokenizerBase", label_unit: str
) -> tuple[str, "PreTrainedTokenizerBase"]:
    """Location and tokenizer of the encoder.

    Unchanged, or for character text rewritten to read characters and saved in the run directory.
    """
    from contrastive_ner.training.characters import character_tokenizer, is_character_tokenizer

    if label_unit == "word" or is_character_tokenizer(tokenizer):
        return encoder_place(config.encoder), tokenizer
    from transformers import AutoModel

    from contrastive_ner.models.checks_ner import check_tensors
    from contrastive_ner.models.encoder_ner import weight_files

    folder = config.run_dir / "encoder"
    if not is_intact(folder):
        place = encoder_place(config.encoder)
        check_tensors(weight_files(place))
        encoder = AutoModel.from_pretrained(place, use_safetensors=True, trust_remote_code=False)
        characters, encoder = character_tokenizer(tokenizer, encoder)
        partial = fresh_folder(config.run_dir / ".encoder-partial")
        encoder.save_pretrained(partial)
        characters.save_pretrained(partial)
        seal(partial)
        move_folder(partial, folder)
    return str(folder), encoder_tokenizer(str(folder))


# ----------------------------------------------------------------------------------------- features
# Features by split, reports by split, fields of the model, what counts mentions on dev.
Built = tuple[dict[str, list[dict]], dict[str, Any], dict[str, Any], "DocumentCounts | None"]


def build_tag_features(
    config: RunConfig,
    data: Data,
    reader: "TextReader",
    lexicon: Lexicon | None,
    lattice: Lattice | None,
) -> Built:
    """Tag features for ce, crf and nerco."""
    from contrastive_ner.training.features import tag_features

    labels = bio_labels(data.types)
    readers = {
        split: with_lexicon(config, reader, lexicon, lattice, held_out=split == "train")
        for split in ("train", "dev")
    }
    built = {s: tag_features(data.records[s], own, labels) for s, own in readers.items()}
    return (
        {split: features for split, (features, _) in built.items()},
        {split: report for split, (_, report) in built.items()},
        {},
        None,
    )


def build_span_features(config: RunConfig, data: Data, reader: "TextReader") -> Built:
    """Span features for binder, over whole documents.

    The maximum width is configured or that of the longest mention in train. Dev is cut into the
    windows of prediction.
    """
    from contrastive_ner.data.documents import join_documents
    from contrastive_ner.models.windows_ner import prepare
    from contrastive_ner.training.binder import DocumentCounts
    from contrastive_ner.training.features import (
        overlapping,
        set_features,
        span_features,
        span_widths,
        twice_labelled,
    )

    joined = {split: join_documents(own) for split, own in data.records.items()}
    records = {split: [document.record for document in own] for split, own in joined.items()}
    widths = span_widths(records["train"], reader)
    log.info(widths.width_table())
    width = config.max_span_width or max(
        1, min(widths.max_width, WIDEST_SPAN, config.max_window_tokens // 2)
    )
    overlap = config.window_overlap or min(max(width, LEAST_OVERLAP), reader.capacity - 1)
    built = {}
    for split, own in (("train", overlap), ("dev", None)):
        limits: dict[str, Any] = {"max_width": width, "overlap": own}
        built[split] = (
            set_features(data, split, reader, **limits)
            if data.sets
            else span_features(records[split], reader, data.types, **limits)
        )
    for number, row in enumerate(built["dev"][0]):
        row["number"] = number
    documents = DocumentCounts(
        joined["dev"],
        prepare(reader, [record.text for record in records["dev"]], min_overlap=width),
        sets=list(data.sets),
        set_of=[
            number
            for number, own in enumerate(data.sets.values())
            for _ in join_documents(own.records["dev"])
        ],
    )
    reports = {split: report for split, (_, report) in built.items()}
    if "test" in records:
        reports["test"] = span_widths(records["test"], reader, width)
    fields = {
        "descriptions": data.descriptions,
        **{name: getattr(config, name) for name in BINDER_FIELDS},
        "max_span_width": width,
        "decoding": ("nested" if overlapping(records["train"]) else "flat")
        if config.decoding == "auto"
        else config.decoding,
        "several_labels": twice_labelled(records["train"])
        if config.several_labels == "auto"
        else config.several_labels == "true",
    }
    return {split: features for split, (features, _) in built.items()}, reports, fields, documents
