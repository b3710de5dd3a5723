"""BINDER's features: spans over overlapping windows, cut mentions, whole documents, batches."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from contrastive_ner.data.documents import SENTENCE_BREAK, join_documents, split_document
from contrastive_ner.data.records import Mention, Record
from contrastive_ner.errors import DataError
from contrastive_ner.models import pipeline_ner
from contrastive_ner.models.encoder_ner import IGNORED
from contrastive_ner.models.modeling_binder import CUT
from contrastive_ner.models.windows_ner import TextReader
from contrastive_ner.training.batches import SpanCollator
from contrastive_ner.training.binder import gold_spans
from contrastive_ner.training.features import span_features, span_widths

TYPES = ["PER", "ORG"]
PROPERTY = settings(deadline=None, derandomize=True, max_examples=60)


def text_reader(
    tokenizer: PreTrainedTokenizerFast, label_unit: str = "token", capacity: int = 12
) -> TextReader:
    return pipeline_ner.text_reader(
        tokenizer, label_unit=label_unit, max_window_tokens=capacity + 2
    )


def test_nested_mentions_and_two_types_on_a_span_are_all_learnt(
    character_tok: PreTrainedTokenizerFast,
) -> None:
    mentions = [
        Mention(0, 4, "ORG"),
        Mention(0, 2, "PER"),
        Mention(0, 4, "PER"),
        Mention(3, 5, "ORG"),
        Mention(0, 4, "ORG"),
    ]
    (feature,), report = span_features(
        [Record("r", "北京大学生", mentions)],
        text_reader(character_tok),
        TYPES,
        max_width=5,
        overlap=5,
    )
    assert feature["input_ids"] == character_tok("北京大学生")["input_ids"]
    assert feature["word_mask"] == feature["word_end_mask"] == [False, *[True] * 5, False]
    assert sorted(feature["labels"]) == [[0, 1, 2], [0, 1, 4], [1, 1, 4], [1, 4, 5]]
    assert (report.texts, report.windows, report.mentions, report.misaligned, report.too_wide) == (
        1,
        1,
        4,
        0,
        0,
    )
    assert report.widths == {2: 2, 4: 2}


def test_spans_in_words_start_at_first_and_end_at_last_tokens(
    character_tok: PreTrainedTokenizerFast,
) -> None:
    record = Record(
        "r", "the UKs 北京", [Mention(4, 7, "ORG"), Mention(4, 6, "ORG"), Mention(8, 10, "PER")]
    )
    (feature,), report = span_features(
        [record], text_reader(character_tok, "word"), TYPES, max_width=5, overlap=5
    )
    tokens = [None, *record.text, None]  # one token per code point
    assert [tokens[i] for i, marked in enumerate(feature["word_mask"]) if marked] == [
        "t",
        "U",
        "北",
        "京",
    ]
    assert [tokens[i] for i, marked in enumerate(feature["word_end_mask"]) if marked] == [
        "e",
        "s",
        "北",
        "京",
    ]
    assert feature["labels"] == [[1, 5, 7], [0, 9, 10]]
    assert report.misaligned == 1
    assert "1 not on word boundaries (the first: " in str(report)


@st.composite
def annotated(draw: st.DrawFn) -> Record:
    length = draw(st.integers(1, 50))
    drawn = draw(
        st.lists(
            st.tuples(st.integers(0, length - 1), st.integers(1, 8), st.sampled_from(TYPES)),
            max_size=10,
        )
    )
    return Record(
        "r", "北" * length, [Mention(a, min(a + n, length), label) for a, n, label in drawn]
    )


@PROPERTY
@given(record=annotated(), width=st.integers(1, 6), more=st.integers(0, 5))
def test_every_mention_within_the_width_is_whole_in_some_window(
    character_tok: PreTrainedTokenizerFast, record: Record, width: int, more: int
) -> None:
    reader = text_reader(character_tok)
    features, report = span_features([record], reader, TYPES, max_width=width, overlap=width + more)
    windows = reader.overlapping_windows(reader.tokenize([record.text])[0], width + more)
    gold = {(m.start, m.end, m.label) for m in record.entities}
    whole: set[tuple] = set()
    for feature, window in zip(features, windows, strict=True):
        # Expected labels of each window, computed from the record.
        expected = set()
        for start, end, label in gold:
            first = start - window.first + 1 if window.first <= start < window.last else CUT
            last = end - window.first if window.first < end <= window.last else CUT
            if (first, last) != (CUT, CUT):
                expected.add((TYPES.index(label), first, last))
        assert {tuple(row) for row in feature["labels"]} == expected
        whole |= {
            (i + window.first - 1, j + window.first, TYPES[t])
            for t, i, j in feature["labels"]
            if CUT not in (i, j)
        }
    narrow = {m for m in gold if m[1] - m[0] <= width}
    assert narrow <= whole <= gold
    assert (report.mentions, report.too_wide) == (len(narrow), len(gold) - len(narrow))


def test_a_mention_that_ends_in_a_word_longer_than_a_window_is_cut(
    character_tok: PreTrainedTokenizerFast,
) -> None:
    record = Record(
        "r",
        "b " + "a" * 40 + " b",
        [Mention(0, 42, "PER"), Mention(2, 42, "ORG"), Mention(43, 44, "ORG")],
    )
    features, report = span_features(
        [record], text_reader(character_tok, "word"), TYPES, max_width=5, overlap=5
    )
    assert all(
        end < len(feature["input_ids"]) for feature in features for _, _, end in feature["labels"]
    )
    # The window of the word's first part.
    assert [1, 1, CUT] in [label for feature in features for label in feature["labels"]]
    assert report.too_wide == 2


def test_gold_spans_are_what_decoding_gives() -> None:
    labels = torch.tensor([[[0, 2, 3], [1, 3, 5], [1, CUT, 2], [0, 5, CUT], [IGNORED] * 3]])
    word_mask = torch.tensor([[False, True, True, True, False, True, False]])
    assert gold_spans(labels, word_mask, TYPES) == [{(1, 3, "PER"), (2, 4, "ORG")}]


def test_a_window_too_short_for_the_overlap_is_refused(
    character_tok: PreTrainedTokenizerFast,
) -> None:
    record = Record("r", "北京")
    for width, overlap in ((5, 4), (5, 12), (20, 20)):
        with pytest.raises(
            DataError, match=f"share {overlap}: expected an overlap of at least max_span_width"
        ):
            span_features(
                [record], text_reader(character_tok), TYPES, max_width=width, overlap=overlap
            )


def test_unknown_entity_type_is_refused(character_tok: PreTrainedTokenizerFast) -> None:
    with pytest.raises(
        DataError,
        match=r"record 'r': entity type 'GPE' is unknown to the model \(it knows PER, ORG\)",
    ):
        span_features(
            [Record("r", "北京", [Mention(0, 2, "GPE")])],
            text_reader(character_tok),
            TYPES,
            max_width=2,
            overlap=2,
        )


def test_the_table_says_what_each_width_costs(character_tok: PreTrainedTokenizerFast) -> None:
    mentions = [
        Mention(0, 1, "PER"),
        Mention(0, 2, "PER"),
        Mention(0, 6, "ORG"),
        Mention(1, 2, "ORG"),
    ]
    report = span_widths([Record("r", "北京大学生们", mentions)], text_reader(character_tok))
    assert report.max_width == 6
    rows = [line.split() for line in report.width_table().splitlines()[1:]]
    assert rows == [
        ["1", "2", "50.00%"],
        ["2", "3", "25.00%"],
        ["4", "3", "25.00%"],
        ["6", "4", "0.00%"],
    ]


# ---------------------------------------------------------------------------------------- documents
@PROPERTY
@given(st.lists(st.tuples(st.sampled_from([None, "a", "b"]), annotated()), max_size=8))
def test_documents_are_joined_and_split_without_loss(
    drawn: list[tuple[str | None, Record]],
) -> None:
    records = [
        Record(str(i), record.text, sorted(set(record.entities)), doc)
        for i, (doc, record) in enumerate(drawn)
    ]
    documents = join_documents(records)
    assert [part for document in documents for part in document.parts] == records
    for document in documents:
        assert len({part.doc for part in document.parts}) == 1
        assert len(document.parts) == 1 or document.parts[0].doc is not None
        assert document.record.text == SENTENCE_BREAK.join(part.text for part in document.parts)
        for part, offset in zip(document.parts, document.offsets, strict=True):
            assert document.record.text[offset : offset + len(part.text)] == part.text
        found, across = split_document(document, document.record.entities)
        assert found == [part.entities for part in document.parts]
        assert across == 0
    for before, after in pairwise(documents):
        assert before.record.doc is None or before.record.doc != after.record.doc


def test_a_mention_across_texts_of_a_document_is_counted() -> None:
    (document,) = join_documents([Record("1", "北京", doc="d"), Record("2", "大学", doc="d")])
    assert document.record.text == "北京\n大学"
    assert split_document(document, [Mention(1, 4, "ORG"), Mention(3, 5, "ORG", 0.9)]) == (
        [[], [Mention(0, 2, "ORG", 0.9)]],
        1,
    )


# ------------------------------------------------------------------------------------------ batches
def test_spans_are_padded() -> None:
    features = [
        {
            "input_ids": [2, 7, 8, 3],
            "word_mask": [False, True, True, False],
            "word_end_mask": [False, False, True, False],
            "labels": [],
        },
        {
            "input_ids": [2, 9, 3],
            "word_mask": [False, True, False],
            "word_end_mask": [False, True, False],
            "labels": [[0, 1, 1], [1, 1, CUT]],
        },
    ]
    batch = SpanCollator(pad_token_id=5)(features)
    assert batch["input_ids"].tolist() == [[2, 7, 8, 3], [2, 9, 3, 5]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert batch["word_end_mask"].tolist() == [
        [False, False, True, False],
        [False, True, False, False],
    ]
    assert batch["labels"].tolist() == [[[IGNORED] * 3] * 2, [[0, 1, 1], [1, 1, CUT]]]
    assert SpanCollator(0)(features[:1])["labels"].tolist() == [[[IGNORED] * 3]]
