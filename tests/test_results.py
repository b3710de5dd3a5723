"""Figures of README and docs against plain loops: bootstrap intervals, segmentation."""

import random
from statistics import mean

import numpy as np
import pytest
import torch

from benchmarks.folds import deal, drawn
from benchmarks.segmentation import alignment_and_uniformity, segmentation
from benchmarks.tables import (
    ablation_table,
    add_type_table,
    between,
    difference_table,
    folds_table,
    held_out_table,
    interval,
    score_table,
)
from contrastive_ner.data.records import Record

LABELS = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG"]


def counts(seed: int, seeds: int = 2, texts: int = 40, skill: float = 0.6) -> np.ndarray:
    generator = np.random.default_rng(seed)
    gold = np.broadcast_to(np.random.default_rng(99).integers(0, 4, texts), (seeds, texts))
    correct = generator.binomial(gold, skill)
    return np.stack([correct, correct + generator.integers(0, 2, (seeds, texts)), gold], axis=-1)


def micro_f1(rows: np.ndarray) -> float:
    correct, predicted, gold = rows.sum(0)
    return 2 * correct / (predicted + gold)


def test_interval_equals_a_bootstrap_written_out():
    ours, theirs = counts(0, skill=0.8), counts(1, skill=0.5)
    found_mean, found_interval = interval(ours, theirs)
    assert float(found_mean) == pytest.approx(
        mean(100 * (micro_f1(a) - micro_f1(b)) for a, b in zip(ours, theirs, strict=True)),
        abs=0.051,
    )
    generator = random.Random(5)
    drawn = []
    for _ in range(4000):
        rows = [generator.randrange(40) for _ in range(40)]
        seeds = [generator.randrange(len(ours)) for _ in ours]
        drawn.append(
            mean(100 * (micro_f1(ours[s][rows]) - micro_f1(theirs[s][rows])) for s in seeds)
        )
    low, high = (float(part) for part in found_interval.split(" to "))
    assert (low, high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=1.0)


def test_interval_of_equal_systems_is_zero():
    same = counts(0)
    assert interval(same, same) == ["+0.0", "+0.0 to +0.0"]


def run(method: str, seed: int, rows: np.ndarray, recurring: list[int]) -> dict:
    correct, predicted, gold = (int(n) for n in rows.sum(0))
    micro = {"precision": correct / predicted, "recall": correct / gold, "f1": micro_f1(rows)}
    test = {"micro": micro, "counts": rows.flatten().tolist(), "recurring_texts": recurring}
    config = {"train_file": "${NER_DATA}/weibo/train"}
    return {
        "method": method,
        "seed": seed,
        "config": config,
        "dev": {"micro": micro},
        "test": test,
        "phases": {"full": {"epochs": 3}},
    }


def test_differences_compare_equal_seeds_and_leave_out_recurring_texts():
    ours, theirs = counts(0, seeds=3, skill=0.8), counts(1, seeds=3, skill=0.5)
    groups = {
        ("weibo", "nerco"): [run("nerco", seed, ours[seed], [0, 7]) for seed in (0, 1, 2)],
        ("weibo", "crf"): [run("crf", seed, theirs[seed], [0, 7]) for seed in (1, 2)],
    }
    (row,) = difference_table(groups)[2:]
    kept = [i for i in range(40) if i not in (0, 7)]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:4] == ["weibo", "nerco - crf", *interval(ours[1:], theirs[1:])]
    assert cells[4:] == [*interval(ours[1:, kept], theirs[1:, kept]), "1, 2"]
    assert [line.split("|")[2].strip() for line in score_table(groups)[2:]] == ["crf", "nerco"]


def test_each_text_is_tested_once_and_equal_texts_are_in_one_part():
    records = [Record(str(i), f"text {i % 30}") for i in range(50)]
    dealt = deal(records, 5)
    assert sorted(r.text for parts in dealt for r in parts["test"]) == sorted(
        r.text for r in records
    )
    for parts in dealt:
        texts = {name: {record.text for record in part} for name, part in parts.items()}
        assert sum(map(len, texts.values())) == 30, "no text is in two parts"
        assert sum(map(len, parts.values())) == 50
        assert all(texts.values())


def test_folds_are_pooled_and_compared_over_complete_seeds():
    def fold(method: str, seed: int, number: int, rows: np.ndarray) -> dict:
        config = {
            "output_dir": f"runs/folds-weibo-{method}-f{number}-{{seed}}",
            "train_file": f"runs/folds/weibo-2/{number}/train.jsonl",
        }
        made = run(method, seed, rows, [])
        return made | {"config": config, "phases": {"full": {"seconds": 30}}}

    ours, theirs = counts(0, skill=0.8), counts(1, skill=0.5)
    found = [fold("nerco", s, f, ours[s, 20 * f : 20 * f + 20]) for s in (0, 1) for f in (0, 1)]
    found += [fold("crf", s, f, theirs[s, 20 * f : 20 * f + 20]) for s in (0, 1) for f in (0, 1)]
    rows = [line.strip("| ").split(" | ") for line in folds_table(found)]
    assert {row[3] for row in rows[2:4]} == {"-"}, "runs that do not say what each epoch scored"
    assert [row[4] for row in rows[2:4]] == [
        f"{100 * np.mean([micro_f1(c) for c in both]):.1f}"
        f" ± {100 * np.std([micro_f1(c) for c in both], ddof=1):.1f}"
        for both in (theirs, ours)
    ]
    assert rows[-1] == ["weibo", "nerco - crf", *interval(ours, theirs), "0, 1"]
    for number, made in enumerate(found):
        made["phases"]["full"]["by_epoch"] = [0.9, 0.5 + 0.01 * (number % 2)]
    rows = [line.strip("| ").split(" | ") for line in folds_table(found)]
    assert [row[3] for row in rows[2:4]] == ["50.5 ± 0.0"] * 2
    rows = [line.strip("| ").split(" | ") for line in folds_table(found[:-1])]
    assert rows[-1] == ["weibo", "nerco - crf", *interval(ours[:1], theirs[:1]), "0"]
    assert len(folds_table(found[:1])) == 5, "one fold of two: no row"
    for made in found:
        made["config"]["output_dir"] = made["config"]["output_dir"].replace("-f", "_25-f")
    rows = [line.strip("| ").split(" | ") for line in folds_table(found)]
    assert rows[-1][:2] == ["weibo", "nerco_25 - crf_25"]
    for made in found:
        made["config"]["output_dir"] = made["config"]["output_dir"].replace("nerco_", "nerco_x_")
    rows = [line.strip("| ").split(" | ") for line in folds_table(found)]
    assert rows[-1][:2] == ["weibo", "nerco_x_25 - crf_25"]
    for made in found:
        made["config"]["output_dir"] = made["config"]["output_dir"].replace("crf_", "crf_x_")
    rows = [line.strip("| ").split(" | ") for line in folds_table(found)]
    assert rows[-1][:2] == ["weibo", "nerco_x_25 - crf_x_25"]


def test_shares_of_the_training_texts_are_nested_and_random():
    records = [Record(str(i), f"text {i // 2}") for i in range(200)]  # each text twice
    quarter, half = drawn(records, 25), drawn(records, 50)
    assert (len(quarter), len(half), drawn(records, 100)) == (50, 100, records)
    assert {r.text for r in quarter} < {r.text for r in half}
    assert {r.text for r in quarter} != {r.text for r in records[:50]}
    assert len(drawn(records[:4], 1)) == 2, "at least one text"


def test_content_goes_between_the_markers_and_missing_markers_are_refused():
    assert between("a <b> old <e> c", "<b>", "<e>", "new") == "a <b>\nnew\n<e> c"
    with pytest.raises(SystemExit, match="markers"):
        between("a <b> old", "<b>", "<e>", "new")


def test_ablations_are_compared_with_nerco_of_the_same_seed():
    def dev_run(name: str, seed: int, f1: float, **phases: dict) -> dict:
        return {
            "seed": seed,
            "config": {"output_dir": f"runs/{name}-{{seed}}"},
            "dev": {"micro": {"f1": f1}},
            "phases": phases,
        }

    stage1 = {"best": 0.5}
    groups = {
        ("weibo", "nerco"): [
            dev_run("weibo-nerco", seed, f1, stage1=stage1)
            for seed, f1 in enumerate((0.60, 0.70, 0.65, 0.1))
        ],
        ("weibo", "crf"): [dev_run("weibo-crf", seed, 0.5) for seed in range(5)],
    }
    ablations = [
        dev_run("ablation-with_o", 1, 0.72, stage1=stage1),
        dev_run("ablation-with_o", 2, 0.65, stage1=stage1),
    ]
    base, crf, other = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in ablation_table(groups, ablations)[2:]
    )
    assert base == ["nothing (nerco)", "67.5 ± 3.5", "", "50.0 ± 0.0", "1, 2"]
    assert crf[1:] == ["50.0 ± 0.0", "-17.5 ± 3.5", "-", "1, 2"]
    assert other == ["with o", "68.5 ± 4.9", "+1.0 ± 1.4", "50.0 ± 0.0", "1, 2"]


# ---------------------------------------------------------------------------------- representations
def tokens(seed: int = 0, count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 6, generator=generator), torch.randint(
        0, 5, (count,), generator=generator
    )


def test_segmentation_equals_the_mean_over_pairs_written_out():
    embeddings, tags = tokens()

    def distance(i: int, j: int) -> float:
        return 1 - torch.nn.functional.cosine_similarity(embeddings[i], embeddings[j], dim=0).item()

    kind = [LABELS[tag] for tag in tags]
    pairs = [(i, j) for i in range(60) for j in range(60)]
    b_i = mean(
        mean(distance(i, j) for i, j in pairs if kind[i] == f"B-{t}" and kind[j] == f"I-{t}")
        for t in ("PER", "ORG")
    )
    types = mean(distance(i, j) for i, j in pairs if kind[i][2:] == "PER" and kind[j][2:] == "ORG")
    found = segmentation(embeddings, tags, LABELS)
    assert found["b_i"] == pytest.approx(b_i, abs=1e-5)
    assert found["types"] == pytest.approx(types, abs=1e-5)
    assert found["ratio"] == pytest.approx(b_i / types, abs=1e-5)


def test_segmentation_is_nothing_where_a_type_is_one_point():
    embeddings = torch.eye(3)[[0, 1, 1, 2, 2]]
    assert segmentation(embeddings, torch.tensor([0, 1, 2, 3, 4]), LABELS) == pytest.approx(
        {"b_i": 0.0, "types": 1.0, "ratio": 0.0}
    )


def test_one_type_has_no_segmentation():
    with pytest.raises(ValueError, match="expected at least two"):
        segmentation(torch.randn(4, 3), torch.tensor([0, 1, 2, 2]), LABELS)


def test_alignment_and_uniformity_equal_their_definition():
    embeddings, tags = tokens()
    embeddings, classes = embeddings[tags > 0], (tags[tags > 0] + 1) // 2
    z = torch.nn.functional.normalize(embeddings, dim=-1)
    pairs = [(i, j) for i in range(len(z)) for j in range(len(z)) if i != j]
    squared = {(i, j): float((z[i] - z[j]).square().sum()) for i, j in pairs}
    found = alignment_and_uniformity(embeddings, classes)
    assert found["alignment"] == pytest.approx(
        mean(squared[p] for p in pairs if classes[p[0]] == classes[p[1]]), rel=1e-4
    )
    assert found["uniformity"] == pytest.approx(
        np.log(mean(np.exp(-2 * squared[p]) for p in pairs)), rel=1e-4
    )


def test_held_out_types_have_a_row_for_each_way_of_training():
    def scores(variant: str, seed: int, f1: float) -> dict:
        micro = {"precision": 0.5, "recall": 0.25, "f1": f1, "gold": 40}
        chosen = {**micro, "f1": 2 * f1, "min_score": 0.25}
        return {
            "domain": "ai",
            "variant": variant,
            "seed": seed,
            "held_out": ["algorithm", "task"],
            "micro": micro,
            "chosen": chosen,
            **(
                {"few": {**chosen, "f1": 1.5 * f1}, "unlabelled": {**micro, "f1": f1 / 2}}
                if variant == "both"
                else {}
            ),
        }

    rows = held_out_table(
        [scores("both", 0, 0.4), scores("plain", 1, 0.2), scores("plain", 0, 0.1)]
    )[2:]
    assert [[cell.strip() for cell in row.strip("|").split("|")] for row in rows] == [
        [
            "ai",
            "2",
            "40",
            "descriptions",
            "50.0 ± 0.0",
            "25.0 ± 0.0",
            "15.0 ± 7.1",
            "-",
            "-",
            "30.0 ± 14.1",
            "0, 1",
        ],
        ["ai", "2", "40", "both drawn", "50.0", "25.0", "40.0", "20.0", "60.0", "80.0", "0"],
    ]


def test_added_types_have_a_row_for_each_number_of_texts():
    def row(texts: int, f1: float, promised: float | None) -> dict:
        return {
            "texts": texts,
            "left_out_f1": promised,
            "alone": {"f1": f1},
            "beside": {"f1": f1 / 2},
        }

    measured = {
        "domain": "science",
        "held_out": ["enzyme", "protein"],
        "rows": [row(0, 0.1, None), row(5, 0.4, 0.5), row(5, 0.6, 0.7)],
    }
    rows = add_type_table([measured])[2:]
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in rows] == [
        ["science", "2", "0", "-", "10.0", "5.0", "1"],
        ["science", "2", "5", "60.0 ± 14.1", "50.0 ± 14.1", "25.0 ± 7.1", "2"],
    ]
