"""Distant labels for BC5CDR: label the second half of train with the mentions of the first half.

NER_DATA=... python -m benchmarks.distant

Writes runs/bc5cdr_distant/train.jsonl, which configs/bc5cdr_distant_*.yaml read. The dictionary
uses neither dev nor test. Prints the labels' precision and recall against the gold labels.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from contrastive_ner.cli.dictionary import scores_against_given
from contrastive_ner.data.dictionary import AnnotationReport, Dictionary, annotate, collect_terms
from contrastive_ner.data.readers import read_records
from contrastive_ner.data.writers import write_records
from contrastive_ner.files import expand

ROOT = Path(__file__).resolve().parent.parent


def label_second_half(
    train: str | Path, output: str | Path, *, min_length: int
) -> tuple[AnnotationReport, dict[str, Any] | None]:
    """Label the second half of an annotated file with a dictionary of the first half's mentions.

    Args:
        train: annotated file.
        output: JSONL file to write the labelled second half to.
        min_length: leave out terms with fewer characters.

    Returns:
        The annotation report, and scores against the gold labels.
    """
    records, _ = read_records(train)
    middle = len(records) // 2
    entries, _ = collect_terms(records[:middle])
    labelled, report = annotate(records[middle:], Dictionary(entries, min_length=min_length))
    write_records(labelled, output)
    scores, _ = scores_against_given(labelled, records[middle:])
    return report, scores


def main() -> int:
    """Write the labelled file and print its scores."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.distant",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--train", default="${NER_DATA}/bc5cdr/train.tsv", help="annotated file [%(default)s]"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "runs" / "bc5cdr_distant" / "train.jsonl",
        help="JSONL file to write",
    )
    parser.add_argument(
        "--min_length", type=int, default=3, help="leave out terms with fewer characters [3]"
    )
    arguments = parser.parse_args()
    report, scores = label_second_half(
        expand(arguments.train), arguments.output, min_length=arguments.min_length
    )
    print(report)
    if scores is not None:
        micro = scores["micro"]
        print(
            "against the gold labels: "
            + ", ".join(f"{name} {100 * micro[name]:.1f}" for name in ("precision", "recall", "f1"))
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
