"""BINDER's model against the authors' values, the written-out equations and brute force.

Also what users do with a checkpoint.
"""

import copy
import json
import math
import pickle
from collections.abc import Callable
from itertools import combinations_with_replacement, pairwise, product
from pathlib import Path

import pytest
import torch
from conftest import corpus
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import BertConfig, PreTrainedTokenizerFast, Trainer, TrainingArguments

from contrastive_ner.models.encoder_ner import IGNORED
from contrastive_ner.models.modeling_binder import (
    CUT,
    BinderConfig,
    BinderModel,
    BinderOutput,
    BinderScores,
    binder_losses,
    candidate_spans,
    total_loss,
)
from contrastive_ner.models.modeling_nerco import NercoForTokenClassification
from contrastive_ner.models.types_binder import TypeEmbeddings
from contrastive_ner.models.windows_ner import InputError, Span, best_labels, flat_spans

RELEASED = json.loads(
    (Path(__file__).parent / "fixtures" / "binder_scores.json").read_text("utf-8")
)
DESCRIPTIONS = {
    "PER": "人物：人的名字。",
    "ORG": "机构：公司、学校的名字。",
    "GPE": "政区：国家、城市的名字。",
}
KINDS = ("start", "end", "span")


def small_config(types: int = 3, **changes: object) -> BinderConfig:
    encoder = BertConfig(
        vocab_size=50,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    values = {
        "encoder_config": encoder,
        "type_encoder": "tied",
        "descriptions": {f"T{i}": [f"type {i}"] for i in range(types)},
        "projection_size": 6,
        "projection_dropout": 0.0,
        "max_span_width": 4,
        **changes,
    }
    return BinderConfig(**values)


def small_model(types: int = 3, seed: int = 0, **changes: object) -> BinderModel:
    """A random model with spread scores; its descriptions are random tokens."""
    torch.manual_seed(seed)
    config = small_config(types, description_tokens=5, **changes)
    if config.type_encoder in ("untied", "frozen"):
        config.type_encoder_config = BertConfig(
            **{**config.encoder_config.to_dict(), "hidden_size": 12}
        )
    model = BinderModel(config).eval()
    for parameter in (*model.heads.parameters(), *model.type_heads.parameters()):
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    model.description_ids.copy_(torch.randint(5, 50, model.description_ids.shape))
    model.description_lengths.fill_(5)
    return model


def random_batch(
    model: BinderModel, seed: int = 0, rows: int = 3, length: int = 10, mentions: int = 4
) -> dict[str, Tensor]:
    """Windows with different word masks and mentions, some cut; one row has no mention."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda high, *shape: torch.randint(0, high, shape, generator=generator)  # noqa: E731
    word_mask, word_end_mask = draw(2, rows, length).bool(), draw(2, rows, length).bool()
    word_mask[:, 0] = word_end_mask[:, 0] = False
    word_mask[:, 1] = word_end_mask[:, -2] = True
    word_mask[:, -1] = word_end_mask[:, -1] = False
    labels = torch.full((rows, mentions, 3), IGNORED)
    for row, number in product(range(rows - 1), range(mentions)):
        starts, ends = word_mask[row].nonzero()[:, 0], word_end_mask[row].nonzero()[:, 0]
        pairs = [(int(i), int(j)) for i in starts for j in ends if i <= j]
        first, last = pairs[int(draw(len(pairs), 1))]
        labels[row, number] = torch.tensor([int(draw(len(model.config.labels), 1)), first, last])
    labels[0, 0, 2] = CUT
    labels[1, 1, 1] = CUT
    ids = 5 + draw(45, rows, length)
    ids[:, 0] = 2
    masks = {"word_mask": word_mask, "word_end_mask": word_end_mask}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, **masks}


# ---------------------------------------------------------------------- against the authors' values
def test_scores_losses_and_gradients_are_those_of_the_authors() -> None:
    size = RELEASED["shapes"]["L"]
    model = BinderModel(small_config(max_span_width=size)).eval()
    for name, values in RELEASED["heads"].items():
        part = model.heads.span if name == "span" else getattr(*_head(model, name))
        part.weight.data, part.bias.data = (
            torch.tensor(values["weight"]),
            torch.tensor(values["bias"]),
        )
    # Their row 0 is for negative widths.
    model.heads.width.weight.data = torch.tensor(RELEASED["width_embedding"])[1:]
    model.heads.log_scale.data = torch.tensor([RELEASED["log_scale"][kind] for kind in KINDS])
    hidden = torch.tensor(RELEASED["text_states"]).requires_grad_()
    states = torch.tensor(RELEASED["type_first_token_states"]).requires_grad_()
    masks = torch.tensor(RELEASED["word_start"]).bool(), torch.tensor(RELEASED["word_end"]).bool()

    types = model.type_heads(states)
    every = model.scores(hidden, torch.ones_like(masks[0]), torch.ones_like(masks[1]), types)
    torch.testing.assert_close(
        every.start, torch.tensor(RELEASED["start_scores"]), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(every.end, torch.tensor(RELEASED["end_scores"]), atol=1e-5, rtol=0)
    theirs = torch.tensor(RELEASED["span_scores"])
    for i, j in combinations_with_replacement(range(size), 2):
        torch.testing.assert_close(
            every.span[:, :, i, j - i], theirs[:, :, i, j], atol=1e-5, rtol=0
        )

    labels = torch.full((2, 4, 3), IGNORED)
    used = [0, 0]
    for row, *mention in RELEASED["gold_inclusive"]:
        labels[row, used[row]] = torch.tensor(mention)
        used[row] += 1
    losses = binder_losses(model.scores(hidden, *masks, types), labels, *masks)
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(
        RELEASED["loss_parts"], abs=1e-5
    )
    loss = total_loss(losses)
    assert loss.item() == pytest.approx(RELEASED["loss"], abs=1e-5)
    loss.backward()
    torch.testing.assert_close(
        hidden.grad, torch.tensor(RELEASED["grad_text_states"]), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        states.grad, torch.tensor(RELEASED["grad_type_first_token_states"]), atol=1e-6, rtol=0
    )


def _head(model: BinderModel, name: str) -> tuple[torch.nn.Module, str]:
    side, kind = name.split("_")
    return (model.type_heads if side == "type" else model.heads), kind


# ------------------------------------------------------------------------ the equations written out
def plain_span_score(model: BinderModel, hidden: Tensor, vector: Tensor, i: int, j: int) -> Tensor:
    """<t, v_ij>, v from the concatenation [h_i; h_j; D_w]: hidden (L, H)."""
    joined = torch.cat([hidden[i], hidden[j], model.heads.width.weight[j - i]])
    projected = model.heads.span(joined)
    return model.heads.log_scale[2].exp() * (vector @ (projected / projected.norm()))


def written_out(
    scores: BinderScores, labels: Tensor, starts: Tensor, ends: Tensor
) -> dict[str, float]:
    """The losses of the paper, mention by mention, in Python floats."""
    windows, types, _, width = scores.span.shape
    gold = [[tuple(m) for m in row if m[0] != IGNORED] for row in labels.tolist()]
    sums: dict[str, list[float]] = {
        f"{part}_{kind}": [] for part in ("mention", "threshold") for kind in KINDS
    }

    def add(kind: str, threshold: float, negatives: list[float], mentions: list[float]) -> None:
        rest = sum(math.exp(s) for s in negatives) + math.exp(threshold)
        sums[f"threshold_{kind}"].append(-math.log(math.exp(threshold) / rest))
        sums[f"mention_{kind}"] += [-math.log(math.exp(s) / (math.exp(s) + rest)) for s in mentions]

    for b, k in product(range(windows), range(types)):
        own = [(i, j) for t, i, j in gold[b] if t == k]
        whole = [(i, j) for i, j in own if CUT not in (i, j)]
        row = scores.start[b, k].tolist()
        negatives = [s for i, s in enumerate(row) if starts[b, i] and i not in [i for i, _ in own]]
        add("start", row[0], negatives, [row[i] for i, _ in whole])
        row = scores.end[b, k].tolist()
        negatives = [s for j, s in enumerate(row) if ends[b, j] and j not in [j for _, j in own]]
        add("end", row[0], negatives, [row[j] for _, j in whole])
        band = scores.span[b, k]
        cells = [
            (i, i + w)
            for i in range(len(band))
            for w in range(width)
            if i + w < len(band) and starts[b, i] and ends[b, i + w]
        ]
        negatives = [band[i, j - i].item() for i, j in cells if (i, j) not in own]
        add(
            "span",
            band[0, 0].item(),
            negatives,
            [band[i, j - i].item() for i, j in whole if j - i < width],
        )
    return {name: sum(values) / max(len(values), 1) for name, values in sums.items()}


@pytest.mark.parametrize("types", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_losses_equal_the_equations(types: int, seed: int) -> None:
    model = small_model(types, seed)
    batch = random_batch(model, seed)
    hidden = torch.randn(3, 10, 8, generator=torch.Generator().manual_seed(seed))
    masks = batch["word_mask"], batch["word_end_mask"]
    with torch.no_grad():
        scores = model.scores(hidden, *masks)
        losses = binder_losses(scores, batch["labels"], *masks)
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(
        written_out(scores, batch["labels"], *masks), rel=1e-5
    )


def test_a_mention_wider_than_the_limit_teaches_starts_and_ends_only() -> None:
    model = small_model()
    masks = torch.ones(1, 10, dtype=torch.bool), torch.ones(1, 10, dtype=torch.bool)
    masks[0][:, 0] = masks[1][:, 0] = False
    hidden = torch.randn(1, 10, 8)
    wide, none = torch.tensor([[[0, 2, 8]]]), torch.full((1, 1, 3), IGNORED)
    with torch.no_grad():
        scores = model.scores(hidden, *masks)
        with_wide, without = (binder_losses(scores, labels, *masks) for labels in (wide, none))
    assert with_wide["mention_span"] == 0
    assert with_wide["threshold_span"] == without["threshold_span"]
    assert with_wide["mention_start"] > 0
    assert with_wide["threshold_end"] < without["threshold_end"]  # its end is not a negative


def test_windows_without_mentions_train_the_threshold() -> None:
    model = small_model().train()
    batch = random_batch(model)
    batch["labels"] = torch.full((3, 1, 3), IGNORED)
    model(**batch).loss.backward()
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0
        for parameter in model.heads.parameters()
    )


def test_total_loss_weights_the_parts() -> None:
    losses = {
        f"{part}_{kind}": torch.tensor(float(10**i))
        for i, (part, kind) in enumerate(product(("mention", "threshold"), KINDS))
    }
    assert total_loss(losses).item() == pytest.approx(
        0.5 * (0.2 + 2 + 60) + 0.5 * (200 + 2000 + 60000)
    )
    assert total_loss(losses, start=0, end=0, span=1, threshold=0).item() == pytest.approx(100)


# ------------------------------------------------------------------------------------------- scores
@pytest.mark.parametrize("width", [1, 4, 10, 15])
def test_the_band_holds_the_plain_scores_of_candidates_and_nothing_else(width: int) -> None:
    model = small_model(max_span_width=width)
    batch = random_batch(model)
    hidden = torch.randn(3, 10, 8)
    with torch.no_grad():
        scores = model.scores(hidden, batch["word_mask"], batch["word_end_mask"])
        vectors = model.types.vectors[2]
        for b, k, i, w in product(range(3), range(3), range(10), range(min(width, 10))):
            is_candidate = (
                i + w < 10 and batch["word_mask"][b, i] and batch["word_end_mask"][b, i + w]
            )
            if is_candidate or (i, w) == (0, 0):
                assert scores.span[b, k, i, w].item() == pytest.approx(
                    plain_span_score(model, hidden[b], vectors[k], i, i + w).item(), abs=1e-4
                )
            else:
                assert scores.span[b, k, i, w] == torch.finfo(torch.float32).min


def test_candidates_are_words_boundaries_within_the_width() -> None:
    starts, ends = torch.tensor([[0, 1, 0, 1, 1]]), torch.tensor([[0, 0, 1, 1, 1]])
    assert [tuple(cell) for cell in candidate_spans(starts, ends, 2).nonzero().tolist()] == [
        (0, 1, 1),
        (0, 3, 0),
        (0, 3, 1),
        (0, 4, 0),
    ]


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_order_and_set_of_types_change_no_score(data: st.DataObject) -> None:
    model = small_model(5)
    batch = random_batch(model)
    chosen = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=5, unique=True))
    hidden = torch.randn(3, 10, 8, generator=torch.Generator().manual_seed(3))
    masks = batch["word_mask"], batch["word_end_mask"]
    with torch.no_grad():
        vectors = model.types.vectors
        every, some = (
            model.scores(hidden, *masks, vectors),
            model.scores(hidden, *masks, vectors[:, chosen]),
        )
    for all_types, own in zip(every, some, strict=True):
        torch.testing.assert_close(all_types[:, chosen], own)


def test_padding_and_company_change_nothing() -> None:
    model = small_model()
    batch = random_batch(model, rows=4)
    with torch.no_grad():
        alone = [
            model(**{name: value[i : i + 1] for name, value in batch.items()}) for i in range(4)
        ]
        width = {name: 5 if value.dim() == 2 else 0 for name, value in batch.items()}
        padded = {
            name: torch.nn.functional.pad(value, (0, width[name])) if width[name] else value
            for name, value in batch.items()
        }
        together = model(**padded)
        spans = model.decode(together, padded["word_mask"], padded["word_end_mask"])
        for i, one in enumerate(alone):
            (own,) = model.decode(
                one, batch["word_mask"][i : i + 1], batch["word_end_mask"][i : i + 1]
            )
            assert [span[:3] for span in own] == [span[:3] for span in spans[i]]
            assert [span.score for span in own] == pytest.approx(
                [span.score for span in spans[i]], abs=1e-5
            )


def test_what_is_no_candidate_has_no_gradient() -> None:
    model = small_model()
    batch = random_batch(model)
    batch["labels"] = torch.full((3, 1, 3), IGNORED)
    batch["word_mask"][:, 6:] = batch["word_end_mask"][:, 6:] = False
    hidden = torch.randn(3, 10, 8, requires_grad=True)
    masks = batch["word_mask"], batch["word_end_mask"]
    total_loss(binder_losses(model.scores(hidden, *masks), batch["labels"], *masks)).backward()
    unused = ~(masks[0] | masks[1])
    unused[:, 0] = False  # the threshold
    assert hidden.grad[unused].abs().max() == 0
    assert hidden.grad[:, 0].abs().max() > 0


# ----------------------------------------------------------------------------------------- decoding
def brute_force(
    model: BinderModel, hidden: Tensor, starts: Tensor, ends: Tensor
) -> list[list[tuple[int, int, str]]]:
    found: list[list[tuple[int, int, str]]] = []
    for h, own_starts, own_ends in zip(hidden, starts.tolist(), ends.tolist(), strict=True):
        row = []
        for i, j in product(range(len(h)), repeat=2):
            if own_starts[i] and own_ends[j] and 0 <= j - i < model.config.max_span_width:
                for k, label in enumerate(model.config.labels):
                    vector = model.types.vectors[2][k]
                    margin = plain_span_score(model, h, vector, i, j) - plain_span_score(
                        model, h, vector, 0, 0
                    )
                    if margin > model.config.margins.get(label, 0.0):
                        row.append((sum(own_starts[:i]), sum(own_starts[: j + 1]), label))
        found.append(row)
    return found


@pytest.mark.parametrize("margins", [{}, {"T1": 3.0}])
@pytest.mark.parametrize("seed", range(3))
def test_decoding_equals_brute_force(seed: int, margins: dict[str, float]) -> None:
    model = small_model(seed=seed, margins=margins)
    batch = random_batch(model, seed, length=9)
    hidden = torch.randn(3, 9, 8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        decoded = model.decode(
            BinderOutput(last_hidden_state=hidden), batch["word_mask"], batch["word_end_mask"]
        )
        expected = brute_force(model, hidden, batch["word_mask"], batch["word_end_mask"])
    assert any(expected)
    assert [[span[:3] for span in spans] for spans in decoded] == expected
    assert all(0.5 <= span.score <= 1 for spans in decoded for span in spans)


@pytest.mark.parametrize("min_score", [0.9, 0.5, 0.1, {"T1": 0.2}])
def test_a_limit_takes_the_place_of_threshold_and_margins(
    min_score: float | dict[str, float],
) -> None:
    model = small_model(margins={"T0": 1.0})
    batch, hidden = (
        random_batch(model, length=9),
        torch.randn(3, 9, 8, generator=torch.Generator().manual_seed(0)),
    )
    masks = batch["word_mask"], batch["word_end_mask"]
    least = (
        min_score if isinstance(min_score, dict) else dict.fromkeys(model.config.labels, min_score)
    )
    with torch.no_grad():
        decoded = model.decode(BinderOutput(last_hidden_state=hidden), *masks, min_score=min_score)
        model.config.margins = {
            "T0": 1.0,
            **{label: math.log(limit / (1 - limit)) for label, limit in least.items()},
        }
        expected = brute_force(model, hidden, *masks)
    assert any(expected)
    assert [[span[:3] for span in spans] for spans in decoded] == expected


def test_the_best_types_of_a_span_are_those_of_its_scores() -> None:
    model = small_model()
    batch, hidden = (
        random_batch(model, length=9),
        torch.randn(3, 9, 8, generator=torch.Generator().manual_seed(0)),
    )
    masks = batch["word_mask"], batch["word_end_mask"]
    with torch.no_grad():
        decoded = model.decode(BinderOutput(last_hidden_state=hidden), *masks, top_k=2)
        plain = model.decode(BinderOutput(last_hidden_state=hidden), *masks)
        scores = model.scores(hidden, *masks).span  # (B, E, L, W)
    assert [[span[:4] for span in spans] for spans in decoded] == [
        [span[:4] for span in spans] for spans in plain
    ]
    assert any(decoded)
    position = masks[0].long().cumsum(1)
    for row, spans in enumerate(decoded):
        for span in spans:
            # Random masks may end several spans in one word: one of them is this one.
            cells = [
                (first, width)
                for first in range(9)
                for width in range(min(scores.shape[-1], 9 - first))
                if masks[0][row, first]
                and masks[1][row, first + width]
                and (int(position[row, first]) - 1, int(position[row, first + width]))
                == (span.start, span.end)
            ]
            best = [
                (scores[row, :, first, width] - scores[row, :, 0, 0]).topk(2)
                for first, width in cells
            ]
            expected = [(numbers.tolist(), values.sigmoid().tolist()) for values, numbers in best]
            found = (
                [model.config.labels.index(label) for label, _ in span.labels],
                [score for _, score in span.labels],
            )
            assert any(
                found[0] == numbers and found[1] == pytest.approx(values, abs=1e-5)
                for numbers, values in expected
            )


def test_decoding_in_small_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    batch = random_batch(model)
    outputs = BinderOutput(last_hidden_state=torch.randn(3, 10, 8))
    whole = model.decode(outputs, batch["word_mask"], batch["word_end_mask"])
    monkeypatch.setattr("contrastive_ner.models.modeling_binder.CELL_BUDGET", 20)
    parts = model.decode(outputs, batch["word_mask"], batch["word_end_mask"])
    assert [[span[:3] for span in spans] for spans in parts] == [
        [span[:3] for span in spans] for spans in whole
    ]


def test_one_label_a_span_keeps_the_best() -> None:
    spans = [Span(0, 2, "A", 0.6), Span(0, 2, "B", 0.9), Span(0, 1, "A", 0.7), Span(0, 2, "C", 0.8)]
    assert best_labels(spans) == [Span(0, 2, "B", 0.9), Span(0, 1, "A", 0.7)]
    model = small_model(several_labels=False)
    batch = random_batch(model)
    decoded = model.decode(
        BinderOutput(last_hidden_state=torch.randn(3, 10, 8)),
        batch["word_mask"],
        batch["word_end_mask"],
    )
    assert any(decoded)
    assert all(len({span[:2] for span in spans}) == len(spans) for spans in decoded)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.tuples(st.integers(0, 8), st.integers(1, 4), st.sampled_from("AB"), st.floats(0.5, 1)),
        max_size=8,
    )
)
def test_flat_spans_are_the_greedy_choice(drawn: list[tuple[int, int, str, float]]) -> None:
    spans = sorted({(start, start + width, label, score) for start, width, label, score in drawn})
    expected: list[tuple] = []
    for span in sorted(spans, key=lambda s: -s[3]):
        if all(span[1] <= other[0] or other[1] <= span[0] for other in expected):
            expected.append(span)
    assert flat_spans(spans) == sorted(expected)


def test_large_margins_still_rank() -> None:
    """In float32 the sigmoid of 20 and of 25 are both 1."""
    model = small_model()
    batch = random_batch(model)
    with torch.no_grad():
        model.heads.log_scale.fill_(3.2)
        decoded = model.decode(
            BinderOutput(last_hidden_state=10 * torch.randn(3, 10, 8)),
            batch["word_mask"],
            batch["word_end_mask"],
        )
    scores = [span.score for spans in decoded for span in spans]
    assert sum(torch.tensor(score, dtype=torch.float32) == 1 for score in scores) > 1
    assert len(set(scores)) == len(scores)


# -------------------------------------------------------------------------------------------- types
@pytest.fixture
def binder(tiny_encoder: Path) -> BinderModel:
    torch.manual_seed(1)
    model = BinderModel.from_encoders(
        str(tiny_encoder),
        descriptions=DESCRIPTIONS,
        label_unit="token",
        max_span_width=6,
        projection_size=16,
    )
    for parameter in (*model.heads.parameters(), *model.type_heads.parameters()):
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def test_stored_types_equal_types_encoded_afresh(
    binder: BinderModel, character_tok: PreTrainedTokenizerFast
) -> None:
    fresh = binder.encode_types(DESCRIPTIONS, character_tok)
    assert fresh.labels == binder.types.labels == list(DESCRIPTIONS)
    torch.testing.assert_close(fresh.vectors, binder.types.vectors)
    assert fresh.fingerprint == binder.types.fingerprint
    one_by_one = [
        binder.encode_types({label: text}, character_tok).vectors
        for label, text in DESCRIPTIONS.items()
    ]
    torch.testing.assert_close(torch.cat(one_by_one, dim=1), fresh.vectors)
    torch.testing.assert_close(fresh.vectors.norm(dim=-1), torch.ones(3, 3))


def test_types_are_encoded_again_after_training(
    binder: BinderModel, character_tok: PreTrainedTokenizerFast
) -> None:
    before = binder.types
    vectors = before.vectors.clone()
    fingerprint = before.fingerprint
    optimizer = torch.optim.SGD(binder.parameters(), lr=0.5)
    binder.train()
    ids = character_tok(["张三在北京"], return_tensors="pt")
    mask = torch.tensor([[False, *[True] * 5, False]])
    binder(
        **ids, word_mask=mask, word_end_mask=mask, labels=torch.tensor([[[0, 1, 2], [2, 4, 5]]])
    ).loss.backward()
    optimizer.step()
    binder.eval()
    assert (binder.types.vectors - vectors).abs().max() > 1e-3
    assert torch.equal(before.vectors, vectors)  # a copy, not a view of the model's vectors
    assert fingerprint != binder.type_fingerprint
    outputs = binder(**ids)
    with pytest.raises(ValueError, match="types are stale"):
        binder.decode(outputs, mask, mask, types=before)
    state = {name: value.clone() for name, value in binder.state_dict().items()}
    with torch.no_grad():
        for parameter in binder.type_heads.parameters():
            parameter.zero_()
    binder.load_state_dict(state)
    torch.testing.assert_close(binder.types.vectors, state["type_vectors"])


def fresh_vectors(model: BinderModel) -> Tensor:
    return model._encode_exactly(model.description_ids[:, 0], model.description_lengths[:, 0])


def test_a_look_between_forward_and_step_does_not_pass_for_fresh() -> None:
    model = small_model().train()
    batch = random_batch(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)  # does not count versions
    loss = model(**batch).loss
    model.eval()
    model.decode(model(**batch), batch["word_mask"], batch["word_end_mask"])
    model.train()
    loss.backward()
    optimizer.step()
    model.eval()
    torch.testing.assert_close(model.types.vectors, fresh_vectors(model))


def test_averaged_weights_have_types_of_their_own() -> None:
    model = small_model()
    before = model.types
    averaged = torch.optim.swa_utils.AveragedModel(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    averaged.update_parameters(model)
    averaged.update_parameters(small_model(seed=5))
    torch.testing.assert_close(averaged.module.types.vectors, fresh_vectors(averaged.module))
    assert averaged.module.types.fingerprint != before.fingerprint


def test_reading_types_keeps_the_mode_of_every_part() -> None:
    model = small_model(type_encoder="untied").train()
    model.encoder.eval()
    modes = [module.training for module in model.modules()]
    assert model.types.labels
    assert [module.training for module in model.modules()] == modes


def test_no_type_finds_nothing() -> None:
    model = small_model()
    batch = random_batch(model)
    types = model.types.remove("T0", "T1", "T2")
    assert model.decode(
        model(**batch), batch["word_mask"], batch["word_end_mask"], types=types
    ) == [[], [], []]


def test_type_sets_are_saved_added_removed(
    binder: BinderModel, character_tok: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    some = binder.encode_types({"PER": "人物。", "LOC": "地点。"}, character_tok)
    more = binder.encode_types({"河流": "江河的名字。"}, character_tok)
    path = tmp_path / "types.safetensors"
    some.save(path)
    loaded = TypeEmbeddings.load(path, {"LOC": "地点。", "PER": "人物。"})
    assert (loaded.descriptions, loaded.fingerprint) == (some.descriptions, some.fingerprint)
    assert torch.equal(loaded.vectors, some.vectors)
    both = loaded.add(more)
    assert both.labels == ["PER", "LOC", "河流"]
    rest = both.remove("LOC")
    assert rest.labels == ["PER", "河流"]
    assert torch.equal(rest.vectors, torch.stack([some.vectors[:, 0], more.vectors[:, 0]], dim=1))
    with pytest.raises(ValueError, match="LOC is there already"):
        both.add(some.remove("PER"))
    with pytest.raises(ValueError, match="ORG is not there"):
        both.remove("ORG")
    with pytest.raises(ValueError, match="is stale: it was made from other descriptions of LOC"):
        TypeEmbeddings.load(path, {"PER": "人物。", "LOC": "山川。"})
    with pytest.raises(ValueError, match="encoded by other weights"):
        both.add(TypeEmbeddings({"X": "x"}, more.vectors, "other"))


@pytest.mark.parametrize("content", [b"", b"nothing", None])
def test_a_file_that_holds_no_types_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "types.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="no encoded types"):
        TypeEmbeddings.load(path)


def test_types_in_the_pipeline(binder: BinderModel, character_tok: PreTrainedTokenizerFast) -> None:
    pipe = binder.pipeline(character_tok)
    texts = ["张三在北京大学读书。", "", "今天"]
    assert {m["entity_group"] for found in pipe(texts) for m in found} == set(DESCRIPTIONS)
    by_dict = pipe(texts, types={"河流": "江河的名字。"})
    assert {m["entity_group"] for found in by_dict for m in found} == {"河流"}
    assert by_dict == pipe(
        texts, types=binder.encode_types({"河流": "江河的名字。"}, character_tok)
    )
    assert by_dict == binder.pipeline(character_tok, types={"河流": "江河的名字。"})(texts)
    flat = pipe(texts[0], decoding="flat")
    assert all(a["end"] <= b["start"] for a, b in pairwise(flat))
    nested = pipe(texts[0])
    assert len(nested) > len(flat)
    assert all(texts[0][m["start"] : m["end"]] == m["word"] for m in nested)
    with pytest.raises(ValueError, match="decoding is 'deep'"):
        pipe(texts, decoding="deep")
    with pytest.raises(ValueError, match="described by ''"):
        pipe(texts, types={"X": ""})
    for wrong in (["河流"], "河流"):
        with pytest.raises(ValueError, match=r"expected \{label: description\}"):
            pipe(texts, types=wrong)


def test_windows_change_nothing_on_short_texts(
    binder: BinderModel, character_tok: PreTrainedTokenizerFast
) -> None:
    text = "张三和李四昨天在北京大学见面。"
    mask = torch.tensor([[False, *[True] * len(text), False]])
    with torch.no_grad():
        (spans,) = binder.decode(binder(**character_tok([text], return_tensors="pt")), mask, mask)
    found = binder.pipeline(character_tok)(text, stride=50)
    assert sorted((m["start"], m["end"], m["entity_group"]) for m in found) == sorted(
        span[:3] for span in spans
    )


def test_a_tagger_has_no_types_to_exchange(
    tiny_tagger: object, character_tok: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(ValueError, match="types and decoding are a BINDER model's"):
        tiny_tagger.pipeline(character_tok)("北京", types={"X": "x"})


# ---------------------------------------------------------------------------- variants of the model
def test_drawn_types_hold_those_with_a_mention_and_labels_count_them() -> None:
    model = small_model(8, types_per_batch=3).train()
    labels = torch.tensor([[[5, 1, 2], [IGNORED] * 3], [[2, 3, 3], [5, 4, 4]]])
    seen = set()
    for _ in range(20):
        vectors, counted = model._training_types(labels)
        assert vectors.shape == (3, 3, 6)
        every = model._encode_texts(model.description_ids[:, 0], model.description_lengths[:, 0])
        chosen = [int((every[0] @ v).argmax()) for v in vectors[0]]
        assert chosen == sorted(chosen)
        assert {2, 5} <= set(chosen)
        seen |= set(chosen)
        assert [
            [chosen[t] if t != IGNORED else IGNORED for t in row]
            for row in counted[..., 0].tolist()
        ] == labels[..., 0].tolist()
        assert torch.equal(counted[..., 1:], labels[..., 1:])
    assert seen == set(range(8))


def test_more_mentioned_types_than_are_drawn_all_stay() -> None:
    model = small_model(6, types_per_batch=2).train()
    vectors, counted = model._training_types(torch.tensor([[[0, 1, 1], [3, 2, 2], [5, 3, 3]]]))
    assert vectors.shape[1] == 3
    assert counted[0, :, 0].tolist() == [0, 1, 2]


def test_texts_of_a_type_are_drawn_in_training_only() -> None:
    torch.manual_seed(0)
    descriptions = {"A": ["one", "two", "three"], "B": ["four"]}
    model = small_model(descriptions=descriptions)
    model.description_ids[0] = torch.randint(5, 50, (3, 5))
    labels = torch.full((1, 1, 3), IGNORED)
    with torch.no_grad():
        drawn = {tuple(model.train()._training_types(labels)[0][0, 0].tolist()) for _ in range(40)}
        assert len(drawn) == 3
        assert (
            len({tuple(model.eval()._training_types(labels)[0][0, 0].tolist()) for _ in range(10)})
            == 1
        )
        torch.testing.assert_close(model._training_types(labels)[0], model.types.vectors)


@pytest.mark.parametrize("kind", ["untied", "tied", "frozen"])
def test_what_learns(kind: str) -> None:
    model = small_model(type_encoder=kind).train()
    model(**random_batch(model)).loss.backward()
    moved = {
        name.split(".")[0]
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }
    assert moved == {"encoder", "heads", "type_heads"} | (
        {"type_encoder"} if kind == "untied" else set()
    )
    if kind == "frozen":
        assert not model.type_encoder.training


@pytest.mark.parametrize("types", [1, 3])
def test_bfloat16_works(types: int) -> None:
    model = small_model(types).to(torch.bfloat16)
    batch = random_batch(model)
    assert torch.isfinite(model(**batch).loss)
    with torch.no_grad():
        scores = model.scores(
            model(**batch).last_hidden_state, batch["word_mask"], batch["word_end_mask"]
        )
        assert scores.span.dtype == torch.float32
        assert model.decode(model(**batch), batch["word_mask"], batch["word_end_mask"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = small_model(types).train()
        mixed(**batch).loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in mixed.parameters() if p.grad is not None)


def test_the_standard_trainer_trains_it(
    binder: BinderModel, character_tok: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    from contrastive_ner.models.pipeline_ner import text_reader
    from contrastive_ner.training.batches import SpanCollator
    from contrastive_ner.training.features import span_features

    reader = text_reader(character_tok, label_unit="token", max_window_tokens=64)
    features, _ = span_features(corpus(16), reader, list(DESCRIPTIONS), max_width=6, overlap=16)
    arguments = TrainingArguments(
        str(tmp_path),
        num_train_epochs=3,
        learning_rate=5e-3,
        report_to="none",
        remove_unused_columns=False,
        logging_steps=1,
        use_cpu=True,
    )
    trainer = Trainer(
        binder,
        arguments,
        train_dataset=features,
        data_collator=SpanCollator(0),
        eval_dataset=features,
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.7 * before


# ------------------------------------------------------------------------------------ save and load
def test_a_saved_model_is_the_same_model(
    binder: BinderModel, character_tok: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """The types here are not in alphabetical order; config.json sorts its keys."""
    found = binder.pipeline(character_tok)("张三在北京大学读书。")
    assert found
    binder.save_pretrained(tmp_path)
    file = load_file(tmp_path / "model.safetensors")
    for _ in range(2):
        loaded = BinderModel.from_pretrained(tmp_path)
        assert not loaded.vectors_are_stale
        assert loaded.config.labels == list(DESCRIPTIONS)
        assert all(torch.equal(file[name], value) for name, value in loaded.state_dict().items())
        assert loaded.type_fingerprint == binder.type_fingerprint
        assert loaded.pipeline(character_tok)("张三在北京大学读书。") == found
    again = loaded.encode_types(DESCRIPTIONS, character_tok)
    torch.testing.assert_close(again.vectors, loaded.types.vectors)


@pytest.mark.parametrize("kind", ["untied", "tied", "frozen"])
def test_an_exported_model_finds_the_same_and_encodes_no_type(
    tiny_encoder: Path, character_tok: PreTrainedTokenizerFast, tmp_path: Path, kind: str
) -> None:
    torch.manual_seed(2)
    model = BinderModel.from_encoders(
        str(tiny_encoder), descriptions=DESCRIPTIONS, type_encoder=kind, label_unit="token"
    ).eval()
    cached = model.encode_types({"河流": "江河的名字。"}, character_tok)
    model.export_frozen(tmp_path)
    frozen = BinderModel.from_pretrained(tmp_path)
    assert not any(
        name.startswith(("type_encoder", "type_heads", "description"))
        for name in frozen.state_dict()
    )
    text = "张三在北京大学读书。"
    assert frozen.pipeline(character_tok)(text) == model.pipeline(character_tok)(text)
    assert frozen.pipeline(character_tok)(text, types=cached) == model.pipeline(character_tok)(
        text, types=cached
    )
    with pytest.raises(ValueError, match="exported without its type encoder"):
        frozen.encode_types(DESCRIPTIONS, character_tok)
    # It can still be fine-tuned: the types keep their order.
    mask = torch.tensor([[False, True, True, False]])
    frozen.train()(
        input_ids=torch.tensor([[2, 7, 8, 3]]),
        word_mask=mask,
        word_end_mask=mask,
        labels=torch.tensor([[[0, 1, 2]]]),
    ).loss.backward()
    assert frozen.heads.span.weight.grad.abs().sum() > 0


def test_a_frozen_type_encoder_is_frozen_after_loading(tmp_path: Path) -> None:
    small_model(type_encoder="frozen").save_pretrained(tmp_path)
    loaded = BinderModel.from_pretrained(tmp_path)
    assert not any(parameter.requires_grad for parameter in loaded.type_encoder.parameters())
    assert all(parameter.requires_grad for parameter in loaded.type_heads.parameters())


def test_a_state_from_before_is_saved_with_vectors_of_its_weights(tmp_path: Path) -> None:
    """Distributed training passes a copy of the state from when stored vectors were stale."""
    model = small_model()
    assert model.types.labels
    with torch.no_grad():
        model.type_heads.span.weight.add_(torch.randn_like(model.type_heads.span.weight))
    model.save_pretrained(
        tmp_path, state_dict={name: value.clone() for name, value in model.state_dict().items()}
    )
    loaded = BinderModel.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.types.vectors, fresh_vectors(loaded))


def test_a_folder_without_stored_vectors_encodes_them(tmp_path: Path) -> None:
    model = small_model()
    model.config.save_pretrained(tmp_path)
    save_file(model.state_dict(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = BinderModel.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.types.vectors, model.types.vectors)
    assert loaded.types.vectors.norm() > 1


def test_a_model_can_be_pickled_and_copied() -> None:
    model = small_model()
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        torch.testing.assert_close(other.types.vectors, model.types.vectors)


# ------------------------------------------------------------------------------------- other types
@pytest.mark.parametrize("way", ["argument", "configuration", "attribute"])
def test_renamed_types_are_the_same_types(
    saved_binder: tuple[Path, BinderModel], tmp_path: Path, way: str
) -> None:
    folder, model = saved_binder
    model.config.margins = {"GPE": 0.25}
    model.save_pretrained(folder)
    names = {0: "PERSON", 1: "ORGANISATION", 2: "PLACE"}
    if way == "argument":
        renamed = BinderModel.from_pretrained(folder, id2label=names)
    elif way == "configuration":
        config = BinderConfig.from_pretrained(
            folder, id2label={str(k): v for k, v in names.items()}
        )
        renamed = BinderModel.from_pretrained(folder, config=config)
    else:
        renamed = BinderModel.from_pretrained(folder)
        renamed.config.label2id = {label: number for number, label in names.items()}
    assert not renamed.vectors_are_stale
    renamed.save_pretrained(tmp_path / "renamed")
    for other in (renamed, BinderModel.from_pretrained(tmp_path / "renamed")):
        assert other.config.id2label == names
        assert other.config.labels == list(names.values())
        assert list(other.config.descriptions.values()) == list(model.config.descriptions.values())
        assert other.config.margins == {"PLACE": 0.25}
        assert torch.equal(other.types.vectors, model.types.vectors)


@pytest.mark.parametrize(
    "change",
    [
        {"id2label": {0: "A", 1: "B"}},
        {"id2label": {0: "A", 1: "B", 2: "C", 3: "D"}},
        {"id2label": {0: "A", 1: "A", 2: "C"}},
        {"id2label": {0: "A", 1: "B", 5: "C"}},
        {"num_labels": 4},
    ],
)
def test_names_for_more_or_fewer_types_are_refused(
    saved_binder: tuple[Path, BinderModel], change: dict
) -> None:
    for more in ({}, {"ignore_mismatched_sizes": True}):
        with pytest.raises(InputError, match="further types need descriptions"):
            BinderModel.from_pretrained(saved_binder[0], **change, **more)


@pytest.mark.parametrize(
    "change",
    [
        {"描述": ["河流：江、河、溪的名字，如长江、黄河、嘉陵江。"]},  # longer than all before
        {"GPE": ["国家"]},
        {"PER": ["人"], "TIME": ["时间", "日期", "年月日"]},  # more texts a type than before
    ],
)
def test_other_descriptions_are_read_by_the_models_tokenizer(
    saved_binder: tuple[Path, BinderModel],
    character_tok: PreTrainedTokenizerFast,
    tmp_path: Path,
    change: dict[str, list[str]],
) -> None:
    """Sizes differ, and nothing may hold what was in memory before."""
    folder, model = saved_binder
    texts = {**model.config.descriptions, **change}
    loaded = BinderModel.from_pretrained(folder, descriptions=texts, ignore_mismatched_sizes=True)
    firsts = {label: own[0] for label, own in texts.items()}
    loaded.save_pretrained(tmp_path / "more")
    for other in (loaded, BinderModel.from_pretrained(tmp_path / "more")):
        assert other.config.labels == list(texts)
        assert other.config.id2label == dict(enumerate(texts))
        expected = model.encode_types(firsts, character_tok)
        torch.testing.assert_close(other.types.vectors, expected.vectors)
        assert other.type_fingerprint == model.type_fingerprint
        for number, own in enumerate(texts.values()):
            for variant in range(other.config.texts_per_type):
                length = other.description_lengths[number, variant]
                ids = character_tok(own[variant % len(own)])["input_ids"]
                assert other.description_ids[number, variant, :length].tolist() == ids
                assert not other.description_ids[number, variant, length:].any()


def test_other_descriptions_without_a_tokenizer_are_refused(
    saved_binder: tuple[Path, BinderModel],
) -> None:
    folder, model = saved_binder
    texts = {**model.config.descriptions, "PER": ["人"]}
    model.export_frozen(folder / "frozen")
    with pytest.raises(InputError, match="exported without its type encoder"):
        BinderModel.from_pretrained(folder / "frozen", descriptions=texts)
    for path in folder.glob("token*"):
        path.unlink()
    with pytest.raises(InputError, match="there is no tokenizer to read them"):
        BinderModel.from_pretrained(folder, descriptions=texts)


def test_other_sizes_start_anew_and_finite(saved_binder: tuple[Path, BinderModel]) -> None:
    folder, model = saved_binder
    sizes = {"projection_size": 24, "max_span_width": 7, "description_tokens": 40}
    loaded = BinderModel.from_pretrained(folder, **sizes, ignore_mismatched_sizes=True)
    state = loaded.state_dict()
    assert all(bool(value.isfinite().all()) for value in state.values())
    assert max(float(value.abs().max()) for k, value in state.items() if "heads" in k) < 5
    torch.testing.assert_close(loaded.types.vectors, fresh_vectors(loaded))
    assert loaded.type_fingerprint != model.type_fingerprint


# ------------------------------------------------------------------------------------------- faults
def test_a_checkpoint_of_the_other_method_is_refused(
    binder: BinderModel, saved_tagger: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ValueError, match="holds a model of type 'nerco': BinderModel opens 'binder'"
    ):
        BinderModel.from_pretrained(saved_tagger)
    binder.save_pretrained(tmp_path / "binder")
    with pytest.raises(
        ValueError,
        match="holds a model of type 'binder': NercoForTokenClassification opens 'nerco'",
    ):
        NercoForTokenClassification.from_pretrained(tmp_path / "binder")


def test_texts_must_start_with_a_special_token(
    tiny_encoder: Path, character_tok: PreTrainedTokenizerFast
) -> None:
    bare = copy.deepcopy(character_tok)
    bare.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A [SEP]", special_tokens=[("[SEP]", bare.sep_token_id)]
    )
    with pytest.raises(ValueError, match="thresholds are the scores of that token"):
        BinderModel.from_encoders(str(tiny_encoder), descriptions=DESCRIPTIONS, tokenizer=bare)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type_encoder": "shared"}, "type_encoder is 'shared'"),
        ({"decoding": "deep"}, "decoding is 'deep'"),
        ({"label_unit": "byte"}, "label_unit is 'byte'"),
        ({"max_span_width": 0}, "max_span_width is 0"),
        ({"projection_dropout": 1.0}, "projection_dropout is 1.0"),
        ({"several_labels": 1}, "several_labels is 1"),
        ({"threshold_weight": 1.5}, "threshold_weight is 1.5"),
        ({"descriptions": {"A": "text"}}, "texts of entity type 'A' are 'text'"),
        ({"descriptions": {"A": [" "]}}, "described by ' '"),
        ({"descriptions": {"A": []}}, "texts of entity type 'A' are"),
        ({"id2label": {0: "X"}}, "id2label names"),
        ({"margins": {"T0": "x"}}, "margins is"),
        ({"margins": 3}, "margins is"),
        ({"margins": {"T9": 1.0}}, "margins name T9"),
        ({"max_span_width": 65}, "expected at most half of max_window_tokens, 64"),
        ({"encoder_config": {"hidden_size": 8}}, "encoder_config has no model_type"),
    ],
)
def test_values_that_make_no_sense_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_config(**change)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"descriptions": {}}, "descriptions is empty"),
        ({"descriptions": {"A": "人" * 600}}, "has 602 tokens"),
        ({"descriptions": {"A": ""}}, "described by ''"),
        ({"type_encoder": "none"}, "type_encoder is 'none'"),
        ({"types": "elsewhere", "type_encoder": "tied"}, "type_encoder is 'tied'"),
    ],
)
def test_a_model_that_cannot_be_built_says_why(
    tiny_encoder: Path, changes: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        BinderModel.from_encoders(str(tiny_encoder), **{"descriptions": DESCRIPTIONS, **changes})


def test_encoders_with_different_vocabularies_are_refused(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    from transformers import BertModel

    BertModel(
        BertConfig(
            vocab_size=7,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=8,
        )
    ).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="one tokenizer must serve both"):
        BinderModel.from_encoders(str(tiny_encoder), str(tmp_path), descriptions=DESCRIPTIONS)


def test_labels_without_masks_are_refused() -> None:
    model = small_model()
    with pytest.raises(ValueError, match="labels need word_mask"):
        model(input_ids=torch.tensor([[2, 5, 3]]), labels=torch.full((1, 1, 3), IGNORED))


@pytest.mark.parametrize("load", [BinderModel.from_pretrained])
def test_pickled_weights_are_refused(load: Callable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pickled weights are refused"):
        load(tmp_path, use_safetensors=False)
