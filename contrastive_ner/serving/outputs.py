"""Where `predict` writes: standard output, or a file that appears complete and can be resumed."""

import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from contrastive_ner.errors import ConfigError, UserError, difference
from contrastive_ner.files import LockFile
from contrastive_ner.logs import log

PIECE = 1 << 20  # bytes that are hashed at a time


class Output(Protocol):
    """Where output goes.

    `done` is the number of rows already written, `size` that of their bytes (0 for a stream),
    `input_sha256` a hash of these rows of the input: of an output that is resumed, as it was saved;
    set it before `write`.
    """

    done: int
    size: int
    input_sha256: str
    how_to_resume: str  # for messages about a job that ends early
    how_to_begin_anew: str

    def write(self, text: str, rows: int) -> None:
        """Write text, the output of `rows` rows."""

    def finish(self) -> None:
        """Complete the output after its last row."""

    def close(self) -> None:
        """Release the output, complete or not."""


class StreamOutput:
    """Standard output, a device, or the target of a link; rows are visible at once.

    It is UTF-8 whatever the locale says: what reads it expects that.
    """

    done = size = 0
    input_sha256 = ""
    how_to_resume = "output to a stream cannot be resumed"
    how_to_begin_anew = "discard the output and run the command again"

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", newline="\n")

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


class Entry(NamedTuple):
    """A line of a progress file: the output of `rows` rows are the first `bytes` bytes."""

    rows: int
    bytes: int
    sha256: str  # of these bytes
    input_sha256: str
    end: int  # where the line ends in the progress file


class FileOutput:
    """A file that appears once it is complete; the same job resumes a partial one.

    `.NAME.partial` holds the output so far. `.NAME.progress` is only appended to: its first line is
    the identity of the job; each further one has the numbers of rows and bytes that are complete,
    the SHA-256 of these bytes, and that of the input's rows. Every line ends in a hash of itself,
    so that a damaged one is not trusted.

    Args:
        path: output file.
        identity: identity of the job; see `Job.identity`.
        convert: makes the complete file (second argument) of the text that was written (first).

    Raises:
        ConfigError: the file exists; another process is writing it; another job began it.
    """

    how_to_resume = "run the same command again to resume"

    def __init__(
        self,
        path: Path,
        identity: dict[str, Any],
        convert: Callable[[Path, Path], None] | None = None,
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.identity, self.convert = path, identity, convert
        self.partial, self.progress, self.converted = (
            path.with_name(f".{path.name}.{kind}") for kind in ("partial", "progress", "converted")
        )
        self.how_to_begin_anew = f"remove {self.partial} and run the command again"
        self.lock = LockFile(path.with_name(f".{path.name}.lock"))
        if not self.lock.acquire():
            raise ConfigError(
                f"{path} is being written by another process; wait for it or name another output"
            )
        try:
            self.open()
        except (UserError, OSError):
            self.lock.release()
            raise

    def open(self) -> None:
        """Resume from the saved progress, or start."""
        # Checked under the lock: the process that held it before may have completed the file.
        if self.path.exists():
            raise ConfigError(f"{self.path} exists; remove it or name another output")
        if self.converted.is_dir() and not self.converted.is_symlink():
            shutil.rmtree(self.converted)  # a format that is a folder, from a killed job
        for path in (self.partial, self.progress, self.converted):
            if path.is_symlink() or (path.exists() and not path.is_file()):
                raise ConfigError(f"{path}: expected a plain file or none; remove it")
        self.done = self.size = 0
        self.input_sha256, self.hash = "", hashlib.sha256()
        kept = self.last_entry_that_agrees() if self.progress.exists() else None
        if kept is None:
            self.progress.unlink(missing_ok=True)
        else:
            self.done, self.size, _, self.input_sha256, end = kept
            os.truncate(self.progress, end)
        # Unbuffered: `close` must not retry what a full disk refused.
        self.file = self.partial.open("r+b" if self.done else "wb", buffering=0)
        self.file.truncate(self.size)
        self.file.seek(self.size)

    def last_entry_that_agrees(self) -> Entry | None:
        """The last line of the progress that agrees with the partial output; None to start anew.

        Leaves `hash` as that of the output of the line.

        Raises:
            ConfigError: another job began the file.
        """
        if not self.partial.exists():
            return None
        identity, entries = read_progress(self.progress)
        if identity is not None and identity != self.identity:
            changed = sorted(
                key for key in self.identity if identity.get(key) != self.identity[key]
            )
            raise ConfigError(
                f"{self.partial} was started with different {', '.join(changed)} "
                f"({difference(identity, self.identity)}); remove it or name another output"
            )
        kept, running, size = None, hashlib.sha256(), 0
        with self.partial.open("rb") as file:
            for entry in entries:
                while size < entry.bytes and (piece := file.read(min(PIECE, entry.bytes - size))):
                    running.update(piece)
                    size += len(piece)
                if size == entry.bytes and running.hexdigest() == entry.sha256:
                    kept, self.hash = entry, running.copy()
        if kept is None or (entries and kept != entries[-1]):
            log.warning(
                "%s and %s do not agree: %s",
                self.partial,
                self.progress.name,
                f"going on after row {kept.rows}" if kept else "starting anew",
            )
        return kept

    def write(self, text: str, rows: int) -> None:
        """Append text, the output of `rows` rows, then save the progress."""
        # A reader would drop the character as a byte-order mark: add one for it to drop.
        if self.size == 0 and text.startswith("\ufeff"):
            text = "\ufeff" + text
        raw = text.encode("utf-8")
        write_whole(self.file, raw)
        done, size, running = self.done + rows, self.size + len(raw), self.hash.copy()
        running.update(raw)
        lines = b"" if self.progress.exists() else sealed({"job": self.identity})
        entry = {"rows": done, "bytes": size, "sha256": running.hexdigest()}
        lines += sealed({**entry, "input_sha256": self.input_sha256}, self.identity)
        with self.progress.open("ab", buffering=0) as file:
            write_whole(file, lines)
        self.done, self.size, self.hash = done, size, running

    def finish(self) -> None:
        """Give the complete file its name.

        Raises:
            ConfigError: a file of this name has appeared in the meantime.
        """
        os.fsync(self.file.fileno())
        complete = self.partial
        if self.convert is not None:
            complete = self.converted
            self.convert(self.partial, complete)
        if self.path.exists():
            raise ConfigError(
                f"{self.path} has appeared in the meantime and is left unchanged; remove it and "
                "run the same command again"
            )
        os.replace(complete, self.path)
        self.partial.unlink(missing_ok=True)
        self.progress.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file and release the lock; the partial file and its progress stay."""
        self.file.close()
        if self.converted.is_dir():
            shutil.rmtree(self.converted)
        self.converted.unlink(missing_ok=True)
        if not self.size:  # nothing was written: the next job may be another one
            self.progress.unlink(missing_ok=True)
            self.partial.unlink(missing_ok=True)
        self.lock.release()


def write_whole(file: Any, raw: bytes) -> None:
    """Write all bytes to an unbuffered file."""
    rest = memoryview(raw)
    while rest:
        rest = rest[file.write(rest) :]


def sealed(values: dict[str, Any], job: dict[str, Any] | None = None) -> bytes:
    """A line of a progress file: values with a hash of them and of the job they belong to."""
    return json.dumps({**values, "check": seal(values, job)}).encode() + b"\n"


def seal(values: dict[str, Any], job: dict[str, Any] | None) -> str:
    """Hash of the values of a line and of the job they belong to."""
    return hashlib.sha256(json.dumps([job, values], sort_keys=True).encode()).hexdigest()


def read_progress(path: Path) -> tuple[dict[str, Any] | None, list[Entry]]:
    """The identity of a job and its entries; None if its first line is damaged.

    Lines that are damaged, incomplete or not in order are left out.
    """
    identity: dict[str, Any] | None = None
    entries: list[Entry] = []
    end = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file):
            end += len(raw)
            values = unsealed(raw, identity)
            if number == 0:
                identity = values.get("job")
                if not isinstance(identity, dict):
                    return None, []
                continue
            entry = entry_of(values, end)
            if entry is not None and (
                not entries or (entry.rows > entries[-1].rows and entry.bytes >= entries[-1].bytes)
            ):
                entries.append(entry)
    return identity, entries


def entry_of(values: dict[str, Any], end: int) -> Entry | None:
    """The entry of a line's values; None if they are of another shape."""
    numbers = [values.get(name) for name in ("rows", "bytes")]
    hashes = [values.get(name) for name in ("sha256", "input_sha256")]
    if not all(type(number) is int and number >= 0 for number in numbers):
        return None
    if not all(isinstance(value, str) for value in hashes):
        return None
    return Entry(values["rows"], values["bytes"], values["sha256"], values["input_sha256"], end)


def unsealed(raw: bytes, job: dict[str, Any] | None) -> dict[str, Any]:
    """The values of a line of a progress file; none if it is not as it was written."""
    try:
        values = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    if not raw.endswith(b"\n") or not isinstance(values, dict):
        return {}
    check = values.pop("check", None)
    return values if check == seal(values, job) else {}


def open_output(
    name: str,
    identity: dict[str, Any],
    convert: Callable[[Path, Path], None] | None = None,
) -> Output:
    """The output of a job of this identity; the name "-" is standard output.

    Raises:
        ConfigError: as in `FileOutput`; a stream is to be converted.
    """
    path = Path(name)
    is_stream = name == "-" or path.is_symlink() or (path.exists() and not path.is_file())
    if is_stream and convert is not None:
        raise ConfigError(
            f"output {name}: this output format needs a file that does not exist yet; name one, or "
            "write jsonl"
        )
    if name == "-":
        return StreamOutput(sys.stdout)
    if is_stream:
        return StreamOutput(path.open("w", encoding="utf-8", newline="\n"))
    return FileOutput(path, identity, convert)
