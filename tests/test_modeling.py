"""NerCo models with tiny random encoders of seven architectures; details with BERT."""

import json
import logging
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    PreTrainedConfig,
    RobertaConfig,
    T5Config,
    Trainer,
    TrainingArguments,
    XLMRobertaConfig,
)
from transformers.modeling_outputs import TokenClassifierOutput

from contrastive_ner.models.crf_layer_ner import bio_penalties
from contrastive_ner.models.encoder_ner import IGNORED, longest_input
from contrastive_ner.models.modeling_nerco import (
    NercoConfig,
    NercoForTokenClassification,
    NercoModel,
    check_bio_labels,
)
from contrastive_ner.models.windows_ner import Span

LABELS = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG"]
VOCABULARY = 100
LONGEST = 24
# No dropout: two forward passes of a model are comparable, also in training mode.
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "vocab_size": VOCABULARY,
}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "bert": partial(BertConfig, **SIZES, **STILL, max_position_embeddings=LONGEST),
    # Positions of the RoBERTa family start after the padding id.
    "roberta": partial(
        RobertaConfig, **SIZES, **STILL, max_position_embeddings=LONGEST + 2, type_vocab_size=1
    ),
    "xlm-roberta": partial(
        XLMRobertaConfig, **SIZES, **STILL, max_position_embeddings=LONGEST + 2, type_vocab_size=1
    ),
    "electra": partial(
        ElectraConfig, **SIZES, **STILL, embedding_size=16, max_position_embeddings=LONGEST
    ),
    "distilbert": partial(
        DistilBertConfig,
        vocab_size=VOCABULARY,
        dim=32,
        n_layers=2,
        n_heads=2,
        hidden_dim=48,
        dropout=0.0,
        attention_dropout=0.0,
        max_position_embeddings=LONGEST,
    ),
    "deberta-v2": partial(
        DebertaV2Config,
        **SIZES,
        **STILL,
        pooler_dropout=0.0,
        type_vocab_size=0,
        relative_attention=True,
        position_buckets=8,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        max_position_embeddings=LONGEST,
    ),
    "modernbert": partial(
        ModernBertConfig,
        **SIZES,
        max_position_embeddings=LONGEST,
        global_attn_every_n_layers=2,
        local_attention=8,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        cls_token_id=2,
        sep_token_id=3,
    ),
}
EVERY_ENCODER = pytest.mark.parametrize("architecture", CONFIGS)
CRF = pytest.mark.parametrize("use_crf", [False, True], ids=["softmax", "crf"])


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads cost more time than they save for models of this size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One folder per architecture with a random encoder; it has a pooler, like published ones."""
    folders = {}
    for name, build in CONFIGS.items():
        torch.manual_seed(0)
        folders[name] = str(tmp_path_factory.mktemp(name))
        AutoModel.from_config(build()).save_pretrained(folders[name])
    return folders


def build_tagger(folder: str, **config: object) -> NercoForTokenClassification:
    """A tagger in evaluation mode with a random head and random transitions, no dropout."""
    torch.manual_seed(1)
    model = NercoForTokenClassification.from_encoder(
        folder, LABELS, **{"output_dropout": 0.0, **config}
    )
    nn.init.normal_(model.classifier.weight, std=0.5)
    if model.crf.transitions is not None:
        nn.init.normal_(model.crf.transitions, std=0.5)
    return model.eval()


@pytest.fixture
def bert(encoders: dict[str, str]) -> NercoForTokenClassification:
    return build_tagger(encoders["bert"])


def random_tags(length: int, generator: torch.Generator) -> list[int]:
    """A BIO sequence of tag ids."""
    tags: list[int] = []
    for choice in torch.randint(0, 4, (length,), generator=generator).tolist():
        before = tags[-1] if tags else 0
        # The last choice continues an entity.
        tags.append([0, 1, 3, before + before % 2 if before else 1][choice])
    return tags


def random_batch(sentences: int = 4, longest: int = 12, seed: int = 0) -> dict[str, Tensor]:
    """Ragged sentences: [special] tokens [special] padding.

    Every fourth token continues a word and has no label.
    """
    generator = torch.Generator().manual_seed(seed)
    batch = {
        "input_ids": torch.full((sentences, longest), 1),
        "attention_mask": torch.zeros(sentences, longest, dtype=torch.long),
        "labels": torch.full((sentences, longest), IGNORED),
        "word_mask": torch.zeros(sentences, longest, dtype=torch.bool),
    }
    for row in range(sentences):
        length = longest - row % 4
        batch["input_ids"][row, :length] = torch.randint(
            5, VOCABULARY, (length,), generator=generator
        )
        batch["attention_mask"][row, :length] = 1
        words = [t for t in range(1, length - 1) if t % 4 != 3]
        batch["word_mask"][row, words] = True
        batch["labels"][row, words] = torch.tensor(random_tags(len(words), generator))
    return batch


def widen(batch: dict[str, Tensor], columns: int) -> dict[str, Tensor]:
    filler = {"input_ids": 1, "attention_mask": 0, "labels": IGNORED, "word_mask": False}
    return {name: F.pad(values, (0, columns), value=filler[name]) for name, values in batch.items()}


def decode(model: NercoForTokenClassification, batch: dict[str, Tensor]) -> list[list[Span]]:
    with torch.no_grad():
        return model.decode(model(**batch), batch["word_mask"])


def assert_same_spans(found: list[list[Span]], expected: list[list[Span]]) -> None:
    assert [[span[:3] for span in row] for row in found] == [
        [span[:3] for span in row] for row in expected
    ]
    scores = [[span.score for row in spans for span in row] for spans in (found, expected)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    assert scores[0], "no span: nothing is compared"


def spans_of(names: list[str]) -> list[tuple[int, int, str]]:
    """Mentions of a tag sequence, in plain Python; an orphan I- begins one."""
    spans: list[tuple[int, int, str]] = []
    open_type = None
    for i, name in enumerate(names):
        if name.startswith("I-") and name[2:] == open_type:
            start, _, label = spans.pop()
            spans.append((start, i + 1, label))
        elif name != "O":
            spans.append((i, i + 1, name[2:]))
        open_type = None if name == "O" else name[2:]
    return spans


# ------------------------------------------------------------------------------------ every encoder
@EVERY_ENCODER
def test_from_encoder_takes_the_encoder_weights(
    architecture: str, encoders: dict[str, str]
) -> None:
    stored = load_file(Path(encoders[architecture]) / "model.safetensors")
    wanted = {name: tensor for name, tensor in stored.items() if not name.startswith("pooler.")}
    for model in (
        build_tagger(encoders[architecture]).nerco,
        NercoModel.from_encoder(encoders[architecture]),
    ):
        weights = model.encoder.state_dict()
        assert weights.keys() == wanted.keys()
        assert all(torch.equal(weights[name], wanted[name]) for name in wanted)


@EVERY_ENCODER
@CRF
def test_forward_loss_and_gradient_are_finite(
    architecture: str, use_crf: bool, encoders: dict[str, str]
) -> None:
    model = build_tagger(encoders[architecture], use_crf=use_crf, output_dropout=0.3).train()
    outputs = model(**random_batch())
    outputs.loss.backward()
    assert outputs.logits.shape == (4, 12, 5)
    assert outputs.logits.isfinite().all()
    assert outputs.loss.isfinite()
    assert outputs.loss > 0
    assert all(p.grad.isfinite().all() for p in model.parameters())


@EVERY_ENCODER
def test_every_parameter_learns(architecture: str, encoders: dict[str, str]) -> None:
    model = build_tagger(encoders[architecture]).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    # A bias of attention keys shifts all scores of a query equally: its gradient is rounding noise,
    # which a small epsilon turns into steps.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-20)
    model(**random_batch()).loss.backward()
    optimizer.step()
    assert [
        name for name, p in model.named_parameters() if not p.requires_grad or p.grad is None
    ] == []
    assert [name for name, p in model.named_parameters() if torch.equal(p, before[name])] == []
    assert "crf.transitions" in before


@EVERY_ENCODER
@CRF
def test_saved_tagger_loads_with_the_same_weights_and_logits(
    architecture: str, use_crf: bool, encoders: dict[str, str], tmp_path: Path
) -> None:
    model = build_tagger(encoders[architecture], use_crf=use_crf)
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    loaded, report = NercoForTokenClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert loaded.state_dict().keys() == stored.keys()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in loaded.state_dict().items())
    batch = random_batch()
    with torch.no_grad():
        expected, found = model(**batch), loaded(**batch)  # both in evaluation mode
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.loss, expected.loss)


@EVERY_ENCODER
def test_base_model_opens_a_tagger_folder_in_silence(
    architecture: str, encoders: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = build_tagger(encoders[architecture])
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    library = logging.getLogger("transformers")  # does not propagate to the root logger by default
    library.addHandler(caplog.handler)
    caplog.clear()
    try:
        base, report = NercoModel.from_pretrained(tmp_path, output_loading_info=True)
    finally:
        library.removeHandler(caplog.handler)
    assert not any(report.values())
    assert [
        record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING
    ] == []
    weights = base.state_dict()
    assert all(torch.equal(weights[name], stored["nerco." + name]) for name in weights)
    ids = random_batch()["input_ids"]
    with torch.no_grad():
        assert torch.equal(base(ids).last_hidden_state, model.nerco(ids).last_hidden_state)


@EVERY_ENCODER
def test_tagger_opens_a_base_model_folder_and_misses_only_its_head(
    architecture: str, encoders: dict[str, str], tmp_path: Path
) -> None:
    base = NercoModel.from_encoder(encoders[architecture], id2label=dict(enumerate(LABELS)))
    base.save_pretrained(tmp_path)
    tagger, report = NercoForTokenClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == {
        "classifier.weight",
        "classifier.bias",
        "crf.transitions",
    }
    assert not report["unexpected_keys"]
    assert all(
        torch.equal(tensor, tagger.nerco.state_dict()[name])
        for name, tensor in base.state_dict().items()
    )
    assert tagger.crf.transitions.eq(0).all()
    assert tagger.classifier.weight.isfinite().all()


@EVERY_ENCODER
@CRF
def test_bf16_model_gives_a_finite_float32_loss_and_spans(
    architecture: str, use_crf: bool, encoders: dict[str, str]
) -> None:
    model = build_tagger(encoders[architecture], use_crf=use_crf)
    batch = random_batch()
    exact = model(**batch).loss
    half = model.to(torch.bfloat16)
    outputs = half(**batch)
    outputs.loss.backward()
    assert outputs.logits.dtype == torch.bfloat16
    assert outputs.loss.dtype == torch.float32
    torch.testing.assert_close(outputs.loss, exact, rtol=5e-2, atol=0)
    assert all(p.grad.isfinite().all() for p in half.parameters())
    spans = [span for row in decode(half, batch) for span in row]
    assert spans
    assert all(0 <= span.score <= 1 for span in spans)


@EVERY_ENCODER
@CRF
def test_autocast_gives_a_finite_float32_loss_and_spans(
    architecture: str, use_crf: bool, encoders: dict[str, str]
) -> None:
    model = build_tagger(encoders[architecture], use_crf=use_crf)
    batch = random_batch()
    exact = model(**batch).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(**batch)
        spans = [span for row in model.decode(outputs, batch["word_mask"]) for span in row]
    outputs.loss.backward()
    assert outputs.loss.dtype == torch.float32
    torch.testing.assert_close(outputs.loss, exact, rtol=5e-2, atol=0)
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert spans
    assert all(0 <= span.score <= 1 for span in spans)


# deberta-v2 has no sdpa.
@pytest.mark.parametrize("architecture", [name for name in CONFIGS if name != "deberta-v2"])
def test_sdpa_and_eager_attention_agree(
    architecture: str, encoders: dict[str, str], tmp_path: Path
) -> None:
    build_tagger(encoders[architecture]).save_pretrained(tmp_path)
    batch, losses = random_batch(), {}
    for attention in ("sdpa", "eager"):
        model = NercoForTokenClassification.from_pretrained(tmp_path, attn_implementation=attention)
        assert model.nerco.encoder.config._attn_implementation == attention
        losses[attention] = model(**batch).loss
    torch.testing.assert_close(losses["sdpa"], losses["eager"], rtol=1e-5, atol=1e-5)


@EVERY_ENCODER
def test_gradient_checkpointing_gives_the_same_gradients(
    architecture: str, encoders: dict[str, str]
) -> None:
    model = build_tagger(encoders[architecture]).train()
    batch, gradients = random_batch(), []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
        assert model.is_gradient_checkpointing == checkpointing
        model.zero_grad()
        model(**batch).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0])


# -------------------------------------------------------------------------------- masks and padding
@CRF
@pytest.mark.parametrize("columns", [1, 7])
def test_padding_changes_neither_loss_nor_spans(
    use_crf: bool, columns: int, encoders: dict[str, str]
) -> None:
    model, batch = build_tagger(encoders["bert"], use_crf=use_crf), random_batch()
    padded = widen(batch, columns)
    torch.testing.assert_close(model(**padded).loss, model(**batch).loss, rtol=1e-5, atol=1e-6)
    assert_same_spans(decode(model, padded), decode(model, batch))


@CRF
def test_order_of_sentences_does_not_matter(use_crf: bool, encoders: dict[str, str]) -> None:
    model, batch = build_tagger(encoders["bert"], use_crf=use_crf), random_batch()
    order = torch.tensor([2, 0, 3, 1])
    shuffled = {name: values[order] for name, values in batch.items()}
    torch.testing.assert_close(model(**shuffled).loss, model(**batch).loss, rtol=1e-5, atol=1e-6)
    spans = decode(model, batch)
    assert_same_spans(decode(model, shuffled), [spans[row] for row in order])


@CRF
def test_word_mask_excludes_positions_from_the_loss(
    use_crf: bool, encoders: dict[str, str]
) -> None:
    model, batch = (
        build_tagger(encoders["bert"], use_crf=use_crf, constrain_transitions=False),
        random_batch(),
    )
    batch["word_mask"][:, 4:6] = False
    without_labels = batch["labels"].masked_fill(~batch["word_mask"], IGNORED)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    masked = model(**batch).loss
    torch.testing.assert_close(masked, model(**inputs, labels=without_labels).loss)
    assert masked != model(**inputs, labels=batch["labels"]).loss
    torch.testing.assert_close(
        model(**{**batch, "word_mask": batch["word_mask"].long()}).loss, masked
    )


def test_word_mask_excludes_positions_from_spans(bert: NercoForTokenClassification) -> None:
    batch = random_batch()
    with torch.no_grad():
        outputs = bert(**batch)
    expected = bert.decode(outputs, batch["word_mask"])
    outputs.logits[~batch["word_mask"]] = 50 * torch.randn(int((~batch["word_mask"]).sum()), 5)
    assert_same_spans(bert.decode(outputs, batch["word_mask"]), expected)
    for row, spans in enumerate(expected):
        assert all(0 <= span.start < span.end <= batch["word_mask"][row].sum() for span in spans)


def logits_for(tags: list[str | None]) -> tuple[TokenClassifierOutput, Tensor]:
    """Confident logits of one sentence, and the mask of the positions that have a tag.

    At the other positions the logits strongly favour I-ORG.
    """
    ids = torch.tensor([LABELS.index(tag or "I-ORG") for tag in tags])
    return TokenClassifierOutput(logits=20.0 * F.one_hot(ids, 5)[None].float()), torch.tensor(
        [[tag is not None for tag in tags]]
    )


@CRF
def test_a_sub_word_tail_neither_splits_nor_joins_a_span(
    use_crf: bool, encoders: dict[str, str]
) -> None:
    model = NercoForTokenClassification.from_encoder(encoders["bert"], LABELS, use_crf=use_crf)
    outputs, word_mask = logits_for(
        [None, "B-PER", None, None, "I-PER", "B-PER", None, "O", None, "B-ORG", None, "I-ORG", None]
    )
    (spans,) = model.decode(outputs, word_mask)
    assert [span[:3] for span in spans] == [(0, 2, "PER"), (2, 3, "PER"), (4, 6, "ORG")]
    assert all(span.score > 0.99 for span in spans)
    (tags,) = model.viterbi(outputs.logits, word_mask).tolist()
    assert tags == [IGNORED, 1, IGNORED, IGNORED, 2, 1, IGNORED, 0, IGNORED, 3, IGNORED, 4, IGNORED]


@CRF
def test_a_sentence_without_a_labelled_position_does_not_count(
    use_crf: bool, encoders: dict[str, str]
) -> None:
    model, batch = build_tagger(encoders["bert"], use_crf=use_crf), random_batch()
    three = {name: values[:3] for name, values in batch.items()}
    batch["word_mask"][3] = False
    torch.testing.assert_close(model(**batch).loss, model(**three).loss)
    assert decode(model, batch)[3] == []
    batch["word_mask"][:] = False
    loss = model(**batch).loss
    loss.backward()
    assert loss == 0
    assert all(p.grad.eq(0).all() for p in model.parameters() if p.grad is not None)
    assert decode(model, batch) == [[], [], [], []]


# -------------------------------------------------------------------------------- loss and training
def test_loss_without_crf_is_the_mean_of_sentence_means(encoders: dict[str, str]) -> None:
    model, batch = build_tagger(encoders["bert"], use_crf=False), random_batch()
    outputs = model(**batch)
    sentences = [
        F.cross_entropy(logits, labels)
        for logits, labels in zip(outputs.logits, batch["labels"], strict=True)
    ]
    torch.testing.assert_close(outputs.loss, torch.stack(sentences).mean())


def test_loss_with_crf_is_the_mean_negative_log_likelihood(encoders: dict[str, str]) -> None:
    model, batch = build_tagger(encoders["bert"]), random_batch(longest=8)
    outputs = model(**batch)
    transitions, start = model.crf.scores()
    losses = []
    for logits, labels, keep in zip(
        outputs.logits, batch["labels"], batch["word_mask"], strict=True
    ):
        sequences = torch.tensor(list(product(range(5), repeat=int(keep.sum()))))  # (S, L)
        scores = start[sequences[:, 0]] + logits[keep].gather(1, sequences.T).sum(0)
        scores = scores + transitions[sequences[:, :-1], sequences[:, 1:]].sum(1)
        losses.append(-scores.log_softmax(0)[(sequences == labels[keep]).all(1)].squeeze())
    torch.testing.assert_close(outputs.loss, torch.stack(losses).mean(), rtol=1e-5, atol=1e-5)


@CRF
def test_losses_of_single_sentences_average_to_the_batch_loss(
    use_crf: bool, encoders: dict[str, str]
) -> None:
    model, batch = (
        build_tagger(encoders["bert"], use_crf=use_crf).train(),
        random_batch(sentences=8),
    )
    gradients = []
    for size in (8, 1):
        model.zero_grad()
        losses = [
            model(**{name: values[i : i + size] for name, values in batch.items()}).loss
            for i in range(0, 8, size)
        ]
        loss = torch.stack(losses).mean()
        loss.backward()
        gradients.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)


@CRF
def test_trainer_with_accumulation_takes_the_same_step(
    use_crf: bool, encoders: dict[str, str], tmp_path: Path
) -> None:
    batch = random_batch(sentences=8)
    rows = [{name: values[i] for name, values in batch.items()} for i in range(8)]
    trained, start = [], build_tagger(encoders["bert"], use_crf=use_crf).state_dict()
    for size in (8, 1):
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=8 // size,
            max_steps=1,
            optim="sgd",
            learning_rate=0.5,
            max_grad_norm=0,  # clipping would hide too large a gradient
            disable_tqdm=True,
            use_cpu=True,
        )
        model = build_tagger(encoders["bert"], use_crf=use_crf)
        Trainer(model=model, args=arguments, train_dataset=rows).train()
        trained.append(model.state_dict())
    assert not torch.allclose(
        trained[0]["classifier.weight"], start["classifier.weight"], atol=1e-2
    )
    torch.testing.assert_close(trained[1], trained[0], rtol=1e-4, atol=1e-5)


@CRF
def test_twenty_steps_overfit_eight_sentences(use_crf: bool, encoders: dict[str, str]) -> None:
    torch.manual_seed(0)
    model = NercoForTokenClassification.from_encoder(
        encoders["bert"], LABELS, use_crf=use_crf
    ).train()
    batch = random_batch(sentences=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    assert model(**batch).loss.item() < losses[0] / 10
    gold = [
        spans_of([LABELS[tag] for tag in row[row != IGNORED].tolist()]) for row in batch["labels"]
    ]
    assert [[span[:3] for span in row] for row in decode(model, batch)] == gold


def test_output_dropout_acts_in_training_only(encoders: dict[str, str]) -> None:
    model, ids = (
        NercoModel.from_encoder(encoders["bert"], output_dropout=0.3),
        random_batch()["input_ids"],
    )
    dropped = model.train()(ids).last_hidden_state.eq(0).float().mean().item()
    assert dropped == pytest.approx(0.3, abs=0.05)
    assert torch.equal(model.eval()(ids).last_hidden_state, model.encoder(ids).last_hidden_state)


# ----------------------------------------------------------------------------------------- decoding
@pytest.mark.parametrize("use_crf", [False, True], ids=["softmax", "crf"])
@pytest.mark.parametrize("constrain", [False, True], ids=["free", "bio"])
@pytest.mark.parametrize("seed", range(3))
def test_decode_equals_enumeration(
    use_crf: bool, constrain: bool, seed: int, encoders: dict[str, str]
) -> None:
    model = build_tagger(encoders["bert"], use_crf=use_crf, constrain_transitions=constrain)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, 7, 5, generator=generator) * 2
    word_mask = torch.rand(6, 7, generator=generator) < 0.7
    word_mask[:, 5:] = False  # at most 5 positions
    transitions, start = model.crf.scores()
    found = model.decode(TokenClassifierOutput(logits=logits), word_mask)
    for row in range(6):
        length = int(word_mask[row].sum())
        sequences = torch.tensor(list(product(range(5), repeat=length)), dtype=torch.long).view(
            5**length, length
        )
        if length == 0:
            assert found[row] == []
            continue
        scores = start[sequences[:, 0]] + logits[row][word_mask[row]].gather(1, sequences.T).sum(0)
        scores = scores + transitions[sequences[:, :-1], sequences[:, 1:]].sum(1)
        names = [LABELS[tag] for tag in sequences[scores.argmax()].tolist()]
        assert [span[:3] for span in found[row]] == spans_of(names)
        probabilities = scores.double().softmax(0)
        readings = [
            set(spans_of([LABELS[tag] for tag in sequence])) for sequence in sequences.tolist()
        ]
        for span in found[row]:  # the mass of every sequence that reads as this mention
            mass = (
                probabilities[torch.tensor([span[:3] in reading for reading in readings])]
                .sum()
                .item()
            )
            assert span.score == pytest.approx(mass, abs=1e-5)
    assert any(found)


@CRF
@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
def test_scores_are_probabilities(use_crf: bool, scale: float, encoders: dict[str, str]) -> None:
    model = build_tagger(encoders["bert"], use_crf=use_crf)
    logits = torch.randn(8, 60, 5, generator=torch.Generator().manual_seed(0)) * scale
    spans = [
        span
        for row in model.decode(TokenClassifierOutput(logits=logits), torch.ones(8, 60))
        for span in row
    ]
    assert len(spans) > 20
    assert all(isinstance(span.score, float) and 0 <= span.score <= 1 for span in spans)


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        (["O", "I-PER", "I-PER", "O"], [(1, 3, "PER")]),
        (["I-ORG"], [(0, 1, "ORG")]),
        (["B-PER", "I-ORG", "I-ORG"], [(0, 1, "PER"), (1, 3, "ORG")]),
        (["I-PER", "B-PER", "I-PER"], [(0, 1, "PER"), (1, 3, "PER")]),
    ],
    ids=str,
)
@CRF
def test_an_orphan_inside_tag_opens_a_span(
    use_crf: bool, tags: list[str], spans: list[tuple], encoders: dict[str, str]
) -> None:
    model = NercoForTokenClassification.from_encoder(
        encoders["bert"], LABELS, use_crf=use_crf, constrain_transitions=False
    )
    outputs, word_mask = logits_for(tags)
    (found,) = model.decode(outputs, word_mask)
    assert [span[:3] for span in found] == spans
    assert all(0 <= span.score <= 1 for span in found)


def test_constrained_decoding_never_shows_an_orphan(encoders: dict[str, str]) -> None:
    model = NercoForTokenClassification.from_encoder(encoders["bert"], LABELS, use_crf=False)
    outputs, word_mask = logits_for(["O", "I-PER", "B-ORG", "I-PER"])
    (tags,) = model.viterbi(outputs.logits, word_mask).tolist()
    names = [LABELS[tag] for tag in tags]
    assert all(
        tag[0] != "I" or before in ("B" + tag[1:], tag)
        for before, tag in zip(["O", *names], names, strict=False)
    )


def test_forward_returns_a_tuple_on_request(bert: NercoForTokenClassification) -> None:
    batch = random_batch()
    loss, logits = bert(**batch, return_dict=False)
    outputs = bert(**batch, output_hidden_states=True)
    assert torch.equal(loss, outputs.loss)
    assert torch.equal(logits, outputs.logits)
    assert [tuple(states.shape) for states in outputs.hidden_states] == [(4, 12, 32)] * 3


# ------------------------------------------------------------------------------- loading and config
@pytest.mark.parametrize("constrain", [False, True], ids=["free", "bio"])
@CRF
def test_penalties_are_right_after_every_load(
    constrain: bool, use_crf: bool, encoders: dict[str, str], tmp_path: Path
) -> None:
    build_tagger(
        encoders["bert"], constrain_transitions=constrain, use_crf=use_crf
    ).save_pretrained(tmp_path)
    assert not any("penalty" in name for name in load_file(tmp_path / "model.safetensors"))
    transitions, start = bio_penalties(LABELS)
    for _ in range(2):
        loaded = NercoForTokenClassification.from_pretrained(tmp_path)
        assert torch.equal(loaded.crf.penalty, transitions * constrain)
        assert torch.equal(loaded.crf.start_penalty, start * constrain)


def test_config_survives_saving(encoders: dict[str, str], tmp_path: Path) -> None:
    fields = {
        "output_dropout": 0.1,
        "use_crf": False,
        "constrain_transitions": False,
        "label_unit": "token",
        "max_window_tokens": 20,
    }
    build_tagger(encoders["bert"], **fields).save_pretrained(tmp_path)
    config = NercoConfig.from_pretrained(tmp_path)
    assert {name: getattr(config, name) for name in fields} == fields
    assert isinstance(config.encoder_config, BertConfig)
    assert config.labels == LABELS
    assert config.label2id == {label: i for i, label in enumerate(LABELS)}
    assert set(json.loads((tmp_path / "config.json").read_text())["auto_map"]) == {
        "AutoConfig",
        "AutoModel",
        "AutoModelForTokenClassification",
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_encoder_is_trained_and_reloaded_in_float32(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    AutoModel.from_config(CONFIGS["bert"]()).to(dtype).save_pretrained(tmp_path / "encoder")
    model = build_tagger(str(tmp_path / "encoder"))
    model.save_pretrained(tmp_path / "tagger")
    loaded = NercoForTokenClassification.from_pretrained(tmp_path / "tagger")
    for tagger in (model, loaded):
        assert {p.dtype for p in tagger.parameters()} == {torch.float32}
    assert all(
        torch.equal(tensor, loaded.state_dict()[name])
        for name, tensor in model.state_dict().items()
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["B-PER", "I-PER", "O"], "expected 'O' first"),
        ([], "expected 'O' first"),
        (["O", "B-PER"], "'B-PER' has no partner 'I-PER'"),
        (["O", "I-PER"], "'I-PER' has no partner 'B-PER'"),
        (["O", "B-PER", "I-PER", "B-PER"], "repeat: .*B-PER"),
        (["O", "O", "B-PER", "I-PER"], "repeat: .*O"),
        (["O", "B-PER", "I-PER", "S-PER"], "'S-PER' is not BIO"),
        (["O", "B_PER", "I_PER"], "'B_PER' is not BIO"),
        (["O", "B-", "I-"], "'B-' is not BIO"),
    ],
)
def test_labels_that_are_no_bio_raise(
    labels: list[str], message: str, encoders: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match=message):
        check_bio_labels(labels)
    with pytest.raises(ValueError, match=message):
        NercoForTokenClassification.from_encoder(encoders["bert"], labels)


@pytest.mark.parametrize(
    "field",
    [
        {"output_dropout": 1.0},
        {"output_dropout": -0.1},
        {"output_dropout": "0.3"},
        {"use_crf": "yes"},
        {"constrain_transitions": 1},
        {"label_unit": "char"},
        {"max_window_tokens": 7},
        {"max_window_tokens": 64.0},
    ],
    ids=str,
)
def test_config_values_that_make_no_sense_raise(field: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        NercoConfig(**field)


def test_an_encoder_config_without_a_type_raises() -> None:
    with pytest.raises(ValueError, match="no model_type"):
        NercoConfig(encoder_config={"hidden_size": 32})


@pytest.mark.parametrize("model_class", [NercoModel, NercoForTokenClassification])
def test_a_model_without_an_encoder_config_raises(model_class: type) -> None:
    with pytest.raises(ValueError, match="encoder_config is missing"):
        model_class(NercoConfig(id2label=dict(enumerate(LABELS))))


@pytest.mark.parametrize(
    "build",
    [NercoModel.from_encoder, partial(NercoForTokenClassification.from_encoder, labels=LABELS)],
)
def test_an_encoder_decoder_is_refused(build: Callable, tmp_path: Path) -> None:
    T5Config(
        vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2
    ).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="t5 is an encoder-decoder"):
        build(str(tmp_path))


class Canary:
    """Create a file when unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize(
    "build",
    [NercoModel.from_encoder, partial(NercoForTokenClassification.from_encoder, labels=LABELS)],
)
def test_a_pickled_encoder_is_refused(build: Callable, tmp_path: Path) -> None:
    CONFIGS["bert"]().save_pretrained(tmp_path)
    torch.save({"weights": Canary(tmp_path / "trace")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="safetensors"):
        build(str(tmp_path))
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("model_class", [NercoModel, NercoForTokenClassification])
def test_a_pickled_tagger_is_refused(
    model_class: type, bert: NercoForTokenClassification, tmp_path: Path
) -> None:
    bert.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"weights": Canary(tmp_path / "trace")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        model_class.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="pickled weights are refused"):
        model_class.from_pretrained(tmp_path, use_safetensors=False)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("roberta", {"pad_token_id": 1, "max_position_embeddings": 66}, 64),
        ("xlm-roberta", {"pad_token_id": 1, "max_position_embeddings": 66}, 64),
        ("mpnet", {"pad_token_id": 1, "max_position_embeddings": 66}, 64),
        ("bert", {"pad_token_id": 0, "max_position_embeddings": 66}, 66),
        ("deberta-v2", {"pad_token_id": 0, "max_position_embeddings": 66}, 66),
    ],
)
def test_the_longest_input_is_what_the_encoder_can_read(
    kind: str, fields: dict, expected: int
) -> None:
    """The claim is tried: an input of that length runs, one longer by a token fails."""
    sizes = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8}
    config = AutoConfig.for_model(kind, num_attention_heads=2, **sizes, **fields)
    tokenizer = type("Tokenizer", (), {"model_max_length": 10**9})()
    assert longest_input(config, tokenizer) == expected
    model = AutoModel.from_config(config).eval()
    model(torch.full((1, expected), 5))
    if kind != "deberta-v2":  # it has relative positions
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.full((1, expected + 1), 5))
