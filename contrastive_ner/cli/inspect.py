"""inspect: report what annotated files contain."""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contrastive_ner.cli.options import add_layout_options
from contrastive_ner.data.readers import read_files
from contrastive_ner.data.records import Record, outermost
from contrastive_ner.files import expand
from contrastive_ner.logs import quiet_libraries
from contrastive_ner.training.config import layout_of
from contrastive_ner.training.encoder import encoder_place


def add_inspect_command(commands: Any) -> None:
    """Add the command inspect."""
    command = commands.add_parser(
        "inspect",
        help="report what annotated files contain",
        description="Report what annotated files contain: sentences, entities, overlaps, repaired "
        "tags, duplicates within and between the files, mentions that do not match tokens, the "
        "most frequent surfaces, and three sentences with their mentions in brackets.",
    )
    command.add_argument("files", nargs="+", metavar="FILE", help="annotated text")
    command.add_argument(
        "--tokenizer",
        metavar="MODEL",
        help="encoder or model, folder or Hub name: count the mentions that do not start and end "
        "at boundaries of its tokens, instead of the tokens in the data",
    )
    add_layout_options(command)
    command.set_defaults(command=command_inspect)


def command_inspect(arguments: argparse.Namespace) -> int:
    """Print what annotated files contain, and what is suspicious about them."""
    quiet_libraries()
    seen: dict[str, str] = {}
    read = read_files([expand(name) for name in arguments.files], layout_of(arguments))
    for name, (records, report) in zip(arguments.files, read, strict=True):
        texts = Counter(record.text for record in records)
        inner = sum(len(outermost(record.entities)[1]) for record in records)
        longest = max(records, key=lambda record: len(record.text))
        counts = Counter(mention.label for record in records for mention in record.entities)
        across = Counter(seen[record.text] for record in records if record.text in seen)
        print(f"{name}: {report.format}{', ' + report.scheme if report.scheme else ''}")
        for remark in report.remarks():
            print(f"  note: {remark}")
        empty = sum(not record.entities for record in records)
        print(f"  sentences            {len(records)} ({empty} without entity)")
        print(
            f"  entities             {counts.total()}"
            + "".join(f", {label} {n}" for label, n in counts.most_common())
        )
        print(f"  overlapping          {inner} mentions inside or across a longer one")
        print(f"  longest text         {len(longest.text)} characters (record {longest.id})")
        if report.joiner is not None:
            print(f"  between tokens       {'a space' if report.joiner else 'nothing'}")
        print(
            f"  repaired tags        {report.repaired_tags}"
            + "".join(f"\n    {repair}" for repair in report.repairs)
        )
        print(f"  duplicates within    {sum(count - 1 for count in texts.values())}")
        for other, count in across.items():
            print(f"  also in {other}: {count} sentences")
        print(f"  off token boundaries {off_boundaries(records, arguments.tokenizer)}")
        print_surfaces(records, counts)
        print_samples(records)
        seen |= {text: name for text in texts if text not in seen}
    return 0


def print_surfaces(records: Sequence[Record], counts: Counter[str]) -> None:
    """Print the five most frequent surfaces of every type."""
    surfaces: dict[str, Counter[str]] = {label: Counter() for label in counts}
    for record in records:
        for m in record.entities:
            surfaces[m.label][record.text[m.start : m.end]] += 1
    for label, _ in counts.most_common():
        found = (f"{one_line(text)} ({n})" for text, n in surfaces[label].most_common(5))
        print(f"  {label:<20} {', '.join(found)}")


def print_samples(records: Sequence[Record]) -> None:
    """Print three sentences with their mentions marked, those with mentions first."""
    for record in sorted(records, key=lambda record: not record.entities)[:3]:
        print(f"  > {one_line(marked(record), 200)}")


def one_line(text: str, most: int = 40) -> str:
    """A text without line ends, shortened."""
    text = " ".join(text.splitlines())
    return text if len(text) <= most else f"{text[: most - 3]}..."


def marked(record: Record) -> str:
    """A text with its mentions in brackets.

    >>> marked(Record("1", "Anna left Rome", [Mention(0, 4, "PER"), Mention(10, 14, "LOC")]))
    '[Anna PER] left [Rome LOC]'
    """
    opening = Counter(m.start for m in record.entities)
    closing: dict[int, list[str]] = {}
    for m in sorted(record.entities, key=lambda m: -m.start):  # inner mentions end first
        closing.setdefault(m.end, []).append(m.label)
    pieces = []
    for i in range(len(record.text) + 1):
        pieces += [f" {label}]" for label in closing.get(i, ())]
        pieces += ["[" * opening[i], record.text[i : i + 1]]
    return "".join(pieces)


def off_boundaries(records: Sequence[Record], tokenizer_name: str | None) -> str:
    """How many mentions do not start and end at token boundaries.

    The tokens are those of the given tokenizer, else those in the data.
    """
    if tokenizer_name is None:
        own = [record for record in records if record.tokens is not None]
        if not own:
            return "not checked (the data contain no tokens; pass --tokenizer)"
        spans = [list(record.tokens or []) for record in own]
    else:
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        from contrastive_ner.models.pipeline_ner import text_reader
        from contrastive_ner.training.characters import is_character_tokenizer

        # A tokenizer.json needs none of the code that a model folder carries.
        place = encoder_place(tokenizer_name)
        local = (Path(place) / "tokenizer.json").is_file()
        loader = PreTrainedTokenizerFast if local else AutoTokenizer
        tokenizer = loader.from_pretrained(place, trust_remote_code=False)
        unit = "token" if is_character_tokenizer(tokenizer) else "word"
        own = list(records)
        reader = text_reader(tokenizer, label_unit=unit, max_window_tokens=128)
        spans = [text.spans for text in reader.tokenize([record.text for record in own])]
    missed = 0
    for record, tokens in zip(own, spans, strict=True):
        starts, ends = {start for start, _ in tokens}, {end for _, end in tokens}
        missed += sum(m.start not in starts or m.end not in ends for m in record.entities)
    return f"{missed} mentions"
