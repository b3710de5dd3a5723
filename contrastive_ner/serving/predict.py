"""Tagging files of any size: rows in, records out, in the input's order, in bounded memory, on one process or several.

Sections: tagging, the output file, the job. A job that was stopped or killed goes on where it was when the same command is given again.
"""

import json
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
from contrastive_ner.logs import log
from contrastive_ner.models.windows_ner import DEFAULT_BATCH_SIZE, WINDOWS_PER_BATCH
from contrastive_ner.signals import Interrupted, StopSignals

CHARACTERS_AHEAD = 1_000_000  # of texts that are read and sorted by length together


BAD_ROWS_SHOWN = 10


# ------------------------------------------------------------------------------------------ tagging
@dataclass(frozen=True)
class Job:
    """What is asked of a model, the same for every process.

    Args:
        options: of the pipeline's call, such as `batch_size`, `types`, `min_score`.
        output_format: jsonl, cluener or columns. scheme: of columns.
        dtype, compile_encoder: as `load_pipeline`.
    """

    model: str
    options: dict[str, Any] = field(default_factory=dict)
    output_format: str = "jsonl"
    scheme: str = "BIO"
    trust_remote_code: bool = False
    dtype: str = "float32"
    compile_encoder: bool = False

    def identity(self) -> dict[str, Any]:
        """What the output depends on, the content of the model's files included."""
        folder = Path(self.model)
        files = sorted(
            path for path in folder.glob("*") if path.suffix in (".json", ".safetensors", ".py")
        )
        return {**asdict(self), "model": {path.name: sha256(path) for path in files}}


class Tagged(NamedTuple):
    """Rows that are done: their output, how many they were, the bad ones, counts of texts and mentions."""

    output: str
    rows: int
    bad: list[BadRow]
    counts: Counter[str]


class Tagger:
    """A loaded model that tags lists of rows."""

    def __init__(self, job: Job) -> None:
        from contrastive_ner.serving.inference import load_pipeline

        self.job, self.options = job, dict(job.options)
        self.pipeline = load_pipeline(
            job.model,
            trust_remote_code=job.trust_remote_code,
            dtype=job.dtype,
            compile_encoder=job.compile_encoder,
        )
        if "types" in self.options and hasattr(
            self.pipeline.model, "encode_types"
        ):  # once, not for each list of rows
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
    """Tag lists of rows, in order; of several processes each has a list in hand and one that waits.

    Raises:
        ConfigError: a process has died (of memory, mostly).
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
            "a worker process died; is there memory for as many models? Lower num_processes or batch_size"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_tagger: Tagger | ConfigError | None = None  # of a worker process: the model, or why there is none


def start_worker(job: Job, threads: int) -> None:
    """Load the model once; signals are the first process's to handle, and its end, a kill too, is that of this one."""
    import signal

    import torch

    global _tagger
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        _tagger = Tagger(job)
    except (UserError, OSError) as error:
        # Told with the first rows: of an error here the first process would learn only that a worker has died.
        _tagger = ConfigError(str(error))


def end_with_parent() -> None:
    """A killed process cannot stop its workers: each would wait forever for rows, with a model in memory."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def tag_in_worker(rows: list[Row]) -> Tagged:
    if not isinstance(_tagger, Tagger):
        raise _tagger or RuntimeError("a worker has no model")
    return _tagger(rows)


# --------------------------------------------------------------------------------------- the output
class Output(Protocol):
    """Where output goes: `done` rows are there already."""

    done: int

    def write(self, text: str, rows: int) -> None: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...


class StreamOutput:
    """Standard output, a device, or the target of a link: written as it comes."""

    done = 0

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def write(self, text: str, rows: int) -> None:
        self.stream.write(text)
        self.stream.flush()

    def finish(self) -> None: ...

    def close(self) -> None:
        if self.stream is not sys.stdout:
            self.stream.close()


class FileOutput:
    """A file that appears when it is complete. What there is of it lies beside it, and the same job goes on with it.

    `.NAME.partial` is the output so far, `.NAME.progress` says how many rows and bytes of it are whole, and of which job.

    Raises:
        ConfigError: the file exists; another process writes it; another job has begun it.
    """

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
            raise ConfigError(f"{path} is being written by another process") from error
        try:
            self.open()
        except (UserError, OSError):
            self.unlock()
            raise

    def open(self) -> None:
        """Go on where the saved progress says, or begin."""
        if (
            self.path.exists()
        ):  # asked under the lock: a process that had it may have completed the file
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
                f"{self.partial} was begun with other {', '.join(changed)}; remove it or name another output"
            )
        if saved is not None and self.partial.stat().st_size >= saved["bytes"]:
            self.done, self.size = saved["rows"], saved["bytes"]
        else:  # also where a power cut took bytes that the progress counts
            self.progress.unlink(missing_ok=True)
        # Without buffer: what a full disk refuses must not be tried again by `close`.
        self.file = self.partial.open("r+b" if self.done else "wb", buffering=0)
        self.file.truncate(self.size)
        self.file.seek(self.size)

    def write(self, text: str, rows: int) -> None:
        if self.size == 0 and text.startswith(
            "\ufeff"
        ):  # a reader would take it for a byte-order mark: give it one to lose
            text = "\ufeff" + text
        raw = text.encode("utf-8")
        rest = memoryview(raw)
        while rest:
            rest = rest[self.file.write(rest) :]
        done, size = self.done + rows, self.size + len(raw)
        write_json({"job": self.identity, "rows": done, "bytes": size}, self.progress)
        self.done, self.size = done, size

    def finish(self) -> None:
        os.fsync(self.file.fileno())
        if self.path.exists():
            raise ConfigError(
                f"{self.path} has appeared meanwhile and stays as it is; remove it and give the same command again"
            )
        os.replace(self.partial, self.path)
        self.progress.unlink(missing_ok=True)

    def close(self) -> None:
        self.file.close()
        if not self.progress.exists():  # nothing was written
            self.partial.unlink(missing_ok=True)
        self.unlock()

    def unlock(self) -> None:
        self.lock.release()
        Path(self.lock.lock_file).unlink(missing_ok=True)


def open_output(name: str, identity: dict[str, Any]) -> Output:
    """ "-" is standard output."""
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
    """Tag every row of a source into an output; what there is to say goes to standard error.

    Args:
        source_identity: by which a job that goes on knows that its source is the same.
        processes: each loads the model and takes its share of the processors.
        strict: a bad row is an error; otherwise it is reported and left out.

    Raises:
        ConfigError: as `FileOutput` and `tag_all`; the model changed meanwhile.
        DataError: a bad row, if strict.
        Interrupted: SIGTERM or Ctrl-C; the rows in hand were finished.
    """
    from tqdm import tqdm

    identity = json.loads(
        json.dumps({**job.identity(), "source": source_identity})
    )  # as it is read again
    target = open_output(output, identity)
    goes_on = (
        "the same command goes on there"
        if isinstance(target, FileOutput)
        else "output to a stream cannot be continued"
    )
    counts: Counter[str] = Counter()
    shown, started, before = 0, time.monotonic(), target.done
    texts_ahead = (
        sys.maxsize
        if job.output_format == "columns"
        else job.options.get("batch_size", DEFAULT_BATCH_SIZE) * WINDOWS_PER_BATCH
    )
    parts = chunks(
        islice(source.rows, before, None),
        texts_ahead,
        sys.maxsize if job.output_format == "columns" else CHARACTERS_AHEAD,
    )
    try:
        with (
            StopSignals("finishing the rows in hand") as stop,
            tqdm(unit=" texts", disable=None, initial=before, dynamic_ncols=True) as bar,
        ):
            if before:
                log.info("going on after row %d", before)
            for tagged in tag_all(parts, job, processes):
                if strict and tagged.bad:
                    raise DataError(f"row {tagged.bad[0].number}: {tagged.bad[0].reason}")
                for row in tagged.bad[: BAD_ROWS_SHOWN - shown]:
                    log.warning("row %d is left out: %s", row.number, row.reason)
                shown += min(len(tagged.bad), BAD_ROWS_SHOWN - shown)
                counts += tagged.counts
                counts["bad"] += len(tagged.bad)
                write_explained(target, tagged, goes_on)
                bar.update(tagged.rows)
                if stop.received is not None:
                    raise Interrupted(stop.received, f"{target.done} rows are written; {goes_on}")
        if job.identity()["model"] != identity["model"]:
            raise ConfigError(
                f"{job.model} changed while it was in use: what was written may be of either model; begin anew"
            )
        target.finish()
    finally:
        target.close()
    report(counts, time.monotonic() - started)


def write_explained(target: Output, tagged: Tagged, goes_on: str) -> None:
    """Write; an error says how much is safe."""
    try:
        target.write(tagged.output, tagged.rows)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(
            error.errno, f"{error.strerror}; {target.done} rows are written, {goes_on}"
        ) from error


def report(counts: Counter[str], seconds: float) -> None:
    """What was done, in a line, and what was left out."""
    speed = counts["texts"] / max(seconds, 1e-9)
    lines = [
        f"{counts['texts']:,} texts, {counts['mentions']:,} mentions, {speed:,.{0 if speed >= 10 else 1}f} texts/s with loading"
    ]
    if counts["bad"]:
        lines.append(f"{counts['bad']} rows left out, they hold no text to tag")
    if counts["across"]:
        lines.append(
            f"{counts['across']} mentions reach from one text of a document into the next and are left out"
        )
    if counts["off_tokens"]:
        lines.append(
            f"{counts['off_tokens']} mentions fall on no boundary of the given tokens and cannot be written as columns"
        )
    log.info("\n".join(lines))
