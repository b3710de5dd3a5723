"""Lexicons: files, matches, the adapter, models that carry one, and the command that builds one."""

import argparse
import json
import shutil
import subprocess
import sys
import types
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import LABELS, NAMES, arguments, corpus
from hypothesis import given, settings
from hypothesis import strategies as st

import benchmarks.lexicon
from contrastive_ner.cli import main
from contrastive_ner.data.layout import Layout
from contrastive_ner.data.lexicon import rows_of_mentions
from contrastive_ner.data.records import Mention, Record
from contrastive_ner.errors import ConfigError
from contrastive_ner.hub.repository import faults_of, write_manifest
from contrastive_ner.insight.views import views
from contrastive_ner.logs import log
from contrastive_ner.models.fusion_ner import LexiconAdapter
from contrastive_ner.models.lexicon_ner import Kind, Lexicon, Match, fold_of
from contrastive_ner.models.matching_ner import INPUTS, LexiconReader, lexicon_arrays
from contrastive_ner.models.modeling_nerco import NercoForTokenClassification, NercoModel
from contrastive_ner.models.pipeline_ner import pad_windows, text_reader
from contrastive_ner.models.windows_ner import InputError
from contrastive_ner.serving.inference import load_pipeline
from contrastive_ner.training.batches import TagCollator, model_inputs
from contrastive_ner.training.contrastive import ContrastiveTrainer, ContrastiveTrainingArguments
from contrastive_ner.training.features import tag_features
from contrastive_ner.training.lexicon import report_coverage
from contrastive_ner.training.losses import semantic_classes

WORDS = {"北京": "LOC", "北京大学": "ORG", "京大": None, "大学": None, "小明": "PER", "华为": "ORG"}
TYPES = ["LOC", "ORG", "PER"]
TEXT = "小明在北京大学读书，后来去了华为。"


# ---------------------------------------------------------------------------------- files and words
@given(
    st.lists(st.text("ab京大学", min_size=1, max_size=5), min_size=1, max_size=12),
    st.text("ab京大学 ", max_size=30),
)
@settings(max_examples=60)
def test_matches_are_all_occurrences_of_words(words: list[str], text: str):
    known = {word for word in words if len(word) > 1}
    if not known:
        with pytest.raises(InputError, match="no words"):
            Lexicon(words)
        return
    places = ((a, b) for a in range(len(text)) for b in range(a + 2, len(text) + 1))
    expected = [Match(a, b, text[a:b]) for a, b in places if text[a:b] in known]
    assert Lexicon(words).matches(text) == expected


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["C", "Z"]), min_size=2, max_size=9),
        st.tuples(
            st.sampled_from(["", "PER", "a b"]), st.none() | st.tuples(st.just(1), st.just(3))
        ),
        min_size=1,
    )
)
@settings(max_examples=30)
def test_a_file_keeps_words_types_and_folds(tmp_path_factory, entries: dict):
    path = tmp_path_factory.mktemp("lexicon") / "lexicon.txt"
    rows = [(word, Kind(*kind)) for word, kind in entries.items()]
    lexicon = Lexicon.of_rows(rows)
    lexicon.write(path)
    again = Lexicon.read(path)
    assert [(word, again.kind(word)) for word in again.entries] == rows
    assert again.facts() == lexicon.facts()
    assert again.left_out == {}


def test_a_file_may_have_a_mark_blank_lines_and_line_ends_of_windows(file):
    lexicon = Lexicon.read(file("\ufeff北京\tLOC\r\n\r\n 上海 \r\nNew York\tLOC\r\n"))
    assert {word: lexicon.kind(word).type for word in lexicon.entries} == {
        "北京": "LOC",
        "上海": "",
        "New York": "LOC",
    }
    assert lexicon.facts()["longest_word"] == 8


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no words: expected a word of 2 to 16 characters a line"),
        ("\n \n", "no words"),
        ("一\n二\n", "left out: 2 of one character"),
        ("北京".encode("gb18030"), "is not utf-8: write the file again in UTF-8"),
        ("北京\n上海".encode("utf-16"), ":1 is not utf-8"),
        ("北京\n上\0海\n", ":2 has the character U\\+0000"),
        ("北京\n上\ufffd\n", ":2 has the character U\\+FFFD"),
        ("北京\tLOC\tx\n", ":1: 'LOC\\\\tx' follows the word"),
        ("北京\tLOC\t5/5\n", "expected a type, and after another tab a fold such as 3/10"),
        ("北京\n\tLOC\n", ":2: no word before the tab"),
        ("北京 100 ns\n上海 90 ns\n", "looks like a segmenter's dictionary"),
        ("北京\t100\tns\n上海\t90\tns\n", "looks like a segmenter's dictionary"),
        ("北京\t100\n上海\t90\n", "looks like a segmenter's dictionary"),
        ("".join(f"北京{n}\tT{n}\n" for n in range(300)), "300 types of words"),
    ],
)
def test_what_is_no_lexicon_is_refused(file, content, said: str):
    with pytest.raises(InputError, match=said):
        Lexicon.read(file(content))


def test_what_is_left_out_is_counted(file):
    path = file("北京\n北京\tLOC\n一\n中华人民共和国\n上海\tXX\n")
    lexicon = Lexicon.read(path, max_word_length=5)
    assert list(lexicon.entries) == ["北京", "上海"]
    assert lexicon.remarks(["LOC"]) == [
        f"{path}: words left out: 1 duplicate, 1 longer than 5 characters, 1 of one character",
        f"{path}: 1 of 2 words have types that the model does not know (XX; it knows LOC): they "
        "count as words without type",
    ]
    assert Lexicon.read(file("北京".encode("gb18030")), encoding="gb18030").matches("在北京")
    for wrong in ("北京", [1], {"北京": 3}, ["北\n京"], [None]):
        with pytest.raises(InputError):
            Lexicon(wrong)


# ------------------------------------------------------------------------------------------- folds
@given(st.lists(st.sampled_from(["小明", "小红", "北京"]), min_size=1, max_size=8))
@settings(max_examples=40)
def test_words_of_training_texts_are_those_of_the_other_folds(names: list[str]):
    """Those that the other folds have often enough; of some of them, the file cannot tell."""
    records = [
        Record(str(n), f"第{n}次{name}", [Mention(len(f"第{n}次"), len(f"第{n}次") + 2, "X")])
        for n, name in enumerate(names)
    ]
    for least in (1, 2, 3):
        rows = rows_of_mentions(records, folds=3, min_count=least)
        if not rows:
            continue
        lexicon = Lexicon.of_rows(rows)
        for record, name in zip(records, names, strict=True):
            own = fold_of(record.text, 3)
            others = [
                other
                for text, other in zip(records, names, strict=True)
                if fold_of(text.text, 3) != own
            ]
            held_out = {match.word for match in lexicon.matches(record.text, held_out=True)}
            assert held_out <= {name} if others.count(name) >= least else not held_out
            assert least > 1 or held_out == {name} & set(others)
            assert {match.word for match in lexicon.matches(record.text)} <= {name}


def test_a_words_type_does_not_tell_what_one_fold_alone_knows():
    texts = [f"{n}小明" for n in range(40)]
    by_fold = {fold_of(text, 2): text for text in texts}

    def kind(*mentions: tuple[int, str]) -> Kind:
        records = []
        for fold, label in mentions:
            text = by_fold[fold]
            records.append(Record("", text, [Mention(len(text) - 2, len(text), label)]))
        (row,) = rows_of_mentions(records, folds=2, min_count=1)
        return row[1]

    assert kind((0, "A"), (1, "A")) == Kind("A")
    assert kind((0, "A"), (0, "A"), (0, "A"), (1, "B")) == Kind("")
    assert kind((0, "A")) == Kind("A", (0, 2))
    with pytest.raises(ConfigError, match="folds is 1"):
        rows_of_mentions([], folds=1, min_count=1)


def test_a_fold_has_a_word_as_often_as_asked_without_its_own_texts():
    texts: dict[int, list[str]] = {0: [], 1: [], 2: []}
    for n in range(60):
        texts[fold_of(f"{n}小明", 3)].append(f"{n}小明")

    def kinds(*counts: int) -> list[Kind]:
        records = [
            Record("", text, [Mention(len(text) - 2, len(text), "A")])
            for fold, count in enumerate(counts)
            for text in texts[fold][:count]
        ]
        return [kind for _, kind in rows_of_mentions(records, folds=3, min_count=2)]

    assert kinds(1, 1, 0) == []  # to either fold it is a word of one mention
    assert kinds(2, 1, 0) == [Kind("A", (0, 3))]
    assert kinds(1, 1, 1) == [Kind("A")]
    assert kinds(2, 2, 0) == [Kind("A")]
    assert kinds(1, 0, 0) == []


# ----------------------------------------------------------------------------- windows and batches
@pytest.fixture(scope="module")
def reader(character_tok) -> LexiconReader:
    plain = text_reader(character_tok, label_unit="token", max_window_tokens=12)
    return LexiconReader(plain, Lexicon(WORDS), TYPES)


def by_token(words: list, width: int) -> list[list[tuple]]:
    """The words of each token with its tag, longest first, from their definition."""
    rows = []
    for at in range(width):
        found = []
        for word in sorted(words, key=lambda w: (-w.entry.length, w.first)):
            if word.first <= at <= word.last:
                begins, ends = word.begins and at == word.first, word.ends and at == word.last
                found.append((word.entry, 1 if begins else 3 if ends else 2))
        rows.append(found[:5])
    return rows


@given(st.lists(st.sampled_from(["北京大学", "大学", "小明", "在", "x1", "华为"]), max_size=12))
@settings(max_examples=50, deadline=None)
def test_windows_have_the_words_of_the_whole_text(reader, parts: list[str]):
    text = "".join(parts)
    (tokens,) = reader.tokenize([text])
    whole = by_token(tokens.words, len(tokens.ids))
    for window in reader.overlapping_windows(tokens, 3):
        first, size = tokens.first_token[window.first], len(window.input_ids) - 2
        own = by_token(window.lexicon_words, len(window.input_ids))
        assert own == [[], *whole[first : first + size], []]


def test_arrays_hold_the_longest_words_of_each_token(reader):
    windows = [
        w for t in reader.tokenize([TEXT, "在华为"]) for w in reader.overlapping_windows(t, 3)
    ]
    width = max(len(window.input_ids) for window in windows)
    arrays = lexicon_arrays([window.lexicon_words for window in windows], width)
    chars = [tuple(c for c in row if c >= 0) for row in arrays["word_chars"].tolist()]
    for row, window in enumerate(windows):
        for at, expected in enumerate(by_token(window.lexicon_words, width)):
            numbers, tags = arrays["lexicon_words"][row, at], arrays["lexicon_tags"][row, at]
            found = [
                (chars[n], arrays["word_types"][n], t) for n, t in zip(numbers, tags, strict=True)
            ]
            wanted = [(entry.chars, entry.type, tag) for entry, tag in expected]
            assert found == wanted + [((), 0, 0)] * (5 - len(wanted))


def test_words_begin_and_end_with_label_positions(character_tok):
    """Of a text of words, no word lies inside another."""
    plain = text_reader(character_tok, label_unit="word", max_window_tokens=64)
    words = Lexicon({"New York": "LOC", "art": None, "York": None})
    (tokens,) = LexiconReader(plain, words, ["LOC"]).tokenize(["They start in New York, art"])
    assert [word.entry.word for word in tokens.words] == ["New York", "York", "art"]


# ----------------------------------------------------------------------------------------- adapter
def direct(adapter: LexiconAdapter, embed, ids: torch.Tensor, words: dict) -> torch.Tensor:
    """Input embeddings from the equation, a token and a word at a time."""
    table = embed.weight
    rows = []
    for row, tokens in enumerate(ids.tolist()):
        for at, token in enumerate(tokens):
            e = table[token]
            scores, values = [torch.tensor(0.0)], [torch.zeros(adapter.output.shape[1])]
            for k in range(5):
                number = words["lexicon_words"][row, at, k].item()
                tag = words["lexicon_tags"][row, at, k].item()
                if number:
                    chars = [c for c in words["word_chars"][number].tolist() if c >= 0]
                    mean = sum(table[c] for c in chars) / len(chars)
                    f = torch.tanh(
                        adapter.word @ mean
                        + adapter.tag[tag]
                        + adapter.length[len(chars)]
                        + adapter.kind[words["word_types"][number]]
                    )
                    scores.append(e @ adapter.query.T @ f)
                    values.append(f)
            weights = torch.stack(scores).softmax(0)
            rows.append(
                e + adapter.output @ sum(w * v for w, v in zip(weights, values, strict=True))
            )
    return torch.stack(rows).view(*ids.shape, -1)


@pytest.fixture
def lexicon_tagger(tiny_encoder) -> NercoForTokenClassification:
    """A random tagger that reads the words of `WORDS`."""
    torch.manual_seed(1)
    model = NercoForTokenClassification.from_encoder(
        str(tiny_encoder),
        LABELS,
        label_unit="token",
        max_window_tokens=12,
        lexicon_fusion="adapter",
        lexicon_types=TYPES,
    )
    torch.nn.init.normal_(model.classifier.weight, std=2.0)
    torch.nn.init.normal_(model.crf.transitions, std=0.5)
    torch.nn.init.normal_(model.nerco.lexicon_adapter.output, std=0.05)
    model.lexicon = Lexicon(WORDS)
    return model.eval()


@pytest.fixture
def batch(reader) -> dict[str, torch.Tensor]:
    texts = reader.tokenize([TEXT, "在华为", "没有"])
    windows = [window for text in texts for window in reader.overlapping_windows(text, 3)]
    return model_inputs(pad_windows(windows, 0))


@torch.no_grad()
def test_the_adapter_is_its_equation(lexicon_tagger, batch):
    adapter, embed = lexicon_tagger.nerco.lexicon_adapter, lexicon_tagger.get_input_embeddings()
    words = {name: batch[name] for name in INPUTS}
    found = adapter(
        embed(batch["input_ids"]),
        words["lexicon_words"],
        words["lexicon_tags"],
        embed(words["word_chars"].clamp_min(0)),
        words["word_chars"] >= 0,
        words["word_types"],
    )
    torch.testing.assert_close(found, direct(adapter, embed, batch["input_ids"], words))


@torch.no_grad()
def test_without_words_or_training_it_is_the_plain_model(tiny_encoder, lexicon_tagger, batch):
    plain = {name: batch[name] for name in ("input_ids", "attention_mask")}
    model = NercoModel.from_encoder(
        str(tiny_encoder), lexicon_fusion="adapter", lexicon_types=TYPES
    ).eval()
    own = NercoModel.from_encoder(str(tiny_encoder)).eval()
    expected = own(**plain).last_hidden_state
    assert torch.equal(model(**batch).last_hidden_state, expected)
    assert "lexicon_adapter" not in "".join(own.state_dict())
    assert not [name for name in own.config.to_dict() if "lexicon" in name]
    none = {name: torch.zeros_like(tensor) for name, tensor in batch.items() if "lexicon" in name}
    logits = lexicon_tagger(**plain).logits
    assert torch.equal(lexicon_tagger(**{**batch, **none}).logits, logits)
    assert not torch.allclose(lexicon_tagger(**batch).logits, logits, atol=1e-3)


@torch.no_grad()
def test_padding_and_other_texts_change_nothing(lexicon_tagger, reader):
    windows = [
        reader.window(text, 0, len(text.spans)) for text in reader.tokenize(["在华为", "小明"])
    ]
    both = lexicon_tagger(**model_inputs(pad_windows(windows, 0))).logits
    for row, window in enumerate(windows):
        alone = lexicon_tagger(**model_inputs(pad_windows([window], 0))).logits
        torch.testing.assert_close(both[row, : alone.shape[1]], alone[0], atol=1e-5, rtol=1e-5)


def test_training_hides_words_and_reaches_every_weight(tiny_encoder, batch):
    options = {"lexicon_fusion": "adapter", "lexicon_types": TYPES}
    model = NercoModel.from_encoder(str(tiny_encoder), **options, lexicon_absent=0.5)
    adapter = model.lexicon_adapter
    torch.manual_seed(0)
    words = batch["lexicon_words"].repeat(300, 1, 1)
    seen = adapter.hidden(words, len(batch["word_types"]))
    assert set(seen.unique().tolist()) <= set(words.unique().tolist())
    share = float((seen > 0).sum() / (words > 0).sum())
    assert share == pytest.approx(0.5 * 0.9, abs=0.05)
    # A batch without words leaves no weight out: processes that train together would wait for it.
    none = {name: torch.zeros_like(tensor) for name, tensor in batch.items() if "lexicon" in name}
    model(**{**batch, **none}).last_hidden_state.sum().backward()
    assert all(parameter.grad is not None for parameter in adapter.parameters())


@pytest.mark.parametrize("given", [{"lexicon_words"}, set(INPUTS)])
def test_words_need_all_their_tensors_and_a_model_that_reads_them(tiny_tagger, batch, given):
    inputs = {name: tensor for name, tensor in batch.items() if name not in set(INPUTS) - given}
    with pytest.raises(InputError, match="a model with lexicon_fusion: adapter"):
        tiny_tagger(**inputs)


def test_chunks_of_stage_one_give_the_gradient_of_the_whole_batch(
    tiny_encoder, character_tok, reader, tmp_path
):
    lexicon = Lexicon([*NAMES, "华为", "招商银行"])
    features, _ = tag_features(
        corpus(9), LexiconReader(reader, lexicon, ()), ["O", "B-PER", "I-PER", "B-ORG", "I-ORG"]
    )
    results = []
    for chunk_size in (0, 2):
        torch.manual_seed(3)
        model = NercoModel.from_encoder(
            str(tiny_encoder),
            output_dropout=0.0,
            lexicon_fusion="adapter",
            lexicon_dropout=0.0,
            lexicon_absent=0.0,
        )
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        torch.nn.init.normal_(model.lexicon_adapter.output, std=0.1)
        settings = ContrastiveTrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, report_to="none", chunk_size=chunk_size
        )
        trainer = ContrastiveTrainer(
            model,
            settings,
            train_dataset=features,
            data_collator=TagCollator(0),
            label_classes=semantic_classes(LABELS),
        )
        trainer.current_gradient_accumulation_steps = 1
        trainer.training_step(model, trainer.data_collator(features))
        results.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    whole, chunked = results
    assert whole.keys() == chunked.keys()
    assert float(whole["lexicon_adapter.word"].abs().max()) > 0
    for name, gradient in whole.items():
        torch.testing.assert_close(chunked[name], gradient, atol=1e-6, rtol=1e-4)


# ------------------------------------------------------------------------------------- saved models
def test_what_is_saved_is_what_is_read_whatever_its_lines_look_like(
    lexicon_tagger, character_tok, tmp_path
):
    """Lines such as `iPhone 14 pro` look like those of a segmenter's dictionary."""
    for number, words in enumerate((["iPhone 14 pro", "iPhone 15 pro"], ["\ufeff北京", "上海"])):
        lexicon_tagger.lexicon = Lexicon(words)
        lexicon_tagger.save_pretrained(tmp_path / str(number))
        again = NercoForTokenClassification.from_pretrained(tmp_path / str(number))
        assert again.lexicon.content() == lexicon_tagger.lexicon.content()
    with pytest.raises(InputError, match=r"words of 20 characters, and max_word_length.*is 16"):
        lexicon_tagger.lexicon = Lexicon(["北" * 20], max_word_length=30)


def test_a_given_lexicon_is_checked_like_a_given_file(lexicon_tagger, character_tok, recwarn):
    ner = lexicon_tagger.pipeline(character_tok)
    limit = lexicon_tagger.config.max_word_length
    with pytest.raises(InputError, match=f"max_word_length of the model is {limit}"):
        ner(TEXT, lexicon=Lexicon(["北" * (limit + 1)], max_word_length=limit + 1))
    recwarn.clear()
    ner(TEXT, lexicon=Lexicon({"北京": "none of the model's"}))
    assert "1 of 1 words have types that the model does not know" in str(recwarn.pop().message)
    lexicon_tagger.lexicon = Lexicon({"上海": "another"})
    assert "does not know" in str(recwarn.pop().message)


def test_marks_and_line_ends_within_a_lexicon(lexicon_tagger, file, tmp_path):
    assert list(Lexicon.read(file("北京\r上海\tLOC\r")).entries) == ["北京", "上海"]
    lexicon_tagger.lexicon = Lexicon({"北京": "\ufeffPER"})
    assert lexicon_tagger.lexicon.types == ["PER"]
    lexicon_tagger.save_pretrained(tmp_path)
    again = NercoForTokenClassification.from_pretrained(tmp_path)
    assert again.lexicon.content() == "北京\tPER\n"
    with pytest.raises(InputError, match="a folder: expected a file"):
        Lexicon.read(tmp_path)


def test_windows_of_a_long_text_do_not_scan_all_its_words(character_tok):
    """The time of a text is linear in its length: twice as long takes no four times as long."""
    plain = text_reader(character_tok, label_unit="token", max_window_tokens=32)
    reader = LexiconReader(plain, Lexicon(["北京", "京北", "北京北京北京"]))

    class Counted(list):
        reads = 0

        def __getitem__(self, at):
            Counted.reads += 1 if isinstance(at, int) else len(range(*at.indices(len(self))))
            return super().__getitem__(at)

    reads = []
    for count in (500, 1000):
        (text,) = reader.tokenize(["北京" * count])
        text = text._replace(words=Counted(text.words))
        Counted.reads = 0
        windows = list(reader.overlapping_windows(text, 8))
        reads.append(Counted.reads)
        assert sum(len(window.lexicon_words) for window in windows) > count
    assert reads[1] < 2.5 * reads[0]


def test_longest_words_and_names_of_files_are_checked(lexicon_tagger, character_tok):
    for longest in (1, 64, 100):
        with pytest.raises(InputError, match=f"max_word_length is {longest}: expected 2 to 63"):
            Lexicon(["北" * 70, "北京"], max_word_length=longest)
    ner = lexicon_tagger.pipeline(character_tok)
    for name in ("a\0b", "很长" * 3000):
        with pytest.raises(InputError, match="no such file"):
            ner(TEXT, lexicon=name)


@pytest.fixture
def saved(lexicon_tagger, character_tok, tmp_path: Path) -> Path:
    lexicon_tagger.save_pretrained(tmp_path / "model")
    character_tok.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_lexicon_is_saved_with_the_model_and_swapped_in_use(
    saved, lexicon_tagger, character_tok, modules_cache, file, recwarn
):
    from transformers import pipeline

    own = lexicon_tagger.pipeline(character_tok)
    expected, without = own(TEXT), own(TEXT, lexicon=False)
    assert expected != without
    config = json.loads((saved / "config.json").read_text("utf-8"))
    assert config["lexicon"] == Lexicon.read(saved / "lexicon.txt").facts()
    other = file("去了\n华为\tORG\n")
    ner = pipeline("ner", model=str(saved), trust_remote_code=True)
    swapped = pipeline("ner", model=str(saved), trust_remote_code=True, lexicon=str(other))
    assert type(ner.model).__module__.startswith("transformers_modules")
    assert ner(TEXT) == expected
    assert ner(TEXT, lexicon=False) == without
    for lexicon in (str(other), other, Lexicon.read(other), {"去了": None, "华为": "ORG"}):
        assert ner([TEXT], lexicon=lexicon) == [swapped(TEXT)]
    assert swapped(TEXT) not in (expected, without)
    assert swapped(TEXT, lexicon=WORDS) == expected
    file("去了\n小明\tPER\n")  # the same name, another content
    assert ner(TEXT, lexicon=str(other)) == ner(TEXT, lexicon={"去了": None, "小明": "PER"})
    assert not recwarn.list
    with pytest.warns(UserWarning, match="2 of 2 words have types that the model does not know"):
        ner(TEXT, lexicon={"去了": "A", "小明": "B"})
    for wrong in (3, str(other) + "x", "", [], {}):
        with pytest.raises(ValueError, match="lexicon"):
            ner(TEXT, lexicon=wrong)


def test_spacy_reads_other_words_and_saves_them(
    saved, lexicon_tagger, character_tok, file, tmp_path
):
    import spacy

    def found(nlp) -> list[tuple]:
        return [(e.start_char, e.end_char, e.label_, round(e._.score, 4)) for e in nlp(TEXT).ents]

    def of_pipeline(**lexicon) -> list[tuple]:
        mentions = lexicon_tagger.pipeline(character_tok)(TEXT, **lexicon)
        return [(m["start"], m["end"], m["entity_group"], round(m["score"], 4)) for m in mentions]

    def component(**config) -> Any:
        nlp = spacy.blank("zh")
        nlp.add_pipe("contrastive_ner", config={"model": str(saved), **config})
        return nlp

    words = {"去了": None, "华为": "ORG"}
    other = file("去了\n华为\tORG\n")
    gold = of_pipeline(lexicon=words)
    assert gold not in (of_pipeline(), of_pipeline(lexicon=False))
    assert found(component()) == of_pipeline()
    nlp = component(lexicon=str(other))
    assert found(nlp) == gold
    nlp.to_disk(tmp_path / "nlp")
    other.unlink()  # the saved pipeline has its own copy
    assert found(spacy.load(tmp_path / "nlp")) == gold
    without = component(lexicon=False)
    assert found(without) == of_pipeline(lexicon=False)
    without.to_disk(tmp_path / "without")
    assert found(spacy.load(tmp_path / "without")) == of_pipeline(lexicon=False)
    with pytest.raises(ConfigError, match="lexicon is true: expected the name of a file"):
        component(lexicon=True)
    with pytest.raises(InputError, match="lexicon"):
        found(component(lexicon=str(other)))


def test_views_of_texts_have_the_words_that_the_model_reads(lexicon_tagger, character_tok):
    ner = lexicon_tagger.pipeline(character_tok)
    text = TEXT[:8]  # of one window
    mentions = ner(text)
    (view,) = views(ner, [Record("1", text)])
    assert mentions
    for m in mentions:
        found = view.space.probability(view.place(m["start"], m["end"]), m["entity_group"])
        assert found == pytest.approx(m["score"], abs=1e-4)


def test_views_have_the_words_of_the_pipeline_or_the_call(lexicon_tagger, character_tok):
    own, none = (lexicon_tagger.pipeline(character_tok, **x) for x in ({}, {"lexicon": False}))
    record = Record("1", TEXT[:8])

    def states(ner, **given):
        (view,) = views(ner, [record], **given)
        return view.space.states

    assert not torch.allclose(states(own), states(none), atol=1e-4)
    torch.testing.assert_close(states(own, lexicon=False), states(none))
    lexicon_tagger.lexicon = None
    states(none)  # needs none


def test_views_of_training_texts_leave_their_own_words_out(lexicon_tagger, character_tok):
    text = TEXT[:8]
    word = "小明" if "小明" in text else text[:2]
    fold = fold_of(text, 5)
    others = Lexicon.of_rows([(word, Kind("PER", ((fold + 1) % 5, 5)))])
    own = Lexicon.of_rows([(word, Kind("PER", (fold, 5)))])
    ner = lexicon_tagger.pipeline(character_tok)
    record = Record("1", text)

    def states(lexicon, **given):
        (view,) = views(ner, [record], lexicon=lexicon, **given)
        return view.space.states

    torch.testing.assert_close(states(own, trained_on=True), states(False))
    torch.testing.assert_close(states(others, trained_on=True), states(others))
    assert not torch.allclose(states(own), states(False), atol=1e-4)
    assert ner(text, lexicon=own, held_out=True) == ner(text, lexicon=False)


def test_a_lexicon_that_is_not_the_models_own_is_refused(saved, tiny_tagger, character_tok):
    path = saved / "lexicon.txt"
    content = path.read_text("utf-8")
    path.write_text(content.replace("华为", "中兴"), "utf-8")
    with pytest.raises(InputError, match=r"not the lexicon that config\.json describes"):
        NercoForTokenClassification.from_pretrained(saved)
    path.unlink()
    ner = NercoForTokenClassification.from_pretrained(saved).pipeline(character_tok)
    with pytest.raises(InputError, match=r"lexicon\.txt is not next to its weights"):
        ner(TEXT)
    assert ner(TEXT, lexicon=WORDS)
    plain = tiny_tagger.pipeline(character_tok)
    for use in (lambda: plain(TEXT, lexicon=WORDS), lambda: setattr(tiny_tagger, "lexicon", 1)):
        with pytest.raises(InputError, match="lexicon_fusion is none"):
            use()
    assert plain(TEXT, lexicon=False) == plain(TEXT)


def test_the_commands_refuse_a_lexicon_for_a_model_that_reads_none(saved_tagger, file, capsys):
    text, words = str(file(TEXT, "text.txt")), str(file("北京\n", "words.txt"))
    assert main(["predict", str(saved_tagger), text, "--lexicon", words]) == 2
    assert "lexicon_fusion is none" in capsys.readouterr().err
    assert main(["predict", str(saved_tagger), text, "--lexicon", "none"]) == 0


def test_what_save_pretrained_pushes_includes_the_lexicon(saved, lexicon_tagger):
    assert "lexicon.txt" not in lexicon_tagger._get_files_timestamps(str(saved))
    assert "config.json" in lexicon_tagger._get_files_timestamps(str(saved))


@pytest.mark.slow
def test_the_runtime_without_torch_reads_the_words(saved, tmp_path: Path):
    pytest.importorskip("onnxruntime")
    from contrastive_ner.serving.export import export
    from contrastive_ner.serving.runtime_onnx import OnnxPipeline

    export(saved, tmp_path / "exported")
    runtime, ner = OnnxPipeline(tmp_path / "exported"), load_pipeline(saved)
    texts = [TEXT, "", "华为在北京。" * 9]
    results = []
    for lexicon in (None, False, {"去了": None, "读书": "ORG"}):
        results.append(ner(texts, lexicon=lexicon))
        for expected, found in zip(results[-1], runtime(texts, lexicon=lexicon), strict=True):
            scores = [m.pop("score") for m in found]
            assert scores == pytest.approx([m["score"] for m in expected], abs=1e-4)
            assert found == [{k: v for k, v in m.items() if k != "score"} for m in expected]
    assert results[0] != results[1] != results[2]
    words = tmp_path / "words.txt"
    words.write_text("去了\n读书\tORG\n", "utf-8")
    command = [sys.executable, str(tmp_path / "exported" / "runtime_onnx.py")]
    for option, expected in (("none", results[1]), (str(words), results[2])):
        row = subprocess.run(
            [*command, "--lexicon", option], input=TEXT.encode(), capture_output=True, check=True
        ).stdout
        found = [(m["start"], m["end"]) for m in json.loads(row)["entities"]]
        assert found == [(m["start"], m["end"]) for m in expected[0]]


# -------------------------------------------------------------------------------------- a whole run
@pytest.fixture(scope="module")
def run(files, tiny_encoder, tmp_path_factory) -> Path:
    """A run with words of its own training data, by folds."""
    folder = tmp_path_factory.mktemp("run")
    lexicon = str(folder / "words.txt")
    assert main(["lexicon", "--from_training", f"{files}/train.jsonl", "--output", lexicon]) == 0
    options = {"lexicon_fusion": "adapter", "lexicon_file": lexicon, "max_window_tokens": 16}
    assert main(arguments(files, tiny_encoder, folder / "run", **options)) == 0
    return folder


def test_a_run_saves_its_lexicon_and_its_commands_take_another(run, files, tmp_path, capsys, file):
    model = run / "run" / "model"
    assert (model / "lexicon.txt").read_bytes() == (run / "words.txt").read_bytes()
    assert faults_of(model) == []
    assert "lexicon.txt" in (model / "MANIFEST.sha256").read_text("utf-8")
    assert "reads the words of a lexicon" in (model / "README.md").read_text("utf-8")
    published = json.loads((model / "metrics.json").read_text("utf-8"))["config"]
    assert published["lexicon_file"] == "words.txt"
    adapter = NercoModel.from_pretrained(model).lexicon_adapter
    assert float(adapter.output.detach().abs().max()) > 0
    other = file("赵六\tPER\n王五\tQQ\n")
    capsys.readouterr()
    written = []
    for lexicon in (None, "none", str(other)):
        output = tmp_path / f"{len(written)}.jsonl"
        given = [] if lexicon is None else ["--lexicon", lexicon]
        command = ["predict", str(model), f"{files}/test.jsonl", "--output", str(output), *given]
        assert main(command) == 0
        written.append(output.read_text("utf-8"))
        assert main(["evaluate", str(model), f"{files}/test.jsonl", *given]) == 0
    assert len(set(written)) == 3
    assert "1 of 2 words have types that the model does not know" in capsys.readouterr().err
    assert (
        main(["predict", str(model), f"{files}/test.jsonl", "--lexicon", str(tmp_path / "x")]) == 2
    )
    assert "no such file" in capsys.readouterr().err
    copy = shutil.copytree(model, tmp_path / "copy")
    (copy / "lexicon.txt").unlink()
    write_manifest(copy)
    assert faults_of(copy) == ["lexicon.txt is missing, but config.json describes it"]


def test_a_run_goes_on_from_a_model_with_words(run, files, tiny_encoder, tmp_path, capsys):
    from contrastive_ner.training.config import RunConfig
    from contrastive_ner.training.start import continue_fusion

    old = NercoModel.from_pretrained(run / "run" / "model")
    new = NercoModel.from_encoder(
        str(tiny_encoder), lexicon_fusion="adapter", lexicon_types=["new", "PER"]
    )
    continue_fusion(new, RunConfig(init_model=str(run / "run" / "model")))
    before, now = old.lexicon_adapter, new.lexicon_adapter
    assert torch.equal(before.output, now.output)
    at = 1 + old.config.lexicon_types.index("PER")
    assert torch.equal(now.kind[2], before.kind[at])
    assert torch.equal(now.kind[0], before.kind[0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lexicon_fusion": "adapter"}, "expected lexicon_file"),
        ({"lexicon_file": "words.txt"}, "but lexicon_fusion is none"),
        (
            {"lexicon_fusion": "flat2"},
            "'flat2': expected one of none, adapter, flat",
        ),
        ({"lexicon_fusion": "adapter", "method": "binder"}, "method=binder reads no lexicon"),
        ({"lexicon_fusion": "adapter", "lexicon_file": "no.txt"}, "no.txt: no such file"),
        ({"max_word_length": 100}, "max_word_length is 100: expected 2 to 63"),
        ({"lexicon_absent": 1}, "lexicon_absent is 1.0: expected a number in"),
    ],
)
def test_a_run_refuses_what_does_not_fit(files, tiny_encoder, tmp_path, capsys, changes, said):
    assert main(arguments(files, tiny_encoder, tmp_path / "run", **changes)) == 2
    assert said in capsys.readouterr().err


# ------------------------------------------------------------------------------------- the command
@pytest.fixture
def jieba(monkeypatch, tmp_path: Path) -> None:
    """A small module in place of the segmenter, with the same names."""
    dictionary = tmp_path / "dict.txt"
    dictionary.write_text(
        "北京 34488 ns\n马云 3 nr\n爱因斯坦 9 nrt\n读书 50 v\n的 318825 uj\n", "utf-8"
    )
    module, tagged = types.ModuleType("jieba"), types.ModuleType("jieba.posseg")
    module.get_dict_file = lambda: dictionary.open("rb")
    module.setLogLevel = lambda level: None
    flags = {"小明": "nr", "华为": "nt"}
    tagged.cut = lambda text: [(text[i : i + 2], flags.get(text[i : i + 2], "v")) for i in (0, 2)]
    monkeypatch.setitem(sys.modules, "jieba", module)
    monkeypatch.setitem(sys.modules, "jieba.posseg", tagged)


def test_the_command_merges_sources_and_shows_what_they_cover(jieba, file, tmp_path, capsys):
    own = file("读书\tact\n马云\tPER\n".encode("gb18030"), "own.txt")
    text = file("小明去了\n华为华为\n", "text.txt")
    output = tmp_path / "words.txt"
    sources = [str(own), "--encoding", "gb18030", "--jieba"]
    assert main(["lexicon", *sources, "--output", str(output)]) == 0
    assert output.read_text("utf-8") == "读书\tact\n马云\tPER\n北京\tns\n爱因斯坦\tnr\n"
    assert main(["lexicon", str(output), "--from_text", str(text), "--cover", str(text)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{output}: 4 words, 4 with a type (act, PER, ns, nr)"
    assert said[1] == "lexicon: 7 words, 6 with a type (act, PER, ns, nr, nt)"
    assert said[2] == f"{text}: 100.0 % of 8 characters are in a word, 0.50 words a character"


def test_the_command_reads_dictionaries_when_it_is_told_to(file, tmp_path, capsys):
    """A list of products has the shape of a segmenter's dictionary: nothing is guessed."""
    products = file("iPhone 14\niPhone 15\nNew York\n", "products.txt")
    output = tmp_path / "words.txt"
    assert main(["lexicon", str(products), "--output", str(output)]) == 0
    assert output.read_text("utf-8") == "iPhone 14\niPhone 15\nNew York\n"
    users = file("云计算 5\n李小福 2 nr\n凱特琳 nz\n台中\nNew York 3 ns\n", "users.txt")
    assert main(["lexicon", "--dictionary", str(users), "--output", str(output)]) == 0
    assert output.read_text("utf-8") == "云计算\n李小福\tnr\n凱特琳\n台中\nNew York\tns\n"
    tabs = file("北京\t100\tns\n上海\t90\n李小福\n", "tabs.txt")
    assert main(["lexicon", "--dictionary", str(tabs), "--output", str(output)]) == 0
    assert output.read_text("utf-8") == "北京\tns\n上海\n李小福\n"
    odd = file("款式 12 ab\t\n型号 13 cd\n", "odd.txt")  # as the message advises
    for _ in range(2):
        assert main(["lexicon", str(odd), "--output", str(output)]) == 0
        odd = output
    assert list(Lexicon.read(output).entries) == ["款式 12 ab", "型号 13 cd"]
    tagged = file("北京 100 ns\n上海 90 ns\n", "tagged.txt")
    assert main(["lexicon", str(tagged), "--output", str(output)]) == 2
    assert "lexicon --dictionary FILE converts one" in capsys.readouterr().err
    joined = file("\ufeff北京\n\ufeff上海\n", "joined.txt")  # of two files, each with its mark
    assert Lexicon.read(joined).matches("北京上海") == [Match(0, 2, "北京"), Match(2, 4, "上海")]


def test_mentions_that_no_file_can_hold_are_left_out_and_counted(file, tmp_path, capsys):
    rows = [
        {"text": text, "entities": [{"start": 0, "end": len(text), "label": "X"}]}
        for text in ("北\ufffd京", "北\x01京", "上海", "上海市")
    ]
    data = file("".join(json.dumps(row) + "\n" for row in rows), "data.jsonl")
    output = tmp_path / "words.txt"
    assert main(["lexicon", "--from_training", str(data), "--output", str(output)]) == 0
    assert "2 words with control characters are left out" in capsys.readouterr().err
    assert set(Lexicon.read(output).entries) == {"上海", "上海市"}
    own = ["lexicon", "--from_training", str(data), "--min_count", "9", "--output", str(output)]
    assert main(own) == 2
    assert "data.jsonl: no word; is --min_count too high?" in capsys.readouterr().err


def test_the_command_names_what_is_missing(file, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jieba", None)
    for command, said in (
        (["--jieba", "--output", str(tmp_path / "x")], "pip install 'contrastive-ner[jieba]'"),
        ([], "expected --output, or --cover"),
        (["--output", str(tmp_path / "x")], "no source: expected FILE"),
        ([str(file("", "empty.txt")), "--output", str(tmp_path / "x")], "empty.txt: no word;"),
    ):
        assert main(["lexicon", *command]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_warning_tells_words_of_train_that_were_not_taken_by_folds(character_tok, caplog):
    plain = text_reader(character_tok, label_unit="token", max_window_tokens=64)
    lexicon = Lexicon(list(NAMES))
    reader = LexiconReader(plain, lexicon, ())
    features = {"train": tag_features(corpus(6), reader, LABELS)[0]}
    other = [Record("1", "陈十一来了", [Mention(0, 3, "PER")])]
    features["dev"] = tag_features(other, reader, LABELS)[0]
    with caplog.at_level("INFO", logger=log.name):
        log.addHandler(caplog.handler)
        try:
            report_coverage(features, LABELS)
        finally:
            log.removeHandler(caplog.handler)
    said = [record.getMessage() for record in caplog.records]
    assert "50.0 % of 12 mentions are one" in said[0]
    assert any("by folds" in line for line in said)


# ------------------------------------------------------------------------------------------- costs
def test_the_benchmark_compares_taggers_with_and_without_words(files, tiny_encoder, file):
    words = "".join(f"{name}\tPER\n" for name in NAMES)
    given = {"lexicon": str(file(words)), "file": f"{files}/test.jsonl", "text_column": "text"}
    sizes = {"texts": 4, "batch_size": 2, "threads": 1, "repetitions": 2}
    layout = {**asdict(Layout()), "format": "auto"}
    options = argparse.Namespace(**given, **sizes, **layout, encoder=str(tiny_encoder))
    measured = benchmarks.lexicon.measure(options)
    assert measured["loading"]["words"] == len(NAMES)
    assert all(row["ratio"] > 0 for row in measured["comparisons"].values())
    assert measured["comparisons"]["tagging, adapter"]["target"] == ">= 0.85"
    assert measured["comparisons"]["tagging, flat"]["target"] == ">= 0.50"


@pytest.mark.slow
def test_a_large_lexicon_loads_quickly_and_takes_little_memory(tmp_path: Path):
    """340,000 words of 2 to 8 characters."""
    numbers = np.random.default_rng(0)
    words: set[str] = set()
    while len(words) < 340_000:
        codes = 0x4E00 + numbers.exponential(1200, 8).astype(int) % 20_000
        words.add("".join(map(chr, codes[: numbers.choice([2, 2, 2, 3, 3, 4, 8])])))
    path = tmp_path / "words.txt"
    path.write_text(
        "".join(f"{w}\t{'ns' if n % 4 else ''}\n" for n, w in enumerate(words)), "utf-8"
    )
    found = benchmarks.lexicon.loading(path, 5)
    assert found["words"] == 340_000
    assert found["fastest"] < 1  # other tests run beside this one
    assert found["bytes"] < 60_000_000
