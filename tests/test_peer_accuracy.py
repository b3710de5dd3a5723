"""benchmarks.peers --train: taggers of other libraries get the same texts and the same scores."""

import argparse
import json
from pathlib import Path

import pytest
from conftest import corpus

from benchmarks import peer_accuracy, peer_learner, peers
from benchmarks.tables import peers_trained_table
from contrastive_ner.data.records import Mention, Record
from contrastive_ner.data.writers import write_records

ROW = {
    "text": "New York Times",
    "entities": [
        {"start": 0, "end": 8, "label": "LOC"},
        {"start": 0, "end": 14, "label": "ORG"},
        {"start": 4, "end": 6, "label": "X"},
    ],
}
WORDS = [(0, 3), (4, 8), (9, 14)]


def test_mentions_over_words_have_inclusive_ends() -> None:
    """A mention that no word boundary matches is not learned; a tagger gets the longest ones."""
    spans = peer_learner.over_words(ROW, WORDS)
    assert spans == [(0, 1, "LOC"), (0, 2, "ORG")]
    assert peer_learner.flat(spans) == [(0, 2, "ORG")]
    assert peer_learner.flat([(2, 3, "B"), (0, 1, "A"), (1, 2, "C")]) == [(0, 1, "A"), (2, 3, "B")]


def test_all_gold_mentions_count() -> None:
    record = Record(
        "1", ROW["text"], [Mention(m["start"], m["end"], m["label"]) for m in ROW["entities"]]
    )
    found = [[[0, 8, "LOC"], [9, 14, "ORG"]]]
    scores = peer_accuracy.score(found, [record])
    assert (scores["precision"], scores["recall"], scores["gold"]) == (0.5, 1 / 3, 3)
    triples = [[(start, end, label) for start, end, label in found[0]]]
    assert peer_learner.f1_of(triples, [ROW]) == scores["f1"] == pytest.approx(0.4)
    assert peer_learner.f1_of([[]], [{"entities": []}]) == 0.0


@pytest.fixture
def setting(
    tmp_path: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> argparse.Namespace:
    """A small setting, and the options to run it with."""
    for split, first in (("train", 0), ("dev", 100), ("test", 200)):
        write_records(corpus(12, first), tmp_path / f"{split}.jsonl")
    (tmp_path / "types.yaml").write_text("types:\n  PER: 人名\n  ORG: 公司\n", "utf-8")
    (tmp_path / "config.yaml").write_text(
        "\n".join(f"{s}_file: {tmp_path / f'{s}.jsonl'}" for s in ("train", "dev", "test"))
        + f"\nencoder: {tiny_encoder}\nmethod: crf\nstage1_epochs: 1\nhead_epochs: 1\n"
        "stage2_epochs: 1\n",
        "utf-8",
    )
    own = peer_accuracy.Setting(
        str(tmp_path / "config.yaml"), ("crf", "gliner"), str(tmp_path / "types.yaml"), 10
    )
    monkeypatch.setattr(peer_accuracy, "SETTINGS", {"small": own})
    monkeypatch.setattr(peers, "FOLDER", tmp_path / "peers")
    monkeypatch.setattr(peers, "minilm", lambda python: "unused")
    monkeypatch.setenv("NER_DATA", str(tmp_path))
    return peers.build_parser().parse_args(
        ["--train", "small", "--texts", "8", "--results", str(tmp_path / "results")]
    )


@pytest.mark.slow
def test_taggers_are_trained_on_the_same_texts_and_reported(
    setting: argparse.Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This project's tagger is trained in this process; the peer fails, and is reported."""
    jobs = []
    monkeypatch.setattr(peers, "ready_environment", lambda folder, *_: Path(folder.name))

    def run(command: list[str]) -> tuple[str, str]:
        python, _, _, kind, folder, job = command
        jobs.append((python, kind, json.loads(Path(job).read_text("utf-8"))))
        if kind == "gliner":
            raise SystemExit("a command failed:\nTraceback\nValueError: no such tokenizer")
        return json.dumps(peer_learner.learn(kind, jobs[-1][2], Path(folder))), ""

    monkeypatch.setattr(peers, "run", run)
    assert peer_accuracy.run_all(setting, ["--train", "small"]) == 0
    assert [(python, kind) for python, kind, _ in jobs] == [("ours", "crf"), ("gliner", "gliner")]
    for _, _, job in jobs:
        assert job["epochs"] == 3
        assert [len(peer_learner.rows_of(job[split])) for split in ("train", "dev", "test")] == [
            8
        ] * 3
        assert [kind["label"] for kind in job["types"]] == ["PER", "ORG"]
    files = sorted((tmp_path / "results").iterdir())
    assert [file.name for file in files] == ["small-crf-0.json", "small-gliner-0.json"]
    ours, gliner = (json.loads(file.read_text("utf-8")) for file in files)
    assert ours["gold"] == 16
    assert ours["seconds"] > 0 < ours["texts_per_second"]
    assert gliner["failed"] == "ValueError: no such tokenizer"
    assert peer_accuracy.run_all(setting, ["--train", "small"]) == 0  # nothing is run again
    assert len(jobs) == 2
    table = peers_trained_table([ours, {**ours, "seed": 1, "f1": ours["f1"] + 0.1}, gliner])
    assert len(table) == 4
    assert table[2].endswith("| 0, 1 |")
    assert "fails: ValueError: no such tokenizer" in table[3]


@pytest.mark.parametrize("wrong", [["--train", "large"], ["--train", "--taggers", "flair"]])
def test_unknown_settings_and_taggers_are_refused(
    setting: argparse.Namespace, wrong: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "ready_environment", lambda folder, *_: Path(folder.name))
    with pytest.raises(SystemExit, match=f"{wrong[-1]}: expected settings or taggers of small"):
        peer_accuracy.run_all(peers.build_parser().parse_args(wrong), wrong)
