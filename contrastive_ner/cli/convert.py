"""convert: read annotated text in one format and write it in another."""

import argparse
from typing import Any

from contrastive_ner.cli.options import add_layout_options, refuse_inputs
from contrastive_ner.data.conversion import TARGETS, convert_records
from contrastive_ner.data.readers import read_records
from contrastive_ner.data.schemes import READ_SCHEMES
from contrastive_ner.files import expand
from contrastive_ner.logs import log
from contrastive_ner.training.config import layout_of


def add_convert_command(commands: Any) -> None:
    """Add the command convert."""
    command = commands.add_parser(
        "convert",
        help="write annotated text in another format",
        description="Read annotated text in any format and write it in another. What the other "
        "format cannot hold is counted.",
    )
    command.add_argument("file", metavar="IN", help="annotated text: a file, folder or data set")
    command.add_argument("output", metavar="OUT", help="file or new folder to write")
    command.add_argument("--to", required=True, choices=TARGETS, help="the format to write")
    command.add_argument(
        "--to_scheme",
        default="BIO",
        choices=READ_SCHEMES,
        metavar="SCHEME",
        help="tag scheme of conll and datasets [BIO]",
    )
    add_layout_options(command)
    command.set_defaults(command=command_convert)


def command_convert(arguments: argparse.Namespace) -> int:
    """Convert a file, and say what was read, guessed and lost."""
    refuse_inputs((arguments.output,), (arguments.file,))
    records, report = read_records(expand(arguments.file), layout_of(arguments))
    for remark in report.remarks():
        log.warning("%s: %s", arguments.file, remark)
    lost = convert_records(records, arguments.output, arguments.to, arguments.to_scheme)
    mentions = sum(len(record.entities) for record in records)
    print(f"{arguments.output}: {len(records)} texts, {mentions} mentions from {report.format}")
    if lost:
        found = ", ".join(f"{count} {what}" for what, count in lost.items())
        print(f"{arguments.to} cannot hold: {found}")
    return 0
