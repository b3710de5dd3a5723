"""Tag schemes of columns: spellings, detection, conversion to spans and back.

A tag is split into a prefix and an entity type. A scheme gives the prefixes of the first, inner and
last token of a mention, and of a mention of one token.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain

from contrastive_ner.errors import DataError

# first, inner, last, only token
PREFIXES = {
    "BIO": ("B", "I", "I", "B"),
    "BIOES": ("B", "I", "E", "S"),
    "BMES": ("B", "M", "E", "S"),
    "BILOU": ("B", "I", "L", "U"),
    "BMEWO": ("B", "M", "E", "W"),
}
SCHEMES = ("IOB1", *PREFIXES)
READ_SCHEMES = ("IO", *SCHEMES)  # IO cannot tell adjacent mentions of one type
ROLES = {"B": 0, "I": 1, "M": 1, "E": 2, "L": 2, "S": 3, "U": 3, "W": 3}  # as in `PREFIXES`
OUTSIDE = ("O", "")
Pair = tuple[str, str]  # prefix and type


def bio_labels(types: Iterable[str]) -> list[str]:
    """The label list of a BIO tagger: ["O", "B-X", "I-X", ...]."""
    return ["O", *(prefix + name for name in types for prefix in ("B-", "I-"))]


def allowed_prefixes(scheme: str) -> set[str]:
    """All prefixes of a scheme, with O."""
    return {"O", "I"} if scheme == "IO" else {"O", *PREFIXES.get(scheme, "BI")}


# ---------------------------------------------------------------------------------------- spellings
def split_tag(tag: str) -> Pair:
    """Split "B-PER" into ("B", "PER") and "O" into ("O", ""); DataError for anything else."""
    pair = _prefixed(tag, "-")
    if pair is None:
        raise DataError(
            f"tag {tag!r} is not in a known scheme (expected O, or B-, I-, M-, E-, S-, L-, U- or "
            "W- and an entity type)"
        )
    return pair


def _prefixed(tag: str, separator: str) -> Pair | None:
    if tag == "O":
        return OUTSIDE
    known = len(tag) > 2 and tag[1] == separator and tag[0] in ROLES
    return (tag[0], tag[2:]) if known else None


def _suffixed(tag: str, separator: str) -> Pair | None:
    if tag == "O":
        return OUTSIDE
    known = len(tag) > 2 and tag[-2] == separator and tag[-1] in ROLES
    return (tag[-1], tag[:-2]) if known else None


def _lower(tag: str, separator: str) -> Pair | None:
    if tag in ("O", "o"):
        return OUTSIDE
    known = len(tag) > 2 and tag[1] == separator and tag[0].upper() in ROLES and tag[0].islower()
    return (tag[0].upper(), tag[2:]) if known else None


# Each spelling is read if all tags of a file have it; the first comes first.
SPELLINGS = {
    "B-PER": partial(_prefixed, separator="-"),
    "B_PER": partial(_prefixed, separator="_"),
    "b-PER": partial(_lower, separator="-"),
    "b_PER": partial(_lower, separator="_"),
    "PER-B": partial(_suffixed, separator="-"),
    "PER_B": partial(_suffixed, separator="_"),
}
UNNAMED = "ENT"  # type of the tags B, I and O, of data with one type
MOST_TYPES = 64  # of tags without prefixes; a column with more values holds something else
BARE_TYPE = re.compile(r"[^\W\d_](?:[\w.+&/ -]*\w)?")
BROKEN_TAG = re.compile(r"[BIESMLUWbiesmluw](?:[^\w]|_).*")


def read_tags(counts: Mapping[str, int]) -> tuple[dict[str, Pair], str]:
    """Split the distinct tags of a file, given with their numbers; also name their spelling.

    "0" and "o" are read as O. A tag that the spelling of most others does not allow is left out
    of the result. Tags without any prefix are of the scheme IO: each gets the prefix I. Tags that
    are prefixes alone get the type `UNNAMED`.

    >>> read_tags({"PER-B": 3, "0": 9})
    ({'PER-B': ('B', 'PER'), '0': ('O', '')}, 'PER-B')
    >>> read_tags({"B": 3, "I": 2, "O": 9})
    ({'B': ('B', 'ENT'), 'I': ('I', 'ENT'), 'O': ('O', '')}, 'B')
    """
    zero = {tag: OUTSIDE for tag in ("0", "o") if tag in counts}
    if "B" in counts and counts.keys() <= {*ROLES, "O", *zero}:
        return {tag: (tag, UNNAMED) if tag in ROLES else OUTSIDE for tag in counts}, "B"
    best: dict[str, Pair] = {}
    name, most = "B-PER", -1
    for spelling, split in SPELLINGS.items():
        found = {tag: pair for tag in counts if (pair := split(tag)) is not None}
        read = sum(counts[tag] for tag, pair in found.items() if pair != OUTSIDE)
        if read > most:
            best, name, most = found | zero, spelling, read
    typed = sum(count for tag, count in counts.items() if tag not in ("O", "o", "0"))
    if 2 * most < typed and (bare := bare_tags(counts)) is not None:
        return bare, "PER"
    return best, name


def bare_tags(tags: Collection[str]) -> dict[str, Pair] | None:
    """Split tags without prefixes (the scheme IO), or None if these are no such tags."""
    types = {tag for tag in tags if tag not in ("O", "o", "0")}
    if len(types) == len(tags) or not 0 < len(types) <= MOST_TYPES:
        return None
    if not all(BARE_TYPE.fullmatch(tag) and not BROKEN_TAG.fullmatch(tag) for tag in types):
        return None
    return {tag: ("I", tag) if tag in types else OUTSIDE for tag in tags}


# ---------------------------------------------------------------------------------------- detection
def detect_scheme(sequences: Iterable[Sequence[str]]) -> str:
    """Detect the scheme of tag sequences: the one that needs the fewest repairs.

    B, I and O tags are IOB1 if mentions mostly start with I- (B- only separates adjacent mentions
    of one type), else BIO.

    Raises:
        DataError: M- and I- tags are mixed, or a tag is not in a known scheme.
    """
    pairs: dict[str, Pair] = {}
    counts: Counter[tuple[Pair, Pair]] = Counter()
    for tags in sequences:
        for tag in tags:
            if tag not in pairs:
                pairs[tag] = split_tag(tag)
        own = [pairs[tag] for tag in tags]
        counts.update(zip(chain([OUTSIDE], own), chain(own, [OUTSIDE]), strict=True))
    return scheme_of(counts)


def scheme_of(counts: Mapping[tuple[Pair, Pair], int]) -> str:
    """The scheme of adjacent tags, given with their numbers; see `detect_scheme`."""
    prefixes = {prefix for pair in counts for prefix, _ in pair} - {"O"}
    if {"M", "I"} <= prefixes:
        raise DataError(
            "expected tags of one scheme, found M- tags (BMES) and I- tags (BIO, BIOES); "
            "set tag_scheme to the scheme of the data"
        )
    candidates = [
        scheme
        for scheme, own in PREFIXES.items()
        if scheme == "BIO" or (prefixes & set(own)) - set("BI")
    ]
    costs = {scheme: _repairs(counts, scheme) for scheme in candidates}
    best = min(candidates, key=lambda scheme: (costs[scheme], -len(prefixes & {*PREFIXES[scheme]})))
    if best != "BIO" or prefixes - {"B", "I"}:
        return best
    starts: Counter[str] = Counter()
    for ((_, before), (prefix, label)), count in counts.items():
        if prefix == "B" or (prefix == "I" and before != label):
            starts[prefix] += count
    return "IOB1" if starts["I"] > starts["B"] else "BIO"


def _repairs(counts: Mapping[tuple[Pair, Pair], int], scheme: str) -> int:
    """How many tags of adjacent tags would have to be repaired to be in a scheme."""
    own, total = PREFIXES[scheme], 0
    for (before, here), count in counts.items():
        (before_prefix, before_label), (prefix, label) = before, here
        is_open = before_prefix != "O" and own[ROLES[before_prefix]] in own[:2]
        wanted = prefix if prefix == "O" else own[ROLES[prefix]]
        inner = wanted in own[1:3] and wanted != own[0]
        continues = is_open and inner and before_label == label
        wrong = wanted != prefix or (inner and not continues)
        unclosed = is_open and not continues and own[1] != own[2]
        total += count * (wrong + unclosed)
    return total


# ------------------------------------------------------------------------------------------- spans
def tags_to_spans(tags: Sequence[str], scheme: str) -> tuple[list[tuple[int, int, str]], list[int]]:
    """Return mentions (start, end, label) over tokens, and the positions of repaired tags.

    An inside tag without a beginning opens a mention. A mention that lacks its closing tag ends at
    its last tag.

    >>> tags_to_spans(["B-PER", "I-PER", "O", "I-ORG"], "BIO")
    ([(0, 2, 'PER'), (3, 4, 'ORG')], [3])
    """
    return pairs_to_spans([split_tag(tag) for tag in tags], scheme)


def pairs_to_spans(
    pairs: Sequence[Pair], scheme: str
) -> tuple[list[tuple[int, int, str]], list[int]]:
    """As `tags_to_spans`, for split tags."""
    lenient = scheme in ("IOB1", "IO")
    own = PREFIXES.get(scheme, PREFIXES["BIO"])
    closing = own[1] != own[2]
    spans: list[tuple[int, int, str]] = []
    repairs: list[int] = []
    start, label, is_open = 0, "", False
    for i, (prefix, name) in enumerate(pairs):
        if prefix == "O":
            if is_open:
                spans.append((start, i, label))
                repairs += [i - 1] if closing else []
                is_open = False
            continue
        role = ROLES[prefix]
        if prefix not in own:
            expected = ", ".join(sorted(allowed_prefixes(scheme)))
            raise DataError(
                f"tag {prefix}-{name} is not {scheme} (expected {expected}); "
                "set tag_scheme to the scheme of the data"
            )
        continues = is_open and role in (1, 2) and name == label
        if is_open and not continues:
            spans.append((start, i, label))
            repairs += [i - 1] if closing else []
        if not continues:
            start, label, is_open = i, name, True
            if role in (1, 2) and not lenient:
                repairs.append(i)
        if role in (2, 3):
            spans.append((start, i + 1, label))
            is_open = False
    if is_open:
        spans.append((start, len(pairs), label))
        repairs += [len(pairs) - 1] if closing else []
    return spans, sorted(set(repairs))


def in_scheme(pair: Pair, scheme: str) -> Pair:
    """A split tag with the prefix that a scheme has for its role.

    >>> in_scheme(("S", "PER"), "BIO")
    ('B', 'PER')
    """
    prefix, label = pair
    return pair if prefix == "O" else (PREFIXES.get(scheme, PREFIXES["BIO"])[ROLES[prefix]], label)


def spans_to_tags(spans: Iterable[tuple[int, int, str]], length: int, scheme: str) -> list[str]:
    """Tags of non-overlapping mentions over `length` tokens.

    >>> spans_to_tags([(0, 3, "PER"), (3, 4, "PER")], 4, "BMES")
    ['B-PER', 'M-PER', 'E-PER', 'S-PER']
    """
    tags = ["O"] * length
    bare = ("I", "I", "I", "I")  # without B-, which IOB1 adds where it is needed
    first, inner, last, only = PREFIXES.get(scheme, bare)
    for start, end, label in sorted(spans):
        if not 0 <= start < end <= length or any(tag != "O" for tag in tags[start:end]):
            raise DataError(
                f"mention {(start, end, label)} overlaps another "
                f"or lies outside the {length} tokens"
            )
        tags[start:end] = [f"{inner}-{label}"] * (end - start)
        tags[end - 1] = f"{last}-{label}"
        tags[start] = f"{only if end - start == 1 else first}-{label}"
        if scheme == "IOB1" and start > 0 and tags[start - 1][2:] == label:
            tags[start] = f"B-{label}"
    return [tag[2:] or "O" for tag in tags] if scheme == "IO" else tags
