#!/usr/bin/env python3
"""Runs an exported model without torch, with onnxruntime, tokenizers and numpy.

A copy of this file is in every exported folder.

    python FOLDER/runtime_onnx.py [FILE]    reads one text per line, writes one record per line

    sys.path.insert(0, "FOLDER")
    from runtime_onnx import OnnxPipeline
    OnnxPipeline("FOLDER")("...")           returns what pipeline("ner") returns

Reading texts, decoding a tagger's output and building mentions use the same files as in torch
(`windows_ner.py`, `batches_ner.py`, `crf_ner.py` and those of a lexicon); BINDER's span scores are
a graph made from the model's code. Only the decoding of these scores is reimplemented here, in
NumPy, and tested against the original.

Sections: BINDER, the pipeline, the command line.
Notation: B windows, T tokens, D projection size, E entity types, N spans.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

if __package__:
    from contrastive_ner.models import batches_ner, crf_ner, lexicon_ner, matching_ner, windows_ner
else:  # a file of an exported folder, next to these
    import batches_ner  # type: ignore[no-redef]
    import crf_ner  # type: ignore[no-redef]
    import lexicon_ner  # type: ignore[no-redef]
    import matching_ner  # type: ignore[no-redef]
    import windows_ner  # type: ignore[no-redef]

SETTINGS = "ner.json"
TOKENIZER = "tokenizer.json"
GRAPHS = {"float32": "model.onnx", "int8": "model.int8.onnx"}
SPAN_GRAPH = "spans.onnx"
SCORES_AT_ONCE = 2**20  # bounds the memory for span scores: numbers per call of the graph


# ------------------------------------------------------------------------------------------- BINDER
def candidate_cells(word_mask: np.ndarray, word_end_mask: np.ndarray, max_width: int) -> np.ndarray:
    """Spans from the first token of a word to the last token of a word, as (N, 3).

    A span is its row, first token, and width - 1.

    Args:
        word_mask, word_end_mask: (B, T), true at the first and the last tokens of words.
        max_width: longest span in tokens.
    """
    ends = np.pad(word_end_mask, ((0, 0), (0, max_width - 1)))
    band = np.lib.stride_tricks.sliding_window_view(ends, max_width, axis=1)  # (B, T, W)
    return np.argwhere(word_mask[:, :, None] & band)


class SpanScorer:
    """BINDER's decoding: keeps spans that score above the threshold of a type.

    The threshold is the score of the window's first token.

    Args:
        session: onnxruntime session of the graph of span scores.
        settings: content of ner.json.
    """

    def __init__(self, session: Any, settings: Mapping[str, Any]) -> None:
        self.session, self.settings, self.labels = session, settings, settings["labels"]

    def least_margins(self, least: Mapping[str, float]) -> np.ndarray:
        """By how much a score must exceed the threshold of each type, (E,).

        Args:
            least: {label: least probability}; other types keep the margins of the settings.
        """
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
        """Scores (N, E) of the spans `cells` (N, 3), from parts `left`, `right` (B, T, D)."""
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
        """Spans over the words of each row, as from `BinderModel.decode`."""
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
        if self.settings["several_labels"]:
            return found
        later = self.settings.get("later_types", ())
        return [windows_ner.best_labels(spans, later) for spans in found]

    def score(self, margin: float) -> float:
        """The probability that belongs to a margin over the threshold."""
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
    """Finds mentions in raw texts, the same as the model's `pipeline("ner")` finds in torch.

    Scores agree within float32 rounding.

    Args:
        folder: folder that `contrastive-ner export` wrote; default: the folder of this file.
        precision: "float32", or "int8", which is faster and slightly less accurate.
        threads: number of threads of onnxruntime; 0: all processors.

    Raises:
        ValueError: the folder holds no exported model, or none in this precision.
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
                    f"{self.folder / name} is missing: expected a folder that "
                    "`contrastive-ner export` wrote"
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
        is_spaced = self.settings.get("after_space", False)  # exports of earlier versions lack it
        encode = windows_ner.after_space(self._encode) if is_spaced else self._encode
        self.reader = windows_ner.TextReader(encode, **reading)
        names = ("lexicon_fusion", "max_word_length", "lexicon_types")
        self.fusion = SimpleNamespace(**{name: self.settings.get(name, "none") for name in names})
        self.lexicon = None
        if (own := self.folder / lexicon_ner.LEXICON).is_file():
            self.lexicon = lexicon_ner.lexicon_for(own, self.fusion)

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
        """Mentions of texts: a list for a string, a list of lists for a list or tuple of strings.

        For any other iterable of strings, the result is a generator of lists.

        Args:
            options: batch_size, stride, long_text, coverage, ignore_labels, decoding, min_score,
                abstain_below, top_k, lexicon, as in `pipeline("ner")`.

        Raises:
            ValueError: an option is unknown or invalid, or an input is not a string.
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
        batch_size: int = batches_ner.DEFAULT_BATCH_SIZE,
        stride: int | None = None,
        long_text: str = "window",
        coverage: bool = False,
        ignore_labels: Sequence[str] = (),
        decoding: str | None = None,
        min_score: float | Mapping[str, float] | None = None,
        abstain_below: float | Mapping[str, float] | None = None,
        top_k: int | None = None,
        lexicon: Any = None,
        **unknown: Any,
    ) -> Iterator[Any]:
        if unknown:
            raise windows_ner.InputError(
                f"unknown options {sorted(unknown)}: expected batch_size, stride, long_text, "
                "coverage, ignore_labels, decoding, min_score, abstain_below, top_k, lexicon"
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
                "decoding can be given to a BINDER model only; this model tags without overlap"
            )
        ignored = dict.fromkeys(set(ignore_labels) - {"O"}, 0.5)
        windows_ner.least_scores(ignored, self.types, "ignore_labels")
        least = windows_ner.least_scores(min_score, self.types)
        abstain: Any = abstain_below
        if abstain is not None:
            abstain = windows_ner.least_scores(abstain, self.types, "abstain_below")
        flat = (decoding or self.settings["decoding"]) == "flat"
        later = self.settings.get("later_types", ())

        def result(row: windows_ner.Prepared, spans: Sequence[Sequence[tuple]]) -> Any:
            mentions = windows_ner.mention_dicts(
                row,
                spans,
                flat=flat,
                later=later,
                ignore_labels=ignore_labels,
                abstain_below=abstain,
            )
            if not coverage:
                return mentions
            share = self.reader.coverage(row.tokenized, row.windows)
            return {"entities": mentions, "coverage": share, "windows": len(row.windows)}

        reader = self._reader_with(lexicon)
        read = partial(self._read, reader=reader, stride=stride, long_text=long_text)
        run = partial(self._spans, least=least, top_k=top_k)
        # Not a generator function: invalid options raise here, not with the first result.
        return (result(*found) for found in batches_ner.in_batches(texts, batch_size, read, run))

    def _reader_with(self, lexicon: Any) -> windows_ner.TextReader:
        if lexicon is None and self.fusion.lexicon_fusion != "none":
            lexicon = lexicon_ner.own_lexicon(self)
        elif lexicon is not None:
            lexicon = lexicon_ner.lexicon_for(lexicon, self.fusion)
        if not lexicon:
            return self.reader
        return matching_ner.LexiconReader(self.reader, lexicon, self.fusion.lexicon_types)

    def _read(
        self,
        texts: list[str],
        first: int,
        *,
        reader: windows_ner.TextReader,
        stride: int | None,
        long_text: str,
    ) -> list[windows_ner.Prepared]:
        overlap = self.settings["min_overlap"]
        return windows_ner.prepare(
            reader,
            texts,
            min_overlap=overlap,
            stride=stride,
            long_text=long_text,
            first=first,
        )

    def _spans(
        self, windows: list[windows_ner.Window], least: Mapping[str, float], top_k: int | None
    ) -> list[list[windows_ner.Span]]:
        """Spans of a batch of windows, over the positions of each."""
        width = max(len(window.input_ids) for window in windows)
        ids = np.full((len(windows), width), self.settings["pad_token_id"], dtype=np.int64)
        attention = np.zeros_like(ids)
        starts, ends = np.zeros(ids.shape, dtype=bool), np.zeros(ids.shape, dtype=bool)
        for row, window in enumerate(windows):
            length = len(window.input_ids)
            ids[row, :length], attention[row, :length] = window.input_ids, 1
            starts[row, :length], ends[row, :length] = window.word_mask, window.word_end_mask
        inputs = {"input_ids": ids, "attention_mask": attention}
        if self.fusion.lexicon_fusion != "none":
            words = [getattr(window, "lexicon_words", ()) for window in windows]
            inputs |= matching_ner.lexicon_arrays(words, width)
        outputs = self.session.run(None, inputs)
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
    """Tag one text per line, write one record per line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="runtime_onnx.py",
        description="Tag texts with the exported model in the folder of this file. Writes one "
        "JSON record per line to standard output.",
    )
    parser.add_argument(
        "file",
        nargs="?",
        default="-",
        metavar="FILE",
        help="UTF-8 text, one text per line; - reads standard input [-]",
    )
    parser.add_argument(
        "--precision",
        choices=GRAPHS,
        default="float32",
        help="precision of the model; int8 is faster and slightly less accurate [float32]",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="number of threads of onnxruntime; 0: all processors [0]",
    )
    parser.add_argument(
        "--lexicon",
        metavar="WORDS",
        help="for a model with a lexicon, use the words of this file instead of its own; none: no "
        "words",
    )
    arguments = parser.parse_args(argv)
    try:
        pipeline = OnnxPipeline(precision=arguments.precision, threads=arguments.threads)
        lexicon = False if arguments.lexicon == "none" else arguments.lexicon
        if arguments.file == "-" and sys.stdin is None:
            raise ValueError("standard input is closed: give the name of a file")
        with (
            open(sys.stdin.fileno() if arguments.file == "-" else arguments.file, "rb") as file,
            # A file of its own, closed here, so that errors on closing are reported.
            open(sys.stdout.fileno(), "w", encoding="utf-8", newline="\n", closefd=False) as output,
        ):
            found = tagged_lines(pipeline, file, lexicon)
            output.writelines(record_line(n, *row) for n, row in enumerate(found, 1))
    except BrokenPipeError:  # the reader of the output has closed it
        return 0
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def record_line(number: int, text: str, mentions: Iterable[Mapping[str, Any]]) -> str:
    """The JSON record of a line."""
    names = {"start": "start", "end": "end", "label": "entity_group", "score": "score"}
    entities = [{name: m[own] for name, own in names.items()} for m in mentions]
    record = {"id": str(number), "text": text, "entities": entities}
    return json.dumps(record, ensure_ascii=False) + "\n"


def tagged_lines(
    pipeline: OnnxPipeline, lines: Iterable[bytes], lexicon: Any = None
) -> Iterator[tuple[str, list[dict]]]:
    """Lines with their mentions, without line ends and without a byte-order mark at the start.

    `lexicon`: option of the pipeline's call.

    Raises:
        ValueError: a line is not UTF-8.
    """
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

    for mentions in pipeline(read(), lexicon=lexicon):
        yield texts.pop(0), mentions


if __name__ == "__main__":
    sys.exit(main())
