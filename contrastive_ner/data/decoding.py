"""Text files as lines or JSON values: encodings, line ends, byte-order marks, line numbers.

Files whose name ends in .gz are read as what they hold.
"""

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from contrastive_ner.errors import DataError

MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
LEGACY = ("gb18030", "big5", "shift_jis", "euc_kr", "cp1252")  # named if they fit; the last does
MALFORMED = (ValueError, TypeError, RecursionError)  # what parsing a bad row of JSON may raise


def suffix_of(name: str) -> str:
    """The ending of a file's name in lower case, without .gz.

    >>> suffix_of("data/train.JSONL.gz")
    '.jsonl'
    """
    path = Path(name.lower())
    return path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix


@contextmanager
def opened(name: str, mode: str = "rb", **options: Any) -> Iterator[IO[Any]]:
    """An open file; DataError if there is none, or it is damaged."""
    if not Path(name).is_file():
        raise DataError(f"{name}: no such file")
    try:
        open_file: Any = gzip.open if name.lower().endswith(".gz") else open
        with open_file(name, mode, **options) as file:
            yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{name}: a damaged .gz file ({error}); compress the data again") from error


def encoding_of(name: str, encoding: str = "utf-8") -> str:
    """The encoding by the byte-order mark of a file, else the given one.

    Raises:
        DataError: there is no such file.
    """
    with opened(name) as file:
        start = file.read(4)
    found = next((own for mark, own in MARKS.items() if start.startswith(mark)), encoding)
    return "utf-8-sig" if codecs.lookup(found).name == "utf-8" else found


def read_raw_lines(name: str) -> Iterator[tuple[int, bytes]]:
    """Yield (number, line) of a file, from 1.

    Lines end only at \\n or \\r\\n. A byte-order mark at the start of the file is skipped.
    """
    with opened(name) as file:
        for number, raw in enumerate(file, start=1):
            yield number, raw.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").rstrip(b"\r\n")


def read_lines(name: str, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """Yield (number, line) of a text file, from 1. Lines end at \\n, \\r\\n or \\r.

    Raises:
        DataError: there is no such file, or it is not in the encoding.
    """
    found = encoding_of(name, encoding)
    with opened(name, "rt", encoding=found) as file:
        try:
            for number, line in enumerate(file, start=1):
                yield number, line.rstrip("\n")
        except UnicodeError as error:
            raise not_decoded(name, found) from error


def read_text(name: str, encoding: str = "utf-8") -> str:
    """The text of a file with its line ends as they are, without a byte-order mark.

    Raises:
        DataError: there is no such file, or it is not in the encoding.
    """
    found = encoding_of(name, encoding)
    try:
        with opened(name, "rt", encoding=found, newline="") as file:
            return str(file.read())
    except UnicodeError as error:
        raise not_decoded(name, found) from error


def not_decoded(name: str, encoding: str) -> DataError:
    """The error of a file that is not in an encoding; names line, byte and likely encodings."""
    encoding = encoding.removesuffix("-sig")
    with opened(name) as file:
        raw = file.read()
    where, line = "", raw
    if codecs.lookup(encoding).name == "utf-8":
        for number, line in enumerate(raw.splitlines(), start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                where = f":{number}: not UTF-8 at byte {error.start + 1}"
                break
    likely = [own for own in LEGACY[:-1] if _decodes(raw, own)]
    if not likely or _has_single_letters(line):
        likely = [LEGACY[-1], *likely]
    hint = f" (it could be {', '.join(likely)})" if likely else ""
    return DataError(
        f"{name}{where or f': not {encoding}'}; convert the file to UTF-8 or set encoding{hint}"
    )


def _has_single_letters(raw: bytes) -> bool:
    """Whether most bytes beyond ASCII stand alone, as umlauts and accents of cp1252 do."""
    runs = re.findall(rb"[\x80-\xff]+", raw)
    return 2 * sum(len(run) == 1 for run in runs) > len(runs)


def _decodes(raw: bytes, encoding: str) -> bool:
    try:
        raw.decode(encoding)
    except UnicodeError:
        return False
    return True


# -- JSON
class Place(NamedTuple):
    """A JSON value and the line it starts in."""

    line: int
    value: Any


def read_json(name: str, encoding: str = "utf-8") -> Iterator[Place]:
    """Yield the values of a JSON file: one a line, or one after another over any lines.

    Raises:
        DataError: the file is not JSON; the message gives the line.
    """
    if is_json_lines(name, encoding):
        for number, line in read_lines(name, encoding):
            if line.strip():
                yield Place(number, parse(f"{name}:{number}", line))
    else:
        yield from _concatenated(name, read_text(name, encoding))


def is_json_lines(name: str, encoding: str = "utf-8") -> bool:
    """Whether the first or the second line that is not blank is a JSON value of its own."""
    filled = (line for _, line in read_lines(name, encoding) if line.strip())
    return any(_is_value(line) for line in islice(filled, 2))


def _is_value(line: str) -> bool:
    """Whether a line that starts at its margin is a whole JSON value."""
    if line[0] not in '{["':
        return False
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    except MALFORMED:  # a number or a depth beyond Python's limits
        return True
    return True


def parse(where: str, text: str) -> Any:
    """The value of a JSON text.

    Raises:
        DataError: it is not valid; the message begins with `where`.
    """
    try:
        return json.loads(text)
    except MALFORMED as error:
        raise DataError(f"{where}: {fault(error)}") from error


def fault(error: BaseException) -> str:
    """What is wrong with a row, by one of the `MALFORMED` errors."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        found = error.doc[error.pos : error.pos + 30]
        at = f"column {error.colno}" if found else "the end"
        return f"expected JSON, found {found!r} at {at}" + (
            "; JSON has double quotes" if "'" in error.doc[error.pos : error.pos + 3] else ""
        )
    if isinstance(error, DataError):
        return str(error)
    return f"expected JSON with numbers of less than 4300 digits ({type(error).__name__})"


def _concatenated(name: str, text: str) -> Iterator[Place]:
    """Values one after another in a text, over any number of lines."""
    decoder = json.JSONDecoder()
    position, line, counted = 0, 1, 0
    while True:
        while position < len(text) and (text[position].isspace() or text[position] == ","):
            position += 1
        line += text.count("\n", counted, position)
        counted = position
        if position == len(text):
            return
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise DataError(f"{name}:{error.lineno}: {fault(error)}") from error
        except MALFORMED as error:
            raise DataError(f"{name}:{line}: {fault(error)}") from error
        yield Place(line, value)
