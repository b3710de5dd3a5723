"""Models by name: a folder, a bundle, or a repository on the Hub as USER/NAME[@REVISION].

A path that looks like one is never asked of the Hub. Every download is pinned to a commit.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from contrastive_ner.errors import ConfigError, RepositoryError
from contrastive_ner.hub.bundle import unpack_bundle
from contrastive_ner.hub.repository import check_code, content_faults, name_faults
from contrastive_ner.hub.upload import commit_of, hub_explained
from contrastive_ner.logs import log

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


class HubName(NamedTuple):
    """A repository on the Hub, at a commit, tag or branch."""

    repo_id: str
    revision: str

    def __str__(self) -> str:
        return f"{self.repo_id}@{self.revision}"


def hub_name(target: str, what: str = "the folder of a model") -> HubName | None:
    """The repository that a name stands for; None if it is a file or a folder here.

    Args:
        what: what is expected, for the error.

    Raises:
        ConfigError: it is neither.
    """
    if Path(target).exists():
        return None
    from contrastive_ner.models.encoder_ner import looks_like_folder

    name, at, revision = target.partition("@")
    fault = ""
    if looks_like_folder(name):
        is_folder = Path(name).is_dir()
        fault = f"{name} is a folder here and has no revision" if is_folder else "no such folder"
    elif REPOSITORY.fullmatch(name) is None:
        fault = "no such folder"
    elif at and not revision:
        fault = "no revision after @"
    if fault:
        raise ConfigError(
            f"{target}: {fault} (looked in {Path.cwd()}), and not a repository name: expected "
            f"{what}, or USER/NAME[@REVISION] on the Hub"
        )
    return HubName(name, revision or "main")


def model_folder(target: str, *, trust_remote_code: bool = False) -> Path:
    """The folder of a model: itself, or a snapshot of a repository in the Hub's cache.

    A repository's code is compared with this project's before its weights are downloaded.

    Raises:
        ConfigError: there is no such folder and no such repository, or no access to it.
        RepositoryError: the repository holds files that do not belong, or code that is not this
            project's, and `trust_remote_code` is false.
    """
    if hub_name(target) is None:
        return Path(target)
    return snapshot(target, trust_remote_code=trust_remote_code)


@cache  # a branch stays at one commit while the process runs
def snapshot(target: str, *, trust_remote_code: bool) -> Path:
    """The snapshot of a repository "USER/NAME[@REVISION]"; see `model_folder`."""
    from huggingface_hub import HfApi, constants, snapshot_download

    name = hub_name(target)
    if name is None:
        raise ConfigError(f"{target} is a file or a folder here, not a repository on the Hub")
    repo_id, revision = name
    if constants.HF_HUB_OFFLINE:
        folder = cached_snapshot(name)
        check_snapshot(folder, name, trust_remote_code=trust_remote_code)
    else:
        with hub_explained(repo_id, "try"):
            name = HubName(repo_id, commit_of(HfApi(), repo_id, revision))
            faults = foreign_files(HfApi().list_repo_files(repo_id, revision=name.revision))
            if faults:
                raise RepositoryError(str(name), faults)
            folder = Path(
                snapshot_download(
                    repo_id, revision=name.revision, allow_patterns=["*.json", "*.py"]
                )
            )
            check_snapshot(folder, name, trust_remote_code=trust_remote_code)
            snapshot_download(repo_id, revision=name.revision)
    log.info("model: %s", name)
    return folder


def cached_snapshot(name: HubName) -> Path:
    """A snapshot that was downloaded before. ConfigError if there is none of that commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name.repo_id, revision=name.revision, local_files_only=True))
    except (LocalEntryNotFoundError, ValueError) as error:
        raise ConfigError(
            f"{name}: the Hub's client is offline (HF_HUB_OFFLINE), and this revision is not in "
            "its cache; name a commit that was downloaded, as USER/NAME@COMMIT, or go online"
        ) from error


def foreign_files(names: list[str]) -> list[str]:
    """Files of a repository that no model or adapter has; nothing of it is downloaded."""
    is_adapter = ADAPTER[0] in names and "config.json" not in names
    known = ADAPTER if is_adapter else ()
    return name_faults(name for name in names if name not in known and not name.startswith("."))


def check_snapshot(folder: Path, name: HubName, *, trust_remote_code: bool) -> None:
    """Check the code of a repository before its weights are there; an adapter has none.

    Raises:
        RepositoryError: as in `check_code`, under the repository's name.
    """
    if not (folder / "config.json").exists() and (folder / ADAPTER[0]).exists():
        return
    try:
        check_code(folder, trust_remote_code=trust_remote_code)
    except RepositoryError as error:
        raise RepositoryError(f"{name} (in {folder})", error.faults) from error


def download(name: HubName, folder: Path) -> str:
    """Download a complete repository into `folder` as regular files; returns the commit.

    Raises:
        ConfigError: no such repository or revision, or no access to it.
        RepositoryError: the repository holds files that do not belong; nothing is downloaded.
    """
    from huggingface_hub import HfApi, snapshot_download

    with hub_explained(name.repo_id, "try"):
        commit = commit_of(HfApi(), *name)
        faults = content_faults(HfApi().list_repo_files(name.repo_id, revision=commit))
        if faults:
            raise RepositoryError(f"{name.repo_id}@{commit}", faults)
        snapshot_download(name.repo_id, revision=commit, local_dir=folder)
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the client's bookkeeping
    return commit


@contextmanager
def opened(target: str, revision: str | None) -> Iterator[tuple[Path, str]]:
    """The files of a folder, a bundle or a Hub repository, and a name for it in messages.

    Raises:
        ConfigError: a revision is given for a local file or folder, or twice.
    """
    path = Path(target)
    name = hub_name(target, "a folder, NAME.zip")
    if revision is not None and name is None:
        raise ConfigError(
            f"{target} is a local file or folder: it has no revision {revision}; drop --revision, "
            "or name a repository on the Hub"
        )
    if revision is not None and "@" in target:
        raise ConfigError(f"{target} --revision {revision}: two revisions; give one")
    if path.is_dir():
        yield path, str(path)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        if name is None:
            unpack_bundle(path, folder)
            yield folder, str(path)
        else:
            commit = download(name._replace(revision=revision or name.revision), folder)
            yield folder, f"{name.repo_id}@{commit}"
