"""The linear-chain CRF against enumeration of all tag sequences."""

import math
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from contrastive_ner.models import crf_ner
from contrastive_ner.models.crf_layer_ner import (
    FORBIDDEN,
    LinearChainCRF,
    arrays,
    bio_penalties,
    crf_log_partition,
    crf_marginals,
    crf_sequence_score,
    crf_viterbi,
)
from contrastive_ner.models.encoder_ner import IGNORED
from contrastive_ner.models.modeling_nerco import pack_left

LABELS = {
    3: ["O", "B-PER", "I-PER"],
    4: ["O", "B-PER", "I-PER", "B-ORG"],
    5: ["O", "B-PER", "I-PER", "B-ORG", "I-ORG"],
}
SIZES = pytest.mark.parametrize("tags", [3, 4, 5])
CONSTRAINED = pytest.mark.parametrize("constrain", [False, True], ids=["free", "bio"])


class Case(NamedTuple):
    """A ragged batch: emissions (B, L, C), transitions (C, C), start (C,), lengths (B,)."""

    emissions: Tensor
    transitions: Tensor
    start: Tensor
    lengths: Tensor


def random_case(
    seed: int,
    tags: int,
    constrain: bool,
    *,
    scale: float = 2.0,
    lengths: tuple[int, ...] = (5, 1, 3, 4, 2),
) -> Case:
    generator = torch.Generator().manual_seed(seed)
    emissions = (
        torch.randn(len(lengths), max(lengths), tags, generator=generator, dtype=torch.float64)
        * scale
    )
    transitions = torch.randn(tags, tags, generator=generator, dtype=torch.float64)
    start = torch.randn(tags, generator=generator, dtype=torch.float64)
    if constrain:
        penalty, start_penalty = bio_penalties(LABELS[tags])
        transitions, start = transitions + penalty, start + start_penalty
    return Case(emissions, transitions, start, torch.tensor(lengths))


def enumerate_row(case: Case, row: int) -> tuple[Tensor, Tensor]:
    """All tag sequences of a row (S, L) and their scores (S,), in float64."""
    length = int(case.lengths[row])
    emissions, transitions, start = (
        case.emissions[row].double(),
        case.transitions.double(),
        case.start.double(),
    )
    every = list(product(range(emissions.shape[-1]), repeat=length))
    sequences = torch.tensor(every, dtype=torch.long)  # (S, L)
    scores = start[sequences[:, 0]].clone()
    for t in range(length):
        scores += emissions[t, sequences[:, t]]
        if t:
            scores += transitions[sequences[:, t - 1], sequences[:, t]]
    return sequences, scores


def spans_of_row(length: int, labels: list[str]) -> list[tuple[int, int, int, int]]:
    """(first, last, id of B-X, id of I-X) of every possible span."""
    pairs = [
        (labels.index("B-" + x), labels.index("I-" + x))
        for x in ("PER", "ORG")
        if "I-" + x in labels
    ]
    return [
        (i, j, b, inside) for i in range(length) for j in range(i, length) for b, inside in pairs
    ]


def posteriors(case: Case, spans: list[tuple[int, ...]]) -> Tensor:
    """`span_posterior` of (row, first, last, begin, inside) tuples: (S,)."""
    fb = crf_ner.forward_backward(*arrays(*case))
    return torch.from_numpy(
        crf_ner.span_posterior(fb, case.transitions.numpy(), *np.array(spans).T)
    )


# ------------------------------------------------------------------------------ against enumeration
@SIZES
@CONSTRAINED
@pytest.mark.parametrize("seed", range(3))
def test_partition_equals_enumeration(seed: int, tags: int, constrain: bool) -> None:
    case = random_case(seed, tags, constrain)
    expected = [enumerate_row(case, row)[1].logsumexp(0) for row in range(5)]
    torch.testing.assert_close(
        crf_log_partition(*case), torch.stack(expected), rtol=1e-10, atol=1e-10
    )


@SIZES
@CONSTRAINED
@pytest.mark.parametrize("seed", range(3))
def test_viterbi_score_equals_the_best_of_enumeration(
    seed: int, tags: int, constrain: bool
) -> None:
    case = random_case(seed, tags, constrain)
    path = crf_viterbi(*case)
    score = crf_sequence_score(case.emissions, case.transitions, case.start, path, case.lengths)
    expected = [enumerate_row(case, row)[1].max() for row in range(5)]
    torch.testing.assert_close(score, torch.stack(expected), rtol=1e-5, atol=1e-5)
    assert torch.equal(path == IGNORED, torch.arange(5)[None, :] >= case.lengths[:, None])


@SIZES
@CONSTRAINED
def test_marginals_equal_enumeration(tags: int, constrain: bool) -> None:
    case = random_case(0, tags, constrain)
    expected = torch.zeros_like(case.emissions)
    for row in range(5):
        sequences, scores = enumerate_row(case, row)
        probability = scores.softmax(0)
        for t in range(sequences.shape[1]):
            expected[row, t].index_add_(0, sequences[:, t], probability)
    torch.testing.assert_close(crf_marginals(*case), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tags", [3, 5])
@CONSTRAINED
@pytest.mark.parametrize("seed", range(3))
def test_span_posterior_equals_enumeration_of_the_event(
    seed: int, tags: int, constrain: bool
) -> None:
    case = random_case(seed, tags, constrain)
    spans, expected = [], []
    for row, length in enumerate(case.lengths.tolist()):
        sequences, scores = enumerate_row(case, row)
        probability = scores.softmax(0)
        for i, j, begin, inside in spans_of_row(length, LABELS[tags]):
            event = (sequences[:, i] == begin) & (sequences[:, i + 1 : j + 1] == inside).all(1)
            if j + 1 < length:
                event &= sequences[:, j + 1] != inside
            spans.append((row, i, j, begin, inside))
            expected.append(probability[event].sum())
    torch.testing.assert_close(
        posteriors(case, spans), torch.stack(expected), rtol=1e-8, atol=1e-12
    )


@pytest.mark.parametrize("tags", [3, 5])
@CONSTRAINED
def test_spans_from_a_position_sum_to_the_marginal_of_their_begin_tag(
    tags: int, constrain: bool
) -> None:
    lengths = (40, 7, 1)
    case = random_case(3, tags, constrain, lengths=lengths)
    marginals = crf_marginals(*case)
    for row, length in enumerate(lengths):
        spans = [(row, *span) for span in spans_of_row(length, LABELS[tags])]
        total = torch.zeros_like(marginals[row])
        for (_, first, _, begin, _), posterior in zip(spans, posteriors(case, spans), strict=True):
            total[first, begin] += posterior
        begins = [i for i, label in enumerate(LABELS[tags]) if label.startswith("B-")]
        torch.testing.assert_close(
            total[:, begins], marginals[row][:, begins], rtol=1e-9, atol=1e-12
        )


def test_sequence_score_equals_enumeration_for_every_sequence() -> None:
    case = random_case(0, 3, False, lengths=(4,))
    sequences, scores = enumerate_row(case, 0)
    copies = len(sequences)
    result = crf_sequence_score(
        case.emissions.expand(copies, -1, -1),
        case.transitions,
        case.start,
        sequences,
        case.lengths.expand(copies),
    )
    torch.testing.assert_close(result, scores)


@CONSTRAINED
@pytest.mark.parametrize("seed", range(5))
def test_no_sequence_scores_above_the_partition(seed: int, constrain: bool) -> None:
    case = random_case(seed, 5, constrain, lengths=(30, 12, 1))
    tags = torch.randint(0, 5, (3, 30), generator=torch.Generator().manual_seed(seed))
    partition = crf_log_partition(*case)
    for path in (tags, crf_viterbi(*case)):
        assert (
            crf_sequence_score(case.emissions, case.transitions, case.start, path, case.lengths)
            <= partition
        ).all()


# ----------------------------------------------------------------------------------------- gradient
@CONSTRAINED
@pytest.mark.parametrize("lengths", [(4, 1, 3), (2, 0), (1,)], ids=str)
def test_gradient_of_the_partition_equals_finite_differences(
    constrain: bool, lengths: tuple[int, ...]
) -> None:
    case = random_case(0, 5, constrain, lengths=lengths)
    emissions, transitions = case.emissions.requires_grad_(), case.transitions.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda e, t: crf_log_partition(e, t, case.start, case.lengths),
        (emissions, transitions),
        atol=1e-6,
    )


@CONSTRAINED
def test_gradient_on_emissions_is_the_marginals(constrain: bool) -> None:
    case = random_case(1, 5, constrain)
    emissions = case.emissions.requires_grad_()
    crf_log_partition(*case).sum().backward()
    torch.testing.assert_close(emissions.grad, crf_marginals(*case))


# ---------------------------------------------------------------------------------------- precision
@CONSTRAINED
def test_bf16_emissions_are_read_exactly(constrain: bool) -> None:
    case = random_case(0, 5, constrain)
    half = case.emissions.bfloat16().requires_grad_()
    transitions, start = case.transitions.float(), case.start.float()
    partition = crf_log_partition(half, transitions, start, case.lengths)
    partition.sum().backward()
    exact = half.detach().double().requires_grad_()
    expected = crf_log_partition(exact, transitions.double(), start.double(), case.lengths)
    expected.sum().backward()
    assert partition.dtype == torch.float32
    assert half.grad.dtype == torch.bfloat16
    torch.testing.assert_close(partition.double(), expected, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(half.grad.double(), exact.grad, rtol=1e-2, atol=1e-6)
    assert torch.equal(
        crf_viterbi(half, transitions, start, case.lengths),
        crf_viterbi(exact, transitions, start, case.lengths),
    )


@CONSTRAINED
@pytest.mark.parametrize("size", [50.0, 200.0])
@pytest.mark.parametrize("seed", range(3))
def test_very_large_emissions_stay_finite_and_right(
    seed: int, size: float, constrain: bool
) -> None:
    case = random_case(seed, 5, constrain)
    signs = (
        torch.randint(0, 2, case.emissions.shape, generator=torch.Generator().manual_seed(seed)) * 2
        - 1
    )
    emissions = (signs * size).float().requires_grad_()
    case = Case(emissions, case.transitions.float(), case.start.float(), case.lengths)
    partition = crf_log_partition(*case)
    partition.sum().backward()
    expected = torch.stack([enumerate_row(case, row)[1].logsumexp(0) for row in range(5)])
    torch.testing.assert_close(partition.double(), expected, rtol=1e-6, atol=1e-5)
    valid = torch.arange(5)[None, :] < case.lengths[:, None]
    torch.testing.assert_close(emissions.grad.sum(-1), valid.float())
    best = crf_sequence_score(
        case.emissions, case.transitions, case.start, crf_viterbi(*case), case.lengths
    )
    highest = torch.stack([enumerate_row(case, row)[1].max() for row in range(5)])
    torch.testing.assert_close(best.double(), highest, rtol=1e-6, atol=1e-3)
    spans = [(0, *span) for span in spans_of_row(5, LABELS[5])]
    scores = posteriors(case, spans)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_a_long_sequence_equals_the_plain_log_space_recursion() -> None:
    case = random_case(0, 5, True, lengths=(400, 250), scale=10.0)
    for row, length in enumerate((400, 250)):
        alpha = case.start + case.emissions[row, 0]
        for t in range(1, length):
            alpha = (alpha[:, None] + case.transitions).logsumexp(0) + case.emissions[row, t]
        torch.testing.assert_close(
            crf_log_partition(*case)[row], alpha.logsumexp(0), rtol=1e-10, atol=0
        )


# ------------------------------------------------------------------------------------------ padding
@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    extra=st.integers(0, 3),
    filler=st.sampled_from([0.0, -1e4, 1e4, 37.5]),
    constrain=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_padding_does_not_matter(
    lengths: list[int], extra: int, filler: float, constrain: bool, seed: int
) -> None:
    case = random_case(seed, 5, constrain, lengths=(*lengths, 5))
    steps = case.emissions.shape[1] + extra
    padded = torch.full((len(case.lengths), steps, 5), filler, dtype=torch.float64)
    padded[..., 2] *= -1
    for row, length in enumerate(case.lengths.tolist()):
        padded[row, :length] = case.emissions[row, :length]
    clean, other = case.emissions.clone().requires_grad_(), padded.requires_grad_()
    again = case._replace(emissions=other)
    partition, partition_again = crf_log_partition(clean, *case[1:]), crf_log_partition(*again)
    partition.sum().backward()
    partition_again.sum().backward()
    torch.testing.assert_close(partition_again, partition)
    torch.testing.assert_close(other.grad[:, : clean.shape[1]], clean.grad)
    assert other.grad[:, clean.shape[1] :].eq(0).all()
    assert torch.equal(crf_viterbi(*again)[:, : clean.shape[1]], crf_viterbi(*case))
    spans = [
        (row, *span)
        for row, length in enumerate(case.lengths.tolist())
        for span in spans_of_row(length, LABELS[5])
    ]
    torch.testing.assert_close(posteriors(again, spans), posteriors(case, spans))


def test_a_row_of_length_zero_has_no_score_no_gradient_and_no_tags() -> None:
    case = random_case(0, 5, True, lengths=(0, 3, 0))
    emissions = case.emissions.requires_grad_()
    partition = crf_log_partition(*case)
    partition.sum().backward()
    assert partition[[0, 2]].tolist() == [0, 0]
    assert partition[1] != 0
    assert emissions.grad[[0, 2]].eq(0).all()
    assert crf_marginals(*case)[[0, 2]].eq(0).all()
    path = crf_viterbi(*case)
    assert path[[0, 2]].eq(IGNORED).all()
    score = crf_sequence_score(emissions, case.transitions, case.start, path, case.lengths)
    assert score[[0, 2]].tolist() == [0, 0]


@settings(deadline=None, max_examples=50)
@given(
    rows=st.integers(1, 4).flatmap(
        lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1, max_size=4)
    )
)
def test_pack_left_keeps_the_kept_values_in_order(rows: list[list[bool]]) -> None:
    keep = torch.tensor(rows)
    values = torch.arange(keep.numel() * 3).view(*keep.shape, 3)
    packed, lengths = pack_left(values, keep)
    assert packed.shape[1] == max(int(lengths.max()), 1)
    for row, length in enumerate(lengths.tolist()):
        assert torch.equal(packed[row, :length], values[row][keep[row]])


# -------------------------------------------------------------------------------------- constraints
@pytest.mark.parametrize("tags", [3, 5])
@pytest.mark.parametrize("scale", [1.0, 20.0, 200.0])
def test_viterbi_never_takes_a_forbidden_transition(tags: int, scale: float) -> None:
    labels = LABELS[tags]
    case = random_case(0, tags, True, scale=scale, lengths=tuple(range(1, 65)))
    for path, length in zip(crf_viterbi(*case).tolist(), case.lengths.tolist(), strict=True):
        names = [labels[tag] for tag in path[:length]]
        for before, tag in zip(["O", *names], names, strict=False):
            assert not tag.startswith("I-") or before in ("B" + tag[1:], tag)


def test_a_forbidden_sequence_has_probability_zero() -> None:
    case = random_case(0, 5, True, lengths=(3,))
    orphan = torch.tensor([[0, 2, 2]])  # O I-PER I-PER
    log_probability = crf_sequence_score(
        case.emissions, case.transitions, case.start, orphan, case.lengths
    ) - crf_log_partition(*case)
    assert log_probability.exp().item() == 0
    marginals = crf_marginals(*case)[0, 0]
    assert marginals[[2, 4]].eq(0).all()
    assert marginals.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("tags", [3, 4, 5])
def test_penalties_forbid_exactly_what_is_no_bio(tags: int) -> None:
    labels = LABELS[tags]
    transitions, start = bio_penalties(labels)
    for j, tag in enumerate(labels):
        assert start[j] == (FORBIDDEN if tag[0] == "I" else 0)
        for i, before in enumerate(labels):
            allowed = tag[0] != "I" or (before[0] in "BI" and before[2:] == tag[2:])
            assert transitions[i, j] == (0 if allowed else FORBIDDEN)


@pytest.mark.parametrize("use_transitions", [False, True])
@CONSTRAINED
def test_a_new_crf_scores_only_the_penalties(constrain: bool, use_transitions: bool) -> None:
    crf = LinearChainCRF(LABELS[5], constrain=constrain, use_transitions=use_transitions)
    transitions, start = crf.scores()
    penalty, start_penalty = bio_penalties(LABELS[5])
    assert torch.equal(transitions, penalty * constrain)
    assert torch.equal(start, start_penalty * constrain)
    assert [name for name, _ in crf.named_parameters()] == (
        ["transitions"] if use_transitions else []
    )


def test_span_posterior_with_orphans_counts_every_reading_of_the_mention():
    # Tags O, B, I without constraints: enumerate the mass of the sequences in which positions 1..2
    # are one mention.
    torch.manual_seed(0)
    emissions, transitions, start = torch.randn(1, 4, 3), torch.randn(3, 3), torch.zeros(3)
    lengths = torch.tensor([4])
    fb = crf_ner.forward_backward(*arrays(emissions, transitions, start, lengths))
    for first, last in ((0, 0), (0, 3), (1, 2), (2, 2), (2, 3), (3, 3)):
        mass = total = 0.0
        for tags in product(range(3), repeat=4):
            score = sum(emissions[0, t, tag].item() for t, tag in enumerate(tags))
            score += sum(transitions[a, b].item() for a, b in pairwise(tags))
            weight = math.exp(score)
            total += weight
            opens = tags[first] == 1 or (tags[first] == 2 and (first == 0 or tags[first - 1] == 0))
            stays = all(tag == 2 for tag in tags[first + 1 : last + 1])
            ends = last == 3 or tags[last + 1] != 2
            mass += weight * (opens and stays and ends)
        at = [np.array([value]) for value in (0, first, last, 1, 2)]
        found = crf_ner.span_posterior(fb, transitions.numpy(), *at, accept_orphans=True)
        assert found.item() == pytest.approx(mass / total, rel=1e-5)


# ----------------------------------------------------------------------------------------- decoding
def mentions_of(tags: tuple[int, ...]) -> set[tuple[int, int, str]]:
    """Mentions of a tag sequence; an I-X that continues nothing begins one."""
    found: list[tuple[int, int, str]] = []
    for i, tag in enumerate(tags):
        label = LABELS[5][tag]
        if label[0] == "I" and found and found[-1][1:] == (i, label[2:]):
            found[-1] = (found[-1][0], i + 1, label[2:])
        elif label != "O":
            found.append((i, i + 1, label[2:]))
    return set(found)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    constrain=st.booleans(),
    scale=st.sampled_from([0.3, 3.0, 60.0]),
    temperature=st.floats(0.5, 2.5),
)
def test_decoded_mentions_and_posteriors_equal_enumeration(
    seed: int, constrain: bool, scale: float, temperature: float
) -> None:
    draw = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(3, 6, 5, generator=draw)
    mask = torch.rand(3, 6, generator=draw) < torch.tensor([0.7, 0.3, 0.0])[:, None]
    mask[:, 4:] &= torch.tensor([False, False])  # at most four labelled positions
    transitions, start = torch.randn(5, 5, generator=draw), torch.zeros(5)
    if constrain:
        transitions, start = (
            a + b for a, b in zip((transitions, start), bio_penalties(LABELS[5]), strict=True)
        )
    emissions, lengths = crf_ner.pack_left(logits.numpy(), mask.numpy())
    options = {"temperature": temperature, "accept_orphans": not constrain, "top_k": 2}
    found = crf_ner.decode_tags(
        emissions, lengths, transitions.numpy(), start.numpy(), LABELS[5], **options
    )
    assert lengths.tolist() == mask.sum(1).tolist()
    assert found[2] == []
    for row in range(2):
        if not lengths[row]:
            assert found[row] == []
            continue
        case = Case(
            logits[row : row + 1, mask[row]], transitions, start, torch.tensor([int(lengths[row])])
        )
        sequences, scores = enumerate_row(case, 0)
        probability = (scores / temperature).softmax(0).tolist()
        readings = [mentions_of(tuple(tags)) for tags in sequences.tolist()]
        assert {mention[:3] for mention in found[row]} == readings[int(scores.argmax())]
        for first, last, label, score, best in found[row]:
            mass = {
                kind: sum(
                    p
                    for p, reading in zip(probability, readings, strict=True)
                    if (first, last, kind) in reading
                )
                for kind in ("PER", "ORG")
            }
            assert score == pytest.approx(mass[label], abs=1e-5)
            assert dict(best) == pytest.approx(mass, abs=1e-5)
            assert [s for _, s in best] == pytest.approx(
                sorted(mass.values(), reverse=True), abs=1e-5
            )
