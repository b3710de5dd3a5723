"""Atomically written files and folders; locks; hashes; paths with environment variables."""

import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from contrastive_ner.errors import ConfigError, UserError

MOST_ALIASES = 10  # in a YAML file
SAVED_DATA = ("state.json", "dataset_dict.json")  # of a folder of `datasets`
UMASK = os.umask(0o077)  # it cannot be read without a change
os.umask(UMASK)
SEAL = "SHA256.json"  # size and SHA-256 of the other files of a folder


class atomic_writer:
    """Context manager for a text file that appears complete or not at all."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.temporary: str | None = None

    def __enter__(self) -> Any:
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_file()):
            # A link or device is written through, never replaced.
            self.file = open(self.path, "w", encoding="utf-8", newline="\n")
            return self.file
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, self.temporary = tempfile.mkstemp(
            dir=self.path.parent, prefix=f".{self.path.name}."
        )
        self.file = os.fdopen(handle, "w", encoding="utf-8", newline="\n")
        return self.file

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            self.file.close()
            if kind is None and self.temporary is not None:
                before = self.path.stat().st_mode & 0o777 if self.path.exists() else None
                os.chmod(self.temporary, 0o666 & ~UMASK if before is None else before)
                os.replace(self.temporary, self.path)
        finally:
            if self.temporary is not None:
                Path(self.temporary).unlink(missing_ok=True)


def for_everyone(folder: Path) -> None:
    """Give the files of a folder the usual mode; libraries write some for the owner alone."""
    for path in folder.iterdir():
        if path.is_file() and not path.is_symlink():
            path.chmod(0o666 & ~UMASK)


def outside(output: Path, model: Path) -> None:
    """Raise ConfigError if an output lies in a model's folder, which then could not be used."""
    if model.is_dir() and output.resolve().is_relative_to(model.resolve()):
        raise ConfigError(
            f"{output} lies in the model's folder, whose files must be those of the model: choose "
            "another place"
        )


def write_json(values: Any, path: Path) -> None:
    """Write a JSON file atomically, with indentation; lists of integers take one line."""
    text = json.dumps(values, ensure_ascii=False, indent=1)
    # JSON strings contain no raw line breaks, so the pattern matches only layout.
    text = re.sub(
        r"\[\n *(-?\d+(?:,\n *-?\d+)*)\n *\]", lambda match: f"[{' '.join(match[1].split())}]", text
    )
    with atomic_writer(path) as file:
        file.write(text + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file. UserError if it is not valid JSON."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); restore or remove it") from error


class LockFile:
    """A file that at most one process holds; the system releases it when that process ends.

    The holder removes the file before it releases it. Whoever has locked a file that is no longer
    the one of this name tries again, so that two processes never hold locks of the same name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.release: Callable[[], None] = lambda: None  # safe to call twice, or unacquired

    def acquire(self) -> bool:
        """Take the lock, without waiting, and make its folder; whether this has succeeded.

        Raises:
            OSError: the file cannot be made, or cannot be locked where it is.
        """
        try:
            import fcntl
        except ImportError:  # not a Unix system
            return self.acquire_elsewhere()
        while True:
            handle = self._open()
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_current = os.path.samestat(os.fstat(handle), os.stat(self.path))
            except FileNotFoundError:
                is_current = False
            except BlockingIOError:
                os.close(handle)
                return False
            except BaseException:
                os.close(handle)
                raise
            if is_current:
                self.release = partial(self._remove_and_close, handle)
                return True
            os.close(handle)

    def _open(self) -> int:
        for tries_left in reversed(range(1000)):
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            except (FileNotFoundError, FileExistsError):  # others make and remove the folder
                if not tries_left:
                    raise
        raise AssertionError("the loop returns or raises")

    def acquire_elsewhere(self) -> bool:
        """The same on other systems, where the file stays."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        self.release = lock.release
        return True

    def _remove_and_close(self, handle: int) -> None:
        self.release = lambda: None
        try:
            self.path.unlink(missing_ok=True)
        finally:
            os.close(handle)


class WatchedFiles:
    """The files of an input, which must not change while they are read.

    Args:
        path: a file, or a folder, whose files with a dot before their name do not count.
        more: further ones.
    """

    def __init__(self, path: Path, *more: Path) -> None:
        self.path, self.more = path, more
        self.seen = self.look()

    def look(self) -> dict[str, tuple[int, int, int]]:
        """Size, time of the last change in nanoseconds, and inode of each file."""
        states: dict[str, os.stat_result] = {}
        for path in (self.path, *self.more):
            files = [path] if path.is_file() else []
            if path.is_dir():
                files = [file for file in sorted(path.rglob("[!.]*")) if file.is_file()]
            for file in files:
                is_one_of_many = self.more and file == path
                name = file if is_one_of_many else file.relative_to(path.parent)
                states[str(name)] = file.stat()
        return {
            name: (state.st_size, state.st_mtime_ns, state.st_ino) for name, state in states.items()
        }

    def changed(self) -> list[str]:
        """Names of the files that have changed, appeared or gone."""
        now = self.look()
        return sorted(
            name for name in now.keys() | self.seen if now.get(name) != self.seen.get(name)
        )


def fresh_folder(path: Path) -> Path:
    """Make an empty folder, replacing whatever was there."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def move_folder(source: Path, target: Path) -> None:
    """Move a complete folder to its final place, replacing an older one."""
    shutil.rmtree(target, ignore_errors=True)
    os.replace(source, target)


def files_of(name: str) -> list[str]:
    """The files that a pattern (*, ?, [...], ** for any folders) or a folder of files stands for.

    They are sorted; a folder's hidden files and its .md are left out. Any other name stands for
    itself, as does a folder of `datasets`, of brat, or without files.

    Raises:
        UserError: no file matches.
    """
    path = Path(name)
    if path.is_dir():
        found = sorted(
            str(file)
            for file in path.iterdir()
            if file.is_file() and not file.name.startswith(".") and file.suffix != ".md"
        )
        is_one = any((path / own).is_file() for own in SAVED_DATA) or next(
            path.rglob("*.ann"), None
        )
        return [name] if is_one or not found else found
    if path.exists() or not re.search(r"[*?\[]", name):
        return [name]
    found = sorted(file for file in glob.glob(name, recursive=True) if Path(file).is_file())
    if not found:
        raise UserError(f"{name}: expected files, found none that matches (looked in {Path.cwd()})")
    return found


def expand(path: str) -> str:
    """Replace ${NAME} in a path with the environment variable; NER_DATA defaults to data.

    Raises:
        ConfigError: a variable is not set.
    """
    environment = {"NER_DATA": "data", **os.environ}

    def fill(match: re.Match[str]) -> str:
        if match[1] not in environment:
            raise ConfigError(f"{path}: the environment variable {match[1]} is not set; set it")
        return environment[match[1]]

    return re.sub(r"\$\{(\w+)\}", fill, path)


def read_yaml(path: Path, error_class: type[UserError]) -> Any:
    """The content of a YAML file, whose mappings repeat no key.

    Raises:
        error_class: the file is not UTF-8 or not valid YAML, repeats a key, or has many aliases, by
            which a few lines can expand to gigabytes.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        aliases = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.aliases += self.check_event(yaml.AliasEvent)
            if self.aliases > MOST_ALIASES:
                line = self.peek_event().start_mark.line + 1
                raise error_class(
                    f"{path}:{line}: expected at most {MOST_ALIASES} aliases (*name), found more; "
                    "write the values out"
                )
            return super().compose_node(parent, index)

        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            lines: dict[tuple[str, str], int] = {}
            for key in (pair[0] for pair in node.value):
                same, line = (key.tag, str(key.value)), key.start_mark.line + 1
                if same in lines:
                    raise error_class(
                        f"{path}:{line}: expected unique keys, "
                        f"found {key.value!r} as in line {lines[same]}; remove one"
                    )
                lines[same] = line
            return node

    try:
        return yaml.load(path.read_text("utf-8-sig"), Loader=Loader)
    except (UserError, OSError):
        raise
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        line, byte = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise error_class(
            f"{path}:{line}: not UTF-8 at byte {byte}; convert the file to UTF-8"
        ) from error
    except Exception as error:  # PyYAML raises KeyError, AttributeError and others for odd tags
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else f"{path}"
        found = " ".join(str(getattr(error, "problem", None) or error).split())
        raise error_class(
            f"{place}: expected valid YAML, found an error: {found or type(error).__name__}; "
            "quote text that contains ': ' or ' #', indent with spaces"
        ) from error


def readable(name: str, rows: Iterable[Any], error_class: type[UserError]) -> Iterator[Any]:
    """The rows of a data set; raises `error_class` where its files are damaged."""
    try:
        table = getattr(rows, "data", None)
        if table is not None:  # of Arrow, which reads beyond its memory where an offset is wrong
            table.validate(full=True)
        yield from rows
    except Exception as error:  # damaged files raise anything: OSError, UnicodeDecodeError, ...
        raise error_class(f"{name}: the data set cannot be read ({error})") from error


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_hash(name: str) -> str | None:
    """SHA-256 of a file; None for a data set that is not a single file."""
    path = Path(name)
    return sha256(path) if path.is_file() else None


def folder_hash(paths: Iterable[Path]) -> str:
    """SHA-256 of several files: of their names and contents, in the order of the names."""
    files = sorted(path for path in paths if path.is_file())
    lines = "".join(f"{sha256(path)}  {path.name}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def contents(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of the files of a folder by name, those of the seal itself left out."""
    return {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != SEAL
    }


def changed_file(folder: Path, expected: Any) -> str | None:
    """How a folder differs from its `contents` of earlier, or None; files may have been added."""
    if not isinstance(expected, dict) or not expected:
        return "its list of hashes is damaged"
    for name, values in expected.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if not isinstance(values, dict) or path.stat().st_size != values.get("bytes"):
            return f"{name} has another size than when it was written"
        if sha256(path) != values.get("sha256"):
            return f"{name} has changed since it was written"
    return None


def seal(folder: Path) -> None:
    """Write a folder's `contents` into it, when it is complete."""
    write_json(contents(folder), folder / SEAL)
