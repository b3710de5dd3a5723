#!/usr/bin/env python3
"""An exported model at work, without torch: onnxruntime, tokenizers and numpy are enough. Written into every exported folder.

Sections: spans of BINDER, the pipeline, the command line.

    python FOLDER/runtime_onnx.py [FILE]        a text a line in, a record a line out

    sys.path.insert(0, "FOLDER")
    from runtime_onnx import OnnxPipeline
    OnnxPipeline("FOLDER")("...")               as pipeline("ner") answers

Texts are read, a tagger's mentions decoded and mentions made by the files that the models use in torch (`windows_ner.py`,
`crf_ner.py`); span scores of BINDER are a graph made from its own code. Only the decoding of those scores is written here again, in
NumPy; it is tested against the original.

Notation: B windows, T tokens, D width, E entity types, N spans.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

if __package__:
    from contrastive_ner.models import crf_ner, windows_ner
else:  # a file of an exported folder, next to these two
    import crf_ner  # type: ignore[no-redef]
    import windows_ner  # type: ignore[no-redef]

SETTINGS = "ner.json"
TOKENIZER = "tokenizer.json"
GRAPHS = {"float32": "model.onnx", "int8": "model.int8.onnx"}
SPAN_GRAPH = "spans.onnx"
SCORES_AT_ONCE = 2**20


# ------------------------------------------------------------------------------------------- BINDER
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
            [
                (np.log(least[x] / (1 - least[x])) - intercept) / slope if x in least else own[x]
                for x in self.labels
            ],
            dtype=np.float32,
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
    ) -> list[list[windows_ner.Span]]:
        """Spans of each row over its words, as `BinderModel.decode` gives."""
        rows = len(left)
        thresholds = self.scores(
            left, right, np.stack([np.arange(rows), *[np.zeros(rows, dtype=np.int64)] * 2], axis=1)
        )  # (B, E)
        limits = thresholds + self.least_margins(least)
        position = word_mask.cumsum(axis=1)
        found: list[list[windows_ner.Span]] = [[] for _ in range(rows)]
        cells = candidate_cells(
            word_mask, word_end_mask, min(self.settings["max_span_width"], left.shape[1])
        )
        size = max(SCORES_AT_ONCE // (len(self.labels) + left.shape[2]), 1)
        for part in (cells[begin : begin + size] for begin in range(0, len(cells), size)):
            scores = self.scores(left, right, part)
            for at, number in np.argwhere(scores > limits[part[:, 0]]).tolist():
                row, first, width = part[at].tolist()
                margins = scores[at].astype(np.float64) - thresholds[row]
                best = np.argsort(-margins, kind="stable")[: top_k or 0].tolist()
                labels = tuple((self.labels[n], self.score(margins[n])) for n in best)
                start, end = int(position[row, first]) - 1, int(position[row, first + width])
                found[row].append(
                    windows_ner.Span(
                        start, end, self.labels[number], self.score(margins[number]), labels
                    )
                )
        return (
            found
            if self.settings["several_labels"]
            else [windows_ner.best_labels(spans) for spans in found]
        )

    def score(self, margin: float) -> float:
        return float(
            1
            / (
                1
                + np.exp(
                    -(self.settings["score_slope"] * margin + self.settings["score_intercept"])
                )
            )
        )


# ------------------------------------------------------------------------------------- the pipeline
class OnnxPipeline:
    """Mentions of raw texts, as the project's `pipeline("ner")` gives them: the same mentions, scores within float32's rounding.

    Args:
        folder: what `run_ner.py export` wrote; by default where this file lies.
        precision: "float32", or "int8", which is faster and finds a little less.
        threads: of onnxruntime; by default all processors.

    Raises:
        ValueError: the folder holds no exported model, or not in this precision.
    """

    def __init__(
        self, folder: str | Path | None = None, *, precision: str = "float32", threads: int = 0
    ) -> None:
        self.folder = Path(__file__).resolve().parent if folder is None else Path(folder)
        if precision not in GRAPHS:
            raise windows_ner.InputError(
                f"precision is {precision!r}: expected one of {', '.join(GRAPHS)}"
            )
        for name in (SETTINGS, TOKENIZER, GRAPHS[precision]):
            if not (self.folder / name).is_file():
                raise windows_ner.InputError(
                    f"{self.folder / name} is missing: expected a folder that `run_ner.py export` wrote"
                )
        self.settings = json.loads((self.folder / SETTINGS).read_text("utf-8"))
        self.threads = threads
        self.session = self._session(GRAPHS[precision])
        if self.settings["model_type"] == "binder":
            self.types, self.scorer = (
                self.settings["labels"],
                SpanScorer(self._session(SPAN_GRAPH), self.settings),
            )
        else:
            self.transitions = np.array(self.settings["transitions"], dtype=np.float32)
            self.start = np.array(self.settings["start"], dtype=np.float32)
            self.types = list(
                dict.fromkeys(label[2:] for label in self.settings["labels"] if label != "O")
            )
        tokenizer = Tokenizer.from_file(str(self.folder / TOKENIZER))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = self.settings["split_special_tokens"]
        self.tokenizer = tokenizer
        reading = {
            name: self.settings[name]
            for name in ("prefix", "suffix", "label_unit", "max_window_tokens")
        }
        self.reader = windows_ner.TextReader(self._encode, **reading)

    def _session(self, name: str) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        return onnxruntime.InferenceSession(
            str(self.folder / name), options, providers=["CPUExecutionProvider"]
        )

    def _encode(self, texts: list[str]) -> Iterator[tuple[list[int], list[tuple[int, int]]]]:
        return (
            (row.ids, row.offsets)
            for row in self.tokenizer.encode_batch(texts, add_special_tokens=False)
        )

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
            raise windows_ner.InputError(
                f"expected a string or an iterable of strings, found {type(inputs).__name__}"
            )
        stream = self._stream(inputs, **options)
        return list(stream) if isinstance(inputs, list | tuple) else stream

    def _stream(
        self,
        texts: Iterable[str],
        batch_size: int = windows_ner.DEFAULT_BATCH_SIZE,
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
            raise windows_ner.InputError(
                f"unknown options {sorted(unknown)}: expected batch_size, stride, long_text, coverage, ignore_labels, decoding, min_score, "
                "abstain_below, top_k"
            )
        windows_ner.check_options(
            ignore_labels=ignore_labels,
            decoding=decoding,
            long_text=long_text,
            min_score=min_score,
            abstain_below=abstain_below,
            top_k=top_k,
        )
        if decoding is not None and self.settings["model_type"] != "binder":
            raise windows_ner.InputError(
                "decoding is a BINDER model's; this model tags without overlap"
            )
        least = windows_ner.least_scores(min_score, self.types)
        abstain = (
            None
            if abstain_below is None
            else windows_ner.least_scores(abstain_below, self.types, "abstain_below")
        )

        def read(texts: list[str], first: int) -> list[windows_ner.Prepared]:
            overlap = self.settings["min_overlap"]
            return windows_ner.prepare(
                self.reader,
                texts,
                min_overlap=overlap,
                stride=stride,
                long_text=long_text,
                first=first,
            )

        flat = (decoding or self.settings["decoding"]) == "flat"

        def result(row: windows_ner.Prepared, spans: Sequence[Sequence[tuple]]) -> Any:
            mentions = windows_ner.mention_dicts(
                row, spans, flat=flat, ignore_labels=ignore_labels, abstain_below=abstain
            )
            if not coverage:
                return mentions
            share = self.reader.coverage(row.tokenized, row.windows)
            return {"entities": mentions, "coverage": share, "windows": len(row.windows)}

        # No generator function: what is wrong with the options is told here, not with the first result.
        return (
            result(*found)
            for found in windows_ner.in_batches(
                texts, batch_size, read, lambda windows: self._spans(windows, least, top_k)
            )
        )

    def _spans(
        self, windows: list[windows_ner.Window], least: Mapping[str, float], top_k: int | None
    ) -> list[list[windows_ner.Span]]:
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
        found = crf_ner.decode_tags(
            *crf_ner.pack_left(outputs[0], starts),
            self.transitions,
            self.start,
            self.settings["labels"],
            temperature=self.settings["score_temperature"],
            accept_orphans=self.settings["orphans"],
            least=least,
            top_k=top_k,
        )
        return [[windows_ner.Span(*mention) for mention in row] for row in found]


# --------------------------------------------------------------------------------- the command line
def main(argv: Sequence[str] | None = None) -> int:
    """Tag a text a line; write a record a line."""
    parser = argparse.ArgumentParser(
        prog="runtime_onnx.py", description="Tag texts with the exported model of this folder."
    )
    parser.add_argument("file", nargs="?", default="-", help="a text a line; - for standard input")
    parser.add_argument(
        "--precision", choices=GRAPHS, default="float32", help="of the model [float32]"
    )
    parser.add_argument("--threads", type=int, default=0, help="of onnxruntime [all processors]")
    arguments = parser.parse_args(argv)
    try:
        pipeline = OnnxPipeline(precision=arguments.precision, threads=arguments.threads)
        with (
            open(sys.stdin.fileno() if arguments.file == "-" else arguments.file, "rb") as file,
            open(
                sys.stdout.fileno(), "w", encoding="utf-8", newline="\n", closefd=False
            ) as output,  # closed, and its errors told, here
        ):
            for number, (text, mentions) in enumerate(tagged_lines(pipeline, file), 1):
                entities = [
                    {
                        "start": m["start"],
                        "end": m["end"],
                        "label": m["entity_group"],
                        "score": m["score"],
                    }
                    for m in mentions
                ]
                output.write(
                    json.dumps(
                        {"id": str(number), "text": text, "entities": entities}, ensure_ascii=False
                    )
                    + "\n"
                )
    except BrokenPipeError:  # the reader of our output has had enough
        return 0
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def tagged_lines(
    pipeline: OnnxPipeline, lines: Iterable[bytes]
) -> Iterator[tuple[str, list[dict]]]:
    """Each line without its end, and the first without a byte-order mark, with its mentions. ValueError for one that is not UTF-8."""
    texts: list[str] = []

    def read() -> Iterator[str]:
        for number, line in enumerate(lines, 1):
            try:
                texts.append(line.rstrip(b"\r\n").decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise windows_ner.InputError(
                    f"line {number} is not UTF-8, at byte {error.start + 1}"
                ) from error
            yield texts[-1]

    for mentions in pipeline(read()):
        yield texts.pop(0), mentions


if __name__ == "__main__":
    sys.exit(main())
