"""lexicon: build, merge and measure files of words."""

import argparse
from collections.abc import Iterator
from typing import Any

from contrastive_ner.cli.options import add_source_options
from contrastive_ner.data.lexicon import (
    Row,
    coverage,
    rows_of_dictionary,
    rows_of_file,
    rows_of_jieba,
    rows_of_mentions,
    rows_of_texts,
    without_foreign,
)
from contrastive_ner.data.readers import read_records
from contrastive_ner.data.records import Record
from contrastive_ner.data.streams import read_rows
from contrastive_ner.errors import ConfigError
from contrastive_ner.files import atomic_writer, expand
from contrastive_ner.logs import log
from contrastive_ner.models.lexicon_ner import MAX_WORD_LENGTH, Lexicon
from contrastive_ner.training.config import layout_of


def add_lexicon_command(commands: Any) -> None:
    """Add the command lexicon."""
    command = commands.add_parser(
        "lexicon",
        help="build or merge files of words for lexicon_fusion, and show what they cover",
        description="Build a lexicon, a file with one word per line, for models with "
        "lexicon_fusion. Words from all sources are merged; of a word's types, the first counts, "
        "and of words from training data those without a fold.",
    )
    several: Any = {"nargs": "+", "default": [], "metavar": "FILE"}
    command.add_argument("files", nargs="*", metavar="FILE", help="lexicons")
    command.add_argument(
        "--dictionary",
        **several,
        help="add the words of a segmenter's dictionary (word, count, part of speech, with spaces)",
    )
    command.add_argument("--output", metavar="FILE", help="lexicon to write")
    command.add_argument(
        "--jieba",
        action="store_true",
        help="add the dictionary of jieba (the extra jieba), with the types nr, ns and nt",
    )
    command.add_argument(
        "--from_text",
        **several,
        help="add the words that jieba finds in text (one per line, or in any format of predict)",
    )
    command.add_argument(
        "--from_training",
        **several,
        help="add the mentions of annotated text, by folds: in training, a word that only one fold "
        "has does not count in the texts of that fold",
    )
    command.add_argument(
        "--folds", type=int, default=10, metavar="N", help="folds of --from_training [10]"
    )
    command.add_argument(
        "--min_count",
        type=int,
        default=1,
        metavar="N",
        help="leave out words of --from_text and --from_training that occur fewer than N times [1]",
    )
    command.add_argument(
        "--max_word_length",
        type=int,
        default=MAX_WORD_LENGTH,
        metavar="N",
        help=f"leave out words of more than N characters [{MAX_WORD_LENGTH}]",
    )
    command.add_argument("--cover", **several, help="show how much of FILE is in a word")
    add_source_options(command)
    command.set_defaults(command=command_lexicon)


def command_lexicon(arguments: argparse.Namespace) -> int:
    """Build a lexicon from its sources; print what it has, what it lacks and what it covers."""
    if not (arguments.output or arguments.cover):
        raise ConfigError("nothing to do: expected --output, or --cover to measure a lexicon")
    rows: list[Row] = []
    names = []
    for name, found in sources(arguments):
        own, foreign = without_foreign(found)
        log.info("%s: %d words", name, len(own))
        if foreign:
            log.warning("%s: %d words with control characters are left out", name, foreign)
        names.append(name)
        rows += own
    if not names:
        raise ConfigError(
            "no source: expected FILE, --dictionary, --jieba, --from_text or --from_training"
        )
    if not rows:
        raise ConfigError(f"{', '.join(names)}: no word; is --min_count too high?")
    lexicon = Lexicon.of_rows(rows, max_word_length=arguments.max_word_length)
    for remark in lexicon.remarks(lexicon.types):
        log.info("%s", remark)
    if arguments.output:
        with atomic_writer(arguments.output) as file:
            file.write(lexicon.content())
    kinds = [lexicon.kinds[number] for number in lexicon.entries.values()]
    typed, folded = sum(bool(kind.type) for kind in kinds), sum(k.fold is not None for k in kinds)
    print(
        f"{arguments.output or 'lexicon'}: {len(lexicon)} words, {typed} with a type"
        + f" ({', '.join(lexicon.types)})" * bool(typed)
        + f", {folded} of one fold alone" * bool(folded)
    )
    for name in arguments.cover:
        records = list(texts_of(name, arguments))
        print(f"{name}: {coverage(lexicon, records)}")
        if folded:
            print(f"{name}, as training reads it: {coverage(lexicon, records, held_out=True)}")
    return 0


def sources(arguments: argparse.Namespace) -> Iterator[tuple[str, list[Row]]]:
    """Names of the sources, and their rows."""
    for name in arguments.files:
        yield name, rows_of_file(expand(name), arguments.encoding)
    for name in arguments.dictionary:
        yield name, rows_of_dictionary(expand(name), arguments.encoding)
    if arguments.jieba:
        yield "jieba", rows_of_jieba()
    count = arguments.min_count
    for name in arguments.from_text:
        texts = (record.text for record in texts_of(name, arguments))
        yield name, rows_of_texts(texts, min_count=count)
    if names := arguments.from_training:
        records = [r for name in names for r in read_records(expand(name), layout_of(arguments))[0]]
        yield ", ".join(names), rows_of_mentions(records, folds=arguments.folds, min_count=count)


def texts_of(name: str, arguments: argparse.Namespace) -> Iterator[Record]:
    """The texts of a file, with their mentions if it has any."""
    source = read_rows(
        expand(name), layout_of(arguments), text_column=arguments.text_column, keep_entities=True
    )
    return (row for row in source.rows if isinstance(row, Record))
