"""Tag schemes of columns (IOB1, BIO, BIOES, BMES): detection, conversion to spans and back."""

from collections import Counter
from collections.abc import Iterable, Sequence

from contrastive_ner.errors import DataError

SCHEMES = ("IOB1", "BIO", "BIOES", "BMES")


def bio_labels(types: Iterable[str]) -> list[str]:
    """The label list of a BIO tagger: ["O", "B-X", "I-X", ...]."""
    return ["O", *(prefix + name for name in types for prefix in ("B-", "I-"))]


# -------------------------------------------------------------------------------------- tag schemes
def split_tag(tag: str) -> tuple[str, str]:
    """Split "B-PER" into ("B", "PER") and "O" into ("O", ""); DataError for anything else."""
    if tag == "O":
        return "O", ""
    prefix, dash, label = tag.partition("-")
    if not dash or not label or prefix not in ("B", "I", "M", "E", "S"):
        raise DataError(
            f"tag {tag!r} is not in a known scheme "
            "(expected O, or B-, I-, M-, E- or S- and an entity type)"
        )
    return prefix, label


def detect_scheme(sequences: Iterable[Sequence[str]]) -> str:
    """Detect the scheme of tag sequences.

    B, I and O tags are IOB1 if mentions mostly start with I- (B- only separates adjacent mentions
    of one type), else BIO.

    Raises:
        DataError: M- and I- tags are mixed, or a tag is not in a known scheme.
    """
    prefixes: set[str] = set()
    starts: Counter[str] = Counter()
    for tags in sequences:
        previous = ("O", "")
        for tag in tags:
            prefix, label = split_tag(tag)
            prefixes.add(prefix)
            if prefix == "B" or (prefix == "I" and previous[1] != label):
                starts[prefix] += 1
            previous = (prefix, label)
    if {"M", "I"} <= prefixes:
        raise DataError(
            "expected tags of one scheme, found M- tags (BMES) and I- tags (BIO, BIOES); "
            "set tag_scheme to the scheme of the data"
        )
    if prefixes & {"M", "E", "S"}:
        return "BMES" if "M" in prefixes else "BIOES"
    return "IOB1" if starts["I"] > starts["B"] else "BIO"


def tags_to_spans(tags: Sequence[str], scheme: str) -> tuple[list[tuple[int, int, str]], list[int]]:
    """Return mentions (start, end, label) over tokens, and the positions of repaired tags.

    An inside tag without a beginning opens a mention. A mention that lacks its closing tag ends at
    its last tag.

    >>> tags_to_spans(["B-PER", "I-PER", "O", "I-ORG"], "BIO")
    ([(0, 2, 'PER'), (3, 4, 'ORG')], [3])
    """
    closing = scheme in ("BIOES", "BMES")
    allowed = {"IOB1": "BIO", "BIO": "BIO", "BIOES": "BIOES", "BMES": "BMESO"}[scheme]
    spans: list[tuple[int, int, str]] = []
    repairs: list[int] = []
    start, label, open_ = 0, "", False

    def close(end: int, proper: bool) -> None:
        spans.append((start, end, label))
        if not proper:
            repairs.append(end - 1)

    for i, tag in enumerate(tags):
        prefix, name = split_tag(tag)
        if prefix not in allowed:
            raise DataError(
                f"tag {tag!r} is not {scheme} (expected {', '.join(sorted(allowed))}); "
                "set tag_scheme to the scheme of the data"
            )
        continues = open_ and prefix in "IME" and name == label
        if open_ and not continues:
            close(i, not closing)
            open_ = False
        if prefix == "O":
            continue
        if not continues:
            start, label, open_ = i, name, True
            if prefix in "IME" and scheme != "IOB1":
                repairs.append(i)
        if prefix in "ES":
            close(i + 1, True)
            open_ = False
    if open_:
        close(len(tags), not closing)
    return spans, sorted(set(repairs))


def spans_to_tags(spans: Iterable[tuple[int, int, str]], length: int, scheme: str) -> list[str]:
    """Tags of non-overlapping mentions over `length` tokens.

    >>> spans_to_tags([(0, 3, "PER"), (3, 4, "PER")], 4, "BMES")
    ['B-PER', 'M-PER', 'E-PER', 'S-PER']
    """
    tags = ["O"] * length
    inside = "M" if scheme == "BMES" else "I"
    for start, end, label in sorted(spans):
        if not 0 <= start < end <= length or any(tag != "O" for tag in tags[start:end]):
            raise DataError(
                f"mention {(start, end, label)} overlaps another "
                f"or lies outside the {length} tokens"
            )
        tags[start:end] = [f"{inside}-{label}"] * (end - start)
        if scheme in ("BIOES", "BMES"):
            tags[end - 1] = f"E-{label}"
            tags[start] = f"{'S' if end - start == 1 else 'B'}-{label}"
        elif (
            scheme == "BIO"
            or (start > 0 and tags[start - 1] == f"I-{label}")
            or _begins(tags, start, label)
        ):
            tags[start] = f"B-{label}"
    return tags


def _begins(tags: Sequence[str], start: int, label: str) -> bool:
    """IOB1: whether the preceding mention, of the same type, is a single B- token."""
    return start > 0 and tags[start - 1] == f"B-{label}"
