"""Corners of both models: what cannot be right is refused, what can is the same by every way."""

import copy
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import arguments, corpus
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from test_binder_options import TYPES, masks, new
from transformers import (
    AutoConfig,
    DataCollatorForTokenClassification,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedTokenizerFast,
)

from contrastive_ner.cli import main
from contrastive_ner.data.documents import Document, join_documents, split_document
from contrastive_ner.data.records import Mention, Record
from contrastive_ner.errors import ConfigError
from contrastive_ner.models.batches_ner import by_length
from contrastive_ner.models.encoder_ner import positions_of
from contrastive_ner.models.modeling_binder import BinderConfig, BinderModel
from contrastive_ner.models.modeling_nerco import (
    NercoConfig,
    NercoForTokenClassification,
    NercoModel,
)
from contrastive_ner.models.pipeline_ner import text_reader
from contrastive_ner.models.windows_ner import InputError
from contrastive_ner.training import calibration
from contrastive_ner.training.batches import SpanCollator, TagCollator
from contrastive_ner.training.binder import span_counts
from contrastive_ner.training.calibration import calibrate
from contrastive_ner.training.config import RunConfig
from contrastive_ner.training.contrastive import ContrastiveTrainer, ContrastiveTrainingArguments
from contrastive_ner.training.criteria import chunks_of
from contrastive_ner.training.decoding import tag_spans
from contrastive_ner.training.features import span_features, tag_features
from contrastive_ner.training.losses import semantic_classes
from contrastive_ner.training.phases import ready_for_training
from contrastive_ner.training.projection import add_projection

LABELS = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG"]
TEXT = "张三在北京大学工作，李四去了上海。"


@pytest.fixture
def binder(tiny_encoder: Path) -> BinderModel:
    return new(tiny_encoder)


@pytest.fixture
def tagger(tiny_encoder: Path) -> NercoForTokenClassification:
    torch.manual_seed(0)
    return NercoForTokenClassification.from_encoder(str(tiny_encoder), LABELS, label_unit="token")


# ----------------------------------------------------------------------------------- configurations
def test_descriptions_of_a_model_are_not_exchanged_in_silence(
    binder: BinderModel, character_tok: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Their vectors, in another order, would be those of other types."""
    before = binder.config.descriptions
    for changed in (
        dict(reversed(before.items())),
        {**before, "PER": ["另一段话。"]},
        {**before, "NEW": ["另一类。"]},
    ):
        binder.config.descriptions = changed
        for use in (
            lambda: binder.pipeline(character_tok)(TEXT),
            lambda: binder.save_pretrained(tmp_path / "model"),
            lambda: binder.types,
        ):
            with pytest.raises(InputError, match="has not read the new texts"):
                use()
        binder.config.descriptions = before
    found = binder.pipeline(character_tok)(TEXT)
    binder.rename_labels({"PER": "PERSON"})
    renamed = [{**m, "entity_group": m["entity_group"].replace("PER", "PERSON")} for m in found]
    assert binder.pipeline(character_tok)(TEXT) == renamed
    binder.save_pretrained(tmp_path / "model")
    character_tok.save_pretrained(tmp_path / "model")
    other = {label: [f"{text[0]}以及其他。"] for label, text in binder.config.descriptions.items()}
    model = BinderModel.from_pretrained(tmp_path / "model", descriptions=other)
    assert model.types.descriptions == {label: texts[0] for label, texts in other.items()}
    inside = BinderModel.from_pretrained(tmp_path, subfolder="model", descriptions=other)
    assert torch.equal(inside.types.vectors, model.types.vectors)


@pytest.mark.parametrize(
    "wrong",
    [
        {"decoding": "Flat"},
        {"several_labels": "false"},
        {"score_slope": -1.0},
        {"label_unit": "chars"},
        {"max_window_tokens": 4},
        {"margins": {"X": 1.0}},
        {"margins": {"PER": "a"}},
    ],
)
def test_settings_that_are_wrong_are_refused_when_a_model_is_opened(
    wrong: dict[str, Any], binder: BinderModel, tmp_path: Path
) -> None:
    binder.save_pretrained(tmp_path)
    for opened in (BinderModel, BinderConfig):
        with pytest.raises(InputError, match=next(iter(wrong))):
            opened.from_pretrained(tmp_path, **wrong)
    for name, value in wrong.items():
        setattr(binder.config, name, value)
    with pytest.raises(InputError, match=next(iter(wrong))):
        binder.save_pretrained(tmp_path / "again")


def test_settings_of_a_tagger_that_are_wrong_are_refused(
    tagger: NercoForTokenClassification, tmp_path: Path
) -> None:
    tagger.save_pretrained(tmp_path)
    for wrong in ({"label_unit": "chars"}, {"lexicon_fusion": "Adapter"}, {"use_crf": "yes"}):
        for opened in (NercoForTokenClassification, NercoConfig):
            with pytest.raises(InputError, match=next(iter(wrong))):
                opened.from_pretrained(tmp_path, **wrong)
    tagger.config.score_temperature = 0.0
    with pytest.raises(InputError, match="score_temperature"):
        tagger.config.save_pretrained(tmp_path / "again")


# ------------------------------------------------------------------------------------------- BINDER
def test_scores_in_training_are_those_of_a_model_with_fitted_types(
    tiny_encoder: Path, character_tok: PreTrainedTokenizerFast
) -> None:
    model = new(tiny_encoder, decoding="flat")
    model.fit_label("PER", 3 * torch.nn.functional.normalize(torch.linspace(-1, 1, 16), dim=0))
    found = model.pipeline(character_tok)(TEXT)
    assert {m["entity_group"] for m in found} > {"PER"}
    gold = [Mention(m["start"], m["end"], m["entity_group"]) for m in found]
    reader = text_reader(character_tok, label_unit="token", max_window_tokens=64)
    rows, _ = span_features([Record("1", TEXT, gold)], reader, [*TYPES], max_width=4, overlap=4)
    batch = SpanCollator(0)(rows)
    outputs = model(batch["input_ids"], batch["attention_mask"])
    counts = span_counts(
        model, outputs, batch["word_mask"], batch["word_end_mask"], batch["labels"]
    )
    assert counts.tolist() == [[len(gold)] * 3]


def test_calibration_of_a_model_that_finds_too_much_stops_early(
    binder: BinderModel, character_tok: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = []
    decode = BinderModel.decode

    def counted(*args: Any, **kwargs: Any) -> Any:
        batches.append(1)
        return decode(*args, **kwargs)

    monkeypatch.setattr(BinderModel, "decode", counted)
    records = corpus(30)
    calibrate(binder, records, tokenizer=character_tok, batch_size=2)
    assert len(batches) == 15
    batches.clear()
    monkeypatch.setattr(calibration, "MOST_SPANS", 100)
    calibrate(binder, records, tokenizer=character_tok, batch_size=2)
    assert 1 <= len(batches) < 5


def test_calibration_reads_documents_as_the_model_does(
    binder: BinderModel, character_tok: PreTrainedTokenizerFast
) -> None:
    records = [Record(r.id, r.text, r.entities, f"d{n // 8}") for n, r in enumerate(corpus(32))]
    reader = text_reader(character_tok, label_unit="token", max_window_tokens=128)
    whole = [document.record for document in join_documents(records)]
    rows, _ = span_features(whole, reader, [*TYPES], max_width=4, overlap=4)
    assert len(rows) < len(records)
    expected = calibrate(binder, rows)
    assert expected
    assert calibrate(binder, records, tokenizer=character_tok) == expected


def test_an_adapter_that_would_have_no_effect_is_refused(binder: BinderModel) -> None:
    """The span head is used in parts, without its `forward`."""
    word, end = masks(1, 8)
    batch = {
        "input_ids": torch.randint(5, 50, (1, 8)),
        "labels": torch.tensor([[[0, 2, 3]]]),
        "word_mask": word,
        "word_end_mask": end,
    }
    every = get_peft_model(copy.deepcopy(binder), LoraConfig(target_modules="all-linear", r=2))
    with pytest.raises(InputError, match=r"an adapter on heads\.span has no effect"):
        every(**batch)
    left_out = LoraConfig(target_modules="all-linear", exclude_modules=["heads.span"], r=2)
    get_peft_model(binder, left_out)(**batch).loss.backward()


def test_a_rounded_copy_takes_the_types_of_the_original(binder: BinderModel) -> None:
    types = binder.types
    row = binder(torch.randint(5, 50, (1, 8)))
    for copied in (copy.deepcopy(binder).bfloat16(), binder.bfloat16()):
        copied.decode(row, *masks(1, 8), types=types)


@pytest.mark.parametrize("label", [[0, 1, 4], [0, 3, 1], [3, 1, 2], [0, 1, 8], [-2, 1, 2]])
def test_labels_that_are_no_candidates_are_refused(binder: BinderModel, label: list[int]) -> None:
    word, end = masks(1, 8)
    word[0, 3], end[0, 4] = False, False
    with pytest.raises(InputError, match="in row 0: expected the number of one of 3 types"):
        binder(
            torch.randint(5, 50, (1, 8)),
            labels=torch.tensor([[label]]),
            word_mask=word,
            word_end_mask=end,
        )


def test_small_corners_of_binder(
    binder: BinderModel, character_tok: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    row = binder(torch.randint(5, 50, (1, 8)))
    for limit in (0.0, 1.0, {"PER": 1.5}):
        with pytest.raises(InputError, match="min_score"):
            binder.decode(row, *masks(1, 8), min_score=limit)
    binder.mention_weights = torch.tensor([1.0, 2.0, 3.0])
    binder.add_labels({"LOC": "地点。"}, character_tok)
    assert binder.mention_weights.tolist() == [1.0, 2.0, 3.0, 1.0]
    binder.bfloat16().export_frozen(tmp_path)
    assert load_file(tmp_path / "model.safetensors")["heads.start.weight"].dtype == torch.bfloat16


def test_mentions_go_back_to_their_texts_as_by_definition() -> None:
    rng = random.Random(0)
    for _ in range(300):
        parts = [Record(str(n), "x" * rng.randint(0, 4), doc="d") for n in range(rng.randint(1, 5))]
        document: Document = join_documents(parts)[0]
        size = len(document.record.text)
        mentions = [
            Mention(start, rng.randint(start + 1, size), "A")
            for start in (rng.randrange(size) for _ in range(6) if size)
        ]
        expected = [
            [
                m._replace(start=m.start - at, end=m.end - at)
                for m in mentions
                if at <= m.start and m.end <= at + len(part.text)
            ]
            for part, at in zip(parts, document.offsets, strict=True)
        ]
        found, crossing = split_document(document, mentions)
        assert found == expected
        assert crossing == len(mentions) - sum(map(len, expected))


# ----------------------------------------------------------------------------------------- encoders
@pytest.fixture(params=["other names", "one layer"])
def incomplete(request: Any, tiny_encoder: Path, tmp_path: Path) -> Path:
    """An encoder whose files lack weights, which transformers draws at random."""
    folder = tmp_path / "incomplete"
    folder.mkdir()
    for path in tiny_encoder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    weights = (
        {f"0.auto_model.{name}": value for name, value in weights.items()}
        if request.param == "other names"
        else {name: value for name, value in weights.items() if "layer.1." not in name}
    )
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_an_encoder_without_its_weights_is_refused(
    incomplete: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for build in (
        lambda: NercoModel.from_encoder(str(incomplete), label_unit="token"),
        lambda: NercoForTokenClassification.from_encoder(str(incomplete), LABELS),
        lambda: BinderModel.from_encoders(str(incomplete), descriptions=TYPES),
    ):
        with pytest.raises(InputError, match="weights of the encoder are missing"):
            build()
    assert main(arguments(files, incomplete, tmp_path / "run", method="crf", stage1_epochs=0)) == 2
    assert "weights of the encoder are missing" in capsys.readouterr().err


def test_a_tokenizer_that_is_rewritten_needs_the_weights_too(
    incomplete: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """That path loads the encoder by itself, to resize its embeddings."""
    path = incomplete / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    content["pre_tokenizer"] = {"type": "BertPreTokenizer"}
    path.write_text(json.dumps(content), "utf-8")
    assert main(arguments(files, incomplete, tmp_path / "run", method="crf", stage1_epochs=0)) == 2
    assert "weights of the encoder are missing" in capsys.readouterr().err


def test_an_encoder_without_a_limit_of_positions() -> None:
    assert positions_of(AutoConfig.for_model("xlnet")) is None


def modernbert(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A random ModernBERT on disk, which holds the dropout of its attention as a number."""
    torch.manual_seed(3)
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    ids |= {"cls_token_id": 2, "sep_token_id": 3}
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=200,
        local_attention=8,
        attention_dropout=0.4,
        **ids,
    )
    ModernBertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_dropout_of_every_encoder_is_as_configured(
    character_tok: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = NercoModel.from_encoder(str(modernbert(tmp_path / "encoder", character_tok)))
    ids = torch.randint(5, 50, (2, 20))
    model.dropout.p = 0.0
    for dropout, is_random in ((0.4, True), (0.0, False)):
        ready_for_training(model, RunConfig(encoder_dropout=dropout)).train()
        once, again = (model(ids).last_hidden_state for _ in range(2))
        assert torch.equal(once, again) != is_random


@pytest.mark.slow
def test_rotary_positions_are_exported_for_batches(
    character_tok: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    from contrastive_ner.serving.export import export
    from contrastive_ner.serving.inference import load_pipeline
    from contrastive_ner.serving.runtime_onnx import OnnxPipeline

    encoder = modernbert(tmp_path / "encoder", character_tok)
    model = NercoForTokenClassification.from_encoder(str(encoder), LABELS, label_unit="token")
    torch.nn.init.normal_(model.classifier.weight, std=2.0)
    model.eval().save_pretrained(tmp_path / "model")
    character_tok.save_pretrained(tmp_path / "model")
    export(tmp_path / "model", tmp_path / "onnx")
    texts = [TEXT[:length] for length in (3, 9, 17)] + [20 * TEXT]
    expected = load_pipeline(tmp_path / "model")(texts)
    found = OnnxPipeline(tmp_path / "onnx", threads=1)(texts, batch_size=4)
    key = ("entity_group", "start", "end")
    assert [[[m[k] for k in key] for m in row] for row in found] == [
        [[m[k] for k in key] for m in row] for row in expected
    ]


# ------------------------------------------------------------------------------------------- tagger
def test_rows_that_are_padded_already_keep_their_mask(tagger: NercoForTokenClassification) -> None:
    """As the usual scripts make them with padding="max_length"."""
    row = {"input_ids": [5, 10, 11, 6], "labels": [-100, 1, 2, -100], "attention_mask": [1] * 4}
    padded = {
        "input_ids": [*row["input_ids"], 0, 0],
        "labels": [*row["labels"], -100, -100],
        "attention_mask": [1, 1, 1, 1, 0, 0],
    }
    plain, given = TagCollator(0)([row]), TagCollator(0)([padded, row])
    assert given["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0]] * 2
    tagger.eval()
    expected = tagger(plain["input_ids"], plain["attention_mask"]).logits
    found = tagger(given["input_ids"], given["attention_mask"]).logits[:, :4]
    torch.testing.assert_close(found, expected.expand(2, -1, -1))


def test_empty_mentions_are_on_no_token_boundaries(character_tok: PreTrainedTokenizerFast) -> None:
    reader = text_reader(character_tok, label_unit="token", max_window_tokens=64)
    records = [
        Record("1", TEXT, [Mention(3, 3, "PER"), Mention(5, 3, "ORG"), Mention(0, 2, "PER")])
    ]
    for features, report in (
        span_features(records, reader, ["PER", "ORG"], max_width=4, overlap=4),
        tag_features(records, reader, LABELS),
    ):
        assert (report.mentions, report.misaligned) == (1, 2)
        assert len(features) == 1


def test_labels_that_bio_forbids_are_warned_of(tagger: NercoForTokenClassification) -> None:
    ids = torch.tensor([[5, 10, 11, 12, 6]])
    with pytest.warns(UserWarning, match="I- tag that does not follow"):
        tagger(ids, labels=torch.tensor([[-100, 2, 2, 0, -100]]))
    tagger(ids, labels=torch.tensor([[-100, 1, 2, 0, -100]]))  # warnings are errors


@pytest.mark.parametrize("side", ["left", "right"])
def test_chunks_hold_all_tokens_on_whichever_side_the_padding_is(
    side: str, character_tok: PreTrainedTokenizerFast
) -> None:
    tokenizer = copy.deepcopy(character_tok)
    tokenizer.padding_side = side
    rows = [
        {"input_ids": [5, *range(10, 10 + n), 6], "labels": [-100, *[1] * n, -100]}
        for n in (9, 4, 3, 7, 2)
    ]
    batch = dict(DataCollatorForTokenClassification(tokenizer)(rows))
    batch["weight"] = torch.arange(5)  # of rows
    parts = list(chunks_of(batch, 2))
    widths = [part["labels"].shape[1] for part in parts]
    assert widths == [11, 9, 4]
    assert torch.cat([part["weight"] for part in parts]).tolist() == [0, 1, 2, 3, 4]
    for part, given in zip(parts, (rows[:2], rows[2:4], rows[4:]), strict=True):
        kept = part["attention_mask"].bool()
        wanted = [token for row in given for token in row["input_ids"]]
        assert part["input_ids"][kept].tolist() == wanted
    del batch["attention_mask"]
    assert [part["labels"].shape for part in chunks_of(batch, 3)] == [(3, 11), (2, 11)]


def test_a_projection_head_has_the_type_of_the_model(tiny_encoder: Path) -> None:
    model = NercoModel.from_encoder(str(tiny_encoder), label_unit="token").bfloat16().train()
    add_projection(model, 8)
    states = model(torch.randint(5, 50, (2, 7))).last_hidden_state
    assert (states.shape[-1], states.dtype) == (8, torch.bfloat16)


def test_the_loss_is_not_reported_without_the_head_that_it_was_trained_with(
    tiny_encoder: Path, character_tok: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    reader = text_reader(character_tok, label_unit="token", max_window_tokens=64)
    data, _ = tag_features(corpus(8), reader, LABELS)
    trainer = ContrastiveTrainer(
        NercoModel.from_encoder(str(tiny_encoder), label_unit="token"),
        ContrastiveTrainingArguments(
            str(tmp_path), projection_size=4, max_steps=1, use_cpu=True, report_to="none"
        ),
        train_dataset=data,
        eval_dataset=data,
        label_classes=semantic_classes(LABELS),
    )
    assert "eval_loss" in trainer.evaluate()
    trainer.train()
    assert {"eval_loss", "eval_knn_f1"} & trainer.evaluate().keys() == {"eval_knn_f1"}


@pytest.mark.parametrize(
    "wrong", [{"knn_neighbours": 0}, {"reference_tokens": 0}, {"chunk_size": -1}]
)
def test_numbers_of_stage_one_are_checked(wrong: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is "):
        ContrastiveTrainingArguments(str(tmp_path), **wrong)


def test_batches_by_length_cost_the_least() -> None:
    def cost_of(batches: list[list[int]], lengths: list[int], cost: int) -> int:
        return sum(max(lengths[i] for i in batch) * len(batch) + cost for batch in batches)

    def least(sizes: tuple[int, ...], most: int, cost: int) -> int:
        return min(
            (
                sizes[0] * n + cost + least(sizes[n:], most, cost)
                for n in range(1, min(most, len(sizes)) + 1)
            ),
            default=0,
        )

    rng = random.Random(1)
    for _ in range(60):
        lengths = [rng.randint(1, 9) for _ in range(rng.randint(1, 8))]
        most, cost = rng.randint(1, 5), rng.randint(0, 12)
        batches = by_length(lengths, most, cost)
        assert sorted(i for batch in batches for i in batch) == [*range(len(lengths))]
        assert max(map(len, batches)) <= most
        sizes = tuple(sorted(lengths, reverse=True))
        assert cost_of(batches, lengths, cost) == least(sizes, most, cost)
    assert by_length([], 4) == []


def test_tags_are_read_from_tensors_arrays_and_lists() -> None:
    rows = [[1, 2, 0, -100], [0, 3, 4, 4]]
    expected = [[(0, 2, "PER")], [(1, 4, "ORG")]]
    for given in (rows, np.array(rows), torch.tensor(rows)):
        assert tag_spans(given, LABELS) == expected
