"""Tagging files of any size, with one process or several, in bounded memory (except for columns).

Records are written in the order of the input's rows. A job that was stopped or killed resumes where
it was when the same command is given again. Sections: tagging, the output, the job.
"""

import hashlib
import json
import logging
import multiprocessing
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from contrastive_ner import __version__
from contrastive_ner.data.dictionary import words
from contrastive_ner.data.records import Record
from contrastive_ner.data.streams import BadRow, Row, Rows, chunks
from contrastive_ner.data.writers import format_records, keep_aligned
from contrastive_ner.errors import ConfigError, DataError
from contrastive_ner.files import WatchedFiles, sha256
from contrastive_ner.logs import log, show_messages
from contrastive_ner.models.batches_ner import BATCHES_AHEAD, DEFAULT_BATCH_SIZE
from contrastive_ner.models.windows_ner import InputError
from contrastive_ner.serving.outputs import Output, open_output
from contrastive_ner.serving.tables import ON_TOKENS, WRITERS
from contrastive_ner.signals import Interrupted, StopSignals

CHARACTERS_AHEAD = 1_000_000  # total length of texts that are read and sorted by length together
BAD_ROWS_SHOWN = 10
BAR: dict[str, Any] = {"unit": " texts", "dynamic_ncols": True}


# ------------------------------------------------------------------------------------------ tagging
@dataclass(frozen=True)
class Job:
    """A model and how to run it, the same in every process.

    Args:
        model: model folder.
        options: options of the pipeline's call, such as `batch_size`, `types`, `min_score`; a
            `lexicon` is the name of a file, or False.
        output_format: jsonl, cluener, columns, or one of `tables.WRITERS`.
        scheme: tag scheme of columns.
        trust_remote_code, precision, compile_encoder, device: as in `load_pipeline`.
    """

    model: str
    options: dict[str, Any] = field(default_factory=dict)
    output_format: str = "jsonl"
    scheme: str = "BIO"
    trust_remote_code: bool = False
    precision: str = "float32"
    compile_encoder: bool = False
    device: str | None = None

    def identity(self) -> dict[str, Any]:
        """Everything the output depends on, including the hashes of the model's files."""
        from contrastive_ner.serving.inference import base_of_adapter

        base, hashes = base_of_adapter(Path(self.model)), {}
        for folder, prefix in ((Path(self.model), ""), *(((base, "base/"),) if base else ())):
            for path in sorted(folder.glob("*")):
                if path.suffix in (".json", ".safetensors", ".py", ".txt"):
                    hashes[prefix + path.name] = sha256(path)
        lexicon = self.options.get("lexicon")
        if isinstance(lexicon, str | Path) and lexicon and Path(lexicon).is_file():
            hashes["given lexicon"] = sha256(Path(lexicon))
        elif lexicon is not None and hasattr(
            lexicon, "facts"
        ):  # equal words are equal, whichever object holds them
            hashes["given lexicon"] = lexicon.facts()["sha256"]
        given = {name: own for name, own in vars(self).items() if own is not None}
        given["options"] = {
            name: own for name, own in self.options.items() if not hasattr(own, "facts")
        }
        # Another version may find other mentions.
        return {**given, "model": hashes, "contrastive-ner": __version__}


class Tagged(NamedTuple):
    """Tagged rows: their output, their number, the bad ones, counts of texts and mentions.

    `precision` is that of the model which tagged them: actors on other machines choose their own.
    """

    output: str
    rows: int
    bad: list[BadRow]
    counts: Counter[str]
    precision: str


class Tagger:
    """A loaded model that tags lists of rows.

    Raises:
        ConfigError, RepositoryError: the model cannot be loaded, as in `load_pipeline`.
    """

    def __init__(self, job: Job) -> None:
        from contrastive_ner.serving.inference import lexicon_option, load_pipeline

        self.job, self.options = job, dict(job.options)
        self.pipeline = load_pipeline(
            job.model,
            trust_remote_code=job.trust_remote_code,
            precision=job.precision,
            compile_encoder=job.compile_encoder,
            device=job.device,
        )
        self.precision = job.precision
        if job.precision == "auto":
            self.precision = str(self.pipeline.model.dtype).removeprefix("torch.")
        # Types are encoded once, not for each list of rows.
        given = self.options.get("types")
        if isinstance(given, Mapping) and hasattr(self.pipeline.model, "encode_types"):
            self.options["types"] = self.pipeline.model.encode_types(
                self.options["types"], self.pipeline.tokenizer
            )
        if "lexicon" in self.options:
            self.options["lexicon"] = lexicon_option(self.pipeline, self.options["lexicon"])

    def records(self, records: list[Record]) -> tuple[list[Record], Counter[str]]:
        """Records with the mentions that the model finds, and counts of them."""
        from contrastive_ner.serving.inference import tag_records

        found = tag_records(self.pipeline, records, **self.options)
        rows_found = zip(records, found.mentions, found.coverage, strict=True)
        tagged = [
            Record(r.id, r.text, mentions, r.doc, r.tokens, coverage, r.fields)
            for r, mentions, coverage in rows_found
        ]
        counts = Counter(
            texts=len(records), mentions=sum(map(len, found.mentions)), across=found.across
        )
        return tagged, counts

    def __call__(self, rows: list[Row]) -> Tagged:
        tagged, counts = self.records([row for row in rows if isinstance(row, Record)])
        if self.job.output_format in ON_TOKENS:
            if self.pipeline.model.config.label_unit == "word":
                for record in tagged:
                    record.tokens = record.tokens or words(record.text)
            counts["off_tokens"] = sum(map(keep_aligned, tagged))
        written = "jsonl" if self.job.output_format in WRITERS else self.job.output_format
        output = "".join(format_records(tagged, written, self.job.scheme))
        bad = [row for row in rows if isinstance(row, BadRow)]
        return Tagged(output, len(rows), bad, counts, self.precision)


def tag_all(
    parts: Iterable[list[Row]], job: Job, processes: int, engine: str = "local"
) -> Iterator[Tagged]:
    """Tag lists of rows, in order; with several processes, each has one in hand and one queued.

    Args:
        engine: "ray" has Ray's actors do it, on this machine or on a cluster.

    Raises:
        ConfigError: a process died, most likely for lack of memory; as in `tag_on_ray`.
    """
    if engine == "ray":
        from contrastive_ner.serving.on_ray import tag_on_ray

        yield from tag_on_ray(parts, partial(Tagger, job), processes, job.device)
        return
    if processes == 1:
        yield from map(Tagger(job), parts)
        return
    threads = (
        max(1, len(os.sched_getaffinity(0)) // processes) if hasattr(os, "sched_getaffinity") else 1
    )
    pool = ProcessPoolExecutor(
        processes,
        multiprocessing.get_context("spawn"),
        initializer=start_worker,
        initargs=(job, threads),
    )
    try:
        waiting: deque[Any] = deque()
        for part in parts:
            waiting.append(pool.submit(tag_in_worker, part))
            if len(waiting) >= 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise ConfigError(
            "a worker process died, most likely for lack of memory; lower num_processes or "
            "batch_size"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_tagger: Tagger | ConfigError | None = None  # in a worker: the model, or why it did not load


def start_worker(job: Job, threads: int) -> None:
    """Prepare a worker process: load the model, ignore signals, end when the parent ends."""
    import signal

    # First: a parent that is killed while this process loads must not leave it behind.
    threading.Thread(target=end_with_parent, daemon=True).start()

    import torch

    global _tagger
    show_messages(logging.WARNING)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(threads)
    try:
        _tagger = Tagger(job)
    except (InputError, OSError) as error:
        # Raised later, with the first rows: an error here would only tell that a worker died.
        _tagger = ConfigError(str(error))


def end_with_parent() -> None:
    """Exit when the parent ends.

    A killed parent cannot stop its workers, which would wait forever with a model in memory.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def tag_in_worker(rows: list[Row]) -> Tagged:
    """Tag rows with the model that `start_worker` loaded."""
    if not isinstance(_tagger, Tagger):
        raise _tagger or RuntimeError("a worker has no model")
    return _tagger(rows)


# ------------------------------------------------------------------------------------------ the job
def predict(
    source: Rows,
    source_identity: dict[str, Any],
    job: Job,
    output: str,
    *,
    processes: int = 1,
    engine: str = "local",
    strict: bool = False,
    watched: WatchedFiles | None = None,
) -> None:
    """Tag every row of a source and write the records; messages go to standard error.

    Args:
        source_identity: values that tell a resumed job whether its source is still the same.
        output: name of the output file, "-" for standard output.
        processes: number of processes; each loads the model and uses its share of the processors.
        engine: "local", or "ray": as many actors of Ray.
        strict: whether a bad row is an error; otherwise it is reported and skipped.
        watched: the source's files as they were before the source was opened.

    Raises:
        ConfigError: as in `FileOutput` and `tag_all`; the model changed while it was in use.
        DataError: a bad row, with `strict`; the source is not what it was.
        Interrupted: SIGTERM or Ctrl-C, after the rows in hand were finished.
    """
    # As it is read back from a progress file.
    identity = json.loads(json.dumps({**job.identity(), "source": source_identity}))
    target = open_output(output, identity, WRITERS.get(job.output_format))
    started = time.monotonic()
    try:
        counts, precisions = tag_into(target, source, job, processes, strict, engine)
        is_share = "shard" in source_identity  # the others may have texts
        if target.done and not target.size and not counts["texts"] and not is_share:
            raise DataError(
                f"expected texts to tag, found none in {target.done} rows; see the reasons above, "
                "--text_column and --encoding"
            )
        if watched is not None and (changed := watched.changed()):
            raise DataError(
                f"{', '.join(changed[:3])} changed while it was read: the output may mix two "
                f"versions; {target.how_to_begin_anew} when the input stays as it is"
            )
        if job.identity()["model"] != identity["model"]:
            raise ConfigError(
                f"{job.model} changed while it was in use: the output may mix two models; "
                f"{target.how_to_begin_anew}"
            )
        target.finish()
    finally:
        target.close()
    precision = " and ".join(sorted(precisions)) or job.precision
    report(counts, time.monotonic() - started, precision)


def tag_into(
    target: Output, source: Rows, job: Job, processes: int, strict: bool, engine: str = "local"
) -> tuple[Counter[str], set[str]]:
    """Tag the rows of a source that the target does not have yet.

    Returns counts of them, and the precisions in which they were tagged.

    Raises:
        as in `predict`.
    """
    from tqdm import tqdm

    counts: Counter[str] = Counter()
    precisions: set[str] = set()
    before = target.done
    is_quiet = None if log.isEnabledFor(logging.INFO) else True  # None: without a terminal
    with (
        StopSignals("finishing the rows in hand") as stop,
        tqdm(total=source.total, disable=is_quiet, initial=before, **BAR) as bar,
    ):
        if before:
            log.info("resuming after row %d", before)
        hashed = HashedRows(source.rows)
        hashed.skip(target)
        hashes: deque[str] = deque()  # of the input up to each list that is being tagged

        def parts() -> Iterator[list[Row]]:
            for part in parts_of(hashed, job):
                hashes.append(hashed.add(part))
                yield part

        for tagged in tag_all(parts(), job, processes, engine):
            if strict and tagged.bad:
                raise DataError(f"row {tagged.bad[0].number}: {tagged.bad[0].reason}")
            for row in tagged.bad[: max(BAD_ROWS_SHOWN - counts["bad"], 0)]:
                log.warning("row %d is skipped: %s", row.number, row.reason)
            counts += tagged.counts
            counts["bad"] += len(tagged.bad)
            precisions.add(tagged.precision)
            target.input_sha256 = hashes.popleft()
            write_explained(target, tagged)
            bar.update(tagged.rows)
            if stop.received is not None:
                saved = f"{target.done} rows are written; {target.how_to_resume}"
                raise Interrupted(stop.received, saved)
    return counts, precisions


class HashedRows:
    """The rows of a source, with a running hash of what was read and tagged of them."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self.rows = rows
        self.hash = hashlib.sha256()

    def __iter__(self) -> Iterator[Row]:
        return self.rows

    def add(self, rows: Iterable[Row]) -> str:
        """Hash further rows; returns the hash of all so far."""
        for row in rows:
            values = row if isinstance(row, BadRow) else list(vars(row).values())
            self.hash.update(json.dumps(values).encode() + b"\n")
        return self.hash.hexdigest()

    def skip(self, target: Output) -> None:
        """Pass over the rows that the target has already.

        Raises:
            DataError: they are not those whose output was written.
        """
        number = 0

        def counted() -> Iterator[Row]:
            nonlocal number
            for row in islice(self.rows, target.done):
                number += 1
                yield row

        found = self.add(counted())
        if target.done and (number < target.done or found != target.input_sha256):
            raise DataError(
                f"the input is not what it was: its first {target.done} rows, which are tagged, "
                f"have changed; {target.how_to_begin_anew}, or restore the input"
            )


def parts_of(rows: Iterable[Row], job: Job) -> Iterator[list[Row]]:
    """Rows in lists that are tagged together.

    For columns it is one list: the number of tag columns depends on all records.
    """
    if job.output_format == "columns":
        return chunks(rows, sys.maxsize, sys.maxsize)
    texts = job.options.get("batch_size", DEFAULT_BATCH_SIZE) * BATCHES_AHEAD
    return chunks(rows, texts, CHARACTERS_AHEAD)


def write_explained(target: Output, tagged: Tagged) -> None:
    """Write tagged rows; an error also says how many rows are safe and how to resume.

    Raises:
        OSError: the output cannot be written.
    """
    try:
        target.write(tagged.output, tagged.rows)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(
            error.errno, f"{error.strerror}; {target.done} rows are written; {target.how_to_resume}"
        ) from error


def report(counts: Counter[str], seconds: float, precision: str) -> None:
    """Log a line about what was done, and one for each kind of row or mention left out."""
    speed = counts["texts"] / max(seconds, 1e-9)
    lines = [
        f"{counts['texts']:,} texts, {counts['mentions']:,} mentions, "
        f"{speed:,.{0 if speed >= 10 else 1}f} texts/s including loading, {precision}"
    ]
    if counts["bad"]:
        lines.append(f"{counts['bad']} rows skipped: they hold no text to tag")
    if counts["across"]:
        lines.append(
            f"{counts['across']} mentions left out: they cross from one text of a document into "
            "the next"
        )
    if counts["off_tokens"]:
        lines.append(
            f"{counts['off_tokens']} mentions left out of the columns: their ends are not token "
            "boundaries"
        )
    log.info("\n".join(lines))
