"""Model repositories: what belongs in one, and whether it is complete and undamaged.

Sections: contents, code, manifest, packaging. Nothing in a repository is ever unpickled. Its code
runs only if it equals this project's, or if the caller trusts it.
"""

import json
import re
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from contrastive_ner import __version__, models
from contrastive_ner.errors import RepositoryError
from contrastive_ner.files import fresh_folder, read_json, sha256
from contrastive_ner.hub.metadata import read_card, set_metadata
from contrastive_ner.hub.tokenizer_files import file_faults
from contrastive_ner.hub.weights import tensor_faults, weight_faults
from contrastive_ner.models.checks_ner import KERNELS, size_fault, values_of
from contrastive_ner.models.lattice_ner import LATTICE
from contrastive_ner.models.lexicon_ner import LEXICON

MODELS = Path(models.__file__).resolve().parent
MANIFEST = "MANIFEST.sha256"
LARGEST_MANIFEST = 1_000_000  # bytes: ten thousand files
MODELING_FILES = {"nerco": "modeling_nerco.py", "binder": "modeling_binder.py"}  # by model_type
# {version: {file: SHA-256}} of the code that models of earlier releases carry.
RELEASED = Path(__file__).resolve().with_name("released_code.json")
# How transformers finds the files that it must copy.
SIBLING = re.compile(r"^\s*from\s+\.(\w+)\s+import", re.MULTILINE)
REQUIRED = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "README.md",
    "metrics.json",
    "examples.json",
)
TOKENIZER = {
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
}
DATA = ("metrics.json", "examples.json")  # no loading reads them
DOCUMENTS = {"LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE"}
OF_THE_HUB = ".gitattributes"  # the Hub writes it into every repository
WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")
LINE = re.compile(r"([0-9a-f]{64})  ([^\s/\\]+)\n")
NAME_TO_COME = "NAME_OF_THIS_REPOSITORY"  # stands in a card until the name is known
# Configuration entries by which transformers chooses code. At the top level, CODE_KEYS name code of
# the repository; further inside they would name that of the encoder, which is never used. Kernels
# may come from the Hub, and OUTSIDE_KEYS make a model read weights or code from other places.
CODE_KEYS = ("auto_map", "custom_pipelines")
OUTSIDE_KEYS = (
    "trust_remote_code",
    "transformers_weights",
    "base_model_name_or_path",
    "custom_generate",
    "use_timm_backbone",
    "use_pretrained_backbone",
)
PICKLED = (
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".pickle",
    ".joblib",
    ".npy",
    ".npz",
    ".h5",
    ".msgpack",
)
# What may lie in a model folder in use, besides what belongs in a repository: no loading reads it.
UNREAD = (".md", ".txt", ".jsonl", ".csv", ".tsv", ".yaml", ".log", ".png", ".jinja")
SAVED_BY_OTHERS = ("generation_config.json", "trainer_state.json", "all_results.json")


# ----------------------------------------------------------------------------------------- contents
def content_faults(names: Iterable[str]) -> list[str]:
    """Files that a repository must not hold, and files that it lacks.

    Args:
        names: its files; those in subfolders are named with a slash.
    """
    present = set(names) - {OF_THE_HUB, MANIFEST}
    code = {name for file in MODELING_FILES.values() for name in travelling_files(MODELS / file)}
    known = {*REQUIRED, *TOKENIZER, *DOCUMENTS, *code, LEXICON, LATTICE}
    faults = []
    for name in sorted(present):
        if Path(name).suffix in PICKLED:
            faults.append(
                f"{name}: can execute code when loaded; weights must be safetensors, data JSON"
            )
        elif name not in known and not WEIGHTS.fullmatch(name):
            faults.append(f"{name}: does not belong in a model repository")
    faults += [f"{name} is missing" for name in REQUIRED if name not in present]
    if not any(WEIGHTS.fullmatch(name) and name.endswith(".safetensors") for name in present):
        faults.append("model.safetensors is missing")
    return faults


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json; see `read_object`."""
    return read_object(folder, "config.json")


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        RepositoryError: the file cannot be read, or holds something other than an object.
    """
    content = read_value(folder, name)
    if not isinstance(content, dict):
        raise RepositoryError(
            folder, [f"{name} holds {type(content).__name__}: expected an object"]
        )
    return content


def read_value(folder: Path, name: str) -> Any:
    """The content of a JSON file.

    Raises:
        RepositoryError: the file cannot be read.
    """
    path = folder / name
    try:
        if not path.is_file():
            raise FileNotFoundError("no regular file")
        if fault := size_fault(path):
            raise ValueError(fault)
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RepositoryError(folder, [f"{name} cannot be read ({error})"]) from error


def model_type_of(folder: Path) -> str:
    """The model type in config.json, "nerco" or "binder".

    Raises:
        RepositoryError: config.json cannot be read, or does not describe a model of this project.
    """
    found = read_config(folder).get("model_type")
    if not isinstance(found, str) or found not in MODELING_FILES:
        raise RepositoryError(
            folder,
            [f"config.json has model_type {found!r}: expected {' or '.join(MODELING_FILES)}"],
        )
    return found


def travelling_files(modeling_file: Path) -> list[str]:
    """A modeling file and the siblings it imports, directly or not: they travel with the weights.

    The list also names siblings that do not exist.
    """
    names = [modeling_file.name]
    for name in names:  # grows while it is read
        path = modeling_file.with_name(name)
        found = SIBLING.findall(path.read_text("utf-8", errors="replace")) if path.is_file() else []
        names += [
            f"{sibling}.py" for sibling in dict.fromkeys(found) if f"{sibling}.py" not in names
        ]
    return names


# --------------------------------------------------------------------------------------------- code
def code_version(path: Path) -> str | None:
    """The version of this project that a code file comes from; None for any other code.

    It is the installed version or an earlier release.
    """
    digest, own = sha256(path), MODELS / path.name
    if own.is_file() and sha256(own) == digest:
        return __version__
    released: dict[str, dict[str, str]] = read_json(RELEASED)
    return next(
        (version for version, files in released.items() if files.get(path.name) == digest), None
    )


def code_versions(folder: Path) -> set[str]:
    """The versions of this project that a repository's code files come from."""
    return {version for path in folder.glob("*.py") if (version := code_version(path)) is not None}


def code_differs(folder: Path) -> dict[str, str]:
    """{file: SHA-256} of a repository's code that is not this project's.

    Loading the repository with trust_remote_code would run it.
    """
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.py"))}
    return {
        name: sha256(path)
        for name, path in found.items()
        if "/" in name or code_version(path) is None
    }


def check_code(folder: Path, *, trust_remote_code: bool) -> bool:
    """Whether loading a repository runs only this project's code. The caller must trust other code.

    Raises:
        RepositoryError: the repository holds other code and `trust_remote_code` is false; its
            configuration names code outside the repository, trusted or not.
    """
    elsewhere = code_elsewhere(folder)
    if elsewhere:
        raise RepositoryError(folder, elsewhere)
    other = code_differs(folder)
    if other and not trust_remote_code:
        listed = ", ".join(f"{name} (SHA-256 {digest})" for name, digest in other.items())
        raise RepositoryError(
            folder,
            [
                f"loading would run code that is not this project's: {listed}; read it, then pass "
                "--trust_remote_code"
            ],
        )
    return not other


def code_elsewhere(folder: Path) -> list[str]:
    """Entries of a repository's JSON files that make transformers load code from outside of it.

    Such an entry names another repository ("USER/NAME--file.Class") or another folder, or stands
    inside, such as in the configuration of the encoder.
    """
    faults = []
    for path in sorted({folder / "config.json", *folder.glob("*.json")}):
        try:
            content = read_value(folder, path.name)
        except RepositoryError:
            if path.name in DATA:
                continue
            raise
        for key, value, nested in code_entries(content):
            if nested and key in CODE_KEYS:
                faults.append(
                    f"{path.name}: {key} inside it names code of another repository or folder "
                    f"({value!r:.200}); only this project's code, at the top level, is used"
                )
            elif key in OUTSIDE_KEYS or "--" in value or "/" in value or "\\" in value:
                faults.append(
                    f"{path.name}: {key} names code of another repository or folder "
                    f"({value!r:.200})"
                )
    return faults


def code_entries(content: Any) -> Iterator[tuple[str, str, bool]]:
    """(key that chooses code, a string under it, whether the key is nested), from a JSON value."""
    for key, value, nested in values_of(content):
        if key in (*CODE_KEYS, *KERNELS):
            parts = [value]
            while parts:
                part = parts.pop()
                if isinstance(part, str):
                    yield key, part, nested
                elif isinstance(part, dict | list):
                    parts += part.values() if isinstance(part, dict) else part
        elif key in OUTSIDE_KEYS and (value is True or isinstance(value, str)):
            yield key, str(value), nested


def use_faults(folder: Path) -> list[str]:
    """Why a folder's files must not be read as a model. A plainly saved model needs no card.

    Refused are pickles, pipes, devices, links (but those of the Hub's cache), and files that do not
    belong; documents that no loading reads may stay. Code is looked at by `check_code`.
    """
    faults, names = link_faults(folder), []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name.startswith(".") or f"{name}: is a link" in faults:
            continue
        if not path.is_dir():
            names.append(name)
            if not path.is_file():
                faults.append(f"{name}: is not a regular file")
    faults += name_faults(names)
    return faults or file_faults(folder)


def link_faults(folder: Path) -> list[str]:
    """Links of a folder, which may lead to anything; but those of the Hub's cache are its files."""
    links = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() and not is_cached(path, folder)
    }
    return [f"{name}: is a link" for name in links if not name.startswith(".")]


def is_cached(link: Path, snapshot: Path) -> bool:
    """Whether a link in a snapshot of the Hub's cache leads to a file of that cache."""
    blobs = snapshot.resolve().parent.parent / "blobs"
    return link.is_symlink() and link.resolve().parent == blobs and link.is_file()


def name_faults(names: Iterable[str]) -> list[str]:
    """Files, by their names, that must not lie in the folder of a model in use."""
    read = {
        name
        for name in names
        if not name.endswith((".py", *UNREAD)) and name not in (*SAVED_BY_OTHERS, MANIFEST)
    }
    lacking = tuple(f"{name} is missing" for name in (*REQUIRED, "model.safetensors"))
    return [fault for fault in content_faults(read) if fault not in lacking]


# ----------------------------------------------------------------------------------------- manifest
def write_manifest(folder: Path) -> None:
    """Write MANIFEST.sha256: the SHA-256 of every file, in the format of `sha256sum --check`."""
    names = sorted(
        path.name for path in folder.iterdir() if path.name not in (MANIFEST, OF_THE_HUB)
    )
    (folder / MANIFEST).write_text(
        "".join(f"{sha256(folder / name)}  {name}\n" for name in names), "utf-8", newline="\n"
    )


def read_manifest(folder: Path) -> dict[str, str]:
    """{file: SHA-256} from MANIFEST.sha256.

    Raises:
        RepositoryError: it cannot be read, or is not exactly in the format of `write_manifest`.
    """
    try:
        if (size := (folder / MANIFEST).stat().st_size) > LARGEST_MANIFEST:
            raise ValueError(f"{size:,} bytes are far too many")
        lines = (folder / MANIFEST).read_bytes().decode("utf-8").splitlines(keepends=True)
    except (OSError, ValueError) as error:
        raise RepositoryError(folder, [f"{MANIFEST} cannot be read ({error})"]) from error
    entries: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        match = LINE.fullmatch(line)
        if match is None or match[2] in entries:
            raise RepositoryError(
                folder,
                [
                    f"{MANIFEST}:{number}: expected a SHA-256, two spaces and the name of a file "
                    "that no line above names"
                ],
            )
        entries[match[2]] = match[1]
    return entries


def faults_of(folder: Path) -> list[str]:
    """Everything that is wrong with a repository's files. Nothing is loaded or run."""
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    names = [path.relative_to(folder).as_posix() for path in paths]
    faults = [
        f"{name}: is not a regular file"
        for name, path in zip(names, paths, strict=True)
        if not (stat.S_ISREG(path.lstat().st_mode) or is_cached(path, folder))
    ]
    if faults:
        return faults
    faults = content_faults(names) + manifest_faults(folder, names)
    return faults or file_faults(folder) or structure_faults(folder)


def manifest_faults(folder: Path, names: Collection[str]) -> list[str]:
    """Differences between the files and the manifest."""
    try:
        listed = read_manifest(folder)
    except RepositoryError as error:
        return error.faults
    faults = [
        f"{name}: is missing, but {MANIFEST} lists it" for name in sorted(set(listed) - set(names))
    ]
    faults += [
        f"{name}: {MANIFEST} does not list it"
        for name in sorted(set(names) - set(listed) - {MANIFEST, OF_THE_HUB})
    ]
    faults += [
        f"{name}: not the file that {MANIFEST} lists (SHA-256 differs)"
        for name, digest in listed.items()
        if name in names and sha256(folder / name) != digest
    ]
    return faults


def structure_faults(folder: Path) -> list[str]:
    """Missing code, code from elsewhere and damaged weights: what names and hashes do not show."""
    try:
        code = travelling_files(folder / MODELING_FILES[model_type_of(folder)])
        missing = [f"{name} is missing" for name in code if not (folder / name).is_file()]
    except RepositoryError as error:
        return error.faults
    try:
        elsewhere = code_elsewhere(folder)
    except RepositoryError as error:
        elsewhere = error.faults
    faults = missing + elsewhere + weight_faults(folder) + lexicon_faults(folder)
    return faults or tensor_faults(
        folder, read_config(folder), is_own_code=not code_differs(folder)
    )


def lexicon_faults(folder: Path) -> list[str]:
    """Files of words that config.json does not describe, or that are missing though it does.

    Whether they are those that config.json describes is looked at when the model is built.
    """
    faults = []
    for key, name in (("lexicon", LEXICON), ("lattice", LATTICE)):
        described = isinstance(read_config(folder).get(key), dict)
        if described and not (folder / name).is_file():
            faults.append(f"{name} is missing, but config.json describes it")
        if not described and (folder / name).exists():
            faults.append(f"{name}: the model reads no words, by its config.json")
    return faults


# ---------------------------------------------------------------------------------------- packaging
def package(
    model_dir: Path,
    folder: Path,
    metadata: Mapping[str, Any] | None = None,
    *,
    repo_id: str | None = None,
) -> Path:
    """Copy a run's `model/` into `folder` as a repository, with card and manifest.

    The repository is checked but not loaded. Returns `folder`.

    Args:
        model_dir: folder that `contrastive-ner train` wrote, or one with the same files.
        metadata: card metadata to set, such as license, language, datasets, base_model.
        repo_id: name on the Hub, for the card's example.

    Raises:
        RepositoryError: `model_dir` holds files that do not belong, or lacks some.
    """
    names = sorted(
        path.relative_to(model_dir).as_posix() for path in model_dir.rglob("*") if not path.is_dir()
    )
    faults = link_faults(model_dir) + content_faults(names)
    if faults:
        raise RepositoryError(model_dir, faults)
    fresh_folder(folder)
    for name in names:
        if name not in (MANIFEST, OF_THE_HUB):
            # Follows the links of a snapshot in the Hub's cache.
            shutil.copyfile(model_dir / name, folder / name)
    try:
        card = folder / "README.md"
        read_card(card)
        if repo_id:
            card.write_text(card.read_text("utf-8").replace(NAME_TO_COME, repo_id), "utf-8")
        if metadata:
            set_metadata(card, metadata)
        write_manifest(folder)
        faults = faults_of(folder)
    except RepositoryError as error:  # names the user's folder, not the copy
        raise RepositoryError(model_dir, error.faults) from error
    if faults:
        raise RepositoryError(model_dir, faults)
    return folder
