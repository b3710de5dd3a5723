"""Stand-off annotation: brat (.txt next to .ann) and PubTator."""

import re
from collections.abc import Iterator
from pathlib import Path

from contrastive_ner.data.decoding import read_lines, read_text
from contrastive_ner.data.layout import Layout, ReadReport
from contrastive_ner.data.mentions import Raw, to_mention
from contrastive_ner.data.records import Mention, Record
from contrastive_ner.errors import DataError

PUBTATOR_TEXT = re.compile(r"([^|\t]+)\|([ta])\|(.*)")
BRAT_KINDS = {"R": "relations", "E": "events", "A": "attributes", "M": "attributes", "N": "links"}


# -- brat
def brat_files(name: str) -> list[Path]:
    """The .ann files that a name stands for: of a folder, or of one document."""
    path = Path(name)
    if path.is_dir():
        return sorted(path.rglob("*.ann"))
    return [path.with_suffix(".ann")]


def read_brat(name: str, layout: Layout, report: ReadReport) -> Iterator[Record]:
    """Yield a record per document; discontinuous mentions are left out and counted.

    Raises:
        DataError: a text is missing, or an annotation is malformed or does not match its text.
    """
    for file in brat_files(name):
        source = file.with_suffix(".txt")
        for part in (file, source):
            if not part.is_file():
                raise DataError(f"{part}: no such file; brat has a .txt next to each .ann")
        text = read_text(str(source), layout.encoding)
        mentions: dict[Mention, None] = {}
        for number, line in read_lines(str(file), layout.encoding):
            if not line.strip():
                continue
            if line[0] != "T":
                kind = BRAT_KINDS.get(line[0], "notes")
                report.left_out[kind] += 1
                continue
            try:
                mention = brat_mention(text, line, layout, report)
            except DataError as error:
                raise DataError(f"{file}:{number}: {error}") from error
            if mention is not None:
                mentions[mention] = None
        yield Record(file.stem, text, sorted(mentions))


def brat_mention(text: str, line: str, layout: Layout, report: ReadReport) -> Mention | None:
    """The mention of a line such as "T1<tab>PER 0 4<tab>Anna"; None if it is discontinuous."""
    cells = line.split("\t")
    found = re.fullmatch(r"(.+?) (\d+) (\d+)((?:;\d+ \d+)*)", cells[1]) if len(cells) > 1 else None
    if found is None:
        raise DataError(f"expected T1<tab>TYPE START END<tab>TEXT, found {line[:60]!r}")
    start, end = int(found[2]), int(found[3])
    further = [int(number) for number in re.findall(r"\d+", found[4])]
    for next_start, next_end in zip(further[::2], further[1::2], strict=True):
        if text[end:next_start].strip():
            report.left_out["discontinuous mentions"] += 1
            return None
        end = next_end  # brat splits a mention at line ends
    surface = cells[2] if len(cells) > 2 else None
    return to_mention(text, Raw(start, end, found[1], surface), layout.offsets)


# -- PubTator
def read_pubtator(name: str, layout: Layout, report: ReadReport) -> Iterator[Record]:
    """Yield a record per abstract: title, a space, text; relations are left out and counted.

    Raises:
        DataError: a line is malformed, or a mention does not match the text.
    """
    texts: dict[str, str] = {}
    mentions: list[Mention] = []
    identifier = ""

    def finished() -> Iterator[Record]:
        if texts:
            text = " ".join(texts[part] for part in "ta" if part in texts)
            yield Record(identifier, text, sorted(set(mentions)))
        texts.clear()
        mentions.clear()

    for number, line in read_lines(name, layout.encoding):
        if not line.strip():
            yield from finished()
            continue
        if (found := PUBTATOR_TEXT.fullmatch(line)) and not (mentions and found[2] == "a"):
            if found[1] != identifier or found[2] in texts:
                yield from finished()
            identifier, texts[found[2]] = found[1], found[3]
            continue
        cells = line.split("\t")
        if len(cells) >= 5 and cells[1].isdigit() and cells[2].isdigit():
            text = " ".join(texts[part] for part in "ta" if part in texts)
            raw = Raw(int(cells[1]), int(cells[2]), cells[4], cells[3])
            try:
                mentions.append(to_mention(text, raw, layout.offsets))
            except DataError as error:
                raise DataError(f"{name}:{number}: {error}") from error
        elif len(cells) in (3, 4):
            report.left_out["relations"] += 1
        else:
            raise DataError(
                f"{name}:{number}: expected PubTator's ID|t|TITLE, ID|a|TEXT or "
                f"ID<tab>START<tab>END<tab>TEXT<tab>TYPE, found {line[:60]!r}"
            )
    yield from finished()
