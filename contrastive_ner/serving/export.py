"""Export of a trained model as ONNX graphs, in a folder that runs without torch.

The graph of a tagger returns the emissions of the CRF. BINDER has two graphs: one returns the parts
of the span projections, the other the scores of given spans for the types, which are constants of
that graph. The runtime, `runtime_onnx.py`, does the decoding. Weights are float32. In int8, matrix
products are quantized dynamically, with weights per channel; embeddings are not quantized, which
would cost accuracy and save no time.
"""

import json
import logging
import os
import re
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
from contrastive_ner.files import outside, read_json, sha256, write_json
from contrastive_ner.hub.weights import weights_sha256
from contrastive_ner.models import batches_ner, crf_ner, lexicon_ner, matching_ner, windows_ner
from contrastive_ner.models.matching_ner import INPUTS, Entry, WordAt, lexicon_arrays
from contrastive_ner.models.modeling_binder import Projected
from contrastive_ner.models.pipeline_ner import reads_after_space
from contrastive_ner.serving.inference import base_of_adapter, evaluate_records, load_pipeline

if TYPE_CHECKING:
    from contrastive_ner.models.pipeline_ner import NerPipeline

OPSET = 23  # the first with attention as one operator, a quarter faster than its parts
OPSET_ROTARY = 22  # its operator for rotary positions takes those of every row, torch gives one
SIBLING = re.compile(r"^from \.(\w+) import", re.MULTILINE)
TOLERANCE = 1e-3  # of scores: float32 rounds differently if operations change order
# A text to compare on; a folder may store no examples.
PROBE = "Angela Merkel visited Paris. 昨天下午，李明远教授在南京大学讲课。"


class Measured(NamedTuple):
    """Measurements of one way to run a model.

    `size` is in bytes; `f1` (micro) and `seconds` are of tagging given data, None without data.
    """

    size: int
    f1: float | None = None
    seconds: float | None = None


class Runner:
    """A pipeline for `evaluate_records` that tags with another callable, which has its own types.

    Args:
        model: model of the pipeline; its configuration is read.
        run: callable that tags texts.
    """

    def __init__(self, model: Any, run: Callable[..., Any]) -> None:
        self.model, self.run = model, run

    def __call__(self, texts: Any, types: Any = None, **options: Any) -> Any:
        return self.run(texts, **options)


class TaggerGraph(nn.Module):
    """The graph of a tagger: token ids and attention mask (B, T) to emissions (B, T, C).

    With lexicon fusion, the tensors of `lexicon_arrays` are further inputs, in their order.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        lexicon_words: Tensor | None = None,
        lexicon_tags: Tensor | None = None,
        word_chars: Tensor | None = None,
        word_types: Tensor | None = None,
    ) -> Tensor:
        """Emissions (B, T, C)."""
        words = (lexicon_words, lexicon_tags, word_chars, word_types)
        return self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            **dict(zip(INPUTS, words, strict=True)),
        ).logits


class SpanPartsGraph(nn.Module):
    """BINDER's first graph: token ids and attention mask (B, T) to parts of span projections.

    There are two parts, left and right, (B, T, D) each.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Left and right parts, (B, T, D) each."""
        parts = self.model.heads(
            self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        )
        return parts.left, parts.right


class SpanScoresGraph(nn.Module):
    """BINDER's second graph: left and right parts (B, T, D) and spans (N, 3) to scores (N, E).

    A span is its row, first token, and width - 1.

    Args:
        heads: projections of the model.
        vectors: vectors of the types (E, D), constants of the graph.
    """

    def __init__(self, heads: Any, vectors: Tensor) -> None:
        super().__init__()
        self.heads = heads
        self.register_buffer("vectors", vectors.float())

    def forward(self, left: Tensor, right: Tensor, cells: Tensor) -> Tensor:
        """Scores (N, E) of the spans `cells` (N, 3)."""
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
    """Export a model to a folder that runs with onnxruntime, tokenizers and numpy.

    The folder appears once it is complete and its float32 graph finds what the model finds.

    Args:
        types: for BINDER, {label: description} to replace the trained types.
        data: annotated records, to measure the speed and accuracy of int8.

    Returns:
        Measurements of "torch", "float32" and "int8".

    Raises:
        ConfigError: packages for the export are missing; the output exists; the model cannot be
            read; its graph finds other mentions.
    """
    target = Path(output)
    outside(target, Path(model_dir))
    if target.exists():
        raise ConfigError(f"{target} exists; choose another folder")
    check_packages()
    check_whole(Path(model_dir))
    pipeline = load_pipeline(model_dir, trust_remote_code=trust_remote_code)
    if types is not None and pipeline.model.config.model_type != "binder":
        raise ConfigError(
            "types can be given to a BINDER model only; this model tags the types of its training"
        )
    encoded = None if types is None else pipeline.model.encode_types(types, pipeline.tokenizer)
    options = {} if encoded is None else {"types": encoded}
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
        folder = Path(scratch) / "exported"
        folder.mkdir()
        write_files(pipeline, folder, encoded)
        check_mentions(pipeline, folder, examples_of(Path(model_dir)), options)
        measured = measure(pipeline, folder, data, options, types)
        # What the folder was made from, how it performs, and the hashes of its files.
        made = {
            "weights_sha256": weights_sha256(Path(model_dir)),
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
        os.replace(folder, target)  # fails if something has appeared there in the meantime
    return measured


def check_whole(model_dir: Path) -> None:
    """Raise ConfigError for the folder of an adapter: a graph needs the merged weights."""
    if base_of_adapter(model_dir) is not None:
        raise ConfigError(
            f"{model_dir} is an adapter: merge it into its base model and save that "
            "(peft: merge_and_unload), then export the folder"
        )


def check_packages() -> None:
    """Check that the packages of the extra `onnx` are installed.

    Raises:
        ConfigError: one is missing.
    """
    try:
        for name in ("onnx", "onnxscript", "onnxruntime.quantization"):
            import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"export needs the extra onnx: pip install 'contrastive-ner[onnx]' ({error})"
        ) from error


def write_files(pipeline: "NerPipeline", folder: Path, types: Any) -> None:
    """Write everything the runtime needs: graphs, settings, tokenizer, code and requirements.

    Args:
        types: encoded types that replace those of a BINDER model, or None.
    """
    from contrastive_ner.serving import runtime_onnx

    if getattr(pipeline.model.config, "lexicon_fusion", "none") == "flat":
        raise ConfigError(
            "the model has lexicon_fusion flat, which is not exported to ONNX: expected none or "
            "adapter; use the model with torch"
        )
    write_graphs(pipeline, folder, types)
    if getattr(pipeline.model, "lexicon", None) is not None:
        pipeline.model.lexicon.write(folder / lexicon_ner.LEXICON)
    write_json(settings_of(pipeline, types), folder / "ner.json")
    pipeline.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    for module in (runtime_onnx, batches_ner, crf_ner, lexicon_ner, matching_ner, windows_ner):
        path = Path(str(module.__file__))
        # In the folder they are no package.
        code = SIBLING.sub(r"from \1 import", path.read_text("utf-8"))
        (folder / path.name).write_text(code, "utf-8", newline="\n")
    (folder / "requirements.txt").write_text(
        "".join(f"{name}>={version(name)}\n" for name in ("numpy", "onnxruntime", "tokenizers"))
    )


def write_graphs(pipeline: "NerPipeline", folder: Path, types: Any) -> None:
    """Write the graphs in float32, and `model.onnx` also in int8; `types` as in `write_files`."""
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
        if model.config.lexicon_fusion != "none":
            words = {name: torch.from_numpy(a) for name, a in example_words().items()}
            inputs |= words
            rows = {"word_chars", "word_types"}
            axes |= {n: {0: "words"} if n in rows else axes["input_ids"] for n in words}
        write_graph(TaggerGraph(model), inputs, axes, ["logits"], folder / "model.onnx")
    quantise(folder / "model.onnx", folder / "model.int8.onnx")


def example_words() -> dict[str, Any]:
    """`lexicon_arrays` of two windows of 16 tokens, to trace a graph with."""
    entries = [Entry("xx", 0, 2, (1, 1)), Entry("xxx", 0, 3, (1, 1, 1))]
    words = [WordAt(at, at + e.length - 1, True, True, e) for at, e in enumerate(entries, 3)]
    return lexicon_arrays([words, words[:1]], 16)


def write_graph(
    module: nn.Module, inputs: Mapping[str, Tensor], axes: dict, outputs: Sequence[str], path: Path
) -> None:
    """Write a module as a graph.

    Args:
        inputs: example inputs by name.
        axes: {input: {dimension: name}} of the dimensions that may have any size.
        outputs: names of the outputs.
    """
    with quiet_export(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=axes,
            opset_version=OPSET_ROTARY if has_rotary(module) else OPSET,
            dynamo=True,
            verbose=False,
        )
        assert program is not None  # always so with dynamo=True
        program.save(path)  # weights beyond 2 GB go to a file next to it


def has_rotary(module: nn.Module) -> bool:
    """Whether an encoder has rotary positions, as ModernBERT has."""
    return any("Rotary" in type(part).__name__ for part in module.modules())


def quantise(source: Path, target: Path) -> None:
    """Write a graph with its matrix products in int8."""
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
    """Silence the exporter, which warns about packages that it does not need."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def settings_of(pipeline: "NerPipeline", types: Any) -> dict[str, Any]:
    """The content of ner.json: what the runtime needs besides the graphs."""
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
        "after_space": reads_after_space(tokenizer),
    }
    if config.model_type == "binder":
        types = pipeline.model.types if types is None else types
        labels = types.labels
        own = {
            name: getattr(config, name)
            for name in ("score_slope", "score_intercept", "max_span_width", "several_labels")
        }
        return {
            **reading,
            **own,
            "labels": labels,
            "later_types": list(types.fitted),
            "margins": [config.margins.get(label, 0.0) for label in labels],
        }
    transitions, start = pipeline.model.crf.scores()
    crf = {
        "transitions": transitions.tolist(),
        "start": start.tolist(),
        "orphans": not config.constrain_transitions,
    }
    if config.lexicon_fusion != "none":
        names = ("lexicon_fusion", "max_word_length", "lexicon_types")
        reading |= {name: getattr(config, name) for name in names}
    return {
        **reading,
        **crf,
        "labels": config.labels,
        "score_temperature": config.score_temperature,
    }


def examples_of(model_dir: Path) -> list[str]:
    """Texts to compare on: the probe and the folder's stored examples, if it has any."""
    path = model_dir / "examples.json"
    return [PROBE, *([example["text"] for example in read_json(path)] if path.is_file() else [])]


def check_mentions(
    pipeline: "NerPipeline", folder: Path, texts: list[str], options: Mapping[str, Any]
) -> None:
    """Check that the float32 graph finds the model's mentions, with the same scores.

    Raises:
        ConfigError: it finds others.
    """
    from contrastive_ner.serving.runtime_onnx import OnnxPipeline

    texts = [*texts, PROBE[:5], 4 * PROBE]  # windows of different lengths in a batch
    expected = pipeline(texts, **options)
    for text, own, found in zip(texts, expected, OnnxPipeline(folder)(texts), strict=True):
        same = [key_of(m) for m in own] == [key_of(m) for m in found]
        if not same or any(
            abs(a["score"] - b["score"]) > TOLERANCE for a, b in zip(own, found, strict=True)
        ):
            raise ConfigError(
                f"the exported graph finds {json.dumps(found)} in {text!r}, but the model finds "
                f"{json.dumps(own)}"
            )


def measure(
    pipeline: "NerPipeline",
    folder: Path,
    data: Sequence[Record],
    options: Mapping[str, Any],
    types: Mapping[str, str] | None,
) -> dict[str, Measured]:
    """Measure the model in torch and as graphs, on the same data and number of threads."""
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
    """The place and the type of a mention."""
    return mention["start"], mention["end"], mention["entity_group"]
