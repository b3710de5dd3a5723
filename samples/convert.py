"""Make samples/zh/{train,dev,test}.jsonl from the inline markup in samples/zh/source/.

    python samples/convert.py            write the splits and the counts in samples/README.md
    python samples/convert.py --check    only report errors and counts

A document is never divided between splits, and every split has the same share of each register. The
split of a document depends only on the document names.
"""

import hashlib
import sys
from collections import Counter
from pathlib import Path

from contrastive_ner.data.records import Mention, Record
from contrastive_ner.data.writers import write_records
from contrastive_ner.files import atomic_writer

HERE = Path(__file__).resolve().parent

TYPES = ("PER", "ORG", "LOC", "GPE", "TITLE", "PRODUCT")
BEGIN, END = "<!-- counts: written by convert.py -->", "<!-- /counts -->"
SHARES = {"train": 0.70, "dev": 0.15, "test": 0.15}


def parse_markup(line: str) -> tuple[str, list[Mention]]:
    """Parse a marked-up line into its text and mentions.

    Raises:
        ValueError: the markup is wrong.

    >>> text, mentions = parse_markup("[[北京|GPE]大学|ORG]")
    >>> text, [mention[:3] for mention in mentions]
    ('北京大学', [(0, 2, 'GPE'), (0, 4, 'ORG')])
    """
    text: list[str] = []
    open_at: list[int] = []
    mentions: list[Mention] = []
    i = 0
    while i < len(line):
        character = line[i]
        if character == "\\" and i + 1 < len(line):
            i += 1
            text.append(line[i])
        elif character == "[":
            open_at.append(len(text))
        elif character == "|":
            end = line.find("]", i)
            label = line[i + 1 : end]
            if end < 0 or not open_at or label not in TYPES:
                expected = f"|TYPE] with one of {', '.join(TYPES)} that closes a ["
                raise ValueError(f"column {i + 1}: expected {expected}")
            start = open_at.pop()
            if start == len(text):
                raise ValueError(f"column {i + 1}: empty mention")
            mentions.append(Mention(start, len(text), label))
            i = end
        elif character == "]":
            raise ValueError(f"column {i + 1}: ] without a type; write \\] for the character")
        else:
            text.append(character)
        i += 1
    if open_at:
        raise ValueError("a [ is not closed")
    if len(set(mentions)) != len(mentions):
        raise ValueError("a mention is marked twice")
    return "".join(text), sorted(mentions)


def read_source(path: Path) -> list[Record]:
    """Read the records of one register; a line `# doc: NAME` starts a document."""
    records: list[Record] = []
    doc = path.stem
    for number, line in enumerate(path.read_text("utf-8").split("\n"), start=1):
        if line.startswith("# doc:"):
            doc = line.removeprefix("# doc:").strip()
        elif line.strip():
            try:
                text, mentions = parse_markup(line)
            except ValueError as error:
                raise SystemExit(f"{path}:{number}: {error}") from error
            records.append(Record(f"{path.stem}-{len(records) + 1}", text, mentions, doc))
    return records


def split_documents(records: list[Record]) -> dict[str, list[Record]]:
    """Split by the hash of document names: the first to dev, the next to test, others to train."""
    docs = sorted(
        {str(record.doc) for record in records},
        key=lambda doc: hashlib.sha256(doc.encode()).hexdigest(),
    )
    parts: dict[str, list[Record]] = {"train": [], "dev": [], "test": []}
    for doc in docs:
        own = [record for record in records if record.doc == doc]
        open_split = (s for s in ("dev", "test") if len(parts[s]) < SHARES[s] * len(records) - 1)
        parts[next(open_split, "train")] += own
    return parts


def inner_mentions(record: Record) -> int:
    """Number of mentions inside another one."""
    return sum(
        any(o != m and o.start <= m.start and m.end <= o.end for o in record.entities)
        for m in record.entities
    )


def make_splits() -> dict[str, list[Record]]:
    """Split all registers.

    Raises:
        SystemExit: wrong markup, or a text that occurs twice.
    """
    splits: dict[str, list[Record]] = {"train": [], "dev": [], "test": []}
    seen: dict[str, str] = {}
    for path in sorted((HERE / "zh" / "source").glob("*.txt")):
        for name, part in split_documents(read_source(path)).items():
            splits[name] += part
            for record in part:
                if record.text in seen:
                    raise SystemExit(f"{record.id} repeats {seen[record.text]}: {record.text}")
                seen[record.text] = record.id
    return splits


def counts_table(splits: dict[str, list[Record]]) -> str:
    """The table of samples/README.md."""
    lines = [
        f"| | sentences | without entity | characters | {' | '.join(TYPES)} | all | nested |",
        "|---|" + "---|" * (len(TYPES) + 5),
    ]
    every = [record for records in splits.values() for record in records]
    for name, records in [*splits.items(), ("all", every)]:
        counts = Counter(mention.label for record in records for mention in record.entities)
        cells = [
            len(records),
            sum(not r.entities for r in records),
            sum(len(r.text) for r in records),
        ]
        cells += [counts[label] for label in TYPES] + [
            counts.total(),
            sum(map(inner_mentions, records)),
        ]
        lines.append(f"| {name} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the counts; without --check, write the splits and the table."""
    splits = make_splits()
    table = counts_table(splits)
    print(table)
    if "--check" in sys.argv[1:]:
        return
    for name, records in splits.items():
        write_records(records, HERE / "zh" / f"{name}.jsonl")
    readme = HERE / "README.md"
    before, _, rest = readme.read_text("utf-8").partition(BEGIN)
    with atomic_writer(readme) as file:
        file.write(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
