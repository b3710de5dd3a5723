"""Run random texts through `predict` and check that rows, order, texts and offsets are right.

python -m benchmarks.unicode --examples 10000 --output results/unicode.json

The texts have arbitrary characters (controls, combining marks, emoji sequences, unassigned and
private ones, null bytes, lone surrogates); some are empty or long. They are written as JSONL,
tagged by an untrained tagger and an untrained BINDER model, and read back.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz import tiny_models
from contrastive_ner.data.layout import Layout
from contrastive_ner.data.readers import read_records
from contrastive_ner.data.streams import read_rows
from contrastive_ner.files import write_json
from contrastive_ner.serving.predict import Job, predict

ROOT = Path(__file__).resolve().parent.parent

TEXTS = st.one_of(
    st.text(max_size=60),
    st.text(st.characters(), max_size=60),  # includes lone surrogates
    st.text(
        st.sampled_from("\0\t\n\r\x85\u2028\ufeff\u200d\ufe0f👩🏽\u0301\u0e33ﷺｱ北a 1"), max_size=40
    ),
    # Longer than a window.
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=3).map(lambda part: part * 200),
)


def random_texts(number: int) -> list[str]:
    """`number` random texts, the same ones each time."""
    found: list[str] = []

    @settings(
        max_examples=number,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(TEXTS, min_size=4, max_size=12))
    def collect(texts: list[str]) -> None:
        found.extend(texts)

    collect()
    return found[:number]


def failures_of(model: Path, texts: list[str], folder: Path) -> tuple[list[str], int]:
    """Tag texts with `predict` and check its rows; returns failures and number of mentions."""
    source, output = folder / "in.jsonl", folder / f"{model.name}.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    predict(read_rows(str(source), Layout()), {}, Job(str(model)), str(output))
    records, _ = read_records(output)
    failures = [] if len(records) == len(texts) else [f"{len(records)} rows for {len(texts)} texts"]
    mentions = 0
    for number, (text, record) in enumerate(zip(texts, records, strict=False), start=1):
        if record.text != text or record.id != str(number):
            failures.append(f"row {number}: {text!r:.80} came back as {record.text!r:.80}")
        for mention in record.entities:
            mentions += 1
            if (
                not 0 <= mention.start < mention.end <= len(text)
                or not 0 <= (mention.score or 0.0) <= 1
            ):
                failures.append(f"row {number}: {mention} in {text!r:.80}")
    return failures, mentions


def main() -> int:
    """Check both models, print the report and return 1 if there were failures."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.unicode",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--examples", type=int, default=10_000, help="number of texts [10000]")
    parser.add_argument("--output", type=Path, help="JSON file for the report")
    arguments = parser.parse_args()
    texts = random_texts(arguments.examples)
    result: dict[str, Any] = {
        "texts": len(texts),
        "longest": max(map(len, texts)),
        "distinct_characters": len(set("".join(texts))),
    }
    with tempfile.TemporaryDirectory() as folder:
        for method, model in tiny_models(Path(folder)).items():
            failures, mentions = failures_of(model, texts, Path(folder))
            result[method] = {"mentions": mentions, "failures": failures[:20]}
    print(json.dumps(result, indent=1, ensure_ascii=True))
    if arguments.output:
        from contrastive_ner.provenance import provenance

        write_json(
            {
                **result,
                "command": f"python -m benchmarks.unicode --examples {arguments.examples}",
                **provenance(),
            },
            arguments.output,
        )
    return int(any(result[method]["failures"] for method in ("nerco", "binder")))


if __name__ == "__main__":
    sys.exit(main())
