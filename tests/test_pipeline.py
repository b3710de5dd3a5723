"""Raw text to mentions: exact offsets, windows without loss, no dependence on batching."""

import itertools
import json
import random
import re
import warnings
from collections import UserDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import LABELS
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, ByT5Tokenizer, PreTrainedTokenizerFast, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from contrastive_ner.data.schemes import tags_to_spans
from contrastive_ner.models.batches_ner import BATCHES_AHEAD
from contrastive_ner.models.modeling_binder import BinderConfig, BinderModel
from contrastive_ner.models.modeling_nerco import (
    NercoConfig,
    NercoForTokenClassification,
    NercoModel,
)
from contrastive_ner.models.pipeline_ner import NerPipeline, text_reader
from contrastive_ner.models.windows_ner import (
    InputError,
    Prepared,
    TextReader,
    Tokenized,
    Window,
    flat_spans,
    mention_dicts,
    merge_windows,
    word_spans,
)

PIECES = [
    "[SEP]",
    "</s>",
    "\r\n",
    "e\u0301",
    "ＡＢ１，",
    "北京 大学",
    "👩‍👩‍👧",
    "\x00",
    "\ud800",
    "\ufffd",
    "ﷺ",
    "Hello, wörld",
    "   ",
    "x y",
]
any_text = st.lists(
    st.sampled_from(PIECES) | st.text(st.characters(exclude_categories=[]), max_size=8), max_size=6
).map("".join)
TEXTS = [
    "",
    " \n",
    "小明在北京大学读书。",
    "Hi 😀[SEP]",
    "ＡＢＣ" * 30,
    "张三",
    "\ud83d断",
    "我们去上海。" * 20,
]


# --------------------------------------------------------------------------------------- tokenizers
SPECIAL = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>"}
PIECE_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789,.北京大学"


def wrap(backend: Tokenizer) -> PreTrainedTokenizerFast:
    """Add special tokens, as a BERT-like tokenizer does."""
    ends = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=ends
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **{f"{name}_token": token for name, token in SPECIAL.items()}
    )


def word_piece() -> PreTrainedTokenizerFast:
    pieces = [*SPECIAL.values(), *PIECE_CHARACTERS, *(f"##{c}" for c in PIECE_CHARACTERS)]
    backend = Tokenizer(
        models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>")
    )
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return wrap(backend)


def unigram() -> PreTrainedTokenizerFast:
    pieces = [
        *SPECIAL.values(),
        *(f"▁{c}" for c in PIECE_CHARACTERS),
        "▁",
        *PIECE_CHARACTERS,
        "北京",
        "o,",
        "▁he",
    ]
    backend = Tokenizer(
        models.Unigram([(piece, -1.0 - i / 9) for i, piece in enumerate(pieces)], unk_id=1)
    )
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return wrap(backend)


def byte_level() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", c) for c in "xyhw"] + [("l", "l"), ("å", "Į")]
    pieces = [*SPECIAL.values(), *alphabet, *("".join(merge) for merge in merges)]
    backend = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return wrap(backend)


WORD_TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "WordPiece": word_piece,
    "Unigram": unigram,
    "byte-level": byte_level,
}


# ------------------------------------------------------------------------------------------- models
def firing_pipeline(
    tokenizer: PreTrainedTokenizerFast,
    unit: str,
    *,
    begin: str,
    inside: str,
    window: int = 16,
    **kwargs: Any,
) -> NerPipeline:
    """A tagger without layers and with weights set by hand.

    `begin` is B-PER, `inside` is I-PER and all else is O, in any context.
    """
    vocabulary = tokenizer.get_vocab()
    encoder = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=4,
        num_hidden_layers=0,
        num_attention_heads=1,
        intermediate_size=4,
    )
    names = ["O", "B-PER", "I-PER"]
    config = NercoConfig(
        encoder_config=encoder,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
        label_unit=unit,
        max_window_tokens=window,
    )
    model = NercoForTokenClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        embeddings = model.nerco.encoder.embeddings
        embeddings.LayerNorm.weight.fill_(1.0)
        for dimension, character in enumerate((begin, inside)):
            for piece, row in vocabulary.items():
                if piece.lstrip("▁Ġ") == character:
                    embeddings.word_embeddings.weight[row, dimension] = 1.0
                    model.classifier.weight[dimension + 1, dimension] = 10.0
        model.classifier.bias[0] = 5.0
    return model.pipeline(tokenizer, **kwargs)


def offsets(mentions: list[dict]) -> list[tuple[int, int]]:
    return [(mention["start"], mention["end"]) for mention in mentions]


def matches(pattern: str, text: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(pattern, text)]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads only cost time for models this small, a lot of it on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def pipe(
    tiny_tagger: NercoForTokenClassification, character_tok: PreTrainedTokenizerFast
) -> NerPipeline:
    return tiny_tagger.pipeline(character_tok)


@pytest.fixture(scope="module")
def random_pipe(tiny_encoder: Path, character_tok: PreTrainedTokenizerFast) -> NerPipeline:
    """Small windows and a random head: mentions everywhere, also across every edge."""
    torch.manual_seed(2)
    model = NercoForTokenClassification.from_encoder(
        str(tiny_encoder), LABELS, label_unit="token", max_window_tokens=10
    )
    torch.nn.init.normal_(model.classifier.weight, std=2.0)
    return model.pipeline(character_tok)


@pytest.fixture(scope="module")
def firing(character_tok: PreTrainedTokenizerFast) -> NerPipeline:
    return firing_pipeline(character_tok, "token", begin="甲", inside="乙")


@pytest.fixture(scope="module")
def word_readers() -> dict[str, TextReader]:
    return {
        name: text_reader(build(), label_unit="word", max_window_tokens=16)
        for name, build in WORD_TOKENIZERS.items()
    }


@pytest.fixture(scope="module")
def word_firing() -> dict[str, NerPipeline]:
    return {
        name: firing_pipeline(build(), "word", begin="x", inside="y")
        for name, build in WORD_TOKENIZERS.items()
    }


# -------------------------------------------------------------------------------- what a mention is
@settings(deadline=None, max_examples=100)
@given(texts=st.lists(any_text, min_size=1, max_size=4))
def test_text_at_the_offsets_is_the_word_and_results_are_json(
    random_pipe: NerPipeline, texts: list[str]
) -> None:
    results = random_pipe(texts)
    assert json.loads(json.dumps(results)) == results
    for text, mentions in zip(texts, results, strict=True):
        assert all(text[m["start"] : m["end"]] == m["word"] != "" for m in mentions)
        assert all(left["end"] <= right["start"] for left, right in itertools.pairwise(mentions))
        assert all(0 <= m["score"] <= 1 for m in mentions)


@pytest.mark.parametrize("name", WORD_TOKENIZERS)
@settings(deadline=None, max_examples=100)
@given(texts=st.lists(any_text, min_size=1, max_size=4))
def test_word_units_keep_offsets_exact_too(
    word_firing: dict[str, NerPipeline], name: str, texts: list[str]
) -> None:
    for text, mentions in zip(texts, word_firing[name](texts), strict=True):
        assert all(
            text[m["start"] : m["end"]] == m["word"] == m["word"].strip() != "" for m in mentions
        )


def test_a_mention_is_made_of_plain_python_values(pipe: NerPipeline) -> None:
    mentions = pipe("小明在北京大学读书，小红在上海工作。")
    assert mentions
    for mention in mentions:
        assert {key: type(value) for key, value in mention.items()} == {
            "entity_group": str,
            "score": float,
            "word": str,
            "start": int,
            "end": int,
        }
        assert mention["entity_group"] in ("PER", "ORG")


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u3000"])
@pytest.mark.parametrize("name", WORD_TOKENIZERS)
def test_empty_text_has_no_mention(
    word_firing: dict[str, NerPipeline], firing: NerPipeline, name: str, text: str
) -> None:
    assert firing(text) == []
    assert word_firing[name]([text, "x"])[0] == []


@pytest.mark.parametrize("text", ["甲", "的甲乙乙的", "甲甲乙", "😀甲[SEP]甲乙\n", "\ud800甲乙"])
def test_mentions_are_those_of_the_tags(firing: NerPipeline, text: str) -> None:
    assert offsets(firing(text)) == matches("甲乙*", text)


# ------------------------------------------------------------------------------- inputs and outputs
def test_a_string_gives_a_list_and_a_list_a_list_of_lists(firing: NerPipeline) -> None:
    [mention] = firing("在甲乙")
    assert firing(["在甲乙", "的", "在甲乙"]) == [[mention], [], [mention]]
    assert firing(("在甲乙",)) == [[mention]]
    assert firing([]) == []


class CountingTexts:
    """A data set that counts the rows that are read."""

    def __init__(self, size: int) -> None:
        self.size, self.read = size, 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, str]:
        if not 0 <= index < self.size:
            raise IndexError(index)
        self.read += 1
        return {"text": "的" * (index % 5) + "甲"}

    def texts(self) -> Iterator[str]:
        return (self[i]["text"] for i in range(self.size))


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(
    "as_input",
    [CountingTexts.texts, lambda rows: KeyDataset(rows, "text")],
    ids=["generator", "KeyDataset"],
)
def test_iterables_are_read_as_results_are_asked_for(
    firing: NerPipeline, as_input: Callable, batch_size: int
) -> None:
    rows = CountingTexts(100)
    results = firing(as_input(rows), batch_size=batch_size)
    assert rows.read == 0
    for done, mentions in enumerate(results):
        assert offsets(mentions) == [(done % 5, done % 5 + 1)]
        assert rows.read <= done + BATCHES_AHEAD * batch_size
    assert done == 99


def test_a_data_set_column_is_read_in_order(firing: NerPipeline) -> None:
    data = Dataset.from_list([{"text": "的" * i + "甲"} for i in range(40)])
    expected = [[(i, i + 1)] for i in range(40)]
    assert [offsets(mentions) for mentions in firing(data["text"])] == expected
    assert [offsets(mentions) for mentions in firing(KeyDataset(data, "text"))] == expected


class MapStyle:
    """A data set with `__getitem__` and, if it has a `size`, `__len__`."""

    def __init__(self, item: Callable[[int], Any], size: int | None) -> None:
        self.item, self.size = item, size

    def __getitem__(self, index: int) -> Any:
        return self.item(index)

    def __len__(self) -> int:
        if self.size is None:
            raise TypeError("no length")
        return self.size


TWO = ["甲", "的甲"]


@pytest.mark.parametrize(
    ("item", "size"),
    [
        (lambda i: TWO[i % 2], 2),  # wraps its index, as some data sets do
        (dict(enumerate(TWO)).__getitem__, 2),
        (TWO.__getitem__, 2),
        (TWO.__getitem__, None),
        ([*TWO, "甲"].__getitem__, 2),
    ],
)
def test_a_map_style_data_set_has_as_many_texts_as_its_length(
    firing: NerPipeline, item: Callable, size: int | None
) -> None:
    found = itertools.islice(firing(MapStyle(item, size)), 100)
    assert [offsets(mentions) for mentions in found] == [[(0, 1)], [(1, 2)]]
    words = MapStyle(lambda i: [item(i)], 2)
    found = itertools.islice(firing(words, is_split_into_words=True), 100)
    assert [offsets(mentions) for mentions in found] == [[(0, 1)], [(1, 2)]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            MapStyle({"a": "甲", "b": "乙"}.__getitem__, 2),
            "item 0 .* of 2 items.*found KeyError: 0",
        ),
        (MapStyle({"a": "甲"}.__getitem__, None), "item 0 .*found KeyError: 0"),
        (MapStyle(dict(enumerate(TWO)).__getitem__, None), "item 2 .*found KeyError: 2"),
        (MapStyle(TWO.__getitem__, 3), "item 2 .* of 3 items.*found IndexError"),
        (
            KeyDataset(MapStyle([{"text": "甲"}].__getitem__, 1), "other"),
            "item 0 .*KeyError: 'other'",
        ),
        (KeyDataset(MapStyle([{"text": 5}].__getitem__, 1), "text"), "text 0: .*found int"),
        (UserDict({0: "甲"}), "found UserDict"),
    ],
)
def test_a_data_set_without_the_items_it_claims_is_refused(
    firing: NerPipeline, data: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        list(firing(data))


def test_an_endless_generator_gives_its_first_results(firing: NerPipeline) -> None:
    results = firing(itertools.repeat("甲"), batch_size=1)
    assert [offsets(mentions) for mentions in itertools.islice(results, 50)] == [[(0, 1)]] * 50


@pytest.mark.parametrize("value", [3, None, b"bytes", {"text": "a"}, ["a", 3], [["a"]], [None]])
def test_what_is_no_text_is_refused(firing: NerPipeline, value: Any) -> None:
    with pytest.raises(
        ValueError,
        match=r"expected a string .*found (int|NoneType|bytes|dict|list)|expected a string, found",
    ):
        firing(value)


def test_what_is_no_text_in_a_generator_is_refused_by_its_number(firing: NerPipeline) -> None:
    with pytest.raises(ValueError, match="text 2: expected a string, found int"):
        list(firing(value for value in ["a", "b", 3]))


# -------------------------------------------------------------------------------- batches and order
@pytest.mark.parametrize("batch_size", [1, 2, 7, 64])
def test_batch_size_does_not_change_results(random_pipe: NerPipeline, batch_size: int) -> None:
    results, alone = (
        random_pipe(TEXTS, batch_size=batch_size),
        [random_pipe(text) for text in TEXTS],
    )
    assert sum(map(len, alone)) > 20
    for mentions, expected in zip(results, alone, strict=True):
        assert [{**m, "score": pytest.approx(m["score"], abs=1e-5)} for m in mentions] == expected


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_no_window_is_refused(firing: NerPipeline, batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size is {batch_size}: expected at least 1"):
        firing("甲", batch_size=batch_size)


@pytest.mark.parametrize("batch_size", [1, 4, None])
def test_results_keep_the_order_of_the_texts(firing: NerPipeline, batch_size: int | None) -> None:
    lengths = random.Random(0).sample(range(60), 30)
    texts = ["的" * length + "甲" for length in lengths]
    assert [offsets(m) for m in firing(texts, batch_size=batch_size)] == [
        [(n, n + 1)] for n in lengths
    ]


def test_batch_size_of_the_constructor_is_used(
    character_tok: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = firing_pipeline(character_tok, "token", begin="甲", inside="乙", batch_size=3)
    sizes: list[int] = []
    forward = made._forward
    monkeypatch.setattr(
        made, "_forward", lambda batch: sizes.append(len(batch["input_ids"])) or forward(batch)
    )
    made(["甲"] * 7)
    assert sizes == [3, 3, 1]


# ------------------------------------------------------------------------------------------ windows
@pytest.mark.parametrize("text", ["小明在北京大学读书，Ｘ=1。😀\n[SEP]", "我们去上海" * 25])
def test_text_of_one_window_gives_the_plain_decode(
    tiny_tagger: NercoForTokenClassification, character_tok: PreTrainedTokenizerFast, text: str
) -> None:
    inputs = character_tok(text, return_tensors="pt", return_special_tokens_mask=True)
    word_mask = inputs.pop("special_tokens_mask") == 0
    with torch.no_grad():
        [spans] = tiny_tagger.decode(tiny_tagger(**inputs), word_mask)
    assert spans
    found = [
        (m["start"], m["end"], m["entity_group"], m["score"])
        for m in tiny_tagger.pipeline(character_tok)(text)
    ]
    # Only white space at the edges is left out.
    inner = [re.search(r"\S(.*\S)?", text[span.start : span.end], re.DOTALL) for span in spans]
    places = [
        (s.start + m.start(), s.start + m.end()) for s, m in zip(spans, inner, strict=True) if m
    ]
    assert found == [
        (*place, span.label, pytest.approx(span.score, abs=1e-6))
        for place, span in zip(places, spans, strict=True)
    ]


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_windows_cover_every_position_and_overlap(
    character_tok: PreTrainedTokenizerFast, data: st.DataObject
) -> None:
    reader = text_reader(
        character_tok, label_unit="token", max_window_tokens=data.draw(st.integers(8, 20))
    )
    overlap = data.draw(st.integers(0, reader.capacity - 1))
    gaps = data.draw(st.lists(st.integers(1, 9) | st.just(40), max_size=40))  # tokens of each word
    lead = data.draw(st.integers(0, 3))  # tokens before the first word
    first_token = list(itertools.accumulate(gaps[:-1], initial=lead)) if gaps else []
    last_token = [token + gap - 1 for token, gap in zip(first_token, gaps, strict=True)]
    text = Tokenized(
        list(range(100, 100 + lead + sum(gaps))),
        first_token,
        last_token,
        [(i, i + 1) for i in range(len(gaps))],
    )
    windows = reader.overlapping_windows(text, overlap)

    assert sorted({p for w in windows for p in range(w.first, w.last)}) == list(range(len(gaps)))
    for window in windows:
        assert len(window.input_ids) == len(window.word_mask) <= reader.capacity + 2
        marked = [
            token
            for token, is_first in zip(window.input_ids, window.word_mask, strict=True)
            if is_first
        ]
        assert marked == [100 + token for token in first_token[window.first : window.last]]
        marked = [
            token
            for token, is_last in zip(window.input_ids, window.word_end_mask, strict=True)
            if is_last
        ]
        # The last token of a truncated word.
        seen = 100 + first_token[window.first] + reader.capacity - 1
        assert marked == [
            min(100 + token, seen) for token in last_token[window.first : window.last]
        ]
    for window, following in itertools.pairwise(windows):
        assert window.first < following.first <= window.last <= following.last
        shared = first_token[window.last] - first_token[following.first]
        # Less only if a word is so long that an earlier start would add nothing.
        assert shared >= overlap or reader.fit(text, following.first - 1) == window.last


def test_no_window_lies_inside_the_one_before(character_tok: PreTrainedTokenizerFast) -> None:
    """It would only decide mentions at its right edge, with less left context."""
    reader = text_reader(character_tok, label_unit="token", max_window_tokens=14)
    words = [1] * 12 + [40]
    first_token = list(itertools.accumulate(words[:-1], initial=0))
    text = Tokenized(
        list(range(52)), first_token, [*range(12), 51], [(i, i + 1) for i in range(13)]
    )
    assert [(w.first, w.last) for w in reader.overlapping_windows(text, 4)] == [(0, 12), (12, 13)]


CHINESE = ["的", "一二三", "甲", "甲乙", "甲乙乙乙", "\n", "😀", "[SEP]"]
ENGLISH = ["x", "x y", "x y y", "foo", "ab", "京", "1,2"]


@settings(deadline=None, max_examples=100)
@given(parts=st.lists(st.sampled_from(CHINESE), max_size=60), stride=st.integers(4, 13))
def test_windows_lose_and_add_nothing_in_characters(
    firing: NerPipeline, parts: list[str], stride: int
) -> None:
    text = "".join(parts)
    assert offsets(firing(text, stride=stride)) == matches("甲乙*", text)


@pytest.mark.parametrize("name", WORD_TOKENIZERS)
@settings(deadline=None, max_examples=60)
@given(parts=st.lists(st.sampled_from(ENGLISH), max_size=40), stride=st.integers(4, 6))
def test_windows_lose_and_add_nothing_in_words(
    word_firing: dict[str, NerPipeline], name: str, parts: list[str], stride: int
) -> None:
    text = " ".join(parts)
    assert offsets(word_firing[name](text, stride=stride)) == matches(r"\bx(?: y)*", text)


@pytest.mark.parametrize("size", [5_000, 100_000])
def test_a_mention_at_the_end_of_a_long_text_is_found(firing: NerPipeline, size: int) -> None:
    assert offsets(firing("的" * (size - 2) + "甲乙")) == [(size - 2, size)]


@pytest.mark.parametrize("name", WORD_TOKENIZERS)
def test_an_endless_word_is_read(word_firing: dict[str, NerPipeline], name: str) -> None:
    assert word_firing[name]("a" * 100_000) == []
    assert offsets(word_firing[name]("a" * 100_000 + " x")) == [(100_001, 100_002)]


@pytest.mark.parametrize("name", ["Unigram", "byte-level"])
def test_an_endless_word_is_read_whole_in_parts(
    word_firing: dict[str, NerPipeline], name: str
) -> None:
    result = word_firing[name]("x" * 100_000, coverage=True)
    found = offsets(result["entities"])
    assert (found[0][0], found[-1][1], result["coverage"]) == (0, 100_000, 1.0)
    assert all(left[1] == right[0] for left, right in itertools.pairwise(found))


def test_a_window_without_room_beside_the_special_tokens_is_refused(
    character_tok: PreTrainedTokenizerFast,
) -> None:
    with pytest.raises(ValueError, match="max_window_tokens is 2: too small"):
        text_reader(character_tok, label_unit="token", max_window_tokens=2)


# -------------------------------------------------------------------------------------------- merge
def window(first: int, last: int) -> Window:
    return Window([], [], [], first, last)


# They share 6..9; a span belongs to the first while first + last <= 16.
PAIR = [window(0, 10), window(6, 16)]


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ([], [], []),
        ([(1, 3, "P", 0.5)], [(5, 7, "P", 0.5)], [(1, 3, "P", 0.5), (11, 13, "P", 0.5)]),
        # Farther from the edge of the first window, which decides.
        ([(7, 9, "P", 0.5)], [(1, 3, "P", 0.9)], [(7, 9, "P", 0.5)]),
        # Farther from the edge of the second window.
        ([(8, 9, "P", 0.9)], [(2, 3, "P", 0.5)], [(8, 9, "P", 0.5)]),
        # Found only by the window that does not own it.
        ([(8, 10, "P", 0.9)], [], []),
        ([], [(0, 2, "P", 0.9)], []),
        ([(7, 9, "P", 0.5)], [(1, 3, "Q", 0.9)], [(7, 9, "P", 0.5)]),
        # Of overlapping mentions the more probable one.
        ([(5, 8, "P", 0.6)], [(1, 6, "P", 0.9)], [(7, 12, "P", 0.9)]),
        ([(5, 8, "P", 0.9)], [(1, 6, "P", 0.6)], [(5, 8, "P", 0.9)]),
        # Adjacent mentions do not overlap.
        ([(5, 8, "P", 0.6)], [(2, 6, "P", 0.9)], [(5, 8, "P", 0.6), (8, 12, "P", 0.9)]),
    ],
)
def test_the_window_in_which_a_mention_is_farther_from_the_edge_decides(
    left: list, right: list, expected: list
) -> None:
    assert flat_spans(merge_windows(PAIR, [left, right])) == expected


def test_a_mention_stays_when_the_one_that_beat_it_is_beaten() -> None:
    left = [(0, 5, "P", 0.5), (6, 8, "P", 0.95)]
    right = [(0, 16, "P", 0.9)]  # positions 4..20: overlaps both
    assert flat_spans(merge_windows([window(0, 12), window(4, 24)], [left, right])) == left


def test_one_window_or_none_is_taken_as_it_is() -> None:
    spans = [(0, 2, "P", 0.1), (2, 3, "Q", 0.2)]
    assert merge_windows([window(0, 4)], [spans]) == spans
    assert merge_windows([], []) == []
    assert flat_spans([]) == []


def test_nested_mentions_of_two_windows_all_stay() -> None:
    left, right = [(5, 8, "P", 0.6), (6, 7, "Q", 0.9)], [(1, 6, "P", 0.9)]
    assert merge_windows(PAIR, [left, right]) == [
        (5, 8, "P", 0.6),
        (6, 7, "Q", 0.9),
        (7, 12, "P", 0.9),
    ]


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_merged_mentions_are_ordered_and_never_overlap(data: st.DataObject) -> None:
    size, step = data.draw(st.integers(4, 12)), data.draw(st.integers(1, 4))
    windows = [window(i * step, i * step + size) for i in range(data.draw(st.integers(1, 5)))]
    score = st.floats(0, 1)
    spans: list[list[tuple]] = []
    for _ in windows:
        edges = sorted(data.draw(st.sets(st.integers(0, size), max_size=6)))
        spans.append(
            [(a, b, "P", data.draw(score)) for a, b in zip(edges[::2], edges[1::2], strict=False)]
        )
    merged = flat_spans(merge_windows(windows, spans))
    assert all(left[1] <= right[0] for left, right in itertools.pairwise(merged))
    seen = {
        (a + w.first, b + w.first, label, p)
        for w, own in zip(windows, spans, strict=True)
        for a, b, label, p in own
    }
    assert set(merged) <= seen


# ------------------------------------------------------------------------------------------ options
@pytest.mark.parametrize("stride", [-1, 14, 1000])
def test_stride_outside_the_window_is_refused(firing: NerPipeline, stride: int) -> None:
    with pytest.raises(ValueError, match=f"stride is {stride}: expected 0 to 13 tokens"):
        firing("甲", stride=stride)


@pytest.mark.parametrize("stride", [0, 1, 13])
def test_stride_within_the_window_is_accepted(
    character_tok: PreTrainedTokenizerFast, firing: NerPipeline, stride: int
) -> None:
    text = "的甲的" * 30
    assert offsets(firing(text, stride=stride)) == matches("甲", text)
    made = firing_pipeline(character_tok, "token", begin="甲", inside="乙", stride=stride)
    assert offsets(made(text)) == matches("甲", text)


def test_stride_is_the_overlap_of_the_windows(
    character_tok: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = firing_pipeline(character_tok, "token", begin="甲", inside="乙", stride=5)
    overlaps: list[int] = []
    read = made.reader.overlapping_windows
    monkeypatch.setattr(
        made.reader,
        "overlapping_windows",
        lambda text, overlap: overlaps.append(overlap) or read(text, overlap),
    )
    made("的")
    made("的", stride=0)
    assert overlaps == [5, 0]


@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
def test_every_aggregation_strategy_gives_whole_mentions(
    firing: NerPipeline, character_tok: PreTrainedTokenizerFast, strategy: str
) -> None:
    assert firing("的甲乙", aggregation_strategy=strategy) == firing("的甲乙")
    made = firing_pipeline(
        character_tok, "token", begin="甲", inside="乙", aggregation_strategy=strategy
    )
    assert made("的甲乙") == firing("的甲乙")


def test_an_unknown_argument_is_refused(
    firing: NerPipeline, character_tok: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(
        ValueError, match=r"unknown pipeline arguments \['strid'\]: expected stride, long_text"
    ):
        firing("甲", strid=3)
    with pytest.raises(ValueError, match=r"unknown pipeline arguments \['grouped'\]"):
        firing_pipeline(character_tok, "token", begin="甲", inside="乙", grouped=True)


def test_long_texts_are_refused_on_demand(pipe: NerPipeline) -> None:
    texts = ["小明在北京大学读书。", "好" * (pipe.reader.capacity + 1)]
    most = pipe.reader.capacity
    with pytest.raises(ValueError, match=f"text 1 has {most + 1} tokens: expected at most {most}"):
        pipe(texts, long_text="error")
    assert pipe(texts, long_text="window") == pipe(texts)
    assert pipe([texts[0], texts[1][1:]], long_text="error") == pipe([texts[0], texts[1][1:]])
    with pytest.raises(ValueError, match="long_text is 'cut': expected one of window, error"):
        pipe(texts, long_text="cut")


def test_mentions_that_do_not_exceed_the_least_score_are_left_out(pipe: NerPipeline) -> None:
    text = "小明在北京大学读书，小红在上海工作。" * 3
    found = pipe(text)
    limit = sorted(m["score"] for m in found)[len(found) // 2]
    assert pipe(text, min_score=limit) == [m for m in found if m["score"] > limit]
    assert pipe(text, min_score={"PER": limit}) == [
        m for m in found if m["score"] > limit or m["entity_group"] != "PER"
    ]
    with pytest.raises(
        ValueError, match="min_score names LOC: expected entity groups of the model, PER, ORG"
    ):
        pipe(text, min_score={"LOC": 0.5})
    for wrong in (0, 1, "0.5", {"PER": 2.0}):
        with pytest.raises(ValueError, match="min_score is"):
            pipe(text, min_score=wrong)


def test_mentions_below_a_limit_are_marked_and_stay(pipe: NerPipeline) -> None:
    text = "小明在北京大学读书，小红在上海工作。" * 3
    found = pipe(text)
    limit = sorted(m["score"] for m in found)[len(found) // 2]
    assert pipe(text, abstain_below=limit) == [
        {**m, "abstained": m["score"] <= limit} for m in found
    ]
    by_type = pipe(text, abstain_below={"PER": limit}, min_score={"ORG": limit})
    assert by_type == [
        {**m, "abstained": m["entity_group"] == "PER" and m["score"] <= limit}
        for m in found
        if m["entity_group"] == "PER" or m["score"] > limit
    ]
    with pytest.raises(
        ValueError, match="abstain_below names LOC: expected entity groups of the model"
    ):
        pipe(text, abstain_below={"LOC": 0.5})


@pytest.mark.parametrize("constrain", [True, False])
def test_the_best_types_of_a_span_have_its_posterior_with_each(
    tiny_encoder: Path, character_tok: PreTrainedTokenizerFast, constrain: bool
) -> None:
    torch.manual_seed(4)
    model = NercoForTokenClassification.from_encoder(
        str(tiny_encoder), LABELS, label_unit="token", constrain_transitions=constrain
    )
    torch.nn.init.normal_(model.classifier.weight, std=0.5)
    encoded = character_tok(["小明在北京大"], return_tensors="pt")
    mask = torch.tensor([[False, *[True] * 6, False]])
    with torch.no_grad():
        outputs = model.eval()(**encoded)
    (spans,) = model.decode(outputs, mask, top_k=5)
    assert spans
    # Enumerates all tag sequences of six positions.
    emissions = outputs.logits[0, 1:-1].double()
    transitions, start = (scores.double() for scores in model.crf.scores())
    chance: dict[tuple, float] = {}
    for path in itertools.product(range(len(LABELS)), repeat=6):
        score = (
            start[path[0]]
            + emissions[range(6), path].sum()
            + transitions[path[:-1], path[1:]].sum()
        )
        if score > -1000:
            chance[path] = score.exp().item()
    total = sum(chance.values())
    for span in spans:
        assert span.labels[0][1] >= span.labels[-1][1]
        assert dict(span.labels)[span.label] == pytest.approx(span.score)
        for label, score in span.labels:
            holds = (
                value
                for path, value in chance.items()
                if (span.start, span.end, label)
                in tags_to_spans([LABELS[tag] for tag in path], "BIO")[0]
            )
            assert score == pytest.approx(sum(holds) / total, abs=1e-5)
    assert [span[:4] for span in model.decode(outputs, mask)[0]] == [span[:4] for span in spans]
    assert [len(span.labels) for span in model.decode(outputs, mask, top_k=1)[0]] == [1] * len(
        spans
    )


def test_top_k_in_the_pipeline(pipe: NerPipeline) -> None:
    text = "小明在北京大学读书，小红在上海工作。"
    found = pipe(text, top_k=1)
    assert [{key: m[key] for key in m if key != "labels"} for m in found] == pipe(text)
    assert all(len(m["labels"]) == 1 and set(m["labels"][0]) == {"label", "score"} for m in found)
    assert json.loads(json.dumps(found)) == found
    for wrong in (0, -1, 1.5, "2"):
        with pytest.raises(ValueError, match="top_k is"):
            pipe(text, top_k=wrong)


def test_coverage_is_said(pipe: NerPipeline) -> None:
    texts = ["", "小明在北京", "小明在北京大学。" * 100]
    results = pipe(texts, coverage=True)
    assert [result["entities"] for result in results] == pipe(texts)
    assert [result["coverage"] for result in results] == [1.0] * 3
    assert [result["windows"] for result in results][:2] == [0, 1]
    assert results[2]["windows"] > 6


def test_coverage_is_counted_not_claimed(character_tok: PreTrainedTokenizerFast) -> None:
    reader = text_reader(character_tok, label_unit="token", max_window_tokens=12)
    [read] = reader.tokenize(["好" * 35])
    windows = reader.overlapping_windows(read, 2)
    assert reader.coverage(read, windows) == 1.0
    last = windows[-1].last - windows[-1].first
    assert reader.coverage(read, windows[:1]) == pytest.approx(10 / 35)
    assert reader.coverage(read, windows[-1:]) == pytest.approx(last / 35)
    assert reader.coverage(read, [windows[0], windows[-1]]) == pytest.approx((10 + last) / 35)
    assert reader.coverage(read, []) == 0.0
    # The second word has more tokens than a window.
    one_character = Tokenized(list(range(30)), [0, 1], [0, 29], [(0, 1), (1, 2)])
    assert reader.coverage(one_character, reader.overlapping_windows(one_character, 2)) == 0.5


@settings(deadline=None, max_examples=100)
@given(
    words=st.lists(st.text(alphabet="甲乙的 ", max_size=4), max_size=12),
    delimiter=st.sampled_from(["", " ", "的"]),
)
def test_words_that_a_mention_touches(
    firing: NerPipeline, words: list[str], delimiter: str
) -> None:
    text, at, offsets_of_words = delimiter.join(words), 0, []
    for word in words:
        offsets_of_words.append((at, at + len(word)))
        at += len(word) + len(delimiter)
    found = firing(words, is_split_into_words=True, delimiter=delimiter)
    assert [{key: m[key] for key in m if not key.endswith("_word")} for m in found] == firing(text)
    for m in found:
        touched = [
            i
            for i, (start, end) in enumerate(offsets_of_words)
            if start < m["end"] and end > m["start"] and start < end
        ]
        if touched:  # a mention may be inside a delimiter
            assert (m["start_word"], m["end_word"]) == (touched[0], touched[-1] + 1)


def test_lists_and_streams_of_words(
    firing: NerPipeline, word_firing: dict[str, NerPipeline]
) -> None:
    rows = [["的", "甲乙"], [], ["甲"]]
    results = firing(rows, is_split_into_words=True)
    assert [
        [(m["word"], m["start_word"], m["end_word"]) for m in mentions] for mentions in results
    ] == [
        [("甲乙", 1, 2)],
        [],
        [("甲", 0, 1)],
    ]
    assert list(firing((row for row in rows), is_split_into_words=True)) == results
    assert firing([], is_split_into_words=True, coverage=True) == []  # no texts
    (entities,) = firing([rows[0]], is_split_into_words=True, coverage=True)
    assert entities["entities"] == results[0]
    # Word models join with a space by default.
    assert [
        (m["word"], m["start"])
        for m in word_firing["WordPiece"](["a", "x"], is_split_into_words=True)
    ] == [("x", 2)]
    for wrong, reason in (
        (["甲", 3], "expected a list of words"),
        ([["甲"], "乙"], "text 1: expected a list of words"),
    ):
        with pytest.raises(ValueError, match=reason):
            list(firing(iter(wrong) if wrong[1] == 3 else wrong, is_split_into_words=True))


def test_ignored_labels_are_left_out(
    pipe: NerPipeline,
    tiny_tagger: NercoForTokenClassification,
    character_tok: PreTrainedTokenizerFast,
) -> None:
    text = "小明在北京大学读书，小红在上海工作。" * 3
    found = pipe(text)
    assert {m["entity_group"] for m in found} == {"PER", "ORG"}
    only_org = [m for m in found if m["entity_group"] == "ORG"]
    assert pipe(text, ignore_labels=["PER"]) == only_org
    assert tiny_tagger.pipeline(character_tok, ignore_labels=["PER"])(text) == only_org
    assert pipe(text, ignore_labels=["PER", "ORG"]) == []
    assert pipe(text) == found


def test_a_missing_or_slow_tokenizer_is_refused(tiny_tagger: NercoForTokenClassification) -> None:
    with pytest.raises(ValueError, match="needs a tokenizer"):
        tiny_tagger.pipeline(None)
    with pytest.raises(ValueError, match="ByT5Tokenizer is a slow tokenizer"):
        tiny_tagger.pipeline(ByT5Tokenizer())


def test_dropout_is_off_in_the_pipeline(
    tiny_tagger: NercoForTokenClassification, character_tok: PreTrainedTokenizerFast
) -> None:
    made = tiny_tagger.train().pipeline(character_tok)
    assert made("小明在北京大学读书") == made("小明在北京大学读书")
    assert not tiny_tagger.training


def test_pipeline_of_the_object_equals_pipeline_of_the_folder(
    saved_tagger: Path, pipe: NerPipeline, modules_cache: None
) -> None:
    for task in ("ner", "token-classification"):
        loaded = pipeline(task, model=str(saved_tagger), trust_remote_code=True)
        assert type(loaded).__name__ == "NerPipeline"
        assert loaded(TEXTS) == pipe(TEXTS)


# -------------------------------------------------------------------------------------- white space
def mentions_of_spans(text: str, spans: list[tuple], **options: Any) -> list[tuple]:
    """Mentions of a text in which every character is a position, read in one window."""
    every = list(range(len(text)))
    tokenized = Tokenized(every, every, every, [(i, i + 1) for i in every])
    window = Window(every, [True] * len(text), [True] * len(text), 0, len(text))
    row = Prepared(text, tokenized, [window])
    return [
        (mention["start"], mention["end"], mention["entity_group"], mention["score"])
        for mention in mention_dicts(row, [spans], **options)
    ]


@pytest.mark.parametrize("flat", [True, False])
def test_no_mention_begins_or_ends_with_white_space(flat: bool) -> None:
    text = "\n老舍\u3000 去 \t"
    spans = [(0, 3, "PER", 0.9), (3, 5, "ORG", 0.8), (5, 8, "LOC", 0.7)]
    expected = [(1, 3, "PER", 0.9), (5, 6, "LOC", 0.7)]
    assert mentions_of_spans(text, spans, flat=flat) == expected
    assert mentions_of_spans(text, spans, flat=flat, ignore_labels=["PER"]) == expected[1:]


def test_of_mentions_that_differ_in_white_space_the_best_stays() -> None:
    spans = [(0, 3, "PER", 0.6), (0, 4, "PER", 0.5), (1, 3, "ORG", 0.4), (1, 3, "PER", 0.7)]
    expected = [(1, 3, "ORG", 0.4), (1, 3, "PER", 0.7)]
    assert mentions_of_spans("\n老舍 ", spans, flat=False) == expected


@settings(deadline=None, max_examples=200)
@given(text=st.text("甲乙 \n\u3000", max_size=8), data=st.data())
def test_white_space_is_all_that_mentions_lose(text: str, data: st.DataObject) -> None:
    places = st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))
    drawn = data.draw(st.lists(places, max_size=4, unique=True))
    spans = [(a, b, "PER", 0.5) for a, b in drawn if a < b]
    found = mentions_of_spans(text, spans, flat=False)
    assert found == sorted(set(found))
    for start, end, _, _ in found:
        assert text[start:end] == text[start:end].strip()
    assert {text[start:end] for start, end, _, _ in found} == {
        text[start:end].strip() for start, end, _, _ in spans
    } - {""}


# -------------------------------------------------------------------------------------------- words
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \n\u3000", []),
        ("Hello world", ["Hello", "world"]),
        ("don't", ["don", "'", "t"]),
        ("北京大学", ["北", "京", "大", "学"]),
        ("iPhone手机15号", ["iPhone", "手", "机", "15", "号"]),
        ("ＡＢ，１２", ["ＡＢ", "，", "１２"]),
        ("e\u0301te\u0301 cafe\u0301", ["e\u0301te\u0301", "cafe\u0301"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("ひらがなカナ", ["ひ", "ら", "が", "な", "カ", "ナ"]),
        ("한국어 말", ["한국어", "말"]),
        ("😀😀", ["😀", "😀"]),
        ("𠀀a", ["𠀀", "a"]),
        ("a_b-c", ["a_b", "-", "c"]),
        ("[SEP]\x00", ["[", "SEP", "]", "\x00"]),
    ],
)
def test_words_of_a_text(text: str, words: list[str]) -> None:
    spans, at = [], 0
    for word in words:
        at = text.index(word, at)
        spans.append((at, at + len(word)))
        at += len(word)
    assert word_spans(text) == spans


@pytest.mark.parametrize("name", WORD_TOKENIZERS)
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("in में now", ["in", "में", "now"]),
        ("Berlin\u0301 x", ["Berlin\u0301", "x"]),
        ("a\u0301\u0308b\u0300, c", ["a\u0301\u0308b\u0300", ",", "c"]),
        ("מִלָּה أَكْلٌ", ["מִלָּה", "أَكْلٌ"]),
        ("ภาษาที่", ["ภาษาที่"]),
        ("北\U000e0100京", ["北\U000e0100", "京"]),  # a variation selector
        ("か\u3099 き", ["か\u3099", "き"]),
        ("北\u0301京", ["北\u0301", "京"]),
        ("❤\ufe0f ok -\u0301 x", ["❤\ufe0f", "ok", "-\u0301", "x"]),
        ("അവന്\u200d ok", ["അവന്\u200d", "ok"]),
    ],
)
def test_a_position_ends_where_its_word_ends(
    word_readers: dict[str, TextReader], name: str, text: str, words: list[str]
) -> None:
    """Also under tokenizers that strip accents: the last characters of a word have no token."""
    [read] = word_readers[name].tokenize([text])
    found = [text[start:end] for start, end in read.spans]
    # A word longer than a window has parts, and a mark with a token may be a position of its own.
    assert found == words or len(read.spans) > len(words)
    assert "".join(found) == "".join(words)
    ends = {end for _, end in read.spans}
    assert {text.index(word) + len(word) for word in words} <= ends


@pytest.mark.parametrize("name", WORD_TOKENIZERS)
@pytest.mark.parametrize("text", ["a\u200bb", "a\u00ad b", "a\ufeff", "a\u200cb"])
def test_a_position_takes_nothing_beyond_its_word(
    word_readers: dict[str, TextReader], name: str, text: str
) -> None:
    """Neither a space of no width nor a joiner between the parts of a word."""
    [read] = word_readers[name].tokenize([text])
    assert read.spans[0] == (0, 1)


@pytest.mark.parametrize("name", WORD_TOKENIZERS)
@settings(deadline=None, max_examples=300)
@given(text=any_text)
def test_word_positions_start_at_words_in_order(
    word_readers: dict[str, TextReader], name: str, text: str
) -> None:
    reader = word_readers[name]
    [read] = reader.tokenize([text])
    readable = re.sub("[\ud800-\udfff]", "\ufffd", text)
    spans = word_spans(readable)
    starts, ends = {start for start, _ in spans}, {end for _, end in spans}
    tokens = [
        last - first + 1 for first, last in zip(read.first_token, read.last_token, strict=True)
    ]
    # Except for the parts of a word that exceeds every window.
    for number, (start, _) in enumerate(read.spans):
        assert start in starts or (number and read.spans[number - 1][1] <= start)
    beyond = [number for number, count in enumerate(tokens) if count > reader.capacity]
    offsets_of_tokens = next(iter(reader.encode([readable])))[1]
    # Characters that share tokens: U+FDFA is 18 letters, and a token may extend into the next one.
    for number in beyond:
        end = offsets_of_tokens[read.first_token[number]][1]
        for start, following in offsets_of_tokens[
            read.first_token[number] + 1 : read.last_token[number] + 1
        ]:
            assert start < end
            end = max(end, following)
    covered = reader.coverage(read, reader.overlapping_windows(read, 3))
    total = len(read.spans)
    assert covered == ((total - len(beyond)) / total if total else 1.0)
    assert all(
        readable[start:end] == readable[start:end].strip() != "" for start, end in read.spans
    )
    assert all(left[1] <= right[0] for left, right in itertools.pairwise(read.spans))
    following = [*(start for start, _ in read.spans[1:]), None][: len(read.spans)]
    for (_, end), limit in zip(read.spans, following, strict=True):
        assert end in ends or end == limit  # also where the tokenizer drops a word's last marks
    assert all(left < right for left, right in itertools.pairwise(read.first_token))
    assert len(read.first_token) == len(read.spans)
    assert not read.first_token or read.first_token[-1] < len(read.ids)


@pytest.mark.parametrize("name", WORD_TOKENIZERS)
def test_words_are_the_same_for_every_tokenizer(
    word_readers: dict[str, TextReader], name: str
) -> None:
    text = " Hello  wörld, 北京 a1\n1,2"
    [read] = word_readers[name].tokenize([text])
    assert [text[start:end] for start, end in read.spans] == [
        "Hello",
        "wörld",
        ",",
        "北",
        "京",
        "a1",
        "1",
        ",",
        "2",
    ]


@pytest.mark.parametrize("unit", ["token", "word"])
def test_reading_many_texts_is_reading_each(
    character_tok: PreTrainedTokenizerFast, unit: str
) -> None:
    reader = text_reader(character_tok, label_unit=unit, max_window_tokens=16)
    assert reader.tokenize(TEXTS) == [reader.tokenize([text])[0] for text in TEXTS]
    assert reader.tokenize([]) == []


# ------------------------------------------------------------- what would silently have no effect
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"aggregation_strategy": "bogus"}, "expected one of simple, first, average, max"),
        ({"aggregation_strategy": "none"}, "gives no tokens"),
        ({"ignore_labels": ["NOPE"]}, "unknown entity group in ignore_labels NOPE"),
        ({"ignore_labels": ["PERS"]}, r"did you mean PER\?"),
        ({"min_scores": 0.5}, r"did you mean min_score\?"),
    ],
)
def test_options_without_effect_are_refused_in_the_constructor_and_the_call(
    tiny_tagger, character_tok, options, said
):
    with pytest.raises(InputError, match=said):
        tiny_tagger.pipeline(character_tok, **options)
    with pytest.raises(InputError, match=said):
        tiny_tagger.pipeline(character_tok)("张三", **options)
    assert tiny_tagger.pipeline(character_tok, ignore_labels=["O"])("张三昨天去了华为。")


def test_arguments_without_effect_are_refused_by_models_and_configurations(tiny_encoder, tmp_path):
    encoder, texts = str(tiny_encoder), {"PER": "人名"}
    for build, said in (
        (lambda: NercoConfig(use_crff=False), r"NercoConfig use_crff: did you mean use_crf\?"),
        (lambda: NercoConfig(max_length=64), "unknown argument of NercoConfig max_length"),
        (lambda: BinderConfig(max_span_widht=3), r"did you mean max_span_width\?"),
        (lambda: NercoModel.from_encoder(encoder, output_dropuot=0), "output_dropuot"),
        (
            lambda: NercoForTokenClassification.from_encoder(encoder, ["O"], class_weights=[1]),
            "unknown argument of NercoConfig class_weights",
        ),
        (
            lambda: BinderModel.from_encoders(encoder, descriptions=texts, class_weights=[1]),
            "unknown argument of BinderConfig class_weights",
        ),
    ):
        with pytest.raises(InputError, match=said):
            build()
    config = NercoConfig(use_crf=False)
    assert NercoConfig(**config.to_dict()).to_dict() == config.to_dict()
    config.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**content, "of_a_later_version": 1}))
    assert NercoConfig.from_pretrained(tmp_path).of_a_later_version == 1  # from a file: kept
    with pytest.raises(InputError, match=r"did you mean use_crf\?"):
        NercoConfig.from_pretrained(tmp_path, use_crff=True)
    assert NercoConfig.from_pretrained(tmp_path, use_crf=True).use_crf


def test_the_stock_pipeline_with_a_model_object_warns(tiny_tagger, character_tok):
    with pytest.warns(UserWarning, match="makes the stock pipeline"):
        pipeline("ner", model=tiny_tagger, tokenizer=character_tok)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny_tagger.pipeline(character_tok)
