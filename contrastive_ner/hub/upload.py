"""The Hub: pushing a packaged repository; its errors in one line."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from contrastive_ner.errors import ConfigError, RepositoryError
from contrastive_ner.files import sha256
from contrastive_ner.hub.repository import DOCUMENTS, MANIFEST, OF_THE_HUB, read_manifest

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"


@contextmanager
def hub_explained(repo_id: str, action: str) -> Iterator[None]:
    """Turn errors of the Hub and the network into one line that says what to do.

    The messages never contain a token.

    Args:
        action: what to do again, "push" or "try".

    Raises:
        ConfigError: the error, explained.
    """
    from huggingface_hub import errors

    is_push = action == "push"
    again = f"{action} again" + (". No partial upload is visible" if is_push else "")
    access = "write access" if is_push else "access to the repository"
    try:
        yield
    except errors.GatedRepoError as error:
        raise ConfigError(
            f"{repo_id}: access needs the owner's permission; request it on the repository's page"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ConfigError(
            f"{repo_id}: no such repository, or a private one; check the name, or log in "
            "(hf auth login)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ConfigError(
            f"{repo_id}: no such revision; name an existing commit, branch or tag"
        ) from error
    except errors.HFValidationError as error:
        raise ConfigError(
            f"{repo_id!r} is not a repository name: expected USER/NAME ({error})"
        ) from error
    except errors.LocalTokenNotFoundError as error:
        raise ConfigError("pushing needs a token: run hf auth login, or set HF_TOKEN") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "?"
        if status == 412:
            raise ConfigError(
                f"{repo_id}: someone else pushed in the meantime; look at the changes, then "
                f"{action} again"
            ) from error
        if status in (401, 403):
            raise ConfigError(
                f"{repo_id}: the token does not permit this (status {status}); log in with a token "
                f"that has {access}"
            ) from error
        raise ConfigError(
            f"{repo_id}: the Hub answered with status {status}; wait, then {again}"
        ) from error
    # The client wraps what interrupts an upload in a RuntimeError.
    except (network_error(), RuntimeError) as error:
        raise ConfigError(
            f"{repo_id}: {type(error).__name__}; check the network, then {again}"
        ) from error


def network_error() -> type[Exception]:
    """The exception that the Hub's client raises if there is no answer.

    It is the base class of the client's own errors. It comes from the client's HTTP library, which
    differs between versions of the client.
    """
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]


def blob_id(path: Path) -> str:
    """Git's object name (blob SHA-1) of a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class Place(NamedTuple):
    """A repository on the Hub; `repo_type` is "space", or None for a model."""

    repo_id: str
    repo_type: str | None = None


def names_in(folder: Path) -> list[str]:
    """Names of the files in a folder and its subfolders."""
    found = (path for path in folder.rglob("*") if not path.is_dir())
    return sorted(path.relative_to(folder).as_posix() for path in found)


class Changes(NamedTuple):
    """Names of files that are new or changed, of those only in the repository, of all in it."""

    changed: list[str]
    gone: list[str]
    there: list[str]


def changes(api: "HfApi", place: Place, folder: Path, revision: str) -> Changes:
    """What a push of `folder` would change in a repository."""
    from huggingface_hub.hf_api import RepoFile

    there = {
        entry.path: entry
        for entry in api.list_repo_tree(**place._asdict(), recursive=True, revision=revision)
        if isinstance(entry, RepoFile)
    }
    changed = []
    for name in names_in(folder):
        entry, path = there.get(name), folder / name
        same = entry is not None and (
            sha256(path) == entry.lfs.sha256 if entry.lfs else blob_id(path) == entry.blob_id
        )
        if not same:
            changed.append(name)
    return Changes(changed, sorted(set(there) - {*names_in(folder), OF_THE_HUB}), sorted(there))


def check_own(api: "HfApi", place: Place, revision: str, found: Changes) -> None:
    """Check that a push replaces nothing but what an earlier one wrote, as its manifest tells.

    Raises:
        ConfigError: it would, or the repository holds something else than such a model.
    """

    def there(name: str) -> Path:
        return Path(api.hf_hub_download(place.repo_id, name, revision=revision))

    ours: dict[str, str] = {}
    if MANIFEST in found.there:
        with suppress(RepositoryError):  # of something else
            ours = {**read_manifest(there(MANIFEST).parent), MANIFEST: ""}
    # What the Hub's page makes of a new repository.
    begun = {OF_THE_HUB, CARD, *DOCUMENTS}
    foreign = found.gone if ours else sorted({*found.there} - begun)
    if CARD in ours and CARD in found.changed and sha256(there(CARD)) != ours[CARD]:
        raise ConfigError(
            f"{place.repo_id}: {CARD} was edited there since the last push: nothing was uploaded; "
            "take its changes over, or give --replace, which removes them from the branch"
        )
    if foreign := [name for name in foreign if name not in ours]:
        listed = ", ".join(foreign[:5]) + ", ..." * (len(foreign) > 5)
        raise ConfigError(
            f"{place.repo_id} holds files that no push of this project wrote ({listed}): nothing "
            "was uploaded; choose another name, or give --replace, which removes them from the "
            "branch"
        )


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
    space: bool = False,
    replace: bool = False,
) -> str:
    """Upload a packaged repository in one commit, or in none without changes; returns a report.

    The repository then holds these files and no others. Nothing is visible before the commit.

    Args:
        repo_id: USER/NAME; the repository is created if it does not exist.
        private: whether a new repository is private; True refuses an existing public one.
        pull_request: open a pull request instead of committing to the branch.
        tag: tag for the commit; an existing tag is never moved.
        dry_run: only report what would be uploaded.
        space: it is a Space.
        replace: remove files that no push wrote; without it, they are an error (but in a Space).

    Raises:
        ConfigError: files that no push wrote would be removed, no such repository, no write
            access, no network, someone else pushed in the meantime, the tag names another commit.
    """
    from huggingface_hub import HfApi

    check_tag(tag)
    api = HfApi()
    with hub_explained(repo_id, "push"):
        place = Place(repo_id, "space" if space else None)
        if not dry_run:
            place = created(api, place, branch, private)
        elif not api.repo_exists(**place._asdict()):
            names = names_in(folder)
            return f"{repo_id} would be created with {len(names)} files:\n" + listing(folder, names)
        if private:
            check_private(api, place)
        head = head_of(api, place, branch, may_be_new=dry_run)
        changed, gone, _ = found = changes(api, place, folder, head)
        if not (replace or space):
            check_own(api, place, head, found)
        is_tagged = tag is not None and has_tag(api, place, tag, None if changed or gone else head)
        if dry_run:
            planned = f"{len(changed)} files would change, {len(gone)} would be removed"
            return f"{repo_id}, {branch}: {planned}\n" + listing(folder, changed, gone)
        if not changed and not gone:
            commit, done = head, f"{place.repo_id} is unchanged; no commit was made"
        else:
            given = {"revision": branch, "parent_commit": head, "create_pr": pull_request}
            given |= {"commit_message": message}
            commit, done = commit_changes(api, place, folder, changed, gone, **given)
        if tag is not None and not is_tagged:
            api.create_tag(**place._asdict(), tag=tag, revision=commit)
        return f"{done}\ncommit {commit}\n{how_to_use(api, place, commit)}"


def how_to_use(api: "HfApi", place: Place, commit: str) -> str:
    """The page of a Space, or how to load a model."""
    if place.repo_type == "space":
        return f"{api.endpoint}/spaces/{place.repo_id}"
    return f"load with revision={commit!r}, code_revision={commit!r}"


def check_tag(tag: str | None) -> None:
    """Raise ConfigError if git allows no tag of this name: before the commit, not after it."""
    if tag is not None and (
        not tag
        or re.search(r"[\s\0-\x1f\x7f~^:?*\[\\]|\.\.|@\{|//|/\.", tag)
        or tag.startswith(("-", "/", "."))
        or tag.endswith(("/", ".", ".lock"))
    ):
        raise ConfigError(f"--tag {tag!r}: expected the name of a tag of git, such as v1.0")


def created(api: "HfApi", place: Place, branch: str, private: bool | None) -> Place:
    """A repository and its branch, made where they are missing; the place has the user's name."""
    sdk = "gradio" if place.repo_type == "space" else None
    made = api.create_repo(**place._asdict(), private=private, exist_ok=True, space_sdk=sdk)
    place = place._replace(repo_id=made.repo_id)
    if branch != "main":
        api.create_branch(**place._asdict(), branch=branch, exist_ok=True)
    return place


def check_private(api: "HfApi", place: Place) -> None:
    """Check that a repository is private.

    Raises:
        ConfigError: it is public.
    """
    if not api.repo_info(**place._asdict()).private:
        raise ConfigError(
            f"{place.repo_id} exists and is public: nothing was uploaded; make it private on its "
            "page, or choose another name"
        )


def head_of(api: "HfApi", place: Place, branch: str, *, may_be_new: bool) -> str:
    """The last commit of a branch; of main if the branch is new, where a push would create it."""
    is_new = may_be_new and branch not in {
        known.name for known in api.list_repo_refs(**place._asdict()).branches
    }
    return commit_of(api, place.repo_id, "main" if is_new else branch, place.repo_type)


def commit_changes(
    api: "HfApi", place: Place, folder: Path, changed: list[str], gone: list[str], **options: Any
) -> tuple[str, str]:
    """Upload changed files and remove others in one commit; returns the commit and a report.

    Args:
        options: options of `HfApi.create_commit`.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        *(CommitOperationAdd(name, folder / name) for name in changed),
        *(CommitOperationDelete(name) for name in gone),
    ]
    info = api.create_commit(**place._asdict(), operations=operations, **options)
    done = f"{place.repo_id}: {len(changed)} files changed, {len(gone)} removed"
    return info.oid, done + (f"; proposed as {info.pr_url}" if info.pr_url else "")


def commit_of(api: "HfApi", repo_id: str, revision: str, repo_type: str | None = None) -> str:
    """The commit that a branch, a tag or a commit hash refers to."""
    commit = api.repo_info(repo_id, revision=revision, repo_type=repo_type).sha
    if commit is None:
        raise ConfigError(f"{repo_id}: the Hub names no commit for {revision}")
    return commit


def listing(folder: Path, changed: Iterable[str], gone: Iterable[str] = ()) -> str:
    """One line per file: changed ones with their size, then those that are removed."""
    return "\n".join(
        [f"  {name} ({(folder / name).stat().st_size:,} bytes)" for name in changed]
        + [f"  {name} (removed)" for name in gone]
    )


def has_tag(api: "HfApi", place: Place, tag: str, commit: str | None) -> bool:
    """Whether the tag exists and names this commit.

    Args:
        commit: None stands for a commit that is not made yet.

    Raises:
        ConfigError: the tag names another commit. It is never moved: others may have pinned it.
    """
    for known in api.list_repo_refs(**place._asdict()).tags:
        if known.name == tag:
            if known.target_commit != commit:
                raise ConfigError(
                    f"{place.repo_id}: tag {tag} names commit {known.target_commit}; choose "
                    "another name"
                )
            return True
    return False
