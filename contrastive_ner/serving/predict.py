"""Tagging files of any size, with one process or several, in bounded memory (except for columns).

Records are written in the order of the input's rows. A job that was stopped or killed resumes where
it was when the same command is given again. Sections: tagging, the output, the job.
"""

import json
import logging
import multiprocessing
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from contrastive_ner.data.dictionary import words
from contrastive_ner.data.records import Record
from contrastive_ner.data.streams import BadRow, Row, Rows, chunks
from contrastive_ner.data.writers import format_records, keep_aligned
from contrastive_ner.errors import ConfigError, DataError, UserError
from contrastive_ner.files import read_json, sha256, write_json
from contrastive_ner.logs import log, show_messages
from contrastive_ner.models.windows_ner import (
    DEFAULT_BATCH_SIZE,
    WINDOWS_PER_BATCH,
    InputError,
)
from contrastive_ner.signals import Interrupted, StopSignals

CHARACTERS_AHEAD = 1_000_000  # total length of texts that are read and sorted by length together
BAD_ROWS_SHOWN = 10


# ------------------------------------------------------------------------------------------ tagging
@dataclass(frozen=True)
class Job:
    """A model and how to run it, the same in every process.

    Args:
        model: model folder.
        options: options of the pipeline's call, such as `batch_size`, `types`, `min_score`.
        output_format: jsonl, cluener or columns.
        scheme: tag scheme of columns.
        trust_remote_code, dtype, compile_encoder: as in `load_pipeline`.
    """

    model: str
    options: dict[str, Any] = field(default_factory=dict)
    output_format: str = "jsonl"
    scheme: str = "BIO"
    trust_remote_code: bool = False
    dtype: str = "float32"
    compile_encoder: bool = False

    def identity(self) -> dict[str, Any]:
        """Everything the output depends on, including the hashes of the model's files."""
        from contrastive_ner.serving.inference import base_of_adapter

        base, hashes = base_of_adapter(Path(self.model)), {}
        for folder, prefix in ((Path(self.model), ""), *(((base, "base/"),) if base else ())):
            for path in sorted(folder.glob("*")):
                if path.suffix in (".json", ".safetensors", ".py"):
                    hashes[prefix + path.name] = sha256(path)
        return {**asdict(self), "model": hashes}


class Tagged(NamedTuple):
    """Tagged rows: their output, their number, the bad ones, counts of texts and mentions."""

    output: str
    rows: int
    bad: list[BadRow]
    counts: Counter[str]


class Tagger:
    """A loaded model that tags lists of rows.

    Raises:
        ConfigError, RepositoryError: the model cannot be loaded, as in `load_pipeline`.
    """

    def __init__(self, job: Job) -> None:
        from contrastive_ner.serving.inference import load_pipeline

        self.job, self.options = job, dict(job.options)
        self.pipeline = load_pipeline(
            job.model,
            trust_remote_code=job.trust_remote_code,
            dtype=job.dtype,
            compile_encoder=job.compile_encoder,
        )
        # Types are encoded once, not for each list of rows.
        if "types" in self.options and hasattr(self.pipeline.model, "encode_types"):
            self.options["types"] = self.pipeline.model.encode_types(
                self.options["types"], self.pipeline.tokenizer
            )

    def __call__(self, rows: list[Row]) -> Tagged:
        from contrastive_ner.serving.inference import tag_records

        records = [row for row in rows if isinstance(row, Record)]
        found = tag_records(self.pipeline, records, **self.options)
        rows_found = zip(records, found.mentions, found.coverage, strict=True)
        tagged = [
            Record(r.id, r.text, mentions, r.doc, r.tokens, coverage)
            for r, mentions, coverage in rows_found
        ]
        counts = Counter(
            texts=len(records), mentions=sum(map(len, found.mentions)), across=found.across
        )
        if self.job.output_format == "columns":
            if self.pipeline.model.config.label_unit == "word":
                for record in tagged:
                    record.tokens = record.tokens or words(record.text)
            counts["off_tokens"] = sum(map(keep_aligned, tagged))
        output = "".join(format_records(tagged, self.job.output_format, self.job.scheme))
        return Tagged(output, len(rows), [row for row in rows if isinstance(row, BadRow)], counts)


def tag_all(parts: Iterable[list[Row]], job: Job, processes: int) -> Iterator[Tagged]:
    """Tag lists of rows, in order; with several processes, each has one in hand and one queued.

    Raises:
        ConfigError: a process died, most likely for lack of memory.
    """
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


# --------------------------------------------------------------------------------------- the output
class Output(Protocol):
    """Where output goes. `done` is the number of rows already written."""

    done: int
    how_to_resume: str  # for messages about a job that ends early

    def write(self, text: str, rows: int) -> None:
        """Write text, the output of `rows` rows."""

    def finish(self) -> None:
        """Complete the output after its last row."""

    def close(self) -> None:
        """Release the output, complete or not."""


class StreamOutput:
    """Standard output, a device, or the target of a link; rows are visible at once."""

    done = 0
    how_to_resume = "output to a stream cannot be resumed"

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def write(self, text: str, rows: int) -> None:
        """Write and flush."""
        self.stream.write(text)
        self.stream.flush()

    def finish(self) -> None:
        """Do nothing: everything is written."""

    def close(self) -> None:
        """Close the stream, except standard output."""
        if self.stream is not sys.stdout:
            self.stream.close()


class FileOutput:
    """A file that appears once it is complete; the same job resumes a partial one.

    `.NAME.partial` holds the output so far. `.NAME.progress` holds the number of its rows and bytes
    that are complete, and the identity of the job.

    Args:
        path: output file.
        identity: identity of the job; see `Job.identity`.

    Raises:
        ConfigError: the file exists; another process is writing it; another job began it.
    """

    how_to_resume = "run the same command again to resume"

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        from filelock import FileLock, Timeout

        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.identity = path, identity
        self.partial, self.progress = (
            path.with_name(f".{path.name}.partial"),
            path.with_name(f".{path.name}.progress"),
        )
        self.lock = FileLock(path.with_name(f".{path.name}.lock"))
        try:
            self.lock.acquire(timeout=0)
        except Timeout as error:
            raise ConfigError(
                f"{path} is being written by another process; wait for it or name another output"
            ) from error
        try:
            self.open()
        except (UserError, OSError):
            self.unlock()
            raise

    def open(self) -> None:
        """Resume from the saved progress, or start."""
        # Checked under the lock: the process that held it before may have completed the file.
        if self.path.exists():
            raise ConfigError(f"{self.path} exists; remove it or name another output")
        self.done = self.size = 0
        saved = (
            read_json(self.progress) if self.progress.is_file() and self.partial.is_file() else None
        )
        if saved is not None and saved["job"] != self.identity:
            changed = sorted(
                key for key in self.identity if saved["job"].get(key) != self.identity[key]
            )
            raise ConfigError(
                f"{self.partial} was started with different {', '.join(changed)}; remove it or "
                "name another output"
            )
        if saved is not None and self.partial.stat().st_size >= saved["bytes"]:
            self.done, self.size = saved["rows"], saved["bytes"]
        else:  # also if a power failure lost bytes that the progress counts
            self.progress.unlink(missing_ok=True)
        # Unbuffered: `close` must not retry what a full disk refused.
        self.file = self.partial.open("r+b" if self.done else "wb", buffering=0)
        self.file.truncate(self.size)
        self.file.seek(self.size)

    def write(self, text: str, rows: int) -> None:
        """Append text, the output of `rows` rows, then save the progress."""
        # A reader would drop the character as a byte-order mark: add one for it to drop.
        if self.size == 0 and text.startswith("\ufeff"):
            text = "\ufeff" + text
        raw = text.encode("utf-8")
        rest = memoryview(raw)
        while rest:
            rest = rest[self.file.write(rest) :]
        done, size = self.done + rows, self.size + len(raw)
        write_json({"job": self.identity, "rows": done, "bytes": size}, self.progress)
        self.done, self.size = done, size

    def finish(self) -> None:
        """Give the complete file its name.

        Raises:
            ConfigError: a file of this name has appeared in the meantime.
        """
        os.fsync(self.file.fileno())
        if self.path.exists():
            raise ConfigError(
                f"{self.path} has appeared in the meantime and is left unchanged; remove it and "
                "run the same command again"
            )
        os.replace(self.partial, self.path)
        self.progress.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file and release the lock; the partial file and its progress stay."""
        self.file.close()
        if not self.progress.exists():  # nothing was written
            self.partial.unlink(missing_ok=True)
        self.unlock()

    def unlock(self) -> None:
        """Release the lock and remove its file."""
        self.lock.release()
        Path(self.lock.lock_file).unlink(missing_ok=True)


def open_output(name: str, identity: dict[str, Any]) -> Output:
    """The output of a job of this identity; the name "-" is standard output."""
    path = Path(name)
    if name == "-":
        return StreamOutput(sys.stdout)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        return StreamOutput(path.open("w", encoding="utf-8", newline="\n"))
    return FileOutput(path, identity)


# ------------------------------------------------------------------------------------------ the job
def predict(
    source: Rows,
    source_identity: dict[str, Any],
    job: Job,
    output: str,
    *,
    processes: int = 1,
    strict: bool = False,
) -> None:
    """Tag every row of a source and write the records; messages go to standard error.

    Args:
        source_identity: values that tell a resumed job whether its source is still the same.
        output: name of the output file, "-" for standard output.
        processes: number of processes; each loads the model and uses its share of the processors.
        strict: whether a bad row is an error; otherwise it is reported and skipped.

    Raises:
        ConfigError: as in `FileOutput` and `tag_all`; the model changed while it was in use.
        DataError: a bad row, with `strict`.
        Interrupted: SIGTERM or Ctrl-C, after the rows in hand were finished.
    """
    from tqdm import tqdm

    # As it is read back from a progress file.
    identity = json.loads(json.dumps({**job.identity(), "source": source_identity}))
    target = open_output(output, identity)
    counts: Counter[str] = Counter()
    started, before = time.monotonic(), target.done
    is_quiet = None if log.isEnabledFor(logging.INFO) else True  # None: without a terminal
    try:
        with (
            StopSignals("finishing the rows in hand") as stop,
            tqdm(unit=" texts", disable=is_quiet, initial=before, dynamic_ncols=True) as bar,
        ):
            if before:
                log.info("resuming after row %d", before)
            for tagged in tag_all(parts_after(source, before, job), job, processes):
                if strict and tagged.bad:
                    raise DataError(f"row {tagged.bad[0].number}: {tagged.bad[0].reason}")
                for row in tagged.bad[: max(BAD_ROWS_SHOWN - counts["bad"], 0)]:
                    log.warning("row %d is skipped: %s", row.number, row.reason)
                counts += tagged.counts
                counts["bad"] += len(tagged.bad)
                write_explained(target, tagged)
                bar.update(tagged.rows)
                if stop.received is not None:
                    saved = f"{target.done} rows are written; {target.how_to_resume}"
                    raise Interrupted(stop.received, saved)
        if job.identity()["model"] != identity["model"]:
            raise ConfigError(
                f"{job.model} changed while it was in use: the output may mix two models; remove "
                "the partial output and start again"
            )
        target.finish()
    finally:
        target.close()
    report(counts, time.monotonic() - started)


def parts_after(source: Rows, done: int, job: Job) -> Iterator[list[Row]]:
    """The rows of a source after the first `done`, in lists that are tagged together.

    For columns it is one list: the number of tag columns depends on all records.
    """
    rows = islice(source.rows, done, None)
    if job.output_format == "columns":
        return chunks(rows, sys.maxsize, sys.maxsize)
    texts = job.options.get("batch_size", DEFAULT_BATCH_SIZE) * WINDOWS_PER_BATCH
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


def report(counts: Counter[str], seconds: float) -> None:
    """Log a line about what was done, and one for each kind of row or mention left out."""
    speed = counts["texts"] / max(seconds, 1e-9)
    lines = [
        f"{counts['texts']:,} texts, {counts['mentions']:,} mentions, "
        f"{speed:,.{0 if speed >= 10 else 1}f} texts/s including loading"
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
