"""The model card: metadata for the Hub and text for people, filled in from a run's measurements."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from contrastive_ner.data.records import Record
from contrastive_ner.errors import UserError
from contrastive_ner.evaluation.report import breakdown_table
from contrastive_ner.files import expand, read_json, sha256
from contrastive_ner.hub.repository import MODELING_FILES, NAME_TO_COME, travelling_files

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

METHOD_LINES = {
    "ce": "A plain token classifier (independent tags).",
    "crf": "A token classifier with a linear-chain CRF.",
    "nerco": "A NerCo tagger: contrastive training of the encoder, then token classification with "
    "a linear-chain CRF.",
    "binder": "A BINDER model: a bi-encoder that compares spans of text with descriptions of "
    "entity types.",
}
SCORE_LINES = {
    "ce": "the probability of exactly this mention under independent tags",
    "crf": "the mention's posterior probability under the CRF",
    "binder": "a logistic function of the span's margin over the threshold of its type",
}
SCORE_LINES["nerco"] = SCORE_LINES["crf"]
FILES = ("train_file", "dev_file", "test_file", "types_file", "lexicon_file")
VECTORS = ("lattice_vectors", "lattice_bigram_vectors")
PATHS = ("output_dir", *FILES, *VECTORS, "encoder", "init_model")
EXAMPLES_PER_TYPE = 3
GOLD_LINES = {
    True: "all mentions count as gold, including nested ones",
    False: "only the outermost mentions count as gold",
}


def card_template() -> Path:
    """model_card.md: next to this file in an installed package, at the root of a clone."""
    here = Path(__file__).resolve()
    return next(
        path
        for path in (here.with_name("model_card.md"), here.parents[2] / "model_card.md")
        if path.is_file()
    )


def write_card(
    metrics: dict[str, Any], examples: list[dict[str, Any]], train: Sequence[Record], folder: Path
) -> None:
    """Write README.md of a model folder.

    Args:
        metrics: content of `metrics.json`.
        examples: texts with predictions, {"text", "mentions"}. The card shows the first one, the
            Hub's page all.
        train: training data; its most frequent mentions are the examples of each type.
        folder: model folder; the card describes its configuration and its code.
    """
    from huggingface_hub import ModelCard

    config, method, types = metrics["config"], metrics["method"], metrics["types"]
    model_config = read_json(folder / "config.json")
    is_binder, nested = method == "binder", model_config.get("decoding") == "nested"
    metadata = card_metadata(metrics, examples, is_chinese=model_config["label_unit"] == "token")
    card = ModelCard.from_template(
        metadata,
        template_path=str(card_template()),
        title=metadata.model_name,
        name=NAME_TO_COME,
        method=method,
        method_line=METHOD_LINES[method],
        types=types,
        type_examples=type_examples(train, types),
        label_unit=model_config["label_unit"],
        descriptions={label: model_config["descriptions"][label][0] for label in types}
        if is_binder
        else {},
        score_line=SCORE_LINES[method] if model_config.get("use_crf", True) else SCORE_LINES["ce"],
        code={
            name: sha256(folder / name)
            for name in travelling_files(folder / MODELING_FILES[model_config["model_type"]])
        },
        nested=nested,
        example={
            "text": repr(examples[0]["text"]),
            "output": _python_list(examples[0]["mentions"]),
        },
        max_window_tokens=config["max_window_tokens"],
        lexicon=model_config.get("lexicon"),
        is_lattice="lattice" in model_config,
        word_types=model_config.get("lexicon_types", []),
        max_span_width=model_config.get("max_span_width"),
        gold_line=GOLD_LINES[nested],
        **_score_values(metrics),
        encoder=Path(without_folder(config.get("init_model") or config["encoder"])).name,
        data_line=_data_line(metrics["data"]),
        phases_line="; ".join(
            f"{name} {done['epochs']:g} epochs, {done['seconds']:.0f} s"
            for name, done in metrics["phases"].items()
        ),
        machine=metrics["machine"],
        versions=metrics["versions"],
        cell=lambda text: text.replace("|", "\\|").replace("\n", " "),
    )
    card.save(folder / "README.md")


def card_metadata(
    metrics: dict[str, Any], examples: list[dict[str, Any]], *, is_chinese: bool
) -> "ModelCardData":
    """The metadata of a card; arguments as in `write_card`."""
    from huggingface_hub import ModelCardData

    config, method = metrics["config"], metrics["method"]
    origin = config.get("init_model") or config["encoder"]
    encoder = without_folder(origin)
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="token-classification",
        tags=[
            "named-entity-recognition",
            *(["contrastive-learning"] if method in ("nerco", "binder") else []),
            method,
        ],
        language="zh" if is_chinese else None,
        base_model=encoder if encoder == origin and "/" in encoder else None,
        metrics=["precision", "recall", "f1"],
        model_name=f"{method}-{data_name(config)}",
        eval_results=[
            result for split in _splits(metrics) for result in exact_results(metrics, split)
        ],
        widget=[widget(example) for example in examples],
    )


def published(metrics: dict[str, Any]) -> dict[str, Any]:
    """`metrics.json` for the model folder: files and folders by name, without their location."""
    config = without_places(metrics["config"])
    if config.get("data_sets"):
        sets = {name: without_places(own) for name, own in config["data_sets"].items()}
        config = {**config, "data_sets": sets}
    data = {}
    for split, entry in metrics["data"].items():
        own = {name: without_place(part) for name, part in entry.get("sets", {}).items()}
        data[split] = {**without_place(entry), **({"sets": own} if own else {})}
    return {**metrics, "config": config, "data": data}


def without_places(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with its files and folders by their names."""
    return {**config, **{key: without_folder(config[key]) for key in PATHS if key in config}}


def without_place(entry: dict[str, Any]) -> dict[str, Any]:
    """What `metrics.json` says about data, with their file by its name."""
    return {**entry, "file": without_folder(entry["file"])}


def without_folder(place: str) -> str:
    """The last part of a path; a name on the Hub stays unchanged.

    Paths are those that exist, absolute ones, and those with an environment variable.
    """
    on_disk = place and (Path(expand(place)).exists() or Path(place).is_absolute() or "${" in place)
    return Path(expand(place)).name if on_disk else place


def data_name(config: dict[str, Any]) -> str:
    """A name for the data: the folder of the training file, else the file without its suffix.

    That of several data sets are their names.
    """
    if config.get("data_sets"):
        return "-".join(config["data_sets"])
    path = Path(config["train_file"])
    return path.parent.name or path.stem


def type_examples(train: Sequence[Record], types: Sequence[str]) -> dict[str, list[str]]:
    """The most frequent mentions of each type, {label: texts}."""
    counts: dict[str, Counter[str]] = {label: Counter() for label in types}
    for record in train:
        for mention in record.entities:
            counts[mention.label][record.text[mention.start : mention.end]] += 1
    return {
        label: [text for text, _ in found.most_common(EXAMPLES_PER_TYPE)]
        for label, found in counts.items()
    }


def exact_results(metrics: dict[str, Any], split: str) -> "list[EvalResult]":
    """A split's micro scores for the card's metadata, not rounded."""
    from huggingface_hub import EvalResult

    name = data_name(metrics["config"])
    return [
        EvalResult(
            task_type="token-classification",
            dataset_type=name,
            dataset_name=name,
            dataset_split=split,
            metric_type=metric,
            metric_name=f"exact-span {metric} (micro)",
            metric_value=metrics[split]["micro"][metric],
        )
        for metric in ("precision", "recall", "f1")
    ]


def widget(example: dict[str, Any]) -> dict[str, Any]:
    """An example for the Hub's page: a text and the model's predictions."""
    found = [
        {"label": f"{mention['word']} ({mention['entity_group']})", "score": mention["score"]}
        for mention in example["mentions"]
    ]
    return {"text": example["text"], "output": found}


def spread_line(metrics: dict[str, Any]) -> str:
    """Mean and standard deviation of F1 over all complete runs that differ only in the seed.

    Configuration, data and encoder are the same. Empty if there is only this one.
    """
    config = metrics["config"]
    if "{seed}" not in config["output_dir"]:
        return ""
    template = config["output_dir"].replace("{method}", config["method"])
    runs = {metrics["seed"]: metrics}
    own = apart_from_seed(metrics)
    for path in Path(expand(template.replace("{seed}", "0"))).parent.glob(
        f"{Path(template).name.replace('{seed}', '*')}/metrics.json"
    ):
        with suppress(OSError, UserError, KeyError, TypeError, AttributeError):  # not a run's
            other = read_json(path)
            if apart_from_seed(other) == own:
                runs[int(other["seed"])] = other
    if len(runs) == 1:
        return ""
    split = "test" if "test" in metrics else "dev"
    values = [100 * run[split]["micro"]["f1"] for run in runs.values() if split in run]
    seeds = ", ".join(map(str, sorted(runs)))
    return f"{split} F1 over seeds {seeds}: {mean(values):.1f} ± {stdev(values):.1f}"


def apart_from_seed(metrics: dict[str, Any]) -> dict[str, Any]:
    """What two runs have in common that differ in the seed alone."""
    return {
        "config": {**metrics["config"], "seed": 0},
        "encoder": metrics["encoder_sha256"],
        "data": {
            split: {key: value for key, value in entry.items() if key != "alignment"}
            for split, entry in metrics["data"].items()
        },
    }


def _splits(metrics: dict[str, Any]) -> list[str]:
    return [split for split in ("dev", "test") if split in metrics]


def _score_values(metrics: dict[str, Any]) -> dict[str, Any]:
    """The template's values for scores: of all splits in a table, the rest of the last split."""
    splits = _splits(metrics)
    last = metrics[splits[-1]]
    return {
        "seed": metrics["seed"],
        "spread": spread_line(metrics),
        "table": _score_table({split: metrics[split] for split in splits}, metrics["types"]),
        "breakdown": breakdown_table(last).strip("\n"),
        "breakdown_split": splits[-1],
        "calibration_error": f"{100 * last['calibration']['ece']:.1f}",
    }


def _python_list(mentions: list[dict[str, Any]]) -> str:
    rows = [repr({**mention, "score": round(mention["score"], 3)}) for mention in mentions]
    return "[" + ",\n ".join(rows) + "]"


def _data_line(data: dict[str, Any]) -> str:
    return ", ".join(
        f"{split} {entry['texts']} texts with {entry['mentions']} mentions"
        for split, entry in data.items()
    )


def _score_table(scores: dict[str, Any], types: list[str]) -> str:
    head = "| |" + "".join(f" {split} P | R | F1 | mentions |" for split in scores)
    lines = [head, "|---|" + "---|" * (4 * len(scores))]
    empty = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "gold": 0}
    for name in [*types, "all (micro)"]:
        line = f"| {name} |"
        for split in scores.values():
            entry = split["micro"] if name == "all (micro)" else split["per_type"].get(name, empty)
            line += (
                "".join(f" {100 * entry[key]:.1f} |" for key in ("precision", "recall", "f1"))
                + f" {entry['gold']} |"
            )
        lines.append(line)
    return "\n".join(lines)
