"""Measure how F1 on long test texts depends on the length of the windows they are read in.

python -m benchmarks.windows runs/resume-nerco-0 [...] --results results/windows

Documents are those named in the data; without names, ten consecutive texts form one. Writes one
JSON file per complete run: for each window length, F1 against gold and the agreement with the
training length (F1 of its mentions against those found at the training length).
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from contrastive_ner.data.readers import read_records
from contrastive_ner.data.records import Record, outermost
from contrastive_ner.files import expand, read_json, write_json
from contrastive_ner.training.config import layout_of

ROOT = Path(__file__).resolve().parent.parent

SIZES = (64, 128, 256, 512)  # tokens
JOINED = 10  # texts


def documents_of(records: Sequence[Record]) -> list[Record]:
    """Join records to documents, with the mentions of their parts."""
    from contrastive_ner.data.documents import join_documents

    named = [
        r if r.doc is not None else replace(r, doc=f"texts {number // JOINED}")
        for number, r in enumerate(records)
    ]
    return [document.record for document in join_documents(named)]


def measure(run_dir: Path) -> dict[str, Any]:
    """Scores of a run's model on its test documents by window length."""
    from contrastive_ner.evaluation.metrics import span_scores
    from contrastive_ner.provenance import provenance
    from contrastive_ner.serving.inference import load_pipeline, mentions_of

    config = read_json(run_dir / "config.json")
    documents = documents_of(
        read_records(expand(config["test_file"]), layout_of(argparse.Namespace(**config)))[0]
    )
    ner = load_pipeline(run_dir / "model")
    trained = ner.model.config.max_window_tokens
    longest = ner.model.config.encoder_config.max_position_embeddings
    found = {}
    for size in sorted({trained, *(size for size in SIZES if size <= longest)}):
        ner.model.config.max_window_tokens = size
        results = ner.model.pipeline(ner.tokenizer)(
            [document.text for document in documents], coverage=True
        )
        found[size] = (
            [[m[:3] for m in mentions_of(result["entities"])] for result in results],
            results,
        )
    nests = ner.model.config.decoding == "nested"
    gold = [[m[:3] for m in (d.entities if nests else outermost(d.entities)[0])] for d in documents]
    rows = {}
    for size, (mentions, results) in found.items():
        rows[size] = {
            "f1": span_scores(mentions, gold)["micro"]["f1"],
            "agreement": span_scores(mentions, found[trained][0])["micro"]["f1"],
            "windows": sum(result["windows"] for result in results),
            "coverage": min(result["coverage"] for result in results),
        }
    setting = {
        "run": run_dir.name,
        "method": config["method"],
        "train_file": config["train_file"],
        "documents": len(documents),
    }
    characters = sum(len(document.text) for document in documents) / len(documents)
    return {
        **setting,
        "mean_characters": characters,
        "trained": trained,
        "sizes": rows,
        **provenance(),
    }


def main() -> int:
    """Measure the runs named on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.windows",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, help="directories of complete runs with test data"
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=ROOT / "results" / "windows",
        help="folder for the results",
    )
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    for run_dir in arguments.runs:
        measured = measure(run_dir)
        for size, row in measured["sizes"].items():
            scores = f"F1 {100 * row['f1']:.1f}, agreement {100 * row['agreement']:.1f}"
            print(f"{run_dir.name:<18} {size:>4} tokens: {scores}", flush=True)
        write_json(measured, arguments.results / f"{run_dir.name}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
