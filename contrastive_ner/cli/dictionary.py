"""annotate, dictionary: labels from a dictionary of terms."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from contrastive_ner.cli.options import (
    add_layout_options,
    add_source_options,
    input_file,
    open_source,
    output_format,
)
from contrastive_ner.data.dictionary import annotate, build_dictionary, read_dictionary
from contrastive_ner.data.records import Record, outermost
from contrastive_ner.data.streams import Row
from contrastive_ner.data.writers import format_records, keep_aligned, write_records
from contrastive_ner.errors import DataError
from contrastive_ner.evaluation.report import score_table
from contrastive_ner.files import expand
from contrastive_ner.training.config import layout_of


def add_dictionary_commands(commands: Any) -> None:
    """Add the commands annotate and dictionary."""
    add_annotate_command(commands)
    command = commands.add_parser(
        "dictionary",
        help="write the mentions of annotated files as a dictionary for annotate",
        description="Write the mentions of annotated files as a dictionary for annotate, each with "
        "its most frequent type.",
    )
    command.add_argument("files", nargs="+", metavar="FILE", help="annotated text")
    command.add_argument(
        "--output", required=True, metavar="FILE", help="dictionary to write (required)"
    )
    command.add_argument(
        "--min_count",
        type=int,
        default=1,
        metavar="N",
        help="leave out terms that are a mention fewer than N times [1]",
    )
    add_layout_options(command)
    command.set_defaults(command=command_dictionary)


def add_annotate_command(commands: Any) -> None:
    """Add the command annotate."""
    command = commands.add_parser(
        "annotate",
        help="label text with the terms of a dictionary",
        description="Label text with the terms of a dictionary. If the input has mentions, they "
        "are replaced, and the new ones are scored against them.",
    )
    command.add_argument(
        "file",
        nargs="?",
        default="-",
        metavar="FILE",
        help="text (one per line), JSONL, CSV, Parquet, columns, or a data set as NAME@SPLIT or "
        "FOLDER@SPLIT; - reads standard input [-]",
    )
    command.add_argument(
        "--dictionary",
        required=True,
        metavar="FILE",
        help="one term, a tab and its entity type per line; # starts a comment line (required)",
    )
    command.add_argument(
        "--output", default="-", metavar="FILE", help="output file; - is standard output [-]"
    )
    command.add_argument(
        "--output_format",
        choices=("jsonl", "columns", "same"),
        default="jsonl",
        help="format of the output; same: the format of the input if it is columns or CLUENER, "
        "else jsonl [jsonl]",
    )
    command.add_argument(
        "--min_length",
        type=int,
        default=1,
        metavar="N",
        help="ignore terms of fewer than N characters [1]",
    )
    command.add_argument(
        "--fold_case",
        choices=("true", "false"),
        default="true",
        help="ignore upper and lower case [true]",
    )
    command.add_argument(
        "--fold_width",
        choices=("true", "false"),
        default="true",
        help="treat full-width and half-width characters as equal [true]",
    )
    add_source_options(command)
    command.set_defaults(command=command_annotate)


# ----------------------------------------------------------------------------------------- annotate
def command_annotate(arguments: argparse.Namespace) -> int:
    """Label texts with a dictionary; the report goes to standard error."""
    folding = {name: getattr(arguments, name) == "true" for name in ("fold_case", "fold_width")}
    dictionary = read_dictionary(
        expand(arguments.dictionary), min_length=arguments.min_length, **folding
    )
    with input_file(arguments) as path:
        source = open_source(path, arguments, keep_entities=True)
        records = list(good_rows(source.rows, arguments.file))
    labelled, report = annotate(
        records, dictionary, give_words=arguments.output_format == "columns"
    )
    print(report, file=sys.stderr)
    scores, inner = scores_against_given(labelled, records)
    if scores is not None:
        print(f"scores against the given mentions\n{score_table({'': scores})}", file=sys.stderr)
    if inner:
        print(
            f"{inner} given mentions that overlap a longer one are not scored",
            file=sys.stderr,
        )
    if output_format(arguments, source) == "columns":
        dropped = sum(map(keep_aligned, labelled))
        if dropped:
            print(
                f"{dropped} mentions left out of the columns: their ends are not token boundaries",
                file=sys.stderr,
            )
    if arguments.output == "-":
        sys.stdout.writelines(
            format_records(labelled, output_format(arguments, source), source.scheme)
        )
    else:
        write_records(labelled, arguments.output, output_format(arguments, source), source.scheme)
    return 0


def scores_against_given(
    labelled: Sequence[Record], given: Sequence[Record]
) -> tuple[dict[str, Any] | None, int]:
    """Span scores against the outermost given mentions, and the number of inner ones left out.

    The scores are None if no mentions are given. Inner mentions cannot be found, because the
    matches of a dictionary do not overlap.
    """
    from contrastive_ner.evaluation.metrics import span_scores

    gold = [outermost(record.entities)[0] for record in given]
    if not any(gold):
        return None, 0
    inner = sum(len(record.entities) for record in given) - sum(map(len, gold))
    return span_scores([record.entities for record in labelled], gold), inner


def good_rows(rows: Iterable[Row], name: str) -> Iterator[Record]:
    """The records of all rows.

    Raises:
        DataError: a row is bad.
    """
    for row in rows:
        if not isinstance(row, Record):
            raise DataError(
                f"{'standard input' if name == '-' else name}:{row.number}: {row.reason}"
            )
        yield row


def command_dictionary(arguments: argparse.Namespace) -> int:
    """Write the mentions of annotated files as a dictionary; the report goes to standard error."""
    files = [expand(name) for name in arguments.files]
    print(
        build_dictionary(
            files, arguments.output, layout_of(arguments), min_count=arguments.min_count
        ),
        file=sys.stderr,
    )
    return 0
