"""Model repositories: what belongs in one, whether it is whole, how it becomes a bundle or gets to the Hub.

Sections: contents, manifest, packaging, loading in a clean process, bundles, the Hub.
Nothing that a repository holds is unpickled. Its code runs only where it equals this project's, or where the caller says so.
"""

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config_ner import ConfigError
from data_ner import fresh_folder, move_folder, read_json

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelCard

HERE = Path(__file__).resolve().parent
MANIFEST = "MANIFEST.sha256"
CODE = {
    "nerco": ("modeling_nerco.py", "encoder_ner.py", "pipeline_ner.py", "windows_ner.py"),
    "binder": ("modeling_binder.py", "encoder_ner.py", "types_binder.py", "pipeline_ner.py", "windows_ner.py"),
}
REQUIRED = ("config.json", "tokenizer.json", "tokenizer_config.json", "README.md", "metrics.json", "examples.json")
TOKENIZER = {"special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt"}
DOCUMENTS = {"LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE"}
OF_THE_HUB = ".gitattributes"  # the Hub writes it into every repository
WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")
LINE = re.compile(r"([0-9a-f]{64})  ([^\s/\\]+)\n")
NAME_TO_COME = "NAME_OF_THIS_REPOSITORY"  # in a card, until it is known
# Entries of configurations by which the library chooses code. It reads the first ones at the top only: an encoder's configuration inside
# may well keep those of its own repository. Kernels are asked for at any depth, and may lie on the Hub.
CODE_KEYS = ("auto_map", "custom_pipelines")
KERNEL_KEYS = ("attn_implementation", "_attn_implementation")
NOT_FOR_STRANGERS = ("HF_", "HUGGING", "TRANSFORMERS_", "PYTHON")  # variables: tokens, caches with code, where modules are found
SAME_SCORE = 1e-4  # by which scores may differ between machines


class RepositoryError(ValueError):
    """A model repository that is damaged, incomplete, or holds what it must not; `faults` names everything that was found."""

    def __init__(self, where: str | Path, faults: Iterable[str]) -> None:
        self.faults = list(faults)
        super().__init__(f"{where}: " + "; ".join(self.faults))


# -------------------------------------------------------------------------------------------------------------- contents
def content_faults(names: Iterable[str]) -> list[str]:
    """What a repository of these files holds that it must not, and lacks. Files of subfolders are named with a slash."""
    present = set(names) - {OF_THE_HUB, MANIFEST}
    code = {name for names in CODE.values() for name in names}
    known = {*REQUIRED, *TOKENIZER, *DOCUMENTS, *code}
    faults = []
    for name in sorted(present):
        if Path(name).suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".h5", ".msgpack"):
            faults.append(f"{name}: weights and data other than safetensors and JSON are refused, they can execute code")
        elif name not in known and not WEIGHTS.fullmatch(name):
            faults.append(f"{name}: does not belong into a model repository")
    faults += [f"{name} is missing" for name in REQUIRED if name not in present]
    if not any(WEIGHTS.fullmatch(name) and name.endswith(".safetensors") for name in present):
        faults.append("model.safetensors is missing")
    return faults


def read_config(folder: Path) -> dict[str, Any]:
    """config.json. RepositoryError if it cannot be read or is no object."""
    return read_object(folder, "config.json")


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """The object of a JSON file. RepositoryError if it cannot be read or is no object."""
    try:
        content = json.loads((folder / name).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RepositoryError(folder, [f"{name} cannot be read ({error})"]) from error
    if not isinstance(content, dict):
        raise RepositoryError(folder, [f"{name} holds {type(content).__name__}: expected an object"])
    return content


def model_type_of(folder: Path) -> str:
    """ "nerco" or "binder". RepositoryError if config.json is of no model of this project."""
    found = read_config(folder).get("model_type")
    if not isinstance(found, str) or found not in CODE:
        raise RepositoryError(folder, [f"config.json has model_type {found!r}: expected {' or '.join(CODE)}"])
    return found


def code_differs(folder: Path) -> dict[str, str]:
    """Code of a repository that is not this project's, by name with its SHA-256: what loading with trust_remote_code would run."""
    found = {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*.py"))}
    return {name: digest for name, digest in found.items() if not (HERE / name).is_file() or sha256(HERE / name) != digest}


def check_code(folder: Path, *, trust_remote_code: bool) -> bool:
    """Whether loading a repository runs this project's code and no other; other code must be trusted by the caller.

    Raises:
        RepositoryError: other code without `trust_remote_code`; code that lies elsewhere, in any case.
    """
    elsewhere = code_elsewhere(folder)
    if elsewhere:
        raise RepositoryError(folder, elsewhere)
    other = code_differs(folder)
    if other and not trust_remote_code:
        listed = ", ".join(f"{name} (SHA-256 {digest})" for name, digest in other.items())
        raise RepositoryError(folder, [f"loading would run code that is not this project's: {listed}; read it, then --trust_remote_code"])
    return not other


def code_elsewhere(folder: Path) -> list[str]:
    """Entries that make the library take code from another repository ("USER/NAME--file.Class") or another folder."""
    files = ["config.json", *(name for name in ("tokenizer_config.json",) if (folder / name).is_file())]
    return [
        f"{name}: {key} names code of another repository or folder ({value!r})"
        for name in files
        for key, value in code_entries(read_object(folder, name))
        if "--" in value or "/" in value or "\\" in value
    ]


def code_entries(value: Any) -> Iterator[tuple[str, str]]:
    """Keys of a configuration that say what code is loaded, each with its strings."""
    parts = [("", value)]  # a list, not recursion: a hostile value may be deeper than the stack
    while parts:
        key, part = parts.pop()
        if isinstance(part, str) and key:
            yield key, part
        elif isinstance(part, dict):
            keys = (*CODE_KEYS, *KERNEL_KEYS) if part is value else KERNEL_KEYS
            parts += [(key or (name if name in keys else ""), inner) for name, inner in part.items()]
        elif isinstance(part, list):
            parts += [(key, inner) for inner in part]


def weight_faults(folder: Path) -> list[str]:
    """Files of weights that are no safetensors files, or shorter or longer than their header says."""
    from safetensors import SafetensorError, safe_open

    faults = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                file.keys()
        except (SafetensorError, OSError, ValueError) as error:
            faults.append(f"{path.name} is damaged ({error})")
    return faults


# -------------------------------------------------------------------------------------------------------------- manifest
def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path) -> None:
    """MANIFEST.sha256: the SHA-256 of every file, in the form that `sha256sum --check` reads."""
    names = sorted(path.name for path in folder.iterdir() if path.name not in (MANIFEST, OF_THE_HUB))
    (folder / MANIFEST).write_text("".join(f"{sha256(folder / name)}  {name}\n" for name in names), "utf-8", newline="\n")


def read_manifest(folder: Path) -> dict[str, str]:
    """{file: SHA-256}. RepositoryError where a single character is not as `write_manifest` writes it."""
    try:
        lines = (folder / MANIFEST).read_bytes().decode("utf-8").splitlines(keepends=True)
    except (OSError, ValueError) as error:
        raise RepositoryError(folder, [f"{MANIFEST} cannot be read ({error})"]) from error
    entries: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        match = LINE.fullmatch(line)
        if match is None or match[2] in entries:
            raise RepositoryError(folder, [f"{MANIFEST}:{number}: expected SHA-256, two spaces and a file that no line above names"])
        entries[match[2]] = match[1]
    return entries


def faults_of(folder: Path) -> list[str]:
    """Everything that is wrong with a repository's files; nothing of it is loaded or run."""
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    names = [path.relative_to(folder).as_posix() for path in paths]
    faults = [f"{name}: is no plain file" for name, path in zip(names, paths, strict=True) if not stat.S_ISREG(path.lstat().st_mode)]
    if faults:
        return faults
    faults = content_faults(names) + manifest_faults(folder, names)
    return faults or structure_faults(folder)


def manifest_faults(folder: Path, names: Collection[str]) -> list[str]:
    """Where the files and the manifest disagree."""
    try:
        listed = read_manifest(folder)
    except RepositoryError as error:
        return error.faults
    faults = [f"{name}: {MANIFEST} names it, and it is not there" for name in sorted(set(listed) - set(names))]
    faults += [f"{name}: {MANIFEST} does not name it" for name in sorted(set(names) - set(listed) - {MANIFEST, OF_THE_HUB})]
    faults += [
        f"{name}: not the file that {MANIFEST} names (SHA-256 differs)"
        for name, digest in listed.items()
        if name in names and sha256(folder / name) != digest
    ]
    return faults


def structure_faults(folder: Path) -> list[str]:
    """Files that are there but cannot be what their names say."""
    try:
        missing = [f"{name} is missing" for name in CODE[model_type_of(folder)] if not (folder / name).is_file()]
    except RepositoryError as error:
        return error.faults
    try:
        elsewhere = code_elsewhere(folder)
    except RepositoryError as error:
        elsewhere = error.faults
    return missing + elsewhere + weight_faults(folder)


# ------------------------------------------------------------------------------------------------------------- packaging
def package(model_dir: Path, folder: Path, metadata: Mapping[str, Any] | None = None, *, repo_id: str | None = None) -> Path:
    """Copy a run's `model/` into `folder` as a repository: card with `metadata`, manifest; checked but not loaded.

    Args:
        model_dir: what `run_ner.py train` leaves, or a folder with the same files.
        metadata: fields of the card's head to set, such as license, language, datasets, base_model.
        repo_id: name on the Hub, for the card's example.

    Raises:
        RepositoryError: the folder holds what it must not, or lacks something.
    """
    names = sorted(path.relative_to(model_dir).as_posix() for path in model_dir.rglob("*") if not path.is_dir())
    faults = content_faults(names)
    if faults:
        raise RepositoryError(model_dir, faults)
    fresh_folder(folder)
    for name in names:
        if name not in (MANIFEST, OF_THE_HUB):
            shutil.copyfile(model_dir / name, folder / name)  # follows links: a snapshot of the cache is made of them
    card = folder / "README.md"
    if repo_id:
        card.write_text(card.read_text("utf-8").replace(NAME_TO_COME, repo_id), "utf-8")
    if metadata:
        set_metadata(card, metadata)
    write_manifest(folder)
    faults = faults_of(folder)
    if faults:
        raise RepositoryError(model_dir, faults)
    return folder


def set_metadata(card_file: Path, metadata: Mapping[str, Any]) -> None:
    """Set fields of a card's head; the text below stays as it is."""
    card = read_card(card_file)
    for name, value in metadata.items():
        setattr(card.data, name, value)
    card.save(card_file)


def has_license(folder: Path) -> bool:
    return bool(read_card(folder / "README.md").data.to_dict().get("license"))


def read_card(card_file: Path) -> "ModelCard":
    """A card, whose head a person may have edited. RepositoryError if it is no YAML."""
    import yaml
    from huggingface_hub import ModelCard

    try:
        return ModelCard.load(card_file)
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise RepositoryError(card_file.parent, [f"{card_file.name}: the head, between the lines of ---, is no YAML ({said})"]) from error


# --------------------------------------------------------------------------------------------- loading in a clean process
LOADING = """
import json, sys
from transformers import AutoModel, pipeline
folder, examples = sys.argv[1], json.load(open(sys.argv[2], encoding="utf-8"))
AutoModel.from_pretrained(folder, trust_remote_code=True)
ner = pipeline("ner", model=folder, trust_remote_code=True)
print("\\n" + json.dumps([ner(example["text"]) for example in examples]))
"""


def check_loads(folder: Path, *, trust_remote_code: bool = False) -> None:
    """Load a repository as a stranger does, and repeat its stored predictions: in a new process, elsewhere, with the network off.

    Raises:
        RepositoryError: it does not load, or finds other mentions than `examples.json` holds; its code is not this project's and
            `trust_remote_code` is false.
    """
    check_code(folder, trust_remote_code=trust_remote_code)
    examples = read_examples(folder)
    with tempfile.TemporaryDirectory() as elsewhere:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(NOT_FOR_STRANGERS)}
        environment = {**kept, "HF_HOME": elsewhere, "HF_HUB_OFFLINE": "1", "PYTHONSAFEPATH": "1"}
        done = subprocess.run(
            [sys.executable, "-c", LOADING, str(folder.resolve()), str((folder / "examples.json").resolve())],
            cwd=elsewhere,
            env=environment,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise RepositoryError(folder, [f"does not load in a clean process: {(done.stderr.strip().splitlines() or ['?'])[-1]}"])
    found = json.loads(done.stdout.strip().splitlines()[-1])
    for example, mentions in zip(examples, found, strict=True):
        if not same_mentions(example["mentions"], mentions):
            raise RepositoryError(folder, [f"finds {mentions} in {example['text']!r}: examples.json holds {example['mentions']}"])


def read_examples(folder: Path) -> list[dict[str, Any]]:
    """examples.json: texts with the mentions found in them. RepositoryError if it holds something else, or nothing to repeat."""
    try:
        examples = read_json(folder / "examples.json")
        well_formed = isinstance(examples, list) and all(
            isinstance(example["text"], str) and all(isinstance(mention["score"], float) for mention in example["mentions"])
            for example in examples
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        examples, well_formed = [], False
    if not examples or not well_formed:
        raise RepositoryError(folder, ["examples.json holds no predictions to repeat: expected a list of texts with their mentions"])
    return examples


def same_mentions(expected: list[dict[str, Any]], found: list[dict[str, Any]]) -> bool:
    """Whether two lists hold the same mentions with the same scores, but for rounding."""
    if len(expected) != len(found):
        return False
    return all(
        {**a, "score": 0} == {**b, "score": 0} and abs(a["score"] - b["score"]) <= SAME_SCORE for a, b in zip(expected, found, strict=True)
    )


# --------------------------------------------------------------------------------------------------------------- bundles
def write_bundle(folder: Path, bundle: Path) -> None:
    """A repository as one ZIP archive, without compression (weights have none to give) and without times: equal content, equal bytes."""
    partial = bundle.with_name(f".{bundle.name}-partial")
    bundle.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.iterdir()):
            entry = zipfile.ZipInfo(f"{bundle.stem}/{path.name}")
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            with path.open("rb") as source, archive.open(entry, "w", force_zip64=path.stat().st_size >= 2**31) as target:
                shutil.copyfileobj(source, target)
    os.replace(partial, bundle)


def unpack_bundle(bundle: Path, folder: Path) -> None:
    """Unpack a bundle's files into `folder`, which appears complete or not at all.

    Raises:
        RepositoryError: it is no ZIP archive, or not such a one as `write_bundle` writes: plain files in one folder, each once, without
            compression (so that nothing unpacks to more than the archive's own size), without links.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; choose another folder")
    partial = fresh_folder(folder.with_name(f".{folder.name}-partial"))
    try:
        with zipfile.ZipFile(bundle) as archive:
            faults = entry_faults(archive.infolist())
            if sum(entry.file_size for entry in archive.infolist()) > bundle.stat().st_size:  # entries that share their bytes
                faults.append("its files are larger than the archive")
            if faults:
                raise RepositoryError(bundle, faults)
            for entry in archive.infolist():
                with archive.open(entry) as source, (partial / Path(entry.filename).name).open("xb") as target:
                    shutil.copyfileobj(source, target)
        move_folder(partial, folder)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, UnicodeError, OverflowError) as error:
        raise RepositoryError(bundle, [f"is no bundle, or a damaged one ({error})"]) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def entry_faults(entries: list[zipfile.ZipInfo]) -> list[str]:
    """What in an archive's list of files is not as `write_bundle` writes it."""
    faults = []
    places = [re.fullmatch(r"([^/\\\0]+)/([^/\\\0]+)", entry.filename) for entry in entries]
    for entry, place in zip(entries, places, strict=True):
        mode = entry.external_attr >> 16
        if place is None or {place[1], place[2]} & {".", ".."} or ":" in entry.filename:
            faults.append(f"{entry.filename!r}: expected FOLDER/FILE")
        elif not stat.S_ISREG(mode):
            faults.append(f"{entry.filename!r}: is no plain file")
        elif entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size or entry.flag_bits & 1:
            faults.append(f"{entry.filename!r}: is compressed or encrypted")
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names):
        faults.append("a file is there twice")
    if len({place[1] for place in places if place}) > 1:
        faults.append("it holds several folders")
    return faults


# --------------------------------------------------------------------------------------------------------------- the Hub
@contextmanager
def hub_explained(repo_id: str, action: str) -> Iterator[None]:
    """Errors of the Hub and of the network as one line that says what to do; none of them holds a token."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise ConfigError(f"{repo_id}: access is granted by its owner only; ask for it on its page") from error
    except errors.RepositoryNotFoundError as error:
        raise ConfigError(f"{repo_id}: no such repository, or a private one; check the name, and log in (hf auth login)") from error
    except errors.RevisionNotFoundError as error:
        raise ConfigError(f"{repo_id}: no such revision; name a commit, a branch or a tag") from error
    except errors.HFValidationError as error:
        raise ConfigError(f"{repo_id!r} is no name of a repository: expected USER/NAME ({error})") from error
    except errors.LocalTokenNotFoundError as error:
        raise ConfigError("pushing needs a token: hf auth login, or the variable HF_TOKEN") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "?"
        if status == 412:
            raise ConfigError(f"{repo_id}: someone else pushed in between; look at what changed, then {action} again") from error
        if status in (401, 403):
            raise ConfigError(f"{repo_id}: the token may not do this (status {status}); log in with one that may write") from error
        raise ConfigError(
            f"{repo_id}: the Hub answered with status {status}; {action} again later, nothing half-done is visible"
        ) from error
    except (network_error(), RuntimeError) as error:  # the client wraps what breaks an upload into a RuntimeError
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

    there = {entry.path: entry for entry in api.list_repo_tree(repo_id, recursive=True, revision=revision) if isinstance(entry, RepoFile)}
    changed = []
    for path in sorted(folder.iterdir()):
        entry = there.get(path.name)
        same = entry is not None and (sha256(path) == entry.lfs.sha256 if entry.lfs else blob_id(path) == entry.blob_id)
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
            return f"{repo_id} would be created with {len(list(folder.iterdir()))} files:\n" + listing(folder, sorted(os.listdir(folder)))
        if private and not api.model_info(repo_id).private:
            raise ConfigError(f"{repo_id} exists and is public: nothing was uploaded; make it private on its page, or choose another name")
        is_new = dry_run and branch not in {known.name for known in api.list_repo_refs(repo_id).branches}
        head = commit_of(api, repo_id, "main" if is_new else branch)  # a push makes a new branch off main
        changed, gone = changes(api, repo_id, folder, head)
        is_tagged = tag is not None and has_tag(api, repo_id, tag, None if changed or gone else head)
        if dry_run:
            return f"{repo_id}, {branch}: {len(changed)} files would change, {len(gone)} would go\n" + listing(folder, changed, gone)
        if not changed and not gone:
            commit, done = head, f"{repo_id} is unchanged, no commit was made"
        else:
            operations = [CommitOperationAdd(name, folder / name) for name in changed] + [CommitOperationDelete(name) for name in gone]
            info = api.create_commit(
                repo_id, operations, commit_message=message, revision=branch, create_pr=pull_request, parent_commit=head
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
        [f"  {name} ({(folder / name).stat().st_size:,} bytes)" for name in changed] + [f"  {name} (removed)" for name in gone]
    )


def has_tag(api: "HfApi", repo_id: str, tag: str, commit: str | None) -> bool:
    """Whether the commit (None: one still to be made) has this name; ConfigError if it is another's: people may have pinned it."""
    for known in api.list_repo_refs(repo_id).tags:
        if known.name == tag:
            if known.target_commit != commit:
                raise ConfigError(f"{repo_id}: tag {tag} names commit {known.target_commit}; choose another name")
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
        raise ConfigError(f"{target} is a file or folder here, not a repository of the Hub: it has no revision {revision}")
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
