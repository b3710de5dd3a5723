"""Train one tagger of `benchmarks.peers --train`, in a process of that tagger's environment.

python -sP benchmarks/peer_learner.py KIND FOLDER JOB

JOB is a JSON file: the encoder's folder, the entity types (label, name, description), JSONL files
of train, dev and test, epochs, seed, whether mentions nest, and for this project's taggers the
configuration and keys that differ from it. The mentions found in test go to FOLDER/found.json, one
list of [start, end, label] a text. The last line printed is JSON: seconds of training, texts per
second on test, settings, versions. Importing and loading count in neither. What this project's
command does besides, such as reading data and calibrating scores, counts as training.

Settings of the peers are those of the training scripts on their pages. All taggers choose the best
epoch by F1 on dev, of exact spans: SpanMarker's own score needs the Hub, and GLiNER has none.
"""

import json
import random
import shutil
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NamedTuple

PACKAGES = ("span_marker", "gliner", "transformers", "torch")
BATCH = 32  # texts per batch in prediction
# SpanMarker: of the scripts that come with its models on the Hub. Lengths as in peer_worker.py.
SPAN_MARKER = {"learning_rate": 5e-5, "batch_size": 32, "weight_decay": 0.01, "warmup_ratio": 0.1}
# GLiNER: of its training page and configurations; `others` is all but the encoder.
GLINER = {"learning_rate": 1e-5, "others_lr": 5e-5, "batch_size": 8, "weight_decay": 0.01}
GLINER_WARMUP = 0.1

Triple = tuple[int, int, str]
Tag = Callable[[list[str]], list[list[Triple]]]  # texts to the mentions of each


class Learner(NamedTuple):
    """A tagger to train: `train` it, then `tag` texts; and its settings."""

    train: Callable[[], Any]
    tag: Tag
    settings: dict[str, Any]


def rows_of(file: str) -> list[dict[str, Any]]:
    """The records of a JSONL file, as dictionaries."""
    return [json.loads(line) for line in Path(file).read_text("utf-8").splitlines()]


def over_words(row: dict[str, Any], words: Sequence[Sequence[int]]) -> list[tuple[int, int, str]]:
    """A row's mentions as (first word, last word, label); those not on word boundaries left out."""
    starts = {word[0]: number for number, word in enumerate(words)}
    ends = {word[1]: number for number, word in enumerate(words)}
    return [
        (starts[m["start"]], ends[m["end"]], m["label"])
        for m in row["entities"]
        if m["start"] in starts and m["end"] in ends
    ]


def flat(spans: Sequence[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """The longest of overlapping spans over words (ends included); for a tagger of tags."""
    kept: list[tuple[int, int, str]] = []
    for span in sorted(spans, key=lambda span: (span[0] - span[1], span)):
        if all(span[1] < other[0] or span[0] > other[1] for other in kept):
            kept.insert(bisect_left(kept, span), span)
    return kept


def f1_of(found: Sequence[Sequence[Triple]], rows: Sequence[dict[str, Any]]) -> float:
    """Micro F1 of exact spans and types.

    >>> row = {"entities": [{"start": 0, "end": 1, "label": "A"}]}
    >>> round(f1_of([[(0, 1, "A"), (2, 3, "A")]], [row]), 3)
    0.667
    """
    gold = [{(m["start"], m["end"], m["label"]) for m in row["entities"]} for row in rows]
    right = sum(len(own & set(spans)) for own, spans in zip(gold, found, strict=True))
    total = sum(map(len, gold)) + sum(len(set(spans)) for spans in found)
    return 2 * right / total if total else 0.0


def best_epoch(module: Any, tag: Tag, rows: Sequence[dict[str, Any]]) -> Any:
    """A callback that scores each epoch on dev; the module has its best weights at the end."""
    from transformers import TrainerCallback

    class BestEpoch(TrainerCallback):
        best = -1.0
        weights: dict[str, Any]

        def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            score = f1_of(tag([row["text"] for row in rows]), rows)
            print(f"epoch {state.epoch:g}: dev F1 {100 * score:.1f}")
            if score > self.best:
                weights = module.state_dict().items()
                self.best, self.weights = score, {name: own.clone() for name, own in weights}
            module.train()

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            module.load_state_dict(self.weights)

    return BestEpoch()


# --------------------------------------------------------------------------------- SpanMarker
def older(encoder: str, folder: Path) -> str:
    """A copy of an encoder whose tokenizer transformers 4 can read, which SpanMarker needs."""
    copy = folder / "encoder"
    shutil.copytree(encoder, copy)
    file = copy / "tokenizer_config.json"
    settings = json.loads(file.read_text("utf-8"))
    if settings.get("tokenizer_class") == "TokenizersBackend":  # its name in transformers 5
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    file.write_text(json.dumps(settings), "utf-8")
    return str(copy)


def span_marker(job: dict[str, Any], folder: Path) -> Learner:
    """SpanMarker, on the words of the data."""
    from datasets import Dataset
    from span_marker import SpanMarkerModel, Trainer
    from transformers import TrainingArguments

    labels = ["O", *(f"{p}-{kind['label']}" for kind in job["types"] for p in "BI")]
    ids = {label: number for number, label in enumerate(labels)}

    def dataset(rows: list[dict[str, Any]]) -> Any:
        found: dict[str, list[Any]] = {"tokens": [], "ner_tags": []}
        for row in rows:
            tags = [0] * len(row["tokens"])
            for first, last, label in flat(over_words(row, row["tokens"])):
                tags[first : last + 1] = [ids[f"I-{label}"]] * (last + 1 - first)
                tags[first] = ids[f"B-{label}"]
            found["tokens"].append([row["text"][a:b] for a, b in row["tokens"]])
            found["ner_tags"].append(tags)
        return Dataset.from_dict(found)

    settings = {**SPAN_MARKER, **job["settings"]}
    lengths = {"model_max_length": 256, "marker_max_length": 128, "entity_max_length": 8}
    encoder = older(job["encoder"], folder)
    model = SpanMarkerModel.from_pretrained(encoder, labels=labels, **lengths)
    arguments = TrainingArguments(
        output_dir=str(folder / "run"),
        learning_rate=settings["learning_rate"],
        per_device_train_batch_size=settings["batch_size"],
        per_device_eval_batch_size=BATCH,
        num_train_epochs=job["epochs"],
        weight_decay=settings["weight_decay"],
        warmup_ratio=settings["warmup_ratio"],
        seed=job["seed"],
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=dataset(rows_of(job["train"])))
    dev = rows_of(job["dev"])
    words = {row["text"]: row["tokens"] for row in (*dev, *rows_of(job["test"]))}

    def tag(texts: list[str]) -> list[list[Triple]]:
        cut = [[text[a:b] for a, b in words[text]] for text in texts]
        return [
            [
                (
                    words[text][m["word_start_index"]][0],
                    words[text][m["word_end_index"] - 1][1],
                    m["label"],
                )
                for m in found
            ]
            for text, found in zip(texts, model.eval().predict(cut, batch_size=BATCH), strict=True)
        ]

    trainer.add_callback(best_epoch(model, tag, dev))
    return Learner(trainer.train, tag, {**settings, **lengths})


# ------------------------------------------------------------------------------------------- GLiNER
def gliner(job: dict[str, Any], folder: Path) -> Learner:
    """GLiNER, on the words that its own splitter makes; types are given by their names."""
    from gliner import GLiNER, GLiNERConfig
    from gliner.training import Trainer

    names = {kind["label"]: kind["name"] for kind in job["types"]}
    labels = {name: label for label, name in names.items()}
    model = GLiNER.from_config(GLiNERConfig(model_name=job["encoder"]))
    split = model.data_processor.words_splitter

    def examples(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found = []
        for row in rows:
            words = list(split(row["text"]))
            spans = over_words(row, [(start, end) for _, start, end in words])
            own = spans if job["nested"] else flat(spans)
            ner = [[first, last, names[label]] for first, last, label in own]
            text = [word for word, _, _ in words]
            found.append({"tokenized_text": text, "ner": ner, "ner_labels": list(labels)})
        return found

    settings = {**GLINER, **job["settings"]}
    texts = examples(rows_of(job["train"]))
    steps = job["epochs"] * -(-len(texts) // settings["batch_size"])
    arguments = model.create_training_args(
        output_dir=str(folder / "run"),
        max_steps=steps,
        learning_rate=settings["learning_rate"],
        others_lr=settings["others_lr"],
        weight_decay=settings["weight_decay"],
        others_weight_decay=settings["weight_decay"],
        warmup_ratio=GLINER_WARMUP,
        lr_scheduler_type="cosine",
        per_device_train_batch_size=settings["batch_size"],
        save_strategy="no",
        seed=job["seed"],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_num_workers=0,
    )
    # What train_model makes, with a callback.
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=texts,
        data_collator=model._create_data_collator(),
        processing_class=model.data_processor.transformer_tokenizer,
    )

    def tag(texts: list[str]) -> list[list[Triple]]:
        found = model.eval().inference(
            texts, list(labels), batch_size=BATCH, flat_ner=not job["nested"], threshold=0.5
        )
        return [[(m["start"], m["end"], labels[m["label"]]) for m in own] for own in found]

    trainer.add_callback(best_epoch(model, tag, rows_of(job["dev"])))
    return Learner(trainer.train, tag, settings)


# ------------------------------------------------------------------------------------- this project
def ours(method: str, job: dict[str, Any], folder: Path) -> Learner:
    """One of this project's taggers, as its configuration says."""
    from contrastive_ner.cli import main as command
    from contrastive_ner.serving.inference import load_pipeline

    keys = {
        **job["keys"],
        "method": method,
        "encoder": job["encoder"],
        "seed": job["seed"],
        "output_dir": folder / "run",
        **{f"{split}_file": job[split] for split in ("train", "dev")},
        "test_file": "",
        "bf16": "false",
        **job["settings"],
    }
    options = [f"{key}={value}" for key, value in keys.items()]

    def train() -> None:
        if command(["train", job["config"], *options]):
            raise SystemExit(f"training {method} failed")

    loaded: list[Any] = []

    def tag(texts: list[str]) -> list[list[Triple]]:
        if not loaded:
            loaded.append(load_pipeline(folder / "run" / "model"))
        return [
            [(m["start"], m["end"], m["entity_group"]) for m in own]
            for own in loaded[0](texts, batch_size=BATCH)
        ]

    return Learner(train, tag, job["settings"])


def learn(kind: str, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train a tagger and write the mentions that it finds in test; its measurements."""
    import torch

    random.seed(job["seed"])
    torch.manual_seed(job["seed"])
    peers = {"span_marker": span_marker, "gliner": gliner}
    learner = peers[kind](job, folder) if kind in peers else ours(kind, job, folder)
    began = time.perf_counter()
    learner.train()
    seconds = time.perf_counter() - began
    texts = [row["text"] for row in rows_of(job["test"])]
    learner.tag(texts[:BATCH])  # warm-up
    began = time.perf_counter()
    found = learner.tag(texts)
    speed = len(texts) / (time.perf_counter() - began)
    (folder / "found.json").write_text(json.dumps(found, ensure_ascii=False), "utf-8")
    return {
        "seconds": seconds,
        "texts_per_second": speed,
        "settings": learner.settings,
        "versions": {own.name: own.version for own in distributions() if own.name in PACKAGES},
    }


def main() -> None:
    """Train the tagger named on the command line."""
    kind, folder, job = sys.argv[1:]
    values = json.loads(Path(job).read_text("utf-8"))
    with redirect_stdout(sys.stderr):
        measured = learn(kind, values, Path(folder))
    print("\n" + json.dumps(measured))


if __name__ == "__main__":
    main()
