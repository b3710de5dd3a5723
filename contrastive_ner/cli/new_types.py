"""add-type: a BINDER model learns further types from a few examples, or from texts alone."""

import argparse
import shutil
from pathlib import Path
from typing import Any

from contrastive_ner.cli.options import (
    add_device_option,
    add_layout_options,
    add_model_argument,
    add_trust_option,
    described_types,
    find_model,
    joiner_of_model,
    records_in,
)
from contrastive_ner.data.documents import join_documents
from contrastive_ner.data.readers import read_records
from contrastive_ner.data.streams import read_rows
from contrastive_ner.errors import ConfigError, DataError
from contrastive_ner.files import (
    expand,
    for_everyone,
    fresh_folder,
    move_folder,
    read_json,
    write_json,
)
from contrastive_ner.hub.repository import MANIFEST, OF_THE_HUB, WEIGHTS, write_manifest
from contrastive_ner.serving.inference import load_pipeline
from contrastive_ner.training.config import layout_of


def add_new_types_command(commands: Any) -> None:
    """Add the command add-type."""
    command = commands.add_parser(
        "add-type",
        help="teach a BINDER model further types from a few annotated texts; nothing else changes",
        description="Add entity types to a BINDER model, each fitted to its mentions in a few "
        "annotated texts. No weight changes, and the mentions of the types before stay the same. "
        "Prints precision, recall and F1 on examples that were left out of the fit. With --texts "
        "instead, texts without labels, the types are found by their descriptions, and about as "
        "often as expected.",
    )
    add_model_argument(command)
    command.add_argument(
        "--types",
        required=True,
        metavar="FILE",
        help="the new types and their descriptions (YAML), as in a types file of training",
    )
    given = command.add_mutually_exclusive_group(required=True)
    given.add_argument(
        "--examples",
        metavar="FILE",
        help="annotated texts with all their mentions of the new types; texts without any help "
        "as well",
    )
    given.add_argument(
        "--texts",
        metavar="FILE",
        help="texts of the kind that is to be tagged, as for predict; labels are not needed",
    )
    command.add_argument(
        "--per_thousand",
        type=float,
        metavar="N",
        help="with --texts: mentions of each new type that are expected in a thousand words, or "
        "characters of Chinese [15]",
    )
    command.add_argument(
        "--output",
        metavar="FOLDER",
        help="folder to write; it must not exist [MODEL-added, next to the model]",
    )
    add_layout_options(command)
    add_device_option(command)
    add_trust_option(command)
    command.set_defaults(command=command_add_type)


def command_add_type(arguments: argparse.Namespace) -> int:
    """Add types to a model, print how well they are found, and write the new model's folder."""
    from contrastive_ner.serving.export import check_whole

    if arguments.per_thousand is not None and arguments.texts is None:
        raise ConfigError("per_thousand has no effect without --texts")
    given = Path(arguments.model)
    name = find_model(arguments)
    folder = Path(arguments.model)
    if arguments.output is None and folder != given:
        raise ConfigError(f"{name} is on the Hub: pass --output, a folder for the new model")
    output = Path(arguments.output or f"{folder.resolve()}-added")
    if output.exists():
        raise ConfigError(f"{output} exists; choose another folder with --output")
    check_whole(folder)
    arguments.joiner = joiner_of_model(arguments)
    types = described_types(arguments.types)
    pipeline = load_pipeline(
        folder, trust_remote_code=arguments.trust_remote_code, device=arguments.device
    )
    if not hasattr(pipeline.model, "heads") or not hasattr(pipeline.model, "fit_label"):
        raise ConfigError(
            f"{name}: types are added to a BINDER model with this project's code; a tagger learns "
            "further types by training (init_model)"
        )
    learn = learn_by_examples if arguments.texts is None else learn_by_texts
    added = learn(arguments, pipeline, types)
    for label, row in added.items():
        print(line_of(label, row))
    write_model(pipeline, folder, output, types, added)
    print(f"model with {', '.join(added)}: {output}")
    return 0


def learn_by_examples(
    arguments: argparse.Namespace, pipeline: Any, types: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """Fit types to annotated texts; what `add_types` returns."""
    from contrastive_ner.training.new_types import add_types

    examples, report = read_records(expand(arguments.examples), layout_of(arguments))
    for remark in report.remarks():
        print(f"{report.path}: {remark}")
    try:
        return add_types(pipeline.model, pipeline.tokenizer, types, examples)
    except DataError as error:
        raise DataError(str(error).replace("examples:", f"{report.path}:", 1)) from error


def learn_by_texts(
    arguments: argparse.Namespace, pipeline: Any, types: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """Add types by their descriptions, and fit their limits to texts without labels."""
    from contrastive_ner.training.limits import PER_THOUSAND, fit_limits

    name = expand(arguments.texts)
    records = records_in(name, read_rows(name, layout_of(arguments)).rows)
    texts = [document.record.text for document in join_documents(records)]
    expected = PER_THOUSAND if arguments.per_thousand is None else arguments.per_thousand
    model, tokenizer = pipeline.model, pipeline.tokenizer
    model.add_labels(types, tokenizer)
    try:
        margins = fit_limits(model, tokenizer, [*types], texts, expected)
    except DataError as error:
        raise DataError(str(error).replace("texts:", f"{name}:", 1)) from error
    return {
        label: {"texts": len(records), "per_thousand": expected, "margin": margin}
        for label, margin in margins.items()
    }


def line_of(label: str, row: dict[str, Any]) -> str:
    """A line about a type: what it was fitted to, and how well it is found."""
    if "per_thousand" in row:
        return (
            f"{label}: found by its description; its limit is {row['margin']:+.2f} from its "
            f"threshold, for {row['per_thousand']:g} mentions in a thousand words of "
            f"{row['texts']} texts"
        )

    def figures(scores: dict[str, Any]) -> str:
        shown = (100 * scores[key] for key in ("precision", "recall", "f1"))
        return "P {:.1f}, R {:.1f}, F1 {:.1f}".format(*shown)

    tested = "not tested: that takes mentions in two texts or more"
    if row["folds"]:
        tested = f"{row['folds']} fits, each tested on texts left out: {figures(row['left_out'])}"
    return (
        f"{label}: {row['texts']} texts, {row['mentions']} mentions; {tested}; "
        f"by description alone: {figures(row['described'])}"
    )


def write_model(
    pipeline: Any, folder: Path, output: Path, types: dict[str, str], added: dict[str, Any]
) -> None:
    """Write the model with its new types to a folder, and all else that its old folder holds.

    Stored examples are tagged anew, `metrics.json` and the card tell of the new types, and there
    is a manifest if there was one. The folder appears once it is complete.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = fresh_folder(output.with_name(f".{output.name}-partial"))
    try:
        for path in sorted(folder.iterdir()):
            is_left = path.name in (MANIFEST, OF_THE_HUB) or WEIGHTS.fullmatch(path.name)
            if path.is_file() and not is_left:
                shutil.copyfile(path, partial / path.name)
        pipeline.model.save_pretrained(partial)
        stored, metrics, card = (
            partial / name for name in ("examples.json", "metrics.json", "README.md")
        )
        if stored.is_file():
            texts = [example["text"] for example in read_json(stored)]
            tagged = zip(texts, pipeline(texts), strict=True)
            write_json([{"text": text, "mentions": found} for text, found in tagged], stored)
        if metrics.is_file():
            content = read_json(metrics)
            write_json(
                {**content, "added_types": {**content.get("added_types", {}), **added}}, metrics
            )
        if card.is_file():
            by_texts = any("per_thousand" in row for row in added.values())
            title = f"## Types added from {'texts without labels' if by_texts else 'examples'}"
            how = (
                "Found by their descriptions, about as often as expected"
                if by_texts
                else "Fitted to a few annotated texts"
            )
            text = card.read_text("utf-8").rstrip("\n")
            lines = [f"- {line_of(label, row)}. {types[label]}" for label, row in added.items()]
            if title not in text:
                text += f"\n\n{title}\n\n{how}; no weight was changed.\n"
            card.write_text("\n".join([text, *lines, ""]), "utf-8")
        if (folder / MANIFEST).is_file():
            write_manifest(partial)
        for_everyone(partial)
        move_folder(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
