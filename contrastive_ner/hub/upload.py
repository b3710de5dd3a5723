"""The Hub: pushing a packaged repository, fetching one to check it."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from contrastive_ner.errors import ConfigError, RepositoryError
from contrastive_ner.files import sha256
from contrastive_ner.hub.bundle import unpack_bundle
from contrastive_ner.hub.repository import OF_THE_HUB, content_faults

if TYPE_CHECKING:
    from huggingface_hub import HfApi


# ------------------------------------------------------------------------------------------ the Hub
@contextmanager
def hub_explained(repo_id: str, action: str) -> Iterator[None]:
    """Errors of the Hub and of the network as one line that says what to do; none of them holds a token."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise ConfigError(
            f"{repo_id}: access is granted by its owner only; ask for it on its page"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ConfigError(
            f"{repo_id}: no such repository, or a private one; check the name, and log in (hf auth login)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ConfigError(
            f"{repo_id}: no such revision; name a commit, a branch or a tag"
        ) from error
    except errors.HFValidationError as error:
        raise ConfigError(
            f"{repo_id!r} is no name of a repository: expected USER/NAME ({error})"
        ) from error
    except errors.LocalTokenNotFoundError as error:
        raise ConfigError(
            "pushing needs a token: hf auth login, or the variable HF_TOKEN"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "?"
        if status == 412:
            raise ConfigError(
                f"{repo_id}: someone else pushed in between; look at what changed, then {action} again"
            ) from error
        if status in (401, 403):
            raise ConfigError(
                f"{repo_id}: the token may not do this (status {status}); log in with one that may write"
            ) from error
        raise ConfigError(
            f"{repo_id}: the Hub answered with status {status}; {action} again later, nothing half-done is visible"
        ) from error
    except (
        network_error(),
        RuntimeError,
    ) as error:  # the client wraps what breaks an upload into a RuntimeError
        raise ConfigError(
            f"{repo_id}: {type(error).__name__}; check the network and {action} again, nothing half-done is visible"
        ) from error


def network_error() -> type[Exception]:
    """What the Hub's client raises when there is no answer: the base of its own errors, of a library that it changes now and then."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]


def blob_id(path: Path) -> str:
    """Git's name of a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def changes(api: "HfApi", repo_id: str, folder: Path, revision: str) -> tuple[list[str], list[str]]:
    """Files of `folder` that the repository has not or has otherwise, and files that only the repository has."""
    from huggingface_hub.hf_api import RepoFile

    there = {
        entry.path: entry
        for entry in api.list_repo_tree(repo_id, recursive=True, revision=revision)
        if isinstance(entry, RepoFile)
    }
    changed = []
    for path in sorted(folder.iterdir()):
        entry = there.get(path.name)
        same = entry is not None and (
            sha256(path) == entry.lfs.sha256 if entry.lfs else blob_id(path) == entry.blob_id
        )
        if not same:
            changed.append(path.name)
    return changed, sorted(set(there) - {path.name for path in folder.iterdir()} - {OF_THE_HUB})


def push(
    folder: Path,
    repo_id: str,
    *,
    branch: str = "main",
    private: bool | None = None,
    pull_request: bool = False,
    tag: str | None = None,
    message: str = "Upload model",
    dry_run: bool = False,
) -> str:
    """Upload a packaged repository in one commit, or none where nothing changed; returns what was done, for a person to read.

    The repository then holds these files and no others. Nothing of an upload is visible before its commit.

    Args:
        private: whether a repository that is created is private (None: as its owner's settings say); true refuses an existing public one.
        pull_request: propose the commit in place of making it.
        tag: a name for the commit.

    Raises:
        ConfigError: no such repository, no right to write, no network, someone else pushed meanwhile, a tag that names another commit.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi()
    with hub_explained(repo_id, "push"):
        if not dry_run:
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            if branch != "main":
                api.create_branch(repo_id, branch=branch, exist_ok=True)
        elif not api.repo_exists(repo_id):
            return (
                f"{repo_id} would be created with {len(list(folder.iterdir()))} files:\n"
                + listing(folder, sorted(os.listdir(folder)))
            )
        if private and not api.model_info(repo_id).private:
            raise ConfigError(
                f"{repo_id} exists and is public: nothing was uploaded; make it private on its page, or choose another name"
            )
        is_new = dry_run and branch not in {
            known.name for known in api.list_repo_refs(repo_id).branches
        }
        head = commit_of(
            api, repo_id, "main" if is_new else branch
        )  # a push makes a new branch off main
        changed, gone = changes(api, repo_id, folder, head)
        is_tagged = tag is not None and has_tag(
            api, repo_id, tag, None if changed or gone else head
        )
        if dry_run:
            return (
                f"{repo_id}, {branch}: {len(changed)} files would change, {len(gone)} would go\n"
                + listing(folder, changed, gone)
            )
        if not changed and not gone:
            commit, done = head, f"{repo_id} is unchanged, no commit was made"
        else:
            operations = [CommitOperationAdd(name, folder / name) for name in changed] + [
                CommitOperationDelete(name) for name in gone
            ]
            info = api.create_commit(
                repo_id,
                operations,
                commit_message=message,
                revision=branch,
                create_pr=pull_request,
                parent_commit=head,
            )
            commit, done = info.oid, f"{repo_id}: {len(changed)} files changed, {len(gone)} removed"
            if info.pr_url:
                done += f"; proposed as {info.pr_url}"
        if tag is not None and not is_tagged:
            api.create_tag(repo_id, tag=tag, revision=commit)
        return f"{done}\ncommit {commit}\nload with revision={commit!r}, code_revision={commit!r}"


def commit_of(api: "HfApi", repo_id: str, revision: str) -> str:
    """The commit that a branch, a tag or a commit's name stands for."""
    commit = api.model_info(repo_id, revision=revision).sha
    if commit is None:
        raise ConfigError(f"{repo_id}: the Hub names no commit for {revision}")
    return commit


def listing(folder: Path, changed: Iterable[str], gone: Iterable[str] = ()) -> str:
    return "\n".join(
        [f"  {name} ({(folder / name).stat().st_size:,} bytes)" for name in changed]
        + [f"  {name} (removed)" for name in gone]
    )


def has_tag(api: "HfApi", repo_id: str, tag: str, commit: str | None) -> bool:
    """Whether the commit (None: one still to be made) has this name; ConfigError if it is another's: people may have pinned it."""
    for known in api.list_repo_refs(repo_id).tags:
        if known.name == tag:
            if known.target_commit != commit:
                raise ConfigError(
                    f"{repo_id}: tag {tag} names commit {known.target_commit}; choose another name"
                )
            return True
    return False


def download(repo_id: str, revision: str, folder: Path) -> str:
    """A repository's files at a revision as plain files; returns the commit. What must not be in a repository is not even fetched.

    Raises:
        RepositoryError: it holds files that do not belong there.
    """
    from huggingface_hub import HfApi, snapshot_download

    with hub_explained(repo_id, "verify"):
        commit = commit_of(HfApi(), repo_id, revision)
        faults = content_faults(HfApi().list_repo_files(repo_id, revision=commit))
        if faults:
            raise RepositoryError(f"{repo_id}@{commit}", faults)
        snapshot_download(repo_id, revision=commit, local_dir=folder)
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the client's notes
    return commit


@contextmanager
def opened(target: str, revision: str | None) -> Iterator[tuple[Path, str]]:
    """The files of a folder, a bundle or a repository of the Hub, and what they are called.

    Raises:
        ConfigError: a revision of what lies here: only the Hub has any.
    """
    path = Path(target)
    if revision is not None and path.exists():
        raise ConfigError(
            f"{target} is a file or folder here, not a repository of the Hub: it has no revision {revision}"
        )
    if path.is_dir():
        yield path, str(path)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        if path.is_file():
            unpack_bundle(path, folder)
            yield folder, str(path)
        else:
            commit = download(target, revision or "main", folder)
            yield folder, f"{target}@{commit}"
