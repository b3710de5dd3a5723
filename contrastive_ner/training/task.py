"""The task of a run, from its data and configuration: features and what the phases need."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from contrastive_ner.data.schemes import bio_labels
from contrastive_ner.errors import DataError
from contrastive_ner.logs import log
from contrastive_ner.models.lexicon_ner import Lexicon
from contrastive_ner.training.config import RunConfig
from contrastive_ner.training.encoder import encoder_tokenizer, load_tokenizer, prepare_encoder
from contrastive_ner.training.lattice import Lattice, lattice_of
from contrastive_ner.training.lexicon import load_lexicon, report_coverage, with_lexicon
from contrastive_ner.training.loading import Data
from contrastive_ner.training.start import source_of

if TYPE_CHECKING:
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
