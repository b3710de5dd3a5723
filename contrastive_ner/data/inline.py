"""Texts whose mentions are marked in them, one text per line.

The marks are braces, {{PER:Anna}} (Boson), elements, <PER>Anna</PER> or <ENAMEX TYPE="PER">, or
links, [Anna](PER) (Rasa). Braces and elements may be nested.
"""

import html
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from contrastive_ner.data.decoding import read_lines
from contrastive_ner.data.layout import Layout, ReadReport
from contrastive_ner.data.mentions import Raw, to_mention
from contrastive_ner.data.records import Mention, Record
from contrastive_ner.errors import DataError

SAMPLE = 200  # lines that tell the kind of marks
TYPE = r"\{\{\s*(?P<type>[^:：{}\n]{1,40}?)\s*[:：]"
BRACES = re.compile(rf"(?P<open>{TYPE})|(?P<close>\}}\}})")
WITH_BRACES = re.compile(rf"{TYPE}.+?\}}\}}")
VALUE = r"""(?:"[^"]*"|'[^']*'|[^\s"'<>=/]+)"""
ELEMENT = re.compile(
    r"<(?P<end>/?)(?P<name>[A-Za-z_][\w:.-]*)"
    rf"(?P<attributes>(?:\s+[\w:.-]+\s*=\s*{VALUE})*)\s*(?P<closed>/?)>"
)
NO_ELEMENT = re.compile(r"<!--.*?-->|<[?!][^<>]*>")  # declarations and comments
ATTRIBUTE = re.compile(rf"([\w:.-]+)\s*=\s*({VALUE})")
ESCAPED = re.compile(r"&(?:#\d+|#[xX][0-9a-fA-F]+|amp|lt|gt|quot|apos|nbsp);")
LINK = re.compile(
    r"\[(?P<text>[^\[\]]+)\]"
    r"(?:\((?!(?:https?|ftp|mailto):)(?P<type>[^\W\d][\w-]*)(?::[^()]*)?\)|(?P<object>\{[^{}]*\}))"
)
LINKED_TYPE = re.compile(r'"entity"\s*:\s*"([^"]+)"')
ITEM = re.compile(r"\s*[-*] +(.*)")  # of a list in Markdown
TYPE_KEYS = ("type", "label", "category", "class", "entity", "tag", "sem")
UNITS = {"s", "sent", "sentence", "seg", "p", "para", "paragraph", "headline", "title"}  # a text
DOCUMENTS = {"doc", "document", "article"}
FRAMES = {*UNITS, *DOCUMENTS, "text", "body", "xml", "corpus", "root", "data", "set", "abstract"}
WORDS = {"w", "tok", "token", "word"}
HTML = {
    "a", "b", "i", "u", "em", "strong", "span", "div", "br", "sub", "sup", "li", "ul", "ol", "td",
    "tr", "table", "h1", "h2", "h3", "font", "html", "head", "script", "img", "code", "pre",
}  # fmt: skip


class Piece(NamedTuple):
    """A stretch of a line: text, or the begin or the end of a mark of a name."""

    kind: str  # "text", "begin" or "end"
    value: str = ""  # the text, or the name of the mark
    label: str | None = None  # the type, if the mark says one


def marks_of(lines: Iterable[str]) -> str:
    """The kind of marks in lines: "braces", "elements" or "links"; "" if there are none.

    >>> marks_of(["{{PER:Anna}} left"]), marks_of(["<PER>Anna</PER> left", "she"]), marks_of(["a"])
    ('braces', 'elements', '')
    """
    counts = counts_of_marks(lines)
    return max(counts, key=lambda kind: counts[kind]) if counts.total() else ""


def counts_of_marks(lines: Iterable[str]) -> Counter[str]:
    """The number of lines with marks, by their kind; comments with # have none."""
    counts: Counter[str] = Counter()
    read = [line for line in lines if not line.startswith("#")]
    frames = frames_of(read)
    for line in read:
        found = list(ELEMENT.finditer(line))
        closed = {own["name"] for own in found if own["end"]}
        opened = {own["name"] for own in found if not own["end"]}
        counts["braces"] += WITH_BRACES.search(line) is not None
        counts["elements"] += bool((closed & opened) - frames)
        counts["links"] += any(_type_of_link(own) for own in LINK.finditer(line))
    return counts


def read_inline(name: str, layout: Layout, report: ReadReport) -> Iterator[Record]:
    """Yield a record per line, or per sentence where elements enclose sentences.

    Raises:
        DataError: no line has a mark, or a mark is not closed, or closed but not open.
    """
    read = read_lines(name, layout.encoding)
    lines: Sequence[tuple[int, str]] = [(number, line) for number, line in read if line.strip()]
    kind = marks_of(line for _, line in lines)
    if not kind:
        raise DataError(
            f"{name}: expected mentions marked in the text, as {{{{PER:Anna}}}}, <PER>Anna</PER> "
            "or [Anna](PER), found none; set format"
        )
    if kind == "elements":
        yield from _of_elements(name, lines, report)
        return
    split = _pieces_of_braces
    if kind == "links":
        split, lines = _pieces_of_links, _listed(lines, report)
    for number, line in lines:
        try:
            yield _record(f"{Path(name).stem}-{number}", split(line), report)
        except DataError as error:
            raise DataError(f"{name}:{number}: {error}") from error


def _listed(lines: Sequence[tuple[int, str]], report: ReadReport) -> Sequence[tuple[int, str]]:
    """The items of a list in Markdown, without their bullets; all lines where there is none."""
    first = lines[0][1]
    if first.startswith(("version:", "nlu:")):
        raise DataError(
            f"{report.path}: this looks like YAML of Rasa: expected Markdown, or one text per "
            "line; convert it to JSONL with offsets"
        )
    items = [(number, found[1]) for number, line in lines if (found := ITEM.fullmatch(line))]
    marked = [line for _, line in lines if marks_of([line])]
    if not all(map(ITEM.fullmatch, marked)):
        return lines
    if len(items) < len(lines):
        report.left_out["lines that are no items of a list"] += len(lines) - len(items)
    return items


def _record(
    identifier: str, pieces: Iterable[Piece], report: ReadReport, doc: str | None = None
) -> Record:
    """The record of a line without its marks and the white space around text and mentions."""
    parts: list[str] = []
    length = 0
    opened: list[tuple[Piece, int]] = []
    spans: list[tuple[int, int, str]] = []
    for piece in pieces:
        if piece.kind == "text":
            parts.append(piece.value)
            length += len(piece.value)
        elif piece.kind == "begin":
            opened.append((piece, length))
        elif not opened or opened[-1][0].value != piece.value:
            expected = f"the end of {opened[-1][0].value}" if opened else "a mark that begins"
            raise DataError(f"expected {expected} before {piece.value} ends; correct the marks")
        else:
            begun, start = opened.pop()
            if begun.label is not None:
                spans.append((start, length, begun.label))
    if opened:
        raise DataError(f"{opened[-1][0].value} is not closed in its line; correct the marks")
    whole = "".join(parts)
    text = whole.strip()
    before = len(whole) - len(whole.lstrip())
    mentions: dict[Mention, None] = {}
    for start, end, label in spans:
        inner = whole[start:end]
        if not inner.strip():
            report.left_out["marks without text"] += 1
            continue
        start += len(inner) - len(inner.lstrip())
        raw = Raw(start - before, start - before + len(inner.strip()), label)
        mentions[to_mention(text, raw, "half_open")] = None
    return Record(identifier, text, sorted(mentions), doc)


# -- braces and links
def _pieces_of_braces(line: str) -> Iterator[Piece]:
    at = depth = 0
    for found in BRACES.finditer(line):
        if not found["open"] and depth == 0:
            continue  # braces of the text itself
        depth += 1 if found["open"] else -1
        yield Piece("text", line[at : found.start()])
        at = found.end()
        yield Piece("begin", "{{", found["type"]) if found["open"] else Piece("end", "{{")
    yield Piece("text", line[at:])


def _pieces_of_links(line: str) -> Iterator[Piece]:
    at = 0
    for found in LINK.finditer(line):
        if (label := _type_of_link(found)) is None:
            continue
        yield Piece("text", line[at : found.start()])
        at = found.end()
        yield from (Piece("begin", "[", label), Piece("text", found["text"]), Piece("end", "["))
    yield Piece("text", line[at:])


def _type_of_link(found: re.Match[str]) -> str | None:
    if found["type"]:
        return found["type"]
    named = LINKED_TYPE.search(found["object"] or "")
    return named[1] if named else None


# -- elements
def _of_elements(
    name: str, lines: Sequence[tuple[int, str]], report: ReadReport
) -> Iterator[Record]:
    """Records of lines with elements; those that enclose lines or sentences are no mentions."""
    lines = [(number, NO_ELEMENT.sub("", line)) for number, line in lines]
    frames = frames_of([line for _, line in lines])
    every = [found for _, line in lines for found in ELEMENT.finditer(line)]
    typed = {own["name"] for own in every if not own["end"] and _type_of(own) is not None}
    ended = {own["name"] for own in every if own["end"]}
    # What is never closed is part of the text, such as <url>.
    known = ended | {own["name"] for own in every if own["closed"]}
    marks = ended - frames
    shown = [f"{own} (its type)" if own in typed else own for own in sorted(marks)]
    report.note(f"elements read as mentions: {', '.join(shown) or 'none'}")
    if frames:
        report.note(f"elements that are no mentions: {', '.join(sorted(frames))}")
    stem, doc, documents = Path(name).stem, None, 0
    for number, line in lines:
        pieces: list[Piece] = []
        count = 0
        try:
            read = _pieces_of_elements(line, known, frames, typed, report)
            for piece in (*read, Piece("cut")):
                if piece.kind == "document":
                    documents += 1
                    doc = f"{stem}-doc-{documents}"
                elif piece.kind != "cut":
                    pieces.append(piece)
                    continue
                if any(own.value.strip() for own in pieces if own.kind == "text"):
                    count += 1
                    identifier = f"{stem}-{number}" + (f"-{count}" if count > 1 else "")
                    yield _record(identifier, pieces, report, doc)
                elif any(own.kind != "text" for own in pieces):
                    _record("", pieces, report)  # reports marks that are not closed
                pieces = []
        except DataError as error:
            raise DataError(f"{name}:{number}: {error}") from error


def frames_of(lines: Sequence[str]) -> set[str]:
    """Names of elements that enclose other things than mentions: words, sentences, documents.

    Known names are frames where they fill their lines; others where they also do so in most lines,
    around other elements; and all that begin and end in different lines.
    """
    frames: set[str] = set()
    used: Counter[str] = Counter()  # lines with an element
    filled: Counter[str] = Counter()  # lines of which it encloses everything
    around: set[str] = set()  # elements that enclose others
    filled_lines = sum(bool(line.strip()) for line in lines)
    for line in lines:
        balance: Counter[str] = Counter()
        found = list(ELEMENT.finditer(line))
        for own in found:
            name = own["name"]
            if name in WORDS | HTML:
                frames.add(name)
            elif not own["closed"]:
                balance[name] += -1 if own["end"] else 1
        alone = not ELEMENT.sub("", line).strip()
        for name, count in balance.items():
            if count:
                frames |= {name} if alone else set()
                continue
            used[name] += 1
            rest = re.sub(rf"<{re.escape(name)}[\s>].*?</{re.escape(name)}>", "", line)
            filled[name] += not ELEMENT.sub("", rest).strip()
            around |= {name} if _encloses_others(name, found) else set()
    for name, count in used.items():
        fills = 10 * filled[name] >= 9 * count
        mostly = 2 * count > filled_lines and name in around
        if fills and (name.lower() in FRAMES or mostly):
            frames.add(name)
    return frames


def _encloses_others(name: str, found: Sequence[re.Match[str]]) -> bool:
    """Whether an element of a line is open where another one begins."""
    depth = 0
    for own in found:
        if own["name"] == name:
            depth += 0 if own["closed"] else -1 if own["end"] else 1
        elif depth and not own["end"]:
            return True
    return False


def _pieces_of_elements(
    line: str, known: set[str], frames: set[str], typed: set[str], report: ReadReport
) -> Iterator[Piece]:
    at = 0
    for found in ELEMENT.finditer(line):
        name = found["name"]
        if name not in known:
            continue
        yield Piece("text", _unescaped(line[at : found.start()]))
        at = found.end()
        if name in frames or found["closed"]:
            if name.lower() in UNITS:
                yield Piece("cut")
            elif name.lower() in DOCUMENTS and not found["end"]:
                yield Piece("document")
            continue
        label = _type_of(found)
        if not found["end"] and label is None and name in typed:
            report.left_out[f"elements {name} without a type"] += 1
        elif label is None:
            label = name
        yield Piece("end", name) if found["end"] else Piece("begin", name, label)
    yield Piece("text", _unescaped(line[at:]))


def _type_of(found: re.Match[str]) -> str | None:
    """The type in an element's attributes."""
    pairs = ATTRIBUTE.findall(found["attributes"])
    given = {key.lower(): _unescaped(value.strip("\"'")) for key, value in pairs}
    return next((given[key].strip() for key in TYPE_KEYS if given.get(key, "").strip()), None)


def _unescaped(text: str) -> str:
    return ESCAPED.sub(lambda found: html.unescape(found[0]), text)
