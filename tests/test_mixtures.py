"""Several data sets, each with its own types: batches, losses, scores, types, faults."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT, arguments, corpus
from test_binder import random_batch, small_config, small_model
from test_survival import assert_same_outcome, struck

from contrastive_ner.cli import main
from contrastive_ner.data.readers import read_records
from contrastive_ner.data.records import Mention, Record
from contrastive_ner.data.writers import write_records
from contrastive_ner.errors import ConfigError, DataError
from contrastive_ner.models.modeling_binder import BinderModel, binder_losses
from contrastive_ner.serving.inference import DataSet, evaluate_sets, load_pipeline
from contrastive_ner.training.batches import EpochBatches, SetBatches, SpanCollator
from contrastive_ner.training.binder import SpanCounts, decode_own
from contrastive_ner.training.mixtures import joint_types
from contrastive_ner.training.settings import load_config

TYPES = {
    "people": {"PER": "人物：人的名字，如张三。"},
    "firms": {"ORG": "机构：公司、学校的名字，如华为。", "DAY": "日子：今天、昨天这样的词。"},
}


def records_of(name: str, count: int, offset: int) -> list[Record]:
    """The small corpus, of which a set names only mentions of its own types."""
    records = []
    for number, record in enumerate(corpus(count, offset)):
        at = record.text.index("昨天")
        every = [*record.entities, Mention(at, at + 2, "DAY")]
        own = sorted(m for m in every if m.label in TYPES[name])
        records.append(Record(record.id, record.text, own, f"doc{number // 2}"))
    return records


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Entries of two data sets, with their files."""
    folder = tmp_path_factory.mktemp("sets")
    entries = {}
    for name, types in TYPES.items():
        entry = {"types_file": str(folder / f"{name}.yaml")}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"types": types}), "utf-8")
        for split, count, offset in (("train", 24, 0), ("dev", 8, 100), ("test", 8, 200)):
            entry[f"{split}_file"] = str(folder / f"{name}-{split}.jsonl")
            write_records(records_of(name, count, offset), entry[f"{split}_file"])
        entries[name] = entry
    return entries


def command(
    sets: dict[str, Any], tiny_encoder: Path, run_dir: Path, **changes: object
) -> list[str]:
    """A training command on data sets."""
    settings = {
        "method": "binder",
        "stage1_epochs": 0,
        "head_epochs": 0,
        "stage2_epochs": 2,
        "stage2_batch_size": 4,
        "stage2_learning_rate": 3e-3,
        "stage2_head_learning_rate": 1e-2,
        "projection_size": 32,
        "projection_dropout": 0,
    }
    none = dict.fromkeys(("train_file", "dev_file", "test_file"), "")
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    made = arguments(run_dir.parent, tiny_encoder, run_dir, **{**settings, **none, **changes})
    with Path(made[1]).open("a", encoding="utf-8") as file:
        yaml.safe_dump({"data_sets": sets}, file, sort_keys=False)
    return made


# --------------------------------------------------------------------------------- batches, losses
def test_a_batch_comes_from_one_set_and_weights_count_epochs() -> None:
    numbers = [list(range(10)), list(range(10, 40)), [40]]
    owner = {n: place for place, own in enumerate(numbers) for n in own}

    def sampler(process: int = 0, processes: int = 1) -> SetBatches:
        parts = [
            (own, EpochBatches([[0]] * len(own), 4, 7, paired=False, process=process,
                               processes=processes))
            for own in numbers
        ]  # fmt: skip
        return SetBatches(parts, [2.0, 0.5, 1.0][: len(parts)], 7)

    batches = sampler()
    seen: Counter[int] = Counter()
    epochs = []
    for epoch in range(4):
        batches.set_epoch(epoch)
        drawn = list(batches)
        assert len(drawn) == len(batches) == 6 + 4 + 1
        assert all(len({owner[n] for n in batch}) == 1 for batch in drawn)
        seen.update(n for batch in drawn for n in batch)
        epochs.append(drawn)
    assert {seen[n] for n in numbers[0]} == {8}
    assert {seen[n] for n in numbers[1]} == {2}
    assert seen[40] == 4
    assert epochs[0] != epochs[1]
    again = sampler()
    again.set_epoch(3)
    assert list(again) == epochs[3]
    with pytest.raises(DataError, match="1 sentences for 2 processes"):
        sampler(0, 2)
    numbers.pop()
    halves = [sampler(process, 2) for process in (0, 1)]
    for one, other in zip(*halves, strict=True):
        assert len({owner[n] for n in [*one, *other]}) == 1


def test_types_of_another_set_are_no_candidates() -> None:
    torch.manual_seed(0)
    model = BinderModel(small_config(4, projection_dropout=0.0)).train()
    model.description_ids.random_(5, 50)
    model.description_lengths.fill_(model.description_ids.shape[-1])
    mask = torch.tensor([[False, True, True, True, False]])
    masks = {"word_mask": mask.repeat(2, 1), "word_end_mask": mask.repeat(2, 1)}
    given = {"input_ids": torch.randint(5, 50, (2, 5)), **masks}
    labels = torch.tensor([[[1, 1, 1]], [[3, 2, 3]]])
    own = torch.tensor([[False, True, False, True]] * 2)
    loss = model(**given, labels=labels, type_mask=own).loss
    few = BinderModel(small_config(2, projection_dropout=0.0)).train()
    weights = model.state_dict()
    chosen = torch.tensor([1, 3])
    cut = {k: v[chosen] if k.startswith("description_") else v for k, v in weights.items()}
    cut["type_vectors"] = cut["type_vectors"][:, chosen]
    few.load_state_dict(cut)
    expected = few(**given, labels=torch.tensor([[[0, 1, 1]], [[1, 2, 3]]])).loss
    torch.testing.assert_close(loss, expected)
    loss.backward()
    # Windows of different sets in one batch: the mean over the pairs that count.
    mixed = torch.tensor([[False, True, False, False], [True, False, False, True]])
    hidden = model(input_ids=given["input_ids"]).last_hidden_state
    scores = model.scores(hidden, **masks)
    parts = binder_losses(scores, labels, **masks, pairs=mixed)
    single = [
        binder_losses(model.scores(hidden[r : r + 1], mask, mask), labels[r : r + 1], mask, mask,
                      pairs=mixed[r : r + 1])
        for r in (0, 1)
    ]  # fmt: skip
    for kind in ("start", "end", "span"):
        each = [row[f"threshold_{kind}"] for row in single]
        torch.testing.assert_close(parts[f"threshold_{kind}"], (each[0] + 2 * each[1]) / 3)
    with torch.no_grad():
        assert model.eval()(**given, labels=labels, type_mask=mixed).loss.isfinite()


def test_types_are_drawn_among_those_of_the_batch() -> None:
    model = BinderModel(small_config(6, types_per_batch=2)).train()
    own = torch.tensor([[True, False, True, True, False, False]])
    drawn = {
        tuple(model._drawn_types(torch.tensor([[[2, 1, 1]]]), own).tolist()) for _ in range(30)
    }
    assert drawn == {(0, 2), (2, 3)}
    everything = torch.tensor([[True, False, False, False, False, False]])
    assert model._drawn_types(torch.tensor([[[0, 1, 1]]]), everything).tolist() == [0]


def test_scores_are_the_mean_of_the_sets() -> None:
    class Counts:
        predictions = torch.tensor([[1, 1, 1, 0], [0, 2, 2, 1], [1, 1, 1, 1], [1, 1, 1, 0]])

    scores = SpanCounts(["a", "b"])(Counts())  # type: ignore[arg-type]
    assert (scores["f1/a"], scores["f1/b"]) == (1.0, pytest.approx(1 / 3))
    assert scores["f1"] == pytest.approx(2 / 3)
    assert scores["precision"] == pytest.approx(3 / 5)
    feature = {"input_ids": [1], "word_mask": [True], "word_end_mask": [True], "labels": []}
    batch = SpanCollator(0)([{**feature, "type_mask": [True, False], "data_set": 1}])
    assert batch["type_mask"].dtype == torch.bool
    assert batch["data_set"].tolist() == [1]


def test_types_of_another_set_do_not_compete_in_decoding() -> None:
    model = small_model(several_labels=False)
    batch = random_batch(model, rows=4)
    labels, masks = model.config.labels, [batch["word_mask"], batch["word_end_mask"]]
    with torch.no_grad():
        outputs = model(batch["input_ids"], batch["attention_mask"])
    own = torch.tensor([[True, False, True], [False, True, False]] * 2)
    found = decode_own(model, outputs, *masks, own)
    for row, counts in enumerate(own.tolist()):
        others = [label for label, is_own in zip(labels, counts, strict=True) if not is_own]
        assert found[row] == model.decode(outputs, *masks, types=model.types.remove(*others))[row]
    assert any(map(len, found))
    together = model.decode(outputs, *masks)
    assert decode_own(model, outputs, *masks) == together
    kept = [
        [span for span in spans if counts[labels.index(span.label)]]
        for spans, counts in zip(together, own.tolist(), strict=True)
    ]
    assert found != kept, "the types compete: without it, this test shows nothing"


# -------------------------------------------------------------------------------------------- runs
def test_the_best_epoch_is_chosen_by_what_evaluate_counts(
    sets: dict[str, Any], tiny_encoder: Path, tmp_path: Path
) -> None:
    """Two sets name the same mentions differently; a blank text and documents are in dev."""
    humans: dict[str, Any] = {"types_file": str(tmp_path / "humans.yaml")}
    Path(humans["types_file"]).write_text("types: {HUMAN: 人的姓名。}", "utf-8")
    for split in ("train", "dev"):
        rows = Path(sets["people"][f"{split}_file"]).read_text("utf-8").replace("PER", "HUMAN")
        humans[f"{split}_file"] = str(tmp_path / f"{split}.jsonl")
        blank = '{"text": " ", "entities": []}\n' * (split == "dev")
        Path(humans[f"{split}_file"]).write_text(rows + blank, "utf-8")
    both = {"people": sets["people"], "humans": humans}
    run_dir = tmp_path / "runs" / "mixed"
    assert main(command(both, tiny_encoder, run_dir, stage2_epochs=6)) == 0
    metrics = json.loads((run_dir / "metrics.json").read_text("utf-8"))
    own = [scores["all_mentions"]["f1"] for scores in metrics["dev"]["sets"].values()]
    assert max(own) > 0.3
    # `humans` does not know PER, `people` does.
    pipeline = load_pipeline(run_dir / "model")
    known = {name: dict(pipeline.model.types.descriptions) for name in both}
    del known["people"]["HUMAN"], known["humans"]["PER"]
    test, _ = read_records(sets["people"]["test_file"])
    joint = evaluate_sets(
        pipeline, {name: DataSet(test, test, known[name], "missed") for name in both}
    )
    mentions = sum(len(record.entities) for record in test)
    assert joint["unseen_types"] == {"humans:PER": mentions}
    assert joint["per_type"]["PER"]["gold"] == joint["per_type"]["humans:PER"]["gold"] == mentions
    assert metrics["phases"]["full"]["best"] == pytest.approx(sum(own) / 2)


def test_a_run_on_two_sets_scores_each_with_its_own_types(
    sets: dict[str, Any], tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    weighted = {**sets, "people": {**sets["people"], "weight": 2}}
    run_dir = tmp_path / "runs" / "mixed"
    made = command(weighted, tiny_encoder, run_dir, stage2_epochs=1)
    assert main(made) == 0
    printed = capsys.readouterr()
    assert "(people " in printed.err
    assert "\npeople: P " in printed.out
    metrics = json.loads((run_dir / "metrics.json").read_text("utf-8"))
    assert metrics["types"] == ["PER", "DAY", "ORG"]
    own = metrics["test"]["sets"]
    assert set(own["people"]["per_type"]) == {"PER"}
    assert set(own["firms"]["per_type"]) <= {"ORG", "DAY"}
    total = metrics["test"]["micro"]
    assert total["gold"] == own["people"]["micro"]["gold"] + own["firms"]["micro"]["gold"] == 24
    assert total["predicted"] == sum(part["micro"]["predicted"] for part in own.values())
    published = json.loads((run_dir / "model" / "metrics.json").read_text("utf-8"))
    assert published["data"]["train"]["sets"]["people"]["file"] == "people-train.jsonl"
    assert published["config"]["data_sets"]["firms"]["types_file"] == "firms.yaml"
    assert str(tmp_path.parent) not in json.dumps(published["data"])
    card = (run_dir / "model" / "README.md").read_text("utf-8")
    assert "binder-people-firms" in card
    # Another weight makes another run.
    other = command(sets, tiny_encoder, run_dir, stage2_epochs=1)
    assert main(other) == 2
    assert "data_sets.people.weight: 2 there, None now" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_run_ends_as_an_undisturbed_one(
    sets: dict[str, Any], tiny_encoder: Path, tmp_path: Path
) -> None:
    changes = {"types_per_batch": 1, "stage2_epochs": 4, "stage2_batch_size": 2}
    weighted = {**sets, "people": {**sets["people"], "weight": 1.5}}
    runs = [tmp_path / name / "run" for name in ("whole", "killed")]
    whole, killed = (command(weighted, tiny_encoder, run, **changes) for run in runs)
    assert main(whole) == 0
    step = "contrastive_ner.training.binder:BinderTrainer.training_step"
    assert struck(step, 25, "SIGKILL", killed).returncode != 0
    assert main(killed) == 0
    assert_same_outcome(runs[1], runs[0])


@pytest.mark.slow
def test_every_set_is_learnt(sets: dict[str, Any], tmp_path: Path) -> None:
    """With a pretrained encoder: a random one hardly tells the descriptions apart."""
    rates = {"stage2_learning_rate": 2e-4, "stage2_head_learning_rate": 2e-3}
    encoder = ROOT / "encoders" / "zh-char-mini"
    changes = {"stage2_epochs": 8, "stage2_batch_size": 2, **rates}
    assert main(command(sets, encoder, tmp_path / "run", **changes)) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text("utf-8"))
    for own in metrics["test"]["sets"].values():
        assert own["micro"]["f1"] > 0.9


@pytest.mark.slow
def test_a_single_set_of_one_type_trains(
    sets: dict[str, Any], tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run_dir = tmp_path / "run"
    made = command({"people": sets["people"]}, tiny_encoder, run_dir, types_per_batch=1)
    assert main(made) == 0
    assert main(made) == 0
    assert "is complete" in capsys.readouterr().out
    assert main(["verify", str(run_dir / "model")]) == 0
    metrics = json.loads((run_dir / "metrics.json").read_text("utf-8"))
    assert metrics["types"] == ["PER"]
    assert metrics["test"]["micro"] == metrics["test"]["sets"]["people"]["micro"]


# ------------------------------------------------------------------------------------------- types
def test_types_of_one_name_are_merged_or_kept_apart() -> None:
    described = {
        "a": {"PER": ["A person."], "LOC": ["A place."]},
        "b": {"PER": ["A person, named."], "LOC": ["A place."], "X": ["Else."]},
    }
    with pytest.raises(ConfigError, match="'PER' has different descriptions in a and b: set equal"):
        joint_types(described, "")
    names, joint = joint_types(described, "merge")
    assert joint == {"PER": ["A person.", "A person, named."], "LOC": ["A place."], "X": ["Else."]}
    assert names["b"] == {"PER": "PER", "LOC": "LOC", "X": "X"}
    names, joint = joint_types(described, "apart")
    assert names["a"] == {"PER": "a:PER", "LOC": "a:LOC"}
    assert names["b"] == {"PER": "b:PER", "LOC": "b:LOC", "X": "X"}
    assert list(joint) == ["a:PER", "a:LOC", "b:PER", "b:LOC", "X"]
    described["b"]["PER"] = ["A person."]
    assert joint_types(described, "")[1]["PER"] == ["A person."]
    for owner in ("a", "c"):
        clash = {**described, owner: {**described.get(owner, {}), "b:PER": ["What b calls so."]}}
        with pytest.raises(ConfigError, match=r"'b:PER' would name a type '(b:)?PER' and a type"):
            joint_types(clash, "apart")
        assert "b:PER" in joint_types(clash, "merge")[1]


# ------------------------------------------------------------------------------------------ faults
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"people": {"types_file": ""}}, "data_sets.people: expected types_file, found none"),
        ({"people": {"dev_file": None}}, "data_sets.people: expected dev_file, found none"),
        ({"people": {"weight": 0}}, "data_sets.people.weight is 0: expected a number in"),
        ({"people": {"weight": "much"}}, "data_sets.people.weight is 'much': expected a number"),
        ({"people": {"typesfile": "x"}}, "unknown key 'typesfile' (did you mean types_file?)"),
        ({"people": {"format": "word"}}, "data_sets.people: format is 'word'"),
        ({"people": None}, "data_sets.people is None: expected keys and values"),
        ({1: {}}, "data_sets has 1: expected a name"),
        ({"a/b": {}}, "data_sets has 'a/b': expected a name without"),
        (None, "data_sets is []: expected data sets by their names"),
    ],
)
def test_sets_that_cannot_be_trained_on_are_refused(
    sets: dict[str, Any],
    tiny_encoder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    change: dict | None,
    message: str,
) -> None:
    given: Any = []
    if change is not None:
        given = dict(sets)
        for name, entry in change.items():
            given[name] = entry if entry is None else {**sets.get(name, {}), **entry}
    assert main(command(given, tiny_encoder, tmp_path / "run")) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith(f"error: {tmp_path / 'config.yaml'}: ")
    assert not (tmp_path / "run").exists()


def test_one_data_set_and_several_do_not_go_together(
    sets: dict[str, Any],
    tiny_encoder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    made = command(sets, tiny_encoder, tmp_path / "run")
    for change, message in (
        ("train_file=x.jsonl", "with data_sets, expected it under the name of a data set"),
        ("method=crf", "data_sets needs method=binder, found method=crf"),
        ("equal_types=both", "equal_types is 'both': expected one of merge, apart"),
        ("data_sets=x", "data_sets is 'x': expected data sets by their names"),
    ):
        assert main([*made, change]) == 2
        assert message in capsys.readouterr().err
    types = tmp_path / "other.yaml"
    types.write_text("types:\n  PER: 别的\n  ORG: 机构\n  DAY: 日子\n", "utf-8")
    other = {**sets, "firms": {**sets["firms"], "types_file": str(types)}}
    made = command(other, tiny_encoder, tmp_path / "run")
    assert main(made) == 2
    assert "type 'PER' has different descriptions in people and firms" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    config = load_config(made[1], [*made[2:], "equal_types=apart"])
    assert list(config.sets) == ["people", "firms"]
