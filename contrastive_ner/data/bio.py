"""Tags of a `datasets.Dataset` in any scheme, as the BIO tags that a tagger learns."""

from typing import Any

from contrastive_ner.data.layout import Layout
from contrastive_ner.data.row_parts import ONLY_TAG_KEYS, TAG_KEYS
from contrastive_ner.data.schemes import bio_labels, read_tags, spans_to_tags
from contrastive_ner.data.sentences import spans_of_tags
from contrastive_ner.data.tables import class_names
from contrastive_ner.errors import DataError

Spans = list[tuple[int, int, str]]


def bio_labels_of(dataset: Any, tags_column: str = "", tag_scheme: str = "auto") -> list[str]:
    """The labels of a BIO tagger for a data set whose tags are IO, IOB1, BIO, BIOES, BILOU, ...

    Args:
        dataset: a `datasets.Dataset`; its tags are strings or class numbers with names.
        tags_column: the column of the tags; empty: the usual names (`ner_tags`, `tags`, ...).
        tag_scheme: as in `Layout`.

    Raises:
        DataError: the column is missing, or its tags mix schemes or belong to none.
    """
    column = _column(dataset, tags_column)
    return _labels(dataset, column, _spans(dataset, column, tag_scheme))


def with_bio_tags(dataset: Any, tags_column: str = "", tag_scheme: str = "auto") -> Any:
    """The data set with its tags in BIO, as classes whose names are `bio_labels_of`.

    Adjacent mentions of one type are one in IO, which cannot tell them apart.

    Raises:
        DataError: as `bio_labels_of`.
    """
    import datasets

    column = _column(dataset, tags_column)
    spans = _spans(dataset, column, tag_scheme)
    labels = _labels(dataset, column, spans)
    number = {label: i for i, label in enumerate(labels)}
    rows = [
        [number[tag] for tag in spans_to_tags(own, len(tags), "BIO")]
        for own, tags in zip(spans, dataset[column], strict=True)
    ]
    kind = datasets.List(datasets.ClassLabel(names=labels))
    made = dataset.remove_columns(column).add_column(column, rows, feature=kind)
    return made.select_columns(dataset.column_names)


def _labels(dataset: Any, column: str, spans: list[Spans]) -> list[str]:
    """BIO labels of the types that occur or are declared: one may be missing in this split."""
    declared = class_names(dataset.features[column]) or []
    found = {label for own in spans for _, _, label in own}
    found |= {label for _, label in read_tags(dict.fromkeys(declared, 1))[0].values() if label}
    return bio_labels(sorted(found))


def _column(dataset: Any, tags_column: str) -> str:
    """The column of the tags."""
    there = list(getattr(dataset, "column_names", None) or ())
    wanted = [tags_column] if tags_column else [*ONLY_TAG_KEYS, *TAG_KEYS]
    column = next((name for name in wanted if name in there), None)
    if column is None:
        asked = f"a column {tags_column}" if tags_column else "a column of tags such as ner_tags"
        raise DataError(f"expected {asked}, found {', '.join(there) or 'no columns'}")
    return column


def _spans(dataset: Any, column: str, tag_scheme: str) -> list[Spans]:
    """Mentions over the tokens of each row."""
    names = class_names(dataset.features[column])
    layers = []
    for number, tags in enumerate(dataset[column]):
        if not isinstance(tags, list):
            raise DataError(f"row {number}: expected a list of tags in {column}, found {tags!r}")
        if names is not None and not all(isinstance(t, int) and 0 <= t < len(names) for t in tags):
            raise DataError(
                f"row {number}: expected classes from 0 to {len(names) - 1} in {column}; drop "
                "rows without labels (-1)"
            )
        layers.append([names[tag] for tag in tags] if names else list(map(str, tags)))
    return spans_of_tags(column, layers, Layout(tag_scheme=tag_scheme))
