"""The shape of columns: what the first rows tell of delimiter, columns and header."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice, pairwise

from contrastive_ner.data.decoding import read_lines
from contrastive_ner.data.layers import separator_of
from contrastive_ner.data.layout import Layout, ReadReport
from contrastive_ner.data.schemes import bare_tags, read_tags
from contrastive_ner.data.sentences import spans_of_tags
from contrastive_ner.errors import DataError

CSV = (",", ";")
SAMPLE = 2_000  # rows that tell the shape
CHUNKS = {
    "NP", "VP", "PP", "ADJP", "ADVP", "SBAR", "PRT", "CONJP", "INTJ", "LST", "UCP", "NC", "VC",
    "PC", "AC", "ADVC",
}  # fmt: skip
TOKEN_ALONE = {"token", "tokens", "word", "words", "form", "char", "character"}
TOKEN_NAMES = {*TOKEN_ALONE, "text"}
SENTENCE_NAME = re.compile(r"sent(?:ence)?(?:[ _#-].*)?")
DOCUMENT_NAMES = {"doc", "doc_id", "docid", "document", "document_id"}
TAG_NAMES = {
    "tag", "tags", "ner", "ner_tag", "ner_tags", "label", "labels", "ne", "entity", "bio", "iob",
    "ne-coarse-lit",
}  # fmt: skip
NUMBER = re.compile(r"\d+")
IDENTIFIER = re.compile(r"(\D*)\d+")
PLACE = re.compile(r"\d+-\d+")
NO_TOKEN = re.compile(r"\d+[-.]\d+")  # CoNLL-U: a multiword token's range, an empty node
INDEXED = re.compile(r".\d+")
LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z-]+)?:(?=.)")  # WikiANN's "en:Rome"


@dataclass(frozen=True)
class Shape:
    """How the rows of a file are laid out."""

    delimiter: str  # "\t", " ", "," or ";" (CSV), or "" for any run of spaces and tabs
    width: int  # cells of a row
    token: int
    tags: tuple[int, ...]
    numbers: int | None = None  # the column that numbers the tokens
    sentence: tuple[int, ...] = ()  # columns that change, or are filled, where a sentence begins
    header: int = 0  # the line of the column names; 0: none
    indexed: bool = False
    prefix: str = ""  # before every token
    ends: int | None = None  # the column that says where sentences end
    one_block: bool = False  # no blank line among the first rows

    def cells(self, line: str) -> list[str]:
        """The cells of a row."""
        return split_row(line, self.delimiter)


def split_row(line: str, delimiter: str) -> list[str]:
    """The cells of a row; white space at the end is dropped."""
    if delimiter in CSV:
        rows = csv.reader([line.rstrip("\r")], delimiter=delimiter, skipinitialspace=True)
        return next(rows, [])
    if delimiter == "\t":
        cells = line.split("\t")
        if cells[-1] == "" or cells[-1][-1] in " \r":
            cells = [*line.rstrip(" \t\r").split("\t")]
        return cells
    line = line.strip(" ").rstrip(" \t\r") if delimiter else line.strip(" \t\r")
    if delimiter == "" and "\t" in line:
        line = line.replace("\t", " ")
    return [cell for cell in line.split(" ") if cell] if "  " in line else line.split(" ")


def is_blank(line: str) -> bool:
    """Whether a line ends a sentence; U+3000 and NBSP can be tokens."""
    return not line.strip(" \t\r")


def is_document_start(line: str) -> bool:
    """Whether a line is a -DOCSTART- of any form, perhaps after a number."""
    return "-DOCSTART-" in line[:24] and line.lstrip("0123456789 \t").startswith("-DOCSTART-")


def find_shape(name: str, layout: Layout, report: ReadReport) -> Shape | None:
    """The shape of a file by its first rows; None if it has no row.

    Raises:
        DataError: the rows do not look like columns; the message names what they look like.
    """
    lines = read_lines(name, layout.encoding)
    filled = ((n, line) for n, line in lines if not is_blank(line) and not is_document_start(line))
    sample = list(islice(filled, SAMPLE))
    if not sample:
        return None
    rows = [(number, line) for number, line in sample if not line.startswith("#")] or sample
    delimiter = _delimiter(rows, layout)
    cells = [split_row(line, delimiter) for _, line in rows]
    filled_cells = [[cell for cell in own if cell] for own in cells]
    if len({*map(len, cells)}) > 1 == len({*map(len, filled_cells)}):
        cells = filled_cells  # runs of tabs
    width = Counter(map(len, cells)).most_common(1)[0][0]
    number, line = rows[0]
    if (
        width == 1
        or _is_folded(cells, layout)
        or (max(layout.token_column, *layout.tag_columns, 0) >= width)
    ):
        raise _no_columns(name, number, line, width, delimiter, layout)
    fitting = [own for own in cells if len(own) == width]
    headed = not any(is_tag_like([cell]) for cell in fitting[0])
    body = fitting[headed:] or fitting
    guessed = guess_columns(body, layout) or guess_columns(fitting, layout)
    if guessed is None:
        raise _no_columns(name, number, line, width, delimiter, layout)
    one_block = all(b == a + 1 for (a, _), (b, _) in pairwise(rows))
    shape = replace(guessed, delimiter=delimiter, width=width, one_block=one_block)
    if len(cells[0]) == width and len(rows) > 1 and _is_header(cells[0], fitting[1:], shape):
        shape = _named_columns(replace(shape, header=number), cells[0], body, layout)
        report.note(f"line {number} names the columns and is left out")
        fitting = fitting[1:]
    if len(shape.tags) > 1 and not layout.tag_columns:
        _check_layers(name, number, shape, fitting)
    return _described(_token_form(shape, fitting, layout), layout, report)


def _check_layers(name: str, number: int, shape: Shape, rows: Sequence[Sequence[str]]) -> None:
    """DataError if two tag columns share many mentions, such as gold and predicted ones.

    Nested mentions are seldom alike in place and type; a single one may have been written twice.
    """
    try:
        layers = spans_of_tags(name, [[row[c] for row in rows] for c in shape.tags], Layout())
    except DataError:
        return  # reading names the tag that is wrong
    for (first, a), (second, b) in pairwise(zip(shape.tags, map(set, layers), strict=True)):
        same = len(a & b)
        if same > 1 and 5 * same >= min(len(a), len(b)):
            raise DataError(
                f"{name}:{number}: columns {first} and {second} hold many of the same mentions, "
                f"such as gold and predicted ones: set tag_columns={first} (or {second})"
            )


def _is_folded(rows: Sequence[Sequence[str]], layout: Layout) -> bool:
    """Whether cells hold the tags of whole sentences, or all cells are tags."""
    parts = [cell.split() for row in rows for cell in row]
    if any(len(own) > 1 and all(is_tag_like([part]) for part in own) for own in parts):
        return True
    if layout.tag_columns or all(list(row) == ["O", "O"] for row in rows):  # the letter O
        return False
    return all(is_tag_like([cell]) for row in rows for cell in row)


def _delimiter(rows: Sequence[tuple[int, str]], layout: Layout) -> str:
    if layout.delimiter != "auto":
        return {"tab": "\t", "space": " ", "any": "", "comma": ",", "semicolon": ";"}[
            layout.delimiter
        ]
    if 2 * sum("\t" in line for _, line in rows) > len(rows):
        return "\t"
    lines = [line for _, line in rows]
    return next((sign for sign in CSV if _are_separated_by(sign, lines)), " ")


def _are_separated_by(delimiter: str, lines: Sequence[str]) -> bool:
    """Whether nearly all lines have as many cells of CSV, and a column holds tags."""
    if 10 * sum(delimiter in line for line in lines) < 9 * len(lines):
        return False
    cells = [split_row(line, delimiter) for line in lines]
    width = Counter(map(len, cells)).most_common(1)[0][0]
    rows = [row for row in cells if len(row) == width]
    ends = [cell.rpartition(" ")[2] for row in rows for cell in row if " " in cell]
    tagged = sum(is_tag_column([end]) and end != "O" for end in ends)  # columns between spaces
    if width == 1 or 10 * len(rows) < 9 * len(cells) or 10 * tagged > len(rows):
        return False
    lowered = {cell.lower() for cell in rows[0]}
    if lowered & TOKEN_ALONE and lowered & TAG_NAMES:
        return True
    return has_typed_tags(rows[1:] or rows) or has_typed_tags(rows)


def guess_columns(rows: Sequence[Sequence[str]], layout: Layout) -> Shape | None:
    """Which columns hold numbers, tokens and tags; None where no column holds tags."""
    columns = list(zip(*rows, strict=True))
    width = len(columns)
    token = layout.token_column
    numbers: int | None = None
    sentence: tuple[int, ...] = ()
    # Columns before the tokens; tags are none.
    while layout.token_column == 0 and width > token + 2 and not is_tag_column(columns[token + 1]):
        cells = columns[token]
        if _tells_sentences(cells):
            sentence = (*sentence, token)
        elif numbers is None and _counts(cells):
            numbers = token
        elif token > 0 or not (_repeats(cells) or _are_places(cells)):
            break
        token += 1
    if layout.tag_columns:
        return Shape("", width, token, layout.tag_columns, numbers, sentence)
    tagged = [c for c in range(width) if c != token and is_tag_column(columns[c])]
    named = [c for c in tagged if not _is_chunks(columns[c])] or tagged
    if not named and token == 0 and width == 2 and is_tag_column(columns[0]):
        return Shape("", width, 1, (0,))  # tags come first
    if not named:
        bare = bare_tags(set(columns[-1]))
        full = width > token + 1 and (bare is not None or is_tag_like(columns[-1]))
        return Shape("", width, token, (width - 1,), numbers, sentence) if full else None
    run = named[-1:]
    while len(run) < len(named) and named[-len(run) - 1] == run[0] - 1:
        run.insert(0, named[-len(run) - 1])
    return Shape("", width, token, tuple(run), numbers, sentence)


def is_tag_column(cells: Sequence[str]) -> bool:
    """Whether nearly all cells are tags with prefixes, or O."""
    counts = tag_counts(cells)
    cells = list(counts.elements())
    pairs, spelling = read_tags(counts)
    if spelling == "PER":
        return False
    read = sum(counts[tag] for tag in pairs)
    named = sum(1 for prefix, _ in pairs.values() if prefix != "O")
    return 10 * read >= 9 * len(cells) and (named > 0 or "O" in counts)


def is_tag_like(cells: Sequence[str]) -> bool:
    """Whether at least half of the cells are tags or O: rows with mistakes."""
    counts = tag_counts(cells)
    pairs, _ = read_tags(counts)
    return 2 * sum(counts[tag] for tag in pairs) >= counts.total()


def tag_counts(cells: Iterable[str]) -> Counter[str]:
    """The tags of cells, of which each may hold several, with their numbers."""
    counts = Counter(cells)
    separator = separator_of(counts)
    if not separator:
        return counts
    return Counter(part for cell in counts.elements() for part in cell.split(separator))


def has_typed_tags(rows: Sequence[Sequence[str]]) -> bool:
    """Whether a column holds tags with prefixes and types, not just O, 0 or single letters."""
    for column in zip(*rows, strict=True):
        if is_tag_column(column):
            pairs, spelling = read_tags(tag_counts(column))
            if spelling != "B" and any(prefix != "O" for prefix, _ in pairs.values()):
                return True
    return False


def _is_chunks(cells: Sequence[str]) -> bool:
    """Whether a column of tags holds chunks, such as CoNLL-2003's third."""
    labels = {label for _, label in read_tags(Counter(cells))[0].values() if label}
    return bool(labels & {"NP", "VP", "NC", "VC"}) and labels <= CHUNKS


def _counts(cells: Sequence[str]) -> bool:
    """Whether cells are 0 1 2 ... or 1 2 3 ..., from the start in each sentence, or all numbers."""
    found = [cell for cell in cells if not NO_TOKEN.fullmatch(cell)]
    if not found or not all(map(NUMBER.fullmatch, found)):
        return False
    numbers = [int(cell) for cell in found]
    counted = all(b == a + 1 or b == numbers[0] for a, b in pairwise(numbers))
    return (counted and numbers[0] in (0, 1)) or len(numbers) > 3


def _are_places(cells: Sequence[str]) -> bool:
    """Whether all cells are numbers of sentence and token, such as WebAnno's 1-1, 1-2."""
    return all(PLACE.fullmatch(cell) for cell in cells)


def _repeats(cells: Sequence[str]) -> bool:
    """Whether most cells are as the one before, such as the name of a document."""
    return len(cells) > 3 and 2 * sum(a == b for a, b in pairwise(cells)) > len(cells)


def _tells_sentences(cells: Sequence[str]) -> bool:
    """Whether cells are numbered identifiers of sentences, perhaps in their first rows alone.

    At least half are as the one before, and none returns: other columns, such as the number of a
    word whose characters are the tokens, begin again.
    """
    filled = [cell for cell in cells if cell]
    found = [IDENTIFIER.fullmatch(cell) for cell in filled]
    if len(cells) < 3 or not all(found) or len({match[1] for match in found if match}) > 1:
        return False
    runs = [cell for cell, _ in groupby(filled)]
    same = sum(a == b or not b for a, b in pairwise(cells))
    return 2 * same >= len(cells) - 1 and len(runs) == len({*runs}) > 1


def _is_header(first: Sequence[str], rows: Sequence[Sequence[str]], shape: Shape) -> bool:
    """Whether the first row names the columns."""
    lowered = [cell.lower() for cell in first]
    last = {lowered[c] for c in shape.tags}
    if lowered[shape.token] in TOKEN_NAMES and last & TAG_NAMES:
        return True
    tags = {row[c] for row in rows for c in shape.tags}
    pairs, spelling = read_tags(Counter([*tags, *tags]))
    known = spelling != "PER" and tags <= pairs.keys() and len(rows) > 1
    return known and all(read_tags({first[c]: 1})[0].get(first[c]) is None for c in shape.tags)


def _named_columns(
    shape: Shape, names: Sequence[str], rows: Sequence[Sequence[str]], layout: Layout
) -> Shape:
    """The shape with the tag column that the header names, and the column that ends sentences."""
    lowered = [name.lower() for name in names]
    ends = lowered.index("misc") if "misc" in lowered else None  # HIPE
    token = next((c for c, name in enumerate(lowered) if name in TOKEN_ALONE), shape.token)
    if layout.token_column == 0 and token not in shape.tags:
        apart = tuple(
            c
            for c, name in enumerate(lowered)
            if SENTENCE_NAME.fullmatch(name) or name in DOCUMENT_NAMES
        )
        sentence = tuple(c for c in apart if c != token) or tuple(
            c for c in shape.sentence if c != token
        )
        numbers = shape.numbers if shape.numbers not in (*sentence, token) else None
        shape = replace(shape, token=token, sentence=sentence, numbers=numbers)
    known = [c for c in range(shape.width) if lowered[c] in TAG_NAMES and c != shape.token]
    tagged = [c for c in known if is_tag_column([row[c] for row in rows])]
    if layout.tag_columns or not tagged:
        return replace(shape, ends=ends)
    return replace(shape, ends=ends, tags=(tagged[0],))


def _token_form(shape: Shape, rows: Sequence[Sequence[str]], layout: Layout) -> Shape:
    """Detect an index behind each character and a language before each token."""
    tokens = [row[shape.token] for row in rows]
    numbered = len(tokens) > 3 and all(token[-1:].isdigit() for token in tokens)
    single = sum(INDEXED.fullmatch(token) is not None for token in tokens)
    indexed = layout.indexed_characters or (
        numbered and tokens[0].endswith("0") and 20 * single >= 19 * len(tokens)
    )
    found = LANGUAGE.match(tokens[0])
    prefix = found.group() if found and len(tokens) > 1 else ""
    if not all(token.startswith(prefix) for token in tokens):
        prefix = ""
    return replace(shape, indexed=indexed, prefix=prefix)


def _described(shape: Shape, layout: Layout, report: ReadReport) -> Shape:
    """The shape itself; what was guessed goes into the report."""
    if shape.sentence:
        named = " or ".join(map(str, shape.sentence))
        report.note(f"a sentence ends where column {named} changes")
    if shape.numbers is not None:
        report.note(f"column {shape.numbers} numbers the tokens: they are read from {shape.token}")
    elif shape.token != layout.token_column:
        report.note(f"tokens are read from column {shape.token}, tags from {shape.tags[0]}")
    if shape.indexed and not layout.indexed_characters:
        report.note("each character has an index, which is left out (indexed_characters)")
    if shape.prefix:
        report.note(f"each token begins with {shape.prefix!r}, which is left out")
    if not layout.tag_columns:
        named = ", ".join(map(str, shape.tags))
        if len(shape.tags) > 1:
            report.note(f"columns {named} hold tags, read as nested mentions; else set tag_columns")
        elif shape.tags[0] != shape.width - 1 and shape.token == layout.token_column:
            report.note(f"tags are read from column {named} of {shape.width}; else set tag_columns")
    return shape


def _no_columns(
    name: str, number: int, line: str, width: int, delimiter: str, layout: Layout
) -> DataError:
    """The error for rows that are not columns; says what they seem to be."""
    seems, help_ = likely_format(line)
    if not seems:
        needed = max(2, 1 + max(layout.token_column, *layout.tag_columns, 0))
        shown = "runs of spaces and tabs" if delimiter == "" else repr(delimiter)
        seems = (
            f"expected at least {needed} columns separated by {shown}, with the token in column "
            f"{layout.token_column} and tags such as O and B-PER after it, found {width}"
        )
        help_ = "set delimiter, token_column or tag_columns, or another format"
    return DataError(f"{name}:{number}: {seems}: {line[:60]!r}; {help_}")


def likely_format(line: str) -> tuple[str, str]:
    """What a line seems to be that is not a row of columns, and how to mend it; else empty."""
    cells = line.split()
    if "\t" in line and any(
        len(cell.split()) > 1 and all(is_tag_like([part]) for part in cell.split())
        for cell in line.split("\t")
    ):
        return "found a whole sentence in a cell", "write one token and its tag a row"
    if re.match(r"\s*<\w+|<\?xml", line) or re.search(r"</\w+>", line):
        return "this looks like XML", "set format=inline if it has one sentence per line"
    if cells and all(re.fullmatch(r".+/[A-Za-z][\w-]*", cell) for cell in cells):
        return "this looks like token/tag", "set format=slashed if the tags are of entities"
    if line.count(",") and is_tag_like([line.rpartition(",")[2].strip()]):
        return "this looks like CSV with a row of another width", "quote the token ','"
    if cells and all(is_tag_like([cell]) for cell in cells):
        return "found tags alone", "write one token and its tag a row"
    if re.match(r"[TRENAM]\d+\t", line):
        return "this looks like brat's annotations", "name the file .ann, next to its .txt"
    if line.count("\t") > 1:
        return "no column holds tags such as O and B-PER", "set token_column and tag_columns"
    if len(cells) > 2 or (len(cells) == 1 and len(line) > 8):
        return "this looks like plain text, one sentence a line", "annotations are missing"
    return "", ""
