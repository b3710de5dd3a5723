"""Several files as one source: their rows one after another; a share of a source's rows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from contrastive_ner.data.records import Record, doc_in_file
from contrastive_ner.data.streams import Row, Rows
from contrastive_ner.errors import DataError


def several_rows(
    files: Sequence[str], read: Callable[[str], Rows], format_of: Callable[[str], str]
) -> Rows:
    """The rows of files, one after another; `read` opens one, `format_of` detects its format.

    All files are looked at before the first one is tagged.

    A record of several files has the field `file`, unless it has one of its own, and its document
    is called FILE:DOC, since files may use the same names.

    Raises:
        DataError: the files have different formats or tag schemes.
    """
    first = read(files[0])
    if len(files) == 1:
        return first
    for file in files[1:]:
        check_alike(files[0], first, file, format_of(file), first.scheme)

    def rows() -> Iterator[Row]:
        for number, file in enumerate(files):
            source = first if number == 0 else read(file)
            check_alike(files[0], first, file, source.format, source.scheme)
            for row in source.rows:
                yield in_file(file, row) if isinstance(row, Record) else row

    return Rows(rows(), first.format, first.scheme)


def check_alike(first: str, rows: Rows, file: str, format: str, scheme: str) -> None:
    """Raise DataError if a file has another format or tag scheme than the first one."""
    if (format, scheme) != (rows.format, rows.scheme):
        raise DataError(
            f"{file}: expected {rows.format} {rows.scheme} as in {first}, found {format} {scheme}; "
            "tag files of different formats apart"
        )


def in_file(file: str, record: Record) -> Record:
    """A record of several files."""
    return replace(
        record, doc=doc_in_file(file, record.doc), fields={"file": file, **record.fields}
    )


def share_of(rows: Iterator[Row], total: int, number: int, count: int) -> Iterator[Row]:
    """The rows of share `number` (from 1) of `count`, which follow each other in the source.

    Share i has the rows from (i - 1) * total // count on, up to i * total // count. A document
    (consecutive records of the same `doc`) belongs to the share in which it begins.
    """
    first, end = (number - 1) * total // count, number * total // count
    is_ours, doc = False, None
    for place, row in enumerate(rows):
        own = row.doc if isinstance(row, Record) else None
        if own is None or own != doc:
            if place >= end:
                return
            is_ours = place >= first
        doc = own
        if is_ours:
            yield row
