"""Limits of types from texts without labels: as many spans as are expected, and old types stay."""

import json
from pathlib import Path

import pytest
from conftest import corpus
from transformers import PreTrainedTokenizerFast

from contrastive_ner.cli import main
from contrastive_ner.errors import ConfigError, DataError
from contrastive_ner.models.modeling_binder import BinderModel
from contrastive_ner.models.modeling_nerco import NercoForTokenClassification
from contrastive_ner.training.limits import fit_limits

NEW = {"ORDINAL": "次序：表示第几的词，如第三次。", "VERB": "动作：如去、说、写。"}
TEXTS = [record.text for record in corpus(20, 300)]
Saved = tuple[Path, BinderModel]


def count_of(rows: list[list[dict]]) -> dict[str, int]:
    """Numbers of mentions of the new types."""
    return {label: sum(m["entity_group"] == label for row in rows for m in row) for label in NEW}


def places(rows: list[list[dict]]) -> list[set[tuple]]:
    """Where mentions of the old types are."""
    key = ("start", "end", "entity_group")
    return [{tuple(m[k] for k in key) for m in row if m["entity_group"] not in NEW} for row in rows]


@pytest.mark.parametrize("threshold", ["token", "global"])
def test_as_many_spans_are_found_as_are_expected(
    threshold: str,
    tiny_encoder: Path,
    character_tok: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    from test_binder_options import new

    model = new(tiny_encoder, threshold=threshold)
    if threshold == "global":
        model.heads.threshold.data.fill_(0.5)
    old = model.pipeline(character_tok)(TEXTS)
    model.add_labels(NEW, character_tok)
    own = count_of(model.pipeline(character_tok)(TEXTS))
    assert 1 < min(own.values()) <= max(own.values()) < 200
    characters = sum(map(len, TEXTS))
    for per_thousand in (1000 / characters, 900.0):
        margins = fit_limits(model, character_tok, [*NEW], TEXTS, per_thousand)
        assert model.config.margins == margins
        model.save_pretrained(tmp_path / threshold)
        for opened in (model, BinderModel.from_pretrained(tmp_path / threshold)):
            found = opened.pipeline(character_tok)(TEXTS)
            expected = round(per_thousand * characters / 1000)
            assert count_of(found) == {label: max(expected, own[label]) for label in NEW}
            assert places(found) == places(old)


def test_the_command_adds_types_by_texts_alone(
    saved_binder: Saved,
    character_tok: PreTrainedTokenizerFast,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    folder, model = saved_binder
    before = model.pipeline(character_tok)(TEXTS)
    texts, types = tmp_path / "raw.txt", tmp_path / "new.yaml"
    texts.write_text("\n".join(TEXTS), "utf-8")
    types.write_text(f"types: {json.dumps(NEW)}\n", "utf-8")
    (folder / "README.md").write_text("# A card\n", "utf-8")
    command = ["add-type", str(folder), "--types", str(types), "--texts", str(texts)]
    assert main([*command, "--per_thousand", "20"]) == 0
    assert "ORDINAL: found by its description; its limit is " in capsys.readouterr().out
    added = BinderModel.from_pretrained(f"{folder}-added")
    assert added.config.labels[-2:] == [*NEW]
    assert added.config.margins.keys() == NEW.keys()
    found = added.pipeline(character_tok)(TEXTS)
    assert places(found) == places(before)
    card = (Path(f"{folder}-added") / "README.md").read_text("utf-8")
    assert "## Types added from texts without labels" in card
    assert "about as often as expected" in card
    texts.write_text("短", "utf-8")
    assert main([*command, "--output", str(tmp_path / "other")]) == 2
    assert f"{texts}: expected 67 words or more" in capsys.readouterr().err
    examples = ["add-type", str(folder), "--types", str(types), "--examples", str(texts)]
    assert main([*examples, "--per_thousand", "3"]) == 2
    assert "no effect without --texts" in capsys.readouterr().err


def test_what_limits_cannot_be_fitted_to_is_refused(
    saved_binder: Saved, tiny_encoder: Path, character_tok: PreTrainedTokenizerFast
) -> None:
    model = saved_binder[1]
    tagger = NercoForTokenClassification.from_encoder(str(tiny_encoder), ["O", "B-A", "I-A"])
    for given, labels, number, says in (
        (tagger, ["A"], 5.0, "a BINDER model"),
        (model, ["NONE"], 5.0, "expected types of the model"),
        (model, [], 5.0, "expected types of the model"),
        (model, model.config.labels[:1], 0.0, "between 0 and 1000"),
    ):
        with pytest.raises(ConfigError, match=says):
            fit_limits(given, character_tok, labels, TEXTS, number)
    for texts in ([], [" "], ["短"]):
        with pytest.raises(DataError, match="give more texts"):
            fit_limits(model, character_tok, model.config.labels[:1], texts)
