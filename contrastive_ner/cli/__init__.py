"""The command line. Each group of commands is a file; heavy imports wait until a command runs.

contrastive-ner train CONFIG.yaml [key=value ...]
contrastive-ner evaluate MODEL FILE [--train FILE]
contrastive-ner predict MODEL [FILE ...]
contrastive-ner export MODEL FOLDER
contrastive-ner add-type MODEL --types FILE --examples FILE | --texts FILE
contrastive-ner demo MODEL
contrastive-ner inspect FILE [FILE ...]
contrastive-ner convert IN OUT --to FORMAT
contrastive-ner annotate [FILE] --dictionary FILE
contrastive-ner dictionary FILE [FILE ...] --output FILE
contrastive-ner explain MODEL [FILE] --train FILE
contrastive-ner audit CONFIG.yaml [key=value ...]
contrastive-ner select MODEL [FILE]
contrastive-ner lexicon [FILE ...] --output FILE
contrastive-ner push MODEL USER/NAME
contrastive-ner bundle MODEL NAME.zip
contrastive-ner verify MODEL | NAME.zip | USER/NAME
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence

from contrastive_ner import __version__
from contrastive_ner.cli.convert import add_convert_command
from contrastive_ner.cli.demo import add_demo_command
from contrastive_ner.cli.dictionary import add_dictionary_commands
from contrastive_ner.cli.insight import add_insight_commands
from contrastive_ner.cli.inspect import add_inspect_command
from contrastive_ner.cli.lexicon import add_lexicon_command
from contrastive_ner.cli.new_types import add_new_types_command
from contrastive_ner.cli.options import joined_lists
from contrastive_ner.cli.parser import Parser
from contrastive_ner.cli.share import add_sharing_commands
from contrastive_ner.cli.tag import add_tagging_commands
from contrastive_ner.cli.train import add_train_command
from contrastive_ner.errors import is_user_error
from contrastive_ner.logs import coloured, show_messages
from contrastive_ner.signals import stopped_by_sigterm


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status.

    The status is 0, 2 for an error that the user can fix, or 128 + N after signal N.
    """
    arguments = build_parser().parse_args(joined_lists(sys.argv[1:] if argv is None else argv))
    show_messages(
        logging.WARNING if arguments.quiet else logging.DEBUG if arguments.verbose else logging.INFO
    )
    try:
        with stopped_by_sigterm():
            code = arguments.command(arguments)
        sys.stdout.flush()  # a closed pipe raises here, not at the end of the process
        return code
    except BrokenPipeError:  # the reader of the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if arguments.debug or not is_user_error(error):
            raise
        print(coloured("error:", "red"), " ".join(str(error).splitlines()), file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(str(stop) or "interrupted; run the same command again to resume", file=sys.stderr)
        return 128 + getattr(stop, "number", signal.SIGINT)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = Parser(
        prog="contrastive-ner",
        description="Contrastive named-entity recognition with NerCo and BINDER.",
        epilog="contrastive-ner COMMAND --help explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"contrastive-ner {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of every error")
    level = parser.add_mutually_exclusive_group()
    level.add_argument("--quiet", action="store_true", help="show only warnings and results")
    level.add_argument(
        "--verbose", action="store_true", help="show more messages, and the log of training"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_train_command(commands)
    add_tagging_commands(commands)
    add_new_types_command(commands)
    add_demo_command(commands)
    add_inspect_command(commands)
    add_convert_command(commands)
    add_dictionary_commands(commands)
    add_insight_commands(commands)
    add_lexicon_command(commands)
    add_sharing_commands(commands)
    return parser
