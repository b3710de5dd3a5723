"""The word lattice of NerCo as published, against a loop over its equations."""

import copy
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from conftest import LABELS, arguments
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from contrastive_ner.cli import main
from contrastive_ner.errors import ConfigError
from contrastive_ner.hub.repository import faults_of
from contrastive_ner.models.flat_ner import FlatLattice
from contrastive_ner.models.lattice_ner import Vocabulary, fused_reader, pairs_of
from contrastive_ner.models.lexicon_ner import Lexicon
from contrastive_ner.models.modeling_nerco import NercoForTokenClassification
from contrastive_ner.models.pipeline_ner import text_reader
from contrastive_ner.models.windows_ner import InputError
from contrastive_ner.serving.export import export

STATES = 6


def lattice(seed: int = 0, **sizes: int) -> FlatLattice:
    torch.manual_seed(seed)
    sizes = {"heads": 2, "head_size": 3, "max_tokens": 12, "max_word_length": 6, **sizes}
    layer = FlatLattice(20, 15, STATES, **sizes).double().eval()
    for parameter in layer.parameters():  # biases are not zero after training
        parameter.data += 0.1 * torch.randn_like(parameter)
    return layer


def sinusoid(position: float, size: int) -> Tensor:
    half = size // 2
    angles = [position * math.exp(-math.log(10000) * k / max(half - 1, 1)) for k in range(half)]
    values = [math.sin(a) for a in angles] + [math.cos(a) for a in angles] + [0.0] * (size % 2)
    return torch.tensor(values, dtype=torch.float32).double()


def direct(
    layer: FlatLattice,
    states: Tensor,
    chars: Sequence[int],
    bigrams: Sequence[int],
    words: Sequence[tuple[int, int, int]],
) -> Tensor:
    """One text without padding, pair by pair: states (n, D), words (id, first, last) -> (n, H)."""
    char_inputs = [
        torch.cat([layer.entries.weight[c], layer.bigrams.weight[b], state])
        for c, b, state in zip(chars, bigrams, states, strict=True)
    ]
    x = [layer.char_projection(value) for value in char_inputs]
    x += [layer.word_projection(layer.entries.weight[w]) for w, _, _ in words]
    places = [(i, i) for i in range(len(chars))] + [(first, last) for _, first, last in words]
    rows = []
    for i, (s_i, e_i) in enumerate(places):
        parts = []
        for head in range(layer.heads):
            own = slice(head * layer.head_size, (head + 1) * layer.head_size)
            q = layer.query(x[i])[own]
            scores = []
            for j, (s_j, e_j) in enumerate(places):
                encoded = [sinusoid(s_i - s_j, layer.size), sinusoid(e_i - e_j, layer.size)]
                position = torch.relu(layer.position(torch.cat(encoded)))
                relation = (layer.relation.weight @ position)[own]
                scores.append((q + layer.u[head]) @ x[j][own] + (q + layer.v[head]) @ relation)
            weights = torch.softmax(torch.stack(scores), 0)
            values = torch.stack([layer.value(other)[own] for other in x])
            parts.append(weights @ values)
        y = layer.norm(x[i] + torch.cat(parts))
        rows.append(layer.norm(y + layer.narrow(torch.relu(layer.wide(y)))))
    return torch.stack(rows[: len(chars)])


@st.composite
def texts(draw: st.DrawFn) -> tuple[list[int], list[int], list[tuple[int, int, int]]]:
    count = draw(st.integers(1, 7))
    ids = st.lists(st.integers(1, 14), min_size=count, max_size=count)
    pairs = [(a, b) for a in range(count) for b in range(a + 1, min(count, a + 6))]
    words = [] if not pairs else draw(st.lists(st.sampled_from(pairs), max_size=5))
    return draw(ids), draw(ids), [(draw(st.integers(1, 19)), *pair) for pair in words]


def batch_of(rows: Sequence[tuple], *, before: int = 0, after: int = 0, words: int = 0) -> list:
    """Padded tensors of texts, with more tokens of padding before and after, and more words."""
    width = max(len(chars) for chars, _, _ in rows)
    most = max(len(found) for _, _, found in rows) + words

    def padded(ids: Sequence[int]) -> list[int]:
        return [0] * before + [*ids] + [0] * (width - len(ids) + after)

    def column(found: Sequence[tuple], part: int, shift: int) -> list[int]:
        return [word[part] + shift for word in found] + [0] * (most - len(found))

    return [
        torch.tensor([padded(chars) for chars, _, _ in rows]),
        torch.tensor([padded(bigrams) for _, bigrams, _ in rows]),
        *(
            torch.tensor([column(found, part, before * (part > 0)) for *_, found in rows]).long()
            for part in range(3)
        ),
    ]


def random_states(rows: Sequence[tuple]) -> Tensor:
    width = max(len(chars) for chars, _, _ in rows)
    return torch.randn(len(rows), width, STATES, dtype=torch.float64)


@given(st.lists(texts(), min_size=1, max_size=3), st.integers(0, 3))
@settings(deadline=None, max_examples=25)
def test_equals_the_loop_over_all_pairs_with_any_padding(rows, seed):
    layer = lattice(seed)
    states = random_states(rows)
    with torch.no_grad():
        found = layer(states, *batch_of(rows))
        edges = torch.full((len(rows), 2, STATES), 9.0, dtype=torch.float64)
        shifted = layer(
            torch.cat([edges, states, edges], 1), *batch_of(rows, before=2, after=2, words=3)
        )
        for number, (chars, bigrams, words) in enumerate(rows):
            count = len(chars)
            expected = direct(layer, states[number, :count], chars, bigrams, words)
            torch.testing.assert_close(found[number, :count], expected, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(
                shifted[number, 2 : 2 + count], expected, rtol=1e-6, atol=1e-6
            )


ROW = ([3, 4, 5, 6, 7], [2, 3, 4, 5, 6], [(9, 0, 1), (10, 0, 3), (11, 2, 4), (9, 3, 4)])


def test_gradients_equal_those_of_the_loop():
    layer, states = lattice(), random_states([ROW]).requires_grad_()
    aim = torch.randn(5, layer.size, dtype=torch.float64)
    gradients = []
    for result in (layer(states, *batch_of([ROW], words=2))[0], direct(layer, states[0], *ROW)):
        inputs = [states, *layer.parameters()]
        gradients.append(torch.autograd.grad((result * aim).sum(), inputs))
    names = ["states", *(name for name, _ in layer.named_parameters())]
    for name, own, expected in zip(names, *gradients, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-6, msg=name)
        assert expected.abs().max() > 0, name


def test_rows_are_computed_in_parts_where_memory_is_short(monkeypatch):
    layer, states = lattice(), random_states([ROW] * 3)
    whole = layer(states, *batch_of([ROW] * 3))
    monkeypatch.setattr("contrastive_ner.models.flat_ner.MOST_PRODUCTS", 1)
    torch.testing.assert_close(layer(states, *batch_of([ROW] * 3)), whole)


def test_the_order_of_words_does_not_matter():
    layer, states = lattice(), random_states([ROW])
    other = (*ROW[:2], ROW[2][::-1])
    torch.testing.assert_close(layer(states, *batch_of([ROW])), layer(states, *batch_of([other])))


def test_words_and_their_places_matter():
    layer, states = lattice(), random_states([ROW])
    found = layer(states, *batch_of([ROW]))
    for words in ([], [(9, 0, 2), *ROW[2][1:]], [(12, 0, 1), *ROW[2][1:]]):
        other = layer(states, *batch_of([(*ROW[:2], words)]))
        assert (found - other).abs().max() > 1e-3


@pytest.mark.parametrize("change", ["in place", "data", "loaded", "moved"])
def test_the_table_of_inference_follows_the_weights(change):
    layer, states = lattice(), random_states([ROW])
    other = lattice(1)
    with torch.no_grad():
        layer(states, *batch_of([ROW]))
        first = layer._table
        layer(states[:, :3], *batch_of([(ROW[0][:3], ROW[1][:3], ROW[2][:1])]))
        assert layer._table is first, "the table is computed once"
        if change == "in place":
            layer.position.weight.add_(1.0)
        elif change == "data":
            layer.relation.weight.data.mul_(2.0)
        elif change == "loaded":
            layer.load_state_dict(other.state_dict())
        else:
            layer = copy.deepcopy(layer).float()
        found = layer(states.to(layer.u.dtype), *batch_of([ROW]))[0]
        expected = direct(layer.double(), states[0], *ROW)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_training_drops_inputs_and_words_and_evaluation_does_not():
    layer, states = lattice(), random_states([ROW])
    once, again = (layer(states, *batch_of([ROW])) for _ in range(2))
    assert torch.equal(once, again)
    layer.train()
    once, again = (layer(states, *batch_of([ROW])) for _ in range(2))
    assert not torch.equal(once, again)
    ids = torch.full((1, 20_000), 5)
    unknown = layer.entries.weight[1]
    share = (layer._vectors(layer.entries, ids) == unknown).all(-1).double().mean()
    assert 0.005 < share < 0.015
    padding = layer._vectors(layer.entries, torch.zeros_like(ids))
    assert torch.equal(padding, layer.entries.weight[:1].expand(1, 20_000, -1))


def test_what_is_too_long_is_refused():
    layer = lattice()
    with pytest.raises(InputError, match="an input of 13 tokens: the model reads 12 at most"):
        layer(torch.zeros(1, 13, STATES).double(), *batch_of([([2] * 13, [2] * 13, [])]))
    for words in ([(9, 0, 6)], [(9, 3, 2)]):
        with pytest.raises(InputError, match="expected words of 1 to 6 tokens"):
            layer(torch.zeros(1, 8, STATES).double(), *batch_of([([2] * 8, [2] * 8, words)]))


# ------------------------------------------------------------------------------------ whole models
WORDS = {"北京": "LOC", "北京大学": "ORG", "京大": None, "大学": None, "小明": "PER", "华为": "ORG"}
TEXT = "小明在北京大学读书，后来去了华为。"


def flat_tagger(tiny_encoder: Path) -> NercoForTokenClassification:
    """A random tagger with a lattice layer that finds mentions in any text."""
    torch.manual_seed(1)
    vocabulary = Vocabulary([*dict.fromkeys(TEXT), *list(WORDS)[:5]], pairs_of(TEXT))
    model = NercoForTokenClassification.from_encoder(
        str(tiny_encoder),
        LABELS,
        label_unit="token",
        max_window_tokens=12,
        lexicon_fusion="flat",
        lattice=vocabulary.facts(),
        lattice_heads=2,
        lattice_head_size=4,
    )
    model.vocabulary, model.lexicon = vocabulary, Lexicon(WORDS)
    nn.init.normal_(model.classifier.weight, std=2.0)
    return model.eval()


def test_windows_have_the_numbers_of_the_whole_text(tiny_encoder, character_tok):
    model = flat_tagger(tiny_encoder)
    plain = text_reader(character_tok, label_unit="token", max_window_tokens=12)
    reader = fused_reader(plain, model.config, model.lexicon, model.vocabulary)
    (row,) = reader.tokenize([TEXT])
    entries, bigrams = model.vocabulary.entries, model.vocabulary.bigrams
    windows = list(reader.overlapping_windows(row, 3))
    assert len(windows) > 1
    for window in windows:
        own = TEXT[window.first : window.last]
        pairs = pairs_of(TEXT)[window.first : window.last]
        numbers = [(entries[c], bigrams[p]) for c, p in zip(own, pairs, strict=True)]
        assert window.lattice_chars == [(0, 0), *numbers, (0, 0)]
        found = [(number, own[a - 1 : b]) for number, a, b in window.lattice_words]
        assert found == [
            (entries.get(m.word, 1), m.word)
            for m in model.lexicon.matches(TEXT)
            if window.first <= m.start and m.end <= window.last
        ]
    short = Lexicon(["在哪", "大学"])
    (row,) = fused_reader(plain, model.config, short, model.vocabulary).tokenize(["在哪"])
    assert row.numbers == [(entries["在"], 1), (1, 1)]
    assert (
        fused_reader(plain, model.config, False, model.vocabulary).tokenize(["华为"])[0].words == []
    )


def test_a_saved_model_finds_the_same_anywhere(
    tiny_encoder, character_tok, tmp_path, modules_cache
):
    from transformers import pipeline

    model = flat_tagger(tiny_encoder)
    model.save_pretrained(tmp_path / "model")
    character_tok.save_pretrained(tmp_path / "model")
    own = model.pipeline(character_tok)
    ner = pipeline("ner", model=str(tmp_path / "model"), trust_remote_code=True)
    assert type(ner.model).__module__.startswith("transformers_modules")
    results = []
    for lexicon in (None, False, {"读书": None}, [*WORDS, "后来"]):
        given = {} if lexicon is None else {"lexicon": lexicon}
        results.append(own([TEXT, "", "华为"], **given))
        assert ner([TEXT, "", "华为"], **given) == results[-1]
    assert results[0] != results[1]
    weights = NercoForTokenClassification.from_pretrained(tmp_path / "model").state_dict()
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    with pytest.raises(ConfigError, match="flat, which is not exported to ONNX"):
        export(tmp_path / "model", tmp_path / "exported")
    (tmp_path / "model" / "lattice.txt").write_text("华\n\n华为\n", "utf-8")
    with pytest.raises(InputError, match=r"not the vocabulary that config\.json describes"):
        NercoForTokenClassification.from_pretrained(tmp_path / "model")
    (tmp_path / "model" / "lattice.txt").unlink()
    with pytest.raises(InputError, match=r"lattice\.txt is missing"):
        NercoForTokenClassification.from_pretrained(tmp_path / "model")


def test_without_its_inputs_the_model_reads_nothing(tiny_encoder, tiny_tagger):
    with pytest.raises(InputError, match="lattice_chars and lattice_words together"):
        flat_tagger(tiny_encoder)(torch.ones(1, 4, dtype=torch.long))
    with pytest.raises(InputError, match="a model with lexicon_fusion: flat"):
        tiny_tagger(torch.ones(1, 4, dtype=torch.long), lattice_chars=torch.ones(1, 4, 2).long())
    with pytest.raises(InputError, match="entries is None"):
        NercoForTokenClassification.from_encoder(str(tiny_encoder), LABELS, lexicon_fusion="flat")


@given(
    st.lists(st.text("ab京\n \ufeff\ufffd", max_size=3), max_size=6),
    st.lists(st.text("a京", max_size=2), max_size=6),
)
@settings(max_examples=30, deadline=None)
def test_a_file_keeps_a_vocabulary(tmp_path_factory, entries, bigrams):
    path = tmp_path_factory.mktemp("lattice") / "lattice.txt"
    vocabulary = Vocabulary(entries, bigrams)
    vocabulary.write(path)
    again = Vocabulary.read(path, vocabulary.facts())
    assert (again.entries, again.bigrams) == (vocabulary.entries, vocabulary.bigrams)
    assert list(again.entries.values()) == list(range(2, len(again.entries) + 2))


def vectors_of(names: Sequence[str], value: float = 2.0) -> str:
    return "".join(f"{name} {' '.join([str(value)] * 50)}\n" for name in names)


@pytest.mark.slow
def test_a_run_trains_the_layer_on_a_frozen_encoder(files, tiny_encoder, tmp_path, file, capsys):
    words = tmp_path / "words.txt"
    assert main(["lexicon", "--from_training", f"{files}/train.jsonl", "--output", str(words)]) == 0
    vectors = file("3 50\n" + vectors_of(["张", "三", "华为", "龘", "不在"]), "vectors.txt")
    pairs = file(vectors_of(["张三", "龘龘"]), "pairs.txt")
    options = {
        "lexicon_fusion": "flat",
        "lexicon_file": words,
        "lattice_heads": 2,
        "lattice_head_size": 8,
        "lattice_vectors": vectors,
        "lattice_bigram_vectors": pairs,
        "stage1_freeze_encoder": True,
        "stage1_chunk_size": 3,
        "stage1_learning_rate": 5e-3,
        "stage2_epochs": 12,
        "stage2_unfreeze_epoch": 11,
        "stage2_learning_rate": 1e-12,
        "stage2_contrastive_weight": 0.1,
        "max_window_tokens": 32,
    }
    run = tmp_path / "run"
    assert main(arguments(files, tiny_encoder, run, **options)) == 0
    model = NercoForTokenClassification.from_pretrained(run / "model")
    assert {"张", "华为", "龘"} <= set(model.vocabulary.entries)
    assert "不在" not in model.vocabulary.entries, "neither a character nor a word of the lexicon"
    assert {"张三", "龘龘"} <= set(model.vocabulary.bigrams)
    unseen = model.nerco.lattice.entries.weight.detach()[model.vocabulary.entries["龘"]]
    assert float(unseen.std()) < 1e-3, "a vector of equal numbers, decayed at most"
    assert 0.5 < float(unseen.norm()) < 1.01
    before = load_file(tiny_encoder / "model.safetensors")
    after = load_file(run / "model" / "model.safetensors")
    for name, value in before.items():
        torch.testing.assert_close(after[f"nerco.encoder.{name}"], value, atol=1e-6, rtol=1e-6)
    assert faults_of(run / "model") == []
    scores = json.loads((run / "model" / "metrics.json").read_text("utf-8"))
    assert scores["dev"]["micro"]["f1"] > 0.8
    assert scores["config"]["lattice_vectors"] == "vectors.txt"
    assert "share one vector" in (run / "model" / "README.md").read_text("utf-8")
    again = {**options, "init_model": run / "model", "encoder": "", "stage2_epochs": 1}
    again |= {"stage1_epochs": 0, "head_epochs": 0, "stage2_unfreeze_epoch": 0}
    again |= {"stage2_head_learning_rate": 1e-9}
    assert main(arguments(files, tiny_encoder, tmp_path / "again", **again)) == 0
    other = json.loads((tmp_path / "again" / "metrics.json").read_text("utf-8"))
    assert other["dev"]["micro"]["f1"] == pytest.approx(scores["dev"]["micro"]["f1"], abs=0.05)
    options["lattice_vectors"] = file("张 1 2 3\n", "short.txt")
    assert main(arguments(files, tiny_encoder, tmp_path / "wrong", **options)) == 2
    assert "short.txt:1: expected a name and 50 numbers" in capsys.readouterr().err
