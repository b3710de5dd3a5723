"""Where `predict` writes: standard output, or a file that appears complete and can be resumed."""

import os
import sys
from pathlib import Path
from typing import IO, Any, Protocol

from contrastive_ner.errors import ConfigError, UserError
from contrastive_ner.files import read_json, write_json


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
