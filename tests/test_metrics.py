"""Exact-span scores against seqeval (flat data) and hand-computed cases (nested data).

Also kinds of errors, and scores of groups.
"""

from collections.abc import Callable
from typing import Any

import evaluate
import pytest
from conftest import ROOT
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from seqeval.metrics import classification_report, f1_score, precision_score, recall_score

from contrastive_ner.data.records import Mention, Record
from contrastive_ner.data.schemes import tags_to_spans
from contrastive_ner.evaluation.confusions import (
    confusion_table,
    confusions,
    kind_of,
    list_errors,
    pairs,
)
from contrastive_ner.evaluation.metrics import (
    error_breakdown,
    length_scores,
    precision_recall_f1,
    span_scores,
    text_counts,
    touching,
    training_scores,
)

PROPERTY = settings(deadline=None, derandomize=True, max_examples=100)
NAMES = ("precision", "recall", "f1")
COUNTS = ("correct", "predicted", "gold")
NOTHING = {"precision": 0.0, "recall": 0.0, "f1": 0.0}


@st.composite
def tagged_corpora(draw: st.DrawFn) -> tuple[list[list[str]], list[list[str]]]:
    """Gold and predicted BIO tags of a few sentences; predictions are often close to gold."""
    gold, predicted = [], []
    for length in draw(st.lists(st.integers(1, 8), min_size=1, max_size=4)):
        gold.append(draw(bio_tags(length)))
        predicted.append(draw(st.just(gold[-1]) | bio_tags(length)))
    return gold, predicted


@st.composite
def bio_tags(draw: st.DrawFn, length: int) -> list[str]:
    tags = ["O"] * length
    i = 0
    while i < length:
        size, label = draw(st.integers(1, 3)), draw(st.sampled_from([None, "PER", "ORG", "LOC"]))
        if label:
            tags[i : min(i + size, length)] = [
                f"B-{label}",
                *[f"I-{label}"] * (min(size, length - i) - 1),
            ]
        i += size
    return tags


def spans(sequences: list[list[str]]) -> list[list[tuple[int, int, str]]]:
    return [tags_to_spans(tags, "BIO")[0] for tags in sequences]


@PROPERTY
@given(tagged_corpora())
def test_scores_agree_with_seqeval(corpora: tuple[list[list[str]], list[list[str]]]) -> None:
    gold, predicted = corpora
    assume(any(spans(gold) + spans(predicted)))  # seqeval cannot report on no spans
    ours = span_scores(spans(predicted), spans(gold))
    theirs = {
        name: f(gold, predicted, zero_division=0)
        for name, f in zip(NAMES, (precision_score, recall_score, f1_score), strict=True)
    }
    assert {name: ours["micro"][name] for name in NAMES} == pytest.approx(theirs)

    report = classification_report(gold, predicted, output_dict=True, zero_division=0)
    per_type = {name: entry for name, entry in report.items() if not name.endswith(" avg")}
    assert ours["per_type"].keys() == per_type.keys()
    for label, entry in per_type.items():
        found = ours["per_type"][label]
        wanted = (entry["precision"], entry["recall"], entry["f1-score"], entry["support"])
        assert (found["precision"], found["recall"], found["f1"], found["gold"]) == pytest.approx(
            wanted
        )

    counted = [entry for entry in per_type.values() if entry["support"]] or list(per_type.values())
    macro = {
        n: sum(e["f1-score" if n == "f1" else n] for e in counted) / len(counted) for n in NAMES
    }
    assert ours["macro"] == pytest.approx(macro)


# 北京大学 is an ORG with a GPE inside; the prediction has the ORG, a wrong inner type, one correct
# and one shifted PER.
GOLD = [[(0, 4, "ORG"), (0, 2, "GPE")], [(1, 3, "PER"), (5, 7, "PER")], []]
FOUND = [[(0, 4, "ORG"), (0, 2, "PER")], [(1, 3, "PER"), (5, 8, "PER")], [(0, 1, "TITLE")]]


def test_nested_mentions_by_hand() -> None:
    scores = span_scores(FOUND, GOLD)
    assert scores["micro"] == {
        "precision": 2 / 5,
        "recall": 2 / 4,
        "f1": 4 / 9,
        "correct": 2,
        "predicted": 5,
        "gold": 4,
    }
    assert scores["per_type"] == {
        "GPE": {**NOTHING, "correct": 0, "predicted": 0, "gold": 1},
        "ORG": {
            "precision": 1.0,
            "recall": 1.0,
            "f1": 1.0,
            "correct": 1,
            "predicted": 1,
            "gold": 1,
        },
        "PER": {
            "precision": 1 / 3,
            "recall": 1 / 2,
            "f1": 2 / 5,
            "correct": 1,
            "predicted": 3,
            "gold": 2,
        },
        "TITLE": {**NOTHING, "correct": 0, "predicted": 1, "gold": 0},
    }
    # over GPE, ORG, PER, without TITLE, which gold does not have
    assert scores["macro"] == pytest.approx({"precision": 4 / 9, "recall": 1 / 2, "f1": 7 / 15})


def test_one_span_with_two_types_is_two_mentions() -> None:
    micro = span_scores([[(0, 2, "ORG")]], [[(0, 2, "ORG"), (0, 2, "GPE")]])["micro"]
    assert (micro["precision"], micro["recall"]) == (1.0, 0.5)


@pytest.mark.parametrize("repeated", ["predictions", "references"])
def test_repeated_mentions_count_once(repeated: str) -> None:
    once, twice = [[(0, 2, "ORG")]], [[(0, 2, "ORG"), (0, 2, "ORG")]]
    scores = span_scores(twice, once) if repeated == "predictions" else span_scores(once, twice)
    assert scores == span_scores(once, once)
    assert scores["micro"]["predicted"] == scores["micro"]["gold"] == 1


def test_same_mention_in_two_texts_counts_twice() -> None:
    assert span_scores([[(0, 2, "ORG")]] * 2, [[(0, 2, "ORG")]] * 2)["micro"]["correct"] == 2


def test_mention_of_another_text_is_wrong() -> None:
    assert span_scores([[(0, 2, "ORG")], []], [[], [(0, 2, "ORG")]])["micro"]["correct"] == 0


def test_score_of_a_mention_does_not_matter() -> None:
    assert span_scores([[(0, 2, "ORG", 0.3)]], [[(0, 2, "ORG", None)]])["micro"]["f1"] == 1.0


@pytest.mark.parametrize(
    ("predictions", "references", "predicted", "gold"),
    [
        ([], [], 0, 0),
        ([[]], [[]], 0, 0),
        ([[]], [[(0, 1, "X")]], 0, 1),
        ([[(0, 1, "X")]], [[]], 1, 0),
    ],
    ids=["no text", "no mention", "nothing found", "nothing there"],
)
def test_empty_cases_score_zero(
    predictions: list, references: list, predicted: int, gold: int
) -> None:
    scores = span_scores(predictions, references)
    assert scores["micro"] == {**NOTHING, "correct": 0, "predicted": predicted, "gold": gold}
    assert scores["macro"] == NOTHING
    assert list(scores["per_type"]) == ["X"] * (predicted + gold)


def test_f1_is_the_harmonic_mean() -> None:
    scores = precision_recall_f1(3, 4, 10)
    assert scores == pytest.approx(
        {"precision": 0.75, "recall": 0.3, "f1": 2 / (1 / 0.75 + 1 / 0.3)}
    )


def test_different_numbers_of_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="2 predictions for 1 references"):
        span_scores([[], []], [[]])


# ------------------------------------------------------------------------ errors, groups and counts
Triples = list[tuple[int, int, str]]
TEXT = "甲乙甲乙丙甲乙丁甲乙甲乙丙甲"


@st.composite
def scored_texts(draw: st.DrawFn) -> tuple[list[Triples], list[Triples], list[str]]:
    """Texts with predicted and gold mentions, some nested or crossing; surfaces and texts recur."""
    size = draw(st.integers(0, 3))
    texts = [TEXT[: draw(st.integers(10, len(TEXT)))] for _ in range(size)]
    gold = [draw(st.lists(mention(len(text)), max_size=4)) for text in texts]
    found = [
        [m for m in own if draw(st.booleans())] + draw(st.lists(mention(len(text)), max_size=4))
        for own, text in zip(gold, texts, strict=True)
    ]
    return found, gold, texts


@st.composite
def mention(draw: st.DrawFn, length: int) -> tuple[int, int, str]:
    start = draw(st.integers(0, length - 1))
    return start, draw(st.integers(start + 1, length)), draw(st.sampled_from(["PER", "ORG"]))


def kept(texts: list[Triples], keep: Callable[[int, tuple[int, int, str]], bool]) -> list[Triples]:
    return [[m for m in mentions if keep(i, m)] for i, mentions in enumerate(texts)]


def added(groups: list[dict[str, Any]]) -> dict[str, int]:
    return {name: sum(group[name] for group in groups) for name in COUNTS}


@PROPERTY
@given(scored_texts())
def test_errors_add_up_to_what_is_wrong_on_either_side(
    case: tuple[list[Triples], list[Triples], list[str]],
) -> None:
    found, gold, _ = case
    errors, micro = error_breakdown(found, gold), span_scores(found, gold)["micro"]
    assert sum(errors["predictions"].values()) == micro["predicted"] - micro["correct"]
    assert sum(errors["gold"].values()) == micro["gold"] - micro["correct"]


@PROPERTY
@given(scored_texts())
def test_errors_are_those_of_shared_characters(
    case: tuple[list[Triples], list[Triples], list[str]],
) -> None:
    """The definition with sets of characters.

    Removes correct mentions from both sides, then compares each mention with those that remain.
    """
    found, gold, _ = case
    names = {"predictions": [], "gold": []}
    for own, wanted in zip(found, gold, strict=True):
        for side, mine, theirs in (("predictions", own, wanted), ("gold", wanted, own)):
            for start, end, label in set(mine) - set(theirs):
                touching = [
                    m
                    for m in set(theirs) - set(mine)
                    if set(range(*m[:2])) & set(range(start, end))
                ]
                if any(set(range(*m[:2])) == set(range(start, end)) for m in touching):
                    names[side].append("type")
                elif any(m[2] == label for m in touching):
                    names[side].append("boundary")
                else:
                    names[side].append(
                        "boundary_and_type"
                        if touching
                        else {"predictions": "spurious", "gold": "missed"}[side]
                    )
    assert {
        side: {k: n for k, n in counts.items() if n}
        for side, counts in error_breakdown(found, gold).items()
    } == {side: {name: own.count(name) for name in own} for side, own in names.items()}


@PROPERTY
@given(scored_texts())
def test_errors_of_swapped_sides_are_swapped(
    case: tuple[list[Triples], list[Triples], list[str]],
) -> None:
    found, gold, _ = case
    errors, swapped = error_breakdown(found, gold), error_breakdown(gold, found)
    assert list(errors["predictions"].values()) == list(swapped["gold"].values())
    assert list(errors["gold"].values()) == list(swapped["predictions"].values())


@pytest.mark.parametrize(
    ("found", "gold", "of_predictions", "of_gold"),
    [
        ([(0, 2, "PER")], [(0, 2, "ORG")], "type", "type"),
        ([(0, 2, "PER")], [(1, 3, "PER")], "boundary", "boundary"),
        ([(0, 2, "PER")], [(1, 3, "ORG")], "boundary_and_type", "boundary_and_type"),
        ([(0, 2, "PER")], [(2, 4, "PER")], "spurious", "missed"),  # neighbours do not touch
        # Equal boundaries take precedence.
        ([(0, 3, "PER")], [(0, 3, "ORG"), (0, 2, "PER")], "type", "type boundary"),
        ([(0, 3, "PER")], [(0, 2, "ORG"), (2, 4, "PER")], "boundary", "boundary_and_type boundary"),
        ([(0, 4, "PER")], [(0, 2, "PER"), (2, 4, "PER")], "boundary", "boundary boundary"),
        ([(0, 2, "PER"), (2, 4, "PER")], [(0, 4, "PER")], "boundary boundary", "boundary"),
        # The gold mention is found.
        ([(0, 4, "ORG"), (0, 2, "PER")], [(0, 4, "ORG")], "spurious", ""),
        # The prediction is correct.
        ([(0, 4, "ORG")], [(0, 4, "ORG"), (0, 2, "GPE")], "", "missed"),
        ([(0, 4, "PER")], [(0, 4, "ORG"), (0, 2, "GPE")], "type", "type boundary_and_type"),
        ([(0, 2, "ORG"), (0, 2, "ORG")], [], "spurious", ""),  # counts once
        ([], [], "", ""),
    ],
)
def test_errors_by_hand(found: Triples, gold: Triples, of_predictions: str, of_gold: str) -> None:
    errors = error_breakdown([found], [gold])
    for side, names in (("predictions", of_predictions), ("gold", of_gold)):
        assert sorted(name for name, n in errors[side].items() for _ in range(n)) == sorted(
            names.split()
        )


def test_mention_of_another_text_explains_no_error() -> None:
    errors = error_breakdown([[(0, 2, "PER")], []], [[], [(0, 2, "ORG")]])
    assert (errors["predictions"]["spurious"], errors["gold"]["missed"]) == (1, 1)


@PROPERTY
@given(scored_texts())
def test_score_of_a_length_is_that_of_its_mentions_alone(
    case: tuple[list[Triples], list[Triples], list[str]],
) -> None:
    found, gold, _ = case
    scores = length_scores(found, gold)
    micro = span_scores(found, gold)["micro"]
    assert added(list(scores.values())) == {name: micro[name] for name in COUNTS}
    for name, lengths in zip(
        scores, ([1], [2], [3], [4, 5], [6, 7, 8, 9], range(10, 99)), strict=True
    ):
        own = [
            kept(side, lambda _, m, lengths=lengths: m[1] - m[0] in lengths)
            for side in (found, gold)
        ]
        assert scores[name] == span_scores(*own)["micro"]


@PROPERTY
@given(
    scored_texts(),
    st.sets(
        st.tuples(st.sampled_from(["甲", "甲乙", "乙甲", "丙"]), st.sampled_from(["PER", "ORG"]))
    ),
)
def test_seen_and_unseen_mentions_make_up_micro(
    case: tuple[list[Triples], list[Triples], list[str]], train: set[tuple[str, str]]
) -> None:
    found, gold, texts = case
    scores = training_scores(found, gold, texts, set(), train)
    micro = span_scores(found, gold)["micro"]
    assert added([scores["seen"], scores["unseen"]]) == {name: micro[name] for name in COUNTS}
    own = [
        kept(side, lambda i, m: (texts[i][m[0] : m[1]], m[2]) in train) for side in (found, gold)
    ]
    assert scores["seen"] == span_scores(*own)["micro"]


def test_surface_with_another_type_is_unseen() -> None:
    scores = training_scores(
        [[(0, 2, "PER")]], [[(0, 2, "ORG")]], ["甲乙"], set(), {("甲乙", "ORG")}
    )
    assert (scores["seen"]["gold"], scores["seen"]["predicted"], scores["unseen"]["predicted"]) == (
        1,
        0,
        1,
    )


@PROPERTY
@given(scored_texts())
def test_new_texts_are_those_that_training_lacks(
    case: tuple[list[Triples], list[Triples], list[str]],
) -> None:
    found, gold, texts = case
    known = set(texts[:1])
    scores = training_scores(found, gold, texts, known, set())
    new = [i for i, text in enumerate(texts) if text not in known]
    assert scores["recurring_texts"] == [i for i in range(len(texts)) if i not in new]
    micro = span_scores([found[i] for i in new], [gold[i] for i in new])["micro"]
    assert scores["new_texts"] == {**micro, "texts": len(new)}


@PROPERTY
@given(scored_texts())
def test_counts_of_each_text_are_its_own_scores(
    case: tuple[list[Triples], list[Triples], list[str]],
) -> None:
    found, gold, _ = case
    counts = text_counts(found, gold)
    rows = [counts[i : i + 3] for i in range(0, len(counts), 3)]
    alone = [span_scores([own], [wanted])["micro"] for own, wanted in zip(found, gold, strict=True)]
    assert rows == [[micro[name] for name in COUNTS] for micro in alone]


@pytest.mark.parametrize(
    "function",
    [error_breakdown, length_scores, text_counts],
    ids=lambda function: function.__name__,
)
def test_breakdowns_refuse_different_numbers_of_texts(function: Callable) -> None:
    with pytest.raises(ValueError, match="2 predictions for 1 references"):
        function([[], []], [[]])


def test_training_scores_refuse_different_numbers_of_texts() -> None:
    with pytest.raises(ValueError, match="1 texts for 2 references"):
        training_scores([[], []], [[], []], ["甲"], set(), set())


# ----------------------------------------------------------------------------------------- evaluate
@pytest.fixture(scope="module")
def metric() -> evaluate.Metric:
    return evaluate.load(str(ROOT / "contrastive_ner" / "evaluation" / "metrics.py"))


def mentions(texts: list[list[tuple[int, int, str]]]) -> list[list[dict[str, Any]]]:
    return [
        [{"start": start, "end": end, "label": label} for start, end, label in text]
        for text in texts
    ]


def leaves(value: Any) -> list[Any]:
    return (
        [leaf for item in value.values() for leaf in leaves(item)]
        if isinstance(value, dict)
        else [value]
    )


def test_evaluate_metric_computes_the_same(metric: evaluate.Metric) -> None:
    scores = span_scores(FOUND, GOLD)
    result = metric.compute(predictions=mentions(FOUND), references=mentions(GOLD))
    macro = {f"macro_{name}": value for name, value in scores["macro"].items()}
    assert result == {**scores["micro"], **macro, "per_type": scores["per_type"]}


def test_evaluate_metric_returns_plain_numbers(metric: evaluate.Metric) -> None:
    result = metric.compute(predictions=mentions(FOUND), references=mentions(GOLD))
    assert {type(leaf) for leaf in leaves(result)} == {int, float}


def test_evaluate_metric_takes_batches(metric: evaluate.Metric) -> None:
    for found, gold in zip(FOUND, GOLD, strict=True):
        metric.add_batch(predictions=mentions([found]), references=mentions([gold]))
    assert metric.compute()["f1"] == span_scores(FOUND, GOLD)["micro"]["f1"]


def test_evaluate_metric_takes_mentions_with_other_fields(metric: evaluate.Metric) -> None:
    scored = [[{**m, "score": 0.5, "word": "甲"} for m in text] for text in mentions(FOUND)]
    assert (
        metric.compute(predictions=scored, references=mentions(GOLD))["f1"]
        == span_scores(FOUND, GOLD)["micro"]["f1"]
    )
    for found, gold in zip(scored, mentions(GOLD), strict=True):
        metric.add(prediction=found, reference=gold)
    assert metric.compute()["f1"] == span_scores(FOUND, GOLD)["micro"]["f1"]


def test_evaluate_metric_scores_texts_without_mentions(metric: evaluate.Metric) -> None:
    assert metric.compute(predictions=[[], []], references=[[], []])["f1"] == 0.0


def test_evaluate_metric_refuses_different_numbers_of_texts(metric: evaluate.Metric) -> None:
    with pytest.raises(ValueError, match=r"[Mm]ismatch"):
        metric.compute(predictions=[[], []], references=[[]])


# ------------------------------------------------------------------------------- errors one by one
WANTED_THERE = [[(0, 2, "PER"), (3, 6, "ORG"), (8, 9, "LOC"), (12, 15, "PER")], [(0, 1, "LOC")]]
FOUND_THERE = [
    [(0, 2, "ORG", 0.9), (3, 5, "ORG", 0.8), (12, 16, "LOC", 0.7), (20, 21, "PER", 0.6)],
    [(0, 1, "LOC", 0.5)],
]


def test_confusions_count_every_gold_and_every_predicted_mention():
    counts = confusions(FOUND_THERE, WANTED_THERE)
    assert counts == {
        "LOC": {"LOC": 1, "(missed)": 1},
        "ORG": {"(border)": 1},
        "PER": {"LOC": 1, "ORG": 1},
        "(spurious)": {"PER": 1},
    }
    lines = confusion_table(counts).splitlines()
    assert lines[1].split() == [
        "gold",
        "|",
        "predicted",
        "LOC",
        "ORG",
        "PER",
        "(border)",
        "(missed)",
    ]
    assert [line.split() for line in lines[2:]] == [
        ["LOC", "1", "-", "-", "-", "1"],
        ["ORG", "-", "-", "-", "1", "-"],
        ["PER", "1", "1", "-", "-", "-"],
        ["(spurious)", "-", "-", "1", "-", "-"],
    ]
    assert confusion_table(confusions([[]], [[]])) == ""


SOME_SPANS = st.lists(
    st.builds(
        lambda start, length, label: (start, start + length, label),
        st.integers(0, 8),
        st.integers(1, 4),
        st.sampled_from("AB"),
    ),
    max_size=8,
)


@given(found=SOME_SPANS, wanted=SOME_SPANS)
def test_errors_and_confusions_add_up(found, wanted):
    both = set(found) & set(wanted)
    paired = pairs(set(found), set(wanted))
    assert sorted(g for g, _ in paired if g) == sorted(set(wanted) - both)
    assert sorted(p for _, p in paired if p) == sorted(set(found) - both)
    for gold, predicted in paired:
        if gold and predicted:
            assert gold[0] < predicted[1]
            assert predicted[0] < gold[1]
    counts = confusions([found], [wanted])
    for label in "AB":
        assert sum(counts.get(label, {}).values()) == sum(m[2] == label for m in set(wanted))
    # A pair is a wrong type only if both sides are that in the breakdown.
    breakdown = error_breakdown([found], [wanted])
    kinds = [kind_of(*pair) for pair in paired]
    assert kinds.count("missed") >= breakdown["gold"]["missed"]
    assert kinds.count("spurious") >= breakdown["predictions"]["spurious"]


def test_every_error_is_listed_with_its_context():
    records = [Record("a", "x" * 50 + "小明在北京", doc="d"), Record("b", "好" * 9)]
    found = [[Mention(50, 52, "ORG", 0.75), Mention(0, 1, "PER", 0.5)], []]
    wanted = [[Mention(50, 52, "PER")], [Mention(2, 4, "LOC")]]
    spurious, wrong, missed = list_errors(records, found, wanted)
    assert spurious["kind"] == "spurious"
    assert spurious["gold"] is None
    assert wrong == {
        "kind": "wrong type",
        "id": "a",
        "doc": "d",
        "before": "x" * 40,
        "text": "小明",
        "after": "在北京",
        "gold": {"start": 50, "end": 52, "label": "PER", "text": "小明"},
        "predicted": {"start": 50, "end": 52, "label": "ORG", "text": "小明", "score": 0.75},
    }
    assert (missed["kind"], missed["text"], missed["predicted"]) == ("missed", "好好", None)


SPANS = st.lists(
    st.tuples(st.integers(0, 12), st.integers(1, 6), st.sampled_from("AB")).map(
        lambda own: (own[0], own[0] + own[1], own[2])
    ),
    max_size=8,
)


@given(SPANS, SPANS)
@PROPERTY
def test_touching_spans_are_those_that_share_a_character(spans, others):
    near = touching(spans)
    for start, end, label in others:
        expected = [s for s in sorted(spans) if max(s[0], start) < min(s[1], end)]
        assert near((start, end, label)) == expected


def test_many_errors_in_one_text_take_linear_time():
    """Ten thousand times ten thousand comparisons would take minutes."""
    count = 10_000
    gold = [[(4 * i, 4 * i + 2, "A") for i in range(count)]]
    found = [[(4 * i + 1, 4 * i + 3, "A") for i in range(count)]]
    assert error_breakdown(found, gold)["gold"]["boundary"] == count
    assert confusions(found, gold) == {"A": {"(border)": count}}
