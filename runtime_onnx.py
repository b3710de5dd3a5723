#!/usr/bin/env python3
"""An exported model at work, without torch: onnxruntime, tokenizers and numpy are enough. Written into every exported folder.

Sections: posteriors and best tags of a tagger, spans of BINDER, the pipeline, the command line.

    python FOLDER/runtime_onnx.py [FILE]        a text a line in, a record a line out

    sys.path.insert(0, "FOLDER")
    from runtime_onnx import OnnxPipeline
    OnnxPipeline("FOLDER")("...")               as pipeline("ner") answers

Texts are read, and mentions made, by the code that the models use in torch (`windows_ner.py`); span scores of BINDER are a graph made from
its own code. What is written again here, in NumPy, is decoding: of a tagger, and of BINDER's scores; tested against the original.

Notation: B windows, L labelled positions (packed left), C tags, E entity types.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from windows_ner import (
    DEFAULT_BATCH_SIZE,
    Prepared,
    Span,
    TextReader,
    Window,
    best_labels,
    check_options,
    in_batches,
    least_scores,
    mention_dicts,
    prepare,
)

SETTINGS = "ner.json"
TOKENIZER = "tokenizer.json"
GRAPHS = {"float32": "model.onnx", "int8": "model.int8.onnx"}
SPAN_GRAPH = "spans.onnx"
SMALLEST_POTENTIAL = 1e-220
SCORES_AT_ONCE = 2**20


# -------------------------------------------------------------------------------------------------------------- a tagger
class Tags(NamedTuple):
    """What a tagger's decoding needs: tags, transition scores (C, C), start scores (C,), the temperature of scores, and whether an I-X
    after neither B-X nor I-X opens a mention."""

    labels: list[str]
    transitions: np.ndarray
    start: np.ndarray
    temperature: float
    orphans: bool

    @property
    def types(self) -> list[str]:
        return list(dict.fromkeys(label[2:] for label in self.labels if label != "O"))


def viterbi(emissions: np.ndarray, lengths: np.ndarray, tags: Tags) -> list[list[int]]:
    """Best tag sequence of each row: (B, L, C), (B,) -> B lists."""
    best = tags.start + emissions[:, 0]  # (B, C)
    bests = [best]
    for step in range(1, emissions.shape[1]):
        best = (best[:, :, None] + tags.transitions).max(axis=1) + emissions[:, step]
        bests.append(best)
    paths = []
    for row, length in enumerate(lengths.tolist()):
        path = [int(bests[length - 1][row].argmax())] if length else []
        for step in range(length - 2, -1, -1):
            path.append(int((bests[step][row] + tags.transitions[:, path[-1]]).argmax()))
        paths.append(path[::-1])
    return paths


def spans_of_path(path: Sequence[int], labels: Sequence[str]) -> list[tuple[int, int, str]]:
    """Mentions of a tag sequence: first, last (inclusive), type. An orphan I-X opens one."""
    spans: list[tuple[int, int, str]] = []
    for position, tag in enumerate(path):
        label = labels[tag]
        if label == "O":
            continue
        if label[0] == "I" and spans and spans[-1][1] == position - 1 and spans[-1][2] == label[2:]:
            spans[-1] = (spans[-1][0], position, label[2:])
        else:
            spans.append((position, position, label[2:]))
    return spans


class Posterior:
    """Posterior probabilities of a row's mentions, by the scaled forward-backward algorithm (Rabiner 1989, section V.A).

    Args:
        emissions: (L, C), float64. tags: with transitions and start; all are divided by the temperature.
    """

    def __init__(self, emissions: np.ndarray, tags: Tags) -> None:
        self.index = {label: number for number, label in enumerate(tags.labels)}
        self.orphans = tags.orphans
        scores = emissions.astype(np.float64) / tags.temperature
        self.weights = np.exp(tags.transitions / tags.temperature)  # (C, C)
        potentials = np.maximum(np.exp(scores - scores.max(axis=1, keepdims=True)), SMALLEST_POTENTIAL)  # (L, C)
        self.alpha = np.empty_like(potentials)
        self.inward = potentials  # (L, C): potential / scale
        message = np.exp(tags.start / tags.temperature)
        for alpha, potential in zip(self.alpha, potentials, strict=True):
            joint = message * potential
            scale = joint.sum()
            alpha[:] = joint / scale
            potential /= scale
            message = alpha @ self.weights
        self.beta = np.ones_like(potentials)
        for step in range(len(scores) - 1, 0, -1):
            self.beta[step - 1] = self.weights @ (self.inward[step] * self.beta[step])

    def of(self, first: int, last: int, kind: str) -> float:
        """P(the tags are B-X, I-X, ..., I-X and the next one is not I-X); with orphans an I-X may open, too."""
        begin, inside = self.index[f"B-{kind}"], self.index[f"I-{kind}"]
        total = self.alpha[first, begin] * self._rest(first, last, begin, inside)
        if self.orphans:
            opening = self.alpha[0, inside]
            if first:
                before = self.alpha[first - 1].copy()
                before[[begin, inside]] = 0.0
                opening = before @ self.weights[:, inside] * self.inward[first, inside]
            total += opening * self._rest(first, last, inside, inside)
        return float(min(max(total, 0.0), 1.0))

    def _rest(self, first: int, last: int, tag: int, inside: int) -> float:
        """Of a mention whose first tag is given: the chance of the others, and of the end."""
        chance = 1.0
        for step in range(first + 1, last + 1):
            chance *= self.weights[tag, inside] * self.inward[step, inside]
            tag = inside
        if last + 1 == len(self.alpha):
            return chance
        message = self.inward[last + 1] * self.beta[last + 1]
        return chance * float(self.weights[tag] @ message - self.weights[tag, inside] * message[inside])


def decode_tags(
    logits: np.ndarray, word_mask: np.ndarray, tags: Tags, least: Mapping[str, float], top_k: int | None = None
) -> list[list[Span]]:
    """Spans of each row over its labelled positions: (B, T, C), (B, T) -> B lists, as `NercoForTokenClassification.decode` gives."""
    lengths = word_mask.sum(axis=1)
    emissions = np.zeros((len(logits), max(int(lengths.max()), 1), logits.shape[2]), dtype=np.float32)
    for row, (mask, length) in enumerate(zip(word_mask, lengths.tolist(), strict=True)):
        emissions[row, :length] = logits[row, mask]
    found: list[list[Span]] = []
    for row, path in enumerate(viterbi(emissions, lengths, tags)):
        spans = spans_of_path(path, tags.labels)
        found.append(scored(spans, Posterior(emissions[row, : len(path)], tags), tags.types, least, top_k) if spans else [])
    return found


def scored(
    spans: Sequence[tuple[int, int, str]], posterior: Posterior, types: Sequence[str], least: Mapping[str, float], top_k: int | None
) -> list[Span]:
    """Mentions of a row with their posteriors, those above the least score of their type."""
    found = []
    for first, last, label in spans:
        score = posterior.of(first, last, label)
        if score > least.get(label, -1.0):
            best = ((other, posterior.of(first, last, other)) for other in types) if top_k else ()
            found.append(Span(first, last + 1, label, score, tuple(sorted(best, key=lambda item: -item[1])[:top_k])))
    return found


# ---------------------------------------------------------------------------------------------------------------- BINDER
def candidate_cells(word_mask: np.ndarray, word_end_mask: np.ndarray, max_width: int) -> np.ndarray:
    """Spans that start at a word's first and end at a word's last token: (B, T), (B, T) -> (N, 3) row, first token, width - 1."""
    ends = np.pad(word_end_mask, ((0, 0), (0, max_width - 1)))
    band = np.lib.stride_tricks.sliding_window_view(ends, max_width, axis=1)  # (B, T, W)
    return np.argwhere(word_mask[:, :, None] & band)


class SpanScorer:
    """Decoding of BINDER: spans whose score exceeds the threshold of a type, which is the score of the first token.

    Args:
        session: graph of span scores. settings: of the folder.
    """

    def __init__(self, session: Any, settings: Mapping[str, Any]) -> None:
        self.session, self.settings, self.labels = session, settings, settings["labels"]

    def least_margins(self, least: Mapping[str, float]) -> np.ndarray:
        """By how much a score must exceed the threshold, (E,)."""
        slope, intercept = self.settings["score_slope"], self.settings["score_intercept"]
        own = dict(zip(self.labels, self.settings["margins"], strict=True))
        return np.array(
            [(np.log(least[x] / (1 - least[x])) - intercept) / slope if x in least else own[x] for x in self.labels], dtype=np.float32
        )

    def scores(self, left: np.ndarray, right: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """(B, T, D) twice, (N, 3) -> (N, E)."""
        return self.session.run(None, {"left": left, "right": right, "cells": cells})[0]

    def decode(
        self,
        left: np.ndarray,
        right: np.ndarray,
        word_mask: np.ndarray,
        word_end_mask: np.ndarray,
        least: Mapping[str, float],
        top_k: int | None = None,
    ) -> list[list[Span]]:
        """Spans of each row over its words, as `BinderModel.decode` gives."""
        rows = len(left)
        thresholds = self.scores(left, right, np.stack([np.arange(rows), *[np.zeros(rows, dtype=np.int64)] * 2], axis=1))  # (B, E)
        limits = thresholds + self.least_margins(least)
        position = word_mask.cumsum(axis=1)
        found: list[list[Span]] = [[] for _ in range(rows)]
        cells = candidate_cells(word_mask, word_end_mask, min(self.settings["max_span_width"], left.shape[1]))
        size = max(SCORES_AT_ONCE // (len(self.labels) + left.shape[2]), 1)
        for part in (cells[begin : begin + size] for begin in range(0, len(cells), size)):
            scores = self.scores(left, right, part)
            for at, number in np.argwhere(scores > limits[part[:, 0]]).tolist():
                row, first, width = part[at].tolist()
                margins = scores[at].astype(np.float64) - thresholds[row]
                best = np.argsort(-margins, kind="stable")[: top_k or 0].tolist()
                labels = tuple((self.labels[n], self.score(margins[n])) for n in best)
                start, end = int(position[row, first]) - 1, int(position[row, first + width])
                found[row].append(Span(start, end, self.labels[number], self.score(margins[number]), labels))
        return found if self.settings["several_labels"] else [best_labels(spans) for spans in found]

    def score(self, margin: float) -> float:
        return float(1 / (1 + np.exp(-(self.settings["score_slope"] * margin + self.settings["score_intercept"]))))


# ---------------------------------------------------------------------------------------------------------- the pipeline
class OnnxPipeline:
    """Mentions of raw texts, as the project's `pipeline("ner")` gives them: the same mentions, scores within float32's rounding.

    Args:
        folder: what `run_ner.py export` wrote; by default where this file lies.
        precision: "float32", or "int8", which is faster and finds a little less.
        threads: of onnxruntime; by default all processors.

    Raises:
        ValueError: the folder holds no exported model, or not in this precision.
    """

    def __init__(self, folder: str | Path | None = None, *, precision: str = "float32", threads: int = 0) -> None:
        self.folder = Path(__file__).resolve().parent if folder is None else Path(folder)
        if precision not in GRAPHS:
            raise ValueError(f"precision is {precision!r}: expected one of {', '.join(GRAPHS)}")
        for name in (SETTINGS, TOKENIZER, GRAPHS[precision]):
            if not (self.folder / name).is_file():
                raise ValueError(f"{self.folder / name} is missing: expected a folder that `run_ner.py export` wrote")
        self.settings = json.loads((self.folder / SETTINGS).read_text("utf-8"))
        self.threads = threads
        self.session = self._session(GRAPHS[precision])
        if self.settings["model_type"] == "binder":
            self.types, self.scorer = self.settings["labels"], SpanScorer(self._session(SPAN_GRAPH), self.settings)
        else:
            transitions, start = (np.array(self.settings[name], dtype=np.float32) for name in ("transitions", "start"))
            self.tags = Tags(self.settings["labels"], transitions, start, self.settings["score_temperature"], self.settings["orphans"])
            self.types = self.tags.types
        tokenizer = Tokenizer.from_file(str(self.folder / TOKENIZER))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = self.settings["split_special_tokens"]
        self.tokenizer = tokenizer
        reading = {name: self.settings[name] for name in ("prefix", "suffix", "label_unit", "max_window_tokens")}
        self.reader = TextReader(self._encode, **reading)

    def _session(self, name: str) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        return onnxruntime.InferenceSession(str(self.folder / name), options, providers=["CPUExecutionProvider"])

    def _encode(self, texts: list[str]) -> Iterator[tuple[list[int], list[tuple[int, int]]]]:
        return ((row.ids, row.offsets) for row in self.tokenizer.encode_batch(texts, add_special_tokens=False))

    def __call__(self, inputs: str | Iterable[str], **options: Any) -> Any:
        """A list of mentions for a string, a list of lists for a list, a generator for another iterable of strings.

        Args:
            options: batch_size, stride, long_text, coverage, ignore_labels, decoding, min_score, abstain_below, top_k, as in
                `pipeline("ner")`.

        Raises:
            ValueError: an unknown option, or something that is no text.
        """
        options = {name: value for name, value in options.items() if value is not None}
        if isinstance(inputs, str):
            return next(self._stream([inputs], **options))
        if isinstance(inputs, bytes | dict) or not isinstance(inputs, Iterable):
            raise ValueError(f"expected a string or an iterable of strings, found {type(inputs).__name__}")
        stream = self._stream(inputs, **options)
        return list(stream) if isinstance(inputs, list | tuple) else stream

    def _stream(
        self,
        texts: Iterable[str],
        batch_size: int = DEFAULT_BATCH_SIZE,
        stride: int | None = None,
        long_text: str = "window",
        coverage: bool = False,
        ignore_labels: Sequence[str] = (),
        decoding: str | None = None,
        min_score: float | Mapping[str, float] | None = None,
        abstain_below: float | Mapping[str, float] | None = None,
        top_k: int | None = None,
        **unknown: Any,
    ) -> Iterator[Any]:
        if unknown:
            raise ValueError(
                f"unknown options {sorted(unknown)}: expected batch_size, stride, long_text, coverage, ignore_labels, decoding, min_score, "
                "abstain_below, top_k"
            )
        check_options(
            ignore_labels=ignore_labels,
            decoding=decoding,
            long_text=long_text,
            min_score=min_score,
            abstain_below=abstain_below,
            top_k=top_k,
        )
        if decoding is not None and self.settings["model_type"] != "binder":
            raise ValueError("decoding is a BINDER model's; this model tags without overlap")
        least = least_scores(min_score, self.types)
        abstain = None if abstain_below is None else least_scores(abstain_below, self.types, "abstain_below")

        def read(texts: list[str], first: int) -> list[Prepared]:
            overlap = self.settings["min_overlap"]
            return prepare(self.reader, texts, min_overlap=overlap, stride=stride, long_text=long_text, first=first)

        flat = (decoding or self.settings["decoding"]) == "flat"

        def result(row: Prepared, spans: Sequence[Sequence[tuple]]) -> Any:
            mentions = mention_dicts(row, spans, flat=flat, ignore_labels=ignore_labels, abstain_below=abstain)
            if not coverage:
                return mentions
            share = self.reader.coverage(row.tokenized, row.windows)
            return {"entities": mentions, "coverage": share, "windows": len(row.windows)}

        # No generator function: what is wrong with the options is told here, not with the first result.
        return (result(*found) for found in in_batches(texts, batch_size, read, lambda windows: self._spans(windows, least, top_k)))

    def _spans(self, windows: list[Window], least: Mapping[str, float], top_k: int | None) -> list[list[Span]]:
        """A batch of windows -> spans over each one's positions."""
        width = max(len(window.input_ids) for window in windows)
        ids = np.full((len(windows), width), self.settings["pad_token_id"], dtype=np.int64)
        attention = np.zeros_like(ids)
        starts, ends = np.zeros(ids.shape, dtype=bool), np.zeros(ids.shape, dtype=bool)
        for row, window in enumerate(windows):
            length = len(window.input_ids)
            ids[row, :length], attention[row, :length] = window.input_ids, 1
            starts[row, :length], ends[row, :length] = window.word_mask, window.word_end_mask
        outputs = self.session.run(None, {"input_ids": ids, "attention_mask": attention})
        if self.settings["model_type"] == "binder":
            return self.scorer.decode(outputs[0], outputs[1], starts, ends, least, top_k)
        return decode_tags(outputs[0], starts, self.tags, least, top_k)


# ------------------------------------------------------------------------------------------------------ the command line
def main(argv: Sequence[str] | None = None) -> int:
    """Tag a text a line; write a record a line."""
    parser = argparse.ArgumentParser(prog="runtime_onnx.py", description="Tag texts with the exported model of this folder.")
    parser.add_argument("file", nargs="?", default="-", help="a text a line; - for standard input")
    parser.add_argument("--precision", choices=GRAPHS, default="float32", help="of the model [float32]")
    parser.add_argument("--threads", type=int, default=0, help="of onnxruntime [all processors]")
    arguments = parser.parse_args(argv)
    try:
        pipeline = OnnxPipeline(precision=arguments.precision, threads=arguments.threads)
        with (
            open(sys.stdin.fileno() if arguments.file == "-" else arguments.file, "rb") as file,
            open(sys.stdout.fileno(), "w", encoding="utf-8", newline="\n", closefd=False) as output,  # closed, and its errors told, here
        ):
            for number, (text, mentions) in enumerate(tagged_lines(pipeline, file), 1):
                entities = [{"start": m["start"], "end": m["end"], "label": m["entity_group"], "score": m["score"]} for m in mentions]
                output.write(json.dumps({"id": str(number), "text": text, "entities": entities}, ensure_ascii=False) + "\n")
    except BrokenPipeError:  # the reader of our output has had enough
        return 0
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def tagged_lines(pipeline: OnnxPipeline, lines: Iterable[bytes]) -> Iterator[tuple[str, list[dict]]]:
    """Each line without its end, and the first without a byte-order mark, with its mentions. ValueError for one that is not UTF-8."""
    texts: list[str] = []

    def read() -> Iterator[str]:
        for number, line in enumerate(lines, 1):
            try:
                texts.append(line.rstrip(b"\r\n").decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise ValueError(f"line {number} is not UTF-8, at byte {error.start + 1}") from error
            yield texts[-1]

    for mentions in pipeline(read()):
        yield texts.pop(0), mentions


if __name__ == "__main__":
    sys.exit(main())
