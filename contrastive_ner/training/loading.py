"""The data of a run, from one or several data sets: splits, entity types, descriptions."""

from dataclasses import dataclass, field, replace

from contrastive_ner.data.layout import ReadReport
from contrastive_ner.data.readers import read_files
from contrastive_ner.data.records import Record, entity_types
from contrastive_ner.errors import ConfigError, DataError
from contrastive_ner.files import expand
from contrastive_ner.logs import log
from contrastive_ner.training.config import RunConfig, layout_of
from contrastive_ner.training.mixtures import in_set, joint_types


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
