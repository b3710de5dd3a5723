"""Model repositories: the card, filled from what a run measured."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from config_ner import expand

TEMPLATE = Path(__file__).resolve().parent / "model_card.md"
METHOD_LINES = {
    "ce": "A plain token classifier (independent tags).",
    "crf": "A token classifier with a linear-chain CRF.",
    "nerco": "A NerCo tagger: contrastive training of the encoder, then token classification with a linear-chain CRF.",
    "binder": "A BINDER model: a bi-encoder that compares spans of text with descriptions of entity types.",
}
SCORE_LINES = {
    "ce": "the probability of exactly this mention under independent tags",
    "crf": "the mention's posterior probability under the CRF",
    "binder": "the sigmoid of the span's margin to the threshold of its type (not calibrated)",
}
SCORE_LINES["nerco"] = SCORE_LINES["crf"]
TAGGER_FILES = "`modeling_nerco.py`, `encoder_ner.py` and `pipeline_ner.py`"
BINDER_FILES = "`modeling_binder.py`, `encoder_ner.py`, `types_binder.py` and `pipeline_ner.py`"


def write_card(metrics: dict[str, Any], example: dict[str, Any], folder: Path) -> None:
    """Write README.md of a model folder from `metrics.json`'s content and one predicted example {"text", "mentions"}."""
    config = metrics["config"]
    model_config = json.loads((folder / "config.json").read_text("utf-8"))
    types = metrics["types"]
    nested, contrasts = model_config.get("decoding") == "nested", metrics["method"] in ("nerco", "binder")
    splits = [split for split in ("dev", "test") if split in metrics]
    card = ModelCard.from_template(
        ModelCardData(
            library_name="transformers",
            pipeline_tag="token-classification",
            tags=["named-entity-recognition", *(["contrastive-learning"] if contrasts else []), metrics["method"]],
            language="zh" if model_config["label_unit"] == "token" else None,
        ),
        template_path=str(TEMPLATE),
        title=f"{metrics['method']}-{Path(config['train_file']).parent.name or Path(config['train_file']).stem}",
        method=metrics["method"],
        method_line=METHOD_LINES[metrics["method"]],
        types=types,
        label_unit=model_config["label_unit"],
        descriptions={
            label: model_config["descriptions"][label][0].replace("|", "\\|") for label in types if metrics["method"] == "binder"
        },
        score_line=SCORE_LINES[metrics["method"]] if model_config.get("use_crf", True) else SCORE_LINES["ce"],
        code_files=BINDER_FILES if metrics["method"] == "binder" else TAGGER_FILES,
        nested=nested,
        example={"text": repr(example["text"]), "output": _python_list(example["mentions"])},
        max_window_tokens=config["max_window_tokens"],
        gold_line="gold are all mentions, nested ones too" if nested else "gold are the outermost mentions",
        seed=metrics["seed"],
        table=_score_table({split: metrics[split] for split in splits}, types),
        encoder=Path(expand(config["encoder"])).name,
        data_line=_data_line(metrics["data"]),
        phases_line="; ".join(f"{name} {done['epochs']:g} epochs, {done['seconds']:.0f} s" for name, done in metrics["phases"].items()),
        machine=metrics["machine"],
        versions=metrics["versions"],
    )
    card.save(folder / "README.md")


def _python_list(mentions: list[dict[str, Any]]) -> str:
    rows = [repr({**mention, "score": round(mention["score"], 3)}) for mention in mentions]
    return "[" + ",\n ".join(rows) + "]"


def _data_line(data: dict[str, Any]) -> str:
    return ", ".join(f"{split} {entry['texts']} texts with {entry['mentions']} mentions" for split, entry in data.items())


def _score_table(scores: dict[str, Any], types: list[str]) -> str:
    head = "| |" + "".join(f" {split} P | R | F1 | mentions |" for split in scores)
    lines = [head, "|---|" + "---|" * (4 * len(scores))]
    empty = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "gold": 0}
    for name in [*types, "all (micro)"]:
        line = f"| {name} |"
        for split in scores.values():
            entry = split["micro"] if name == "all (micro)" else split["per_type"].get(name, empty)
            line += "".join(f" {100 * entry[key]:.1f} |" for key in ("precision", "recall", "f1")) + f" {entry['gold']} |"
        lines.append(line)
    return "\n".join(lines)
