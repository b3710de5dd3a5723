"""Make or measure one tagger of benchmarks/peers.py, in a process of that tagger's environment.

benchmarks.peers starts it with the root of the clone on PYTHONPATH:

python -sP benchmarks/peer_worker.py make KIND FOLDER JOB            write an untrained model
python -sP benchmarks/peer_worker.py measure KIND FOLDER JOB SIZE    load and measure it

JOB is a JSON file: the encoder's folder, entity types with descriptions, texts, a long text and the
ids of its tokens. SIZE is the batch size. `measure` prints one line of JSON. Only the tagger's own
packages are imported (and contrastive_ner, to make this project's models), and only where they are
used, because import time counts as part of the start.
"""

import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import distributions
from math import exp
from pathlib import Path
from typing import Any

BEGAN = time.perf_counter()
# Approximate mentions per text that an untrained head should find: equal decoding work for all.
MENTIONS = 2
PACKAGES = ("span_marker", "gliner", "transformers", "torch")


@dataclass
class Tagger:
    """A loaded tagger.

    Attributes:
        module: its torch module.
        tag: texts and batch size to the mentions of each text.
        set_limit: sets the limit that the score of a mention must exceed.
    """

    module: Any
    tag: Callable[[list[str], int], list[list[Any]]]
    set_limit: Callable[[float], None]


# ------------------------------------------------------------------------------------------ taggers
def write_model(kind: str, encoder: str, folder: str, types: dict[str, str]) -> None:
    """Save a new head around the pretrained encoder, in the tagger's own way."""
    if kind == "gliner":
        from gliner import GLiNER, GLiNERConfig

        return GLiNER.from_config(GLiNERConfig(model_name=encoder)).save_pretrained(
            folder, safe_serialization=True
        )
    if kind == "span_marker":
        from span_marker import SpanMarkerModel

        # Lengths from its documentation. With its default of 512 tokens a long text needs more
        # positions than BERT has and fails.
        lengths = {"model_max_length": 256, "marker_max_length": 128, "entity_max_length": 8}
        model = SpanMarkerModel.from_pretrained(encoder, labels=["O", *types], **lengths)
        return model.save_pretrained(folder, safe_serialization=True)
    from transformers import AutoModel, AutoModelForTokenClassification, AutoTokenizer

    from contrastive_ner.models.modeling_binder import BinderModel
    from contrastive_ner.models.modeling_nerco import NercoForTokenClassification

    tags = ["O", *(f"{prefix}-{label}" for label in types for prefix in "BI")]
    model = {
        "encoder": lambda: AutoModel.from_pretrained(encoder),
        "stock": lambda: AutoModelForTokenClassification.from_pretrained(
            encoder, id2label=dict(enumerate(tags)), num_labels=len(tags)
        ),
        "nerco": lambda: NercoForTokenClassification.from_encoder(encoder, tags),
        "binder": lambda: BinderModel.from_encoders(encoder, descriptions=types).eval(),
    }[kind]()
    model.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)


def load(kind: str, folder: str, types: dict[str, str]) -> Tagger:
    """Load a tagger as its documentation does."""
    if kind == "encoder":
        return load_encoder(folder)
    if kind == "gliner":
        from gliner import GLiNER

        gliner, chosen = GLiNER.from_pretrained(folder, local_files_only=True), {"threshold": 0.5}
        return Tagger(
            gliner,
            lambda texts, size: gliner.inference(texts, list(types), batch_size=size, **chosen),
            lambda limit: chosen.update(threshold=1 / (1 + exp(-limit))),
        )
    if kind == "span_marker":
        from span_marker import SpanMarkerModel

        marker = SpanMarkerModel.from_pretrained(folder)
        return Tagger(
            marker,
            lambda texts, size: marker.predict(texts, batch_size=size),
            bias_of(marker.classifier),
        )
    from transformers import pipeline

    # With the classes of transformers, or with the code saved with our models.
    ner = pipeline("ner", model=folder, trust_remote_code=True, aggregation_strategy="simple")
    set_limit = (
        margins_of(ner.model.config, types) if kind == "binder" else bias_of(ner.model.classifier)
    )
    return Tagger(ner.model, lambda texts, size: ner(texts, batch_size=size), set_limit)


def load_encoder(folder: str) -> Tagger:
    """The bare encoder: it only tokenizes and encodes texts, in batches sorted by length.

    Every tagger with this encoder has at least this work.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = (
        AutoModel.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )

    @torch.inference_mode()
    def encode(texts: list[str], size: int) -> list[list[Any]]:
        ordered = sorted(tokenizer(texts, truncation=True)["input_ids"], key=len, reverse=True)
        for at in range(0, len(ordered), size):
            model(**tokenizer.pad({"input_ids": ordered[at : at + size]}, return_tensors="pt"))
        return []

    return Tagger(model, encode, lambda limit: None)


def bias_of(classifier: Any) -> Callable[[float], None]:
    """A setter of the margin by which every other class must exceed "O", the first class."""
    return lambda limit: classifier.bias.data[0].fill_(limit)


def margins_of(config: Any, types: dict[str, str]) -> Callable[[float], None]:
    """A setter of the margin by which a span must exceed the threshold of its type."""
    return lambda limit: config.margins.update(dict.fromkeys(types, limit))


# ---------------------------------------------------------------------------------------- measuring
def make(kind: str, folder: str, job: dict[str, Any]) -> None:
    """Write a model and the limit at which it finds about `MENTIONS` mentions per text."""
    import torch

    torch.manual_seed(0)
    write_model(kind, job["encoder"], folder, job["types"])
    tagger, texts = load(kind, folder, job["types"]), job["texts"][:50]
    limit, step = 0.0, 4.0
    while kind != "encoder" and step > 1e-3:  # bisection: fewer mentions exceed a higher limit
        tagger.set_limit(limit + step)
        found = sum(map(len, tagger.tag(texts, 32))) / len(texts)
        if found > 0.8 * MENTIONS:
            limit += step
        if abs(found / MENTIONS - 1) < 0.2:
            break
        step /= 2
    Path(folder, "limit.json").write_text(json.dumps(limit), "utf-8")


def measure(kind: str, folder: str, job: dict[str, Any], batch_size: int) -> dict[str, Any]:
    """Measure a model.

    Returns:
        Seconds to the first result, texts per second, peak memory in bytes (Linux), mentions found,
        share of the long text's tokens that reach the encoder, package versions.
    """
    tagger = load(kind, folder, job["types"])
    tagger.set_limit(json.loads(Path(folder, "limit.json").read_text("utf-8")))
    tagger.tag(job["texts"][:1], batch_size)
    start = time.perf_counter() - BEGAN
    tagger.tag(job["texts"][:batch_size], batch_size)  # warm-up
    began = time.perf_counter()
    mentions = sum(map(len, tagger.tag(job["texts"], batch_size)))
    speed = len(job["texts"]) / (time.perf_counter() - began)
    # The peak of this process alone (Linux).
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return {
        "start": start,
        "texts_per_second": speed,
        "peak_bytes": int(peak[1]) * 1024 if peak else 0,
        "mentions": mentions,
        "read": len(tokens_seen(tagger, job["long_text"]) & set(job["long_ids"]))
        / len(job["long_ids"]),
        "versions": {
            found.name: found.version for found in distributions() if found.name in PACKAGES
        },
    }


def tokens_seen(tagger: Tagger, text: str) -> set[int]:
    """Ids of the tokens that reach the encoder when a text is tagged."""
    seen: set[int] = set()
    for name, module in tagger.module.named_modules():
        if name.endswith("word_embeddings"):
            module.register_forward_pre_hook(
                lambda _, inputs: seen.update(inputs[0].flatten().tolist())
            )
    tagger.tag([text], 1)
    return seen


def main() -> None:
    """Run the action named on the command line."""
    action, kind, folder, job, *size = sys.argv[1:]
    values = json.loads(Path(job).read_text("utf-8"))
    if action == "make":
        make(kind, folder, values)
    else:
        print("\n" + json.dumps(measure(kind, folder, values, int(size[0]))))


if __name__ == "__main__":
    main()
