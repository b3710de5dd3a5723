"""A trained model as ONNX graphs, in a folder that runs without torch (`runtime_onnx.py`).

The graph of a tagger gives the CRF's emissions; of BINDER two graphs give the parts of span projections, and the scores of chosen spans
against the types, which are constants of the second. Decoding is the runtime's. Weights are float32; in int8 the matrix products are
quantised dynamically, weights by channel (embeddings stay as they are: quantised they cost accuracy, and gain no time).
"""

import json
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from contrastive_ner.data.records import Record
from contrastive_ner.errors import ConfigError
from contrastive_ner.files import read_json, sha256, write_json
from contrastive_ner.models import crf_ner, windows_ner
from contrastive_ner.models.modeling_binder import Projected
from contrastive_ner.serving.inference import evaluate_records, load_pipeline

if TYPE_CHECKING:
    from contrastive_ner.models.pipeline_ner import NerPipeline

OPSET = 23  # the first with attention as one operation, a quarter faster than its parts
TOLERANCE = 1e-3  # of scores: float32 rounds otherwise in another order
PROBE = "Angela Merkel visited Paris. 昨天下午，李明远教授在南京大学讲课。"  # where a folder stores no examples


class Measured(NamedTuple):
    """One way to run a model: its bytes; on given data its micro F1 and the seconds that tagging took, None without."""

    size: int
    f1: float | None = None
    seconds: float | None = None


class Runner:
    """What `evaluate_records` asks of a pipeline, run by another one, which knows its types already."""

    def __init__(self, model: Any, run: Callable[..., Any]) -> None:
        self.model, self.run = model, run

    def __call__(self, texts: Any, types: Any = None, **options: Any) -> Any:
        return self.run(texts, **options)


class TaggerGraph(nn.Module):
    """(B, T) ids and attention mask -> emissions (B, T, C)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


class SpanPartsGraph(nn.Module):
    """(B, T) ids and attention mask -> the parts of span projections, left and right (B, T, D)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        parts = self.model.heads(
            self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        )
        return parts.left, parts.right


class SpanScoresGraph(nn.Module):
    """Left and right (B, T, D), cells (N, 3) of row, first token, width - 1 -> scores (N, E) of the given types, vectors (E, D)."""

    def __init__(self, heads: Any, vectors: Tensor) -> None:
        super().__init__()
        self.heads = heads
        self.register_buffer("vectors", vectors.float())

    def forward(self, left: Tensor, right: Tensor, cells: Tensor) -> Tensor:
        _, _, _, _, width = self.heads(left.new_zeros(1, 1, self.heads.start.in_features))
        return self.heads.span_scores(
            Projected(left, left, left, right, width), cells, self.vectors
        )


def export(
    model_dir: str | Path,
    output: str | Path,
    *,
    types: Mapping[str, str] | None = None,
    data: Sequence[Record] = (),
    trust_remote_code: bool = False,
) -> dict[str, Measured]:
    """Write a model as a folder that runs with onnxruntime, tokenizers and numpy, and finds what the model finds.

    The folder appears when it is complete.

    Args:
        types: BINDER: {label: description} in the place of the trained types.
        data: annotated records, to measure what int8 gains and costs.

    Raises:
        ConfigError: packages of the export are missing; the output exists; the model cannot be read; its graph finds other mentions.
    """
    target = Path(output)
    if target.exists():
        raise ConfigError(f"{target} exists; choose another folder")
    check_packages()
    from contrastive_ner.serving import runtime_onnx

    pipeline = load_pipeline(model_dir, trust_remote_code=trust_remote_code)
    if types is not None and pipeline.model.config.model_type != "binder":
        raise ConfigError(
            "types are a BINDER model's; this model tags the types that it was trained on"
        )
    encoded = None if types is None else pipeline.model.encode_types(types, pipeline.tokenizer)
    options = {} if encoded is None else {"types": encoded}
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
        folder = Path(scratch) / "exported"
        folder.mkdir()
        write_graphs(pipeline, folder, encoded)
        write_json(settings_of(pipeline, encoded), folder / "ner.json")
        pipeline.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
        for module in (runtime_onnx, crf_ner, windows_ner):
            shutil.copy(str(module.__file__), folder)
        (folder / "requirements.txt").write_text(
            "".join(f"{name}>={version(name)}\n" for name in ("numpy", "onnxruntime", "tokenizers"))
        )
        check_mentions(pipeline, folder, examples_of(Path(model_dir)), options)
        measured = measure(pipeline, folder, data, options, types)
        # What this folder was made from, how good it is, and what its files should be.
        made = {
            "weights_sha256": sha256(Path(model_dir) / "model.safetensors"),
            "torch": torch.__version__,
            "onnx": version("onnx"),
        }
        files = {path.name: sha256(path) for path in sorted(folder.iterdir())}
        write_json(
            {
                **made,
                "measured": {name: m._asdict() for name, m in measured.items()},
                "files": files,
            },
            folder / "export.json",
        )
        os.replace(folder, target)  # refused where something has appeared there meanwhile
    return measured


def check_packages() -> None:
    """ConfigError where a package of the extra `onnx` is missing."""
    try:
        for name in ("onnx", "onnxscript", "onnxruntime.quantization"):
            import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"export needs the extra onnx: pip install 'contrastive-ner[onnx]' ({error})"
        ) from error


def write_graphs(pipeline: "NerPipeline", folder: Path, types: Any) -> None:
    """The graphs in float32, and the encoder's in int8."""
    model = pipeline.model.cpu().eval()
    ids = torch.ones(2, 16, dtype=torch.long)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    axes = {name: {0: "batch", 1: "tokens"} for name in inputs}
    if model.config.model_type == "binder":
        write_graph(SpanPartsGraph(model), inputs, axes, ["left", "right"], folder / "model.onnx")
        vectors = (model.types if types is None else types).vectors[2]
        left, right = (torch.randn(2, 16, model.config.projection_size) for _ in range(2))
        cells = torch.zeros(5, 3, dtype=torch.long)
        parts = {"left": left, "right": right, "cells": cells}
        axes = {"left": axes["input_ids"], "right": axes["input_ids"], "cells": {0: "spans"}}
        write_graph(
            SpanScoresGraph(model.heads, vectors), parts, axes, ["scores"], folder / "spans.onnx"
        )
    else:
        write_graph(TaggerGraph(model), inputs, axes, ["logits"], folder / "model.onnx")
    quantise(folder / "model.onnx", folder / "model.int8.onnx")


def write_graph(
    module: nn.Module, inputs: Mapping[str, Tensor], axes: dict, outputs: Sequence[str], path: Path
) -> None:
    """A module as a graph whose named axes may have any length."""
    with quiet_export(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=axes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        assert program is not None  # of this exporter
        program.save(path)  # beyond 2 GB the weights go to a file beside it


def quantise(source: Path, target: Path) -> None:
    """The matrix products in int8."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet_export():
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=source.with_name(f"{source.name}.data").exists(),
        )


@contextmanager
def quiet_export() -> Iterator[None]:
    """The exporter tells much about packages that it does not need."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def settings_of(pipeline: "NerPipeline", types: Any) -> dict[str, Any]:
    """What the runtime must know beside the graphs."""
    config, reader, tokenizer = pipeline.model.config, pipeline.reader, pipeline.tokenizer
    reading = {
        "model_type": config.model_type,
        "label_unit": config.label_unit,
        "max_window_tokens": config.max_window_tokens,
        "min_overlap": config.min_overlap,
        "decoding": config.decoding,
        "prefix": reader.prefix,
        "suffix": reader.suffix,
        "pad_token_id": tokenizer.pad_token_id or 0,
        "split_special_tokens": bool(tokenizer.split_special_tokens),
    }
    if config.model_type == "binder":
        labels = config.labels if types is None else types.labels
        own = {
            name: getattr(config, name)
            for name in ("score_slope", "score_intercept", "max_span_width", "several_labels")
        }
        return {
            **reading,
            **own,
            "labels": labels,
            "margins": [config.margins.get(label, 0.0) for label in labels],
        }
    transitions, start = pipeline.model.crf.scores()
    crf = {
        "transitions": transitions.tolist(),
        "start": start.tolist(),
        "orphans": not config.constrain_transitions,
    }
    return {
        **reading,
        **crf,
        "labels": config.labels,
        "score_temperature": config.score_temperature,
    }


def examples_of(model_dir: Path) -> list[str]:
    """Texts to compare on: the folder's stored examples, if it has some."""
    path = model_dir / "examples.json"
    return [PROBE, *([example["text"] for example in read_json(path)] if path.is_file() else [])]


def check_mentions(
    pipeline: "NerPipeline", folder: Path, texts: list[str], options: Mapping[str, Any]
) -> None:
    """ConfigError unless the float32 graph finds the model's mentions, with its scores."""
    from contrastive_ner.serving.runtime_onnx import OnnxPipeline

    expected = pipeline(texts, **options)
    for text, own, found in zip(texts, expected, OnnxPipeline(folder)(texts), strict=True):
        same = [key_of(m) for m in own] == [key_of(m) for m in found]
        if not same or any(
            abs(a["score"] - b["score"]) > TOLERANCE for a, b in zip(own, found, strict=True)
        ):
            raise ConfigError(
                f"the exported graph finds {json.dumps(found)} in {text!r}: the model finds {json.dumps(own)}"
            )


def measure(
    pipeline: "NerPipeline",
    folder: Path,
    data: Sequence[Record],
    options: Mapping[str, Any],
    types: Mapping[str, str] | None,
) -> dict[str, Measured]:
    """The model in torch and as graphs, on the same data and as many threads."""
    from contrastive_ner.serving.runtime_onnx import GRAPHS, SPAN_GRAPH, OnnxPipeline

    threads = torch.get_num_threads()
    runs: dict[str, Callable[..., Any]] = {"torch": partial(pipeline, **options)}
    runs |= {name: OnnxPipeline(folder, precision=name, threads=threads) for name in GRAPHS}
    weights = sum(
        value.numel() * value.element_size() for value in pipeline.model.state_dict().values()
    )
    sizes = {"torch": weights}
    for name, file in GRAPHS.items():
        parts = (folder / part for part in (file, f"{file}.data", SPAN_GRAPH))
        sizes[name] = sum(part.stat().st_size for part in parts if part.exists())
    measured = {}
    for name, run in runs.items():
        if not data:
            measured[name] = Measured(sizes[name])
            continue
        begin = time.perf_counter()
        scores = evaluate_records(Runner(pipeline.model, run), data, types=types)  # type: ignore[arg-type]
        measured[name] = Measured(sizes[name], scores["micro"]["f1"], time.perf_counter() - begin)
    return measured


def key_of(mention: Mapping[str, Any]) -> tuple:
    return mention["start"], mention["end"], mention["entity_group"]
