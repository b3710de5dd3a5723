"""Make samples/zh/{train,dev,test}.jsonl from the inline markup in samples/zh/source/.

    python samples/convert.py            writes the splits and the table of counts in samples/README.md
    python samples/convert.py --check    only reads: errors and counts

Whole documents go to one split, the same share of every register to each; the choice is a function of the document's name.
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
    """Text and mentions of a marked-up line.

    >>> parse_markup("[[北京|GPE]大学|ORG]")
    ('北京大学', [Mention(start=0, end=2, label='GPE', score=None), Mention(start=0, end=4, label='ORG', score=None)])
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
                raise ValueError(
                    f"column {i + 1}: expected |TYPE] with one of {', '.join(TYPES)} that closes a ["
                )
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
    """Records of one register; `# doc: name` starts a document."""
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
    """Documents in the order of their names' hash: the first to dev, the next to test, the rest to train."""
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
    return sum(
        any(o != m and o.start <= m.start and m.end <= o.end for o in record.entities)
        for m in record.entities
    )


def make_splits() -> dict[str, list[Record]]:
    """All registers, split; SystemExit at an error or a text that occurs twice."""
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
