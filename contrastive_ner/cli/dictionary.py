"""annotate, dictionary: labels from a list of terms."""

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
    """annotate, dictionary."""
    command = commands.add_parser("annotate", help="label text with the terms of a dictionary")
    command.add_argument(
        "file",
        nargs="?",
        default="-",
        help="as for predict; given mentions are replaced, and scored against",
    )
    command.add_argument(
        "--dictionary",
        required=True,
        metavar="FILE",
        help="a term, a tab and an entity type a line; # starts a comment",
    )
    command.add_argument("--output", default="-", help="output file, - for standard output")
    command.add_argument(
        "--output_format",
        choices=("jsonl", "columns", "same"),
        default="jsonl",
        help="JSONL, columns, or the input's format",
    )
    command.add_argument(
        "--min_length", type=int, default=1, help="leave out terms of fewer characters [1]"
    )
    command.add_argument(
        "--fold_case", choices=("true", "false"), default="true", help="ignore case [true]"
    )
    command.add_argument(
        "--fold_width",
        choices=("true", "false"),
        default="true",
        help="full-width and half-width are the same [true]",
    )
    add_source_options(command)
    command.set_defaults(command=command_annotate)

    command = commands.add_parser(
        "dictionary", help="write the mentions of annotated files as a dictionary for annotate"
    )
    command.add_argument("files", nargs="+", metavar="FILE", help="annotated text")
    command.add_argument("--output", required=True, metavar="FILE", help="the dictionary")
    command.add_argument(
        "--min_count", type=int, default=1, help="leave out what is a mention fewer times [1]"
    )
    add_layout_options(command)
    command.set_defaults(command=command_dictionary)


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
        print(f"against the given mentions\n{score_table({'': scores})}", file=sys.stderr)
    if inner:
        print(
            f"{inner} given mentions inside or across a longer one are not compared",
            file=sys.stderr,
        )
    if output_format(arguments, source) == "columns":
        dropped = sum(map(keep_aligned, labelled))
        if dropped:
            print(
                f"{dropped} mentions fall on no boundary of the given tokens and cannot be written as columns",
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
    """Span scores against the given outermost mentions (None where there are none), and how many inner ones were left out.

    The matches of a dictionary do not overlap, so inner mentions cannot be found.
    """
    from contrastive_ner.evaluation.metrics import span_scores

    gold = [outermost(record.entities)[0] for record in given]
    if not any(gold):
        return None, 0
    inner = sum(len(record.entities) for record in given) - sum(map(len, gold))
    return span_scores([record.entities for record in labelled], gold), inner


def good_rows(rows: Iterable[Row], name: str) -> Iterator[Record]:
    """The records; DataError at the first bad row."""
    for row in rows:
        if not isinstance(row, Record):
            raise DataError(
                f"{'standard input' if name == '-' else name}:{row.number}: {row.reason}"
            )
        yield row


def command_dictionary(arguments: argparse.Namespace) -> int:
    files = [expand(name) for name in arguments.files]
    print(
        build_dictionary(
            files, arguments.output, layout_of(arguments), min_count=arguments.min_count
        ),
        file=sys.stderr,
    )
    return 0
