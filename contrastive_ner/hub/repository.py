"""Model repositories: what belongs in one, and whether it is whole.

Sections: contents, manifest, packaging, loading in a clean process.
Nothing that a repository holds is unpickled. Its code runs only where it equals this project's, or where the caller says so.
"""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive_ner import __version__, models
from contrastive_ner.errors import RepositoryError
from contrastive_ner.files import fresh_folder, read_json, sha256

if TYPE_CHECKING:
    from huggingface_hub import ModelCard


MODELS = Path(models.__file__).resolve().parent
MANIFEST = "MANIFEST.sha256"
MODELING_FILES = {"nerco": "modeling_nerco.py", "binder": "modeling_binder.py"}  # by model_type
RELEASED = (
    Path(__file__).resolve().with_name("released_code.json")
)  # {version: {file: SHA-256}} of code that models carry
SIBLING = re.compile(
    r"^\s*from\s+\.(\w+)\s+import", re.MULTILINE
)  # as transformers finds what it must copy
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


DOCUMENTS = {"LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE"}


OF_THE_HUB = ".gitattributes"  # the Hub writes it into every repository


WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")


LINE = re.compile(r"([0-9a-f]{64})  ([^\s/\\]+)\n")


NAME_TO_COME = "NAME_OF_THIS_REPOSITORY"  # in a card, until it is known


# Entries of configurations by which the library chooses code. It reads the first ones at the top only: an encoder's configuration inside
# may well keep those of its own repository. Kernels are asked for at any depth, and may lie on the Hub.
CODE_KEYS = ("auto_map", "custom_pipelines")


KERNEL_KEYS = ("attn_implementation", "_attn_implementation")


NOT_FOR_STRANGERS = (
    "HF_",
    "HUGGING",
    "TRANSFORMERS_",
    "PYTHON",
)  # variables: tokens, caches with code, where modules are found


SAME_SCORE = 1e-4  # by which scores may differ between machines


# ----------------------------------------------------------------------------------------- contents
def content_faults(names: Iterable[str]) -> list[str]:
    """What a repository of these files holds that it must not, and lacks. Files of subfolders are named with a slash."""
    present = set(names) - {OF_THE_HUB, MANIFEST}
    code = {name for file in MODELING_FILES.values() for name in travelling_files(MODELS / file)}
    known = {*REQUIRED, *TOKENIZER, *DOCUMENTS, *code}
    faults = []
    for name in sorted(present):
        if Path(name).suffix in (
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
        ):
            faults.append(
                f"{name}: weights and data other than safetensors and JSON are refused, they can execute code"
            )
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
        raise RepositoryError(
            folder, [f"{name} holds {type(content).__name__}: expected an object"]
        )
    return content


def model_type_of(folder: Path) -> str:
    """ "nerco" or "binder". RepositoryError if config.json is of no model of this project."""
    found = read_config(folder).get("model_type")
    if not isinstance(found, str) or found not in MODELING_FILES:
        raise RepositoryError(
            folder,
            [f"config.json has model_type {found!r}: expected {' or '.join(MODELING_FILES)}"],
        )
    return found


def travelling_files(modeling_file: Path) -> list[str]:
    """A modeling file and the siblings that it imports, directly or through each other: what travels with the weights.

    A sibling that is not there is named as well.
    """
    names = [modeling_file.name]
    for name in names:  # grows while it is read
        path = modeling_file.with_name(name)
        found = SIBLING.findall(path.read_text("utf-8", errors="replace")) if path.is_file() else []
        names += [
            f"{sibling}.py" for sibling in dict.fromkeys(found) if f"{sibling}.py" not in names
        ]
    return names


def code_version(path: Path) -> str | None:
    """The version of this project that a code file is of: the installed one, or an earlier release; None for any other code."""
    digest, own = sha256(path), MODELS / path.name
    if own.is_file() and sha256(own) == digest:
        return __version__
    released: dict[str, dict[str, str]] = read_json(RELEASED)
    return next(
        (version for version, files in released.items() if files.get(path.name) == digest), None
    )


def code_versions(folder: Path) -> set[str]:
    """The versions of this project that a repository's code files are of."""
    return {version for path in folder.glob("*.py") if (version := code_version(path)) is not None}


def code_differs(folder: Path) -> dict[str, str]:
    """Code of a repository that is not this project's, by name with its SHA-256: what loading with trust_remote_code would run."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.py"))}
    return {
        name: sha256(path)
        for name, path in found.items()
        if "/" in name or code_version(path) is None
    }


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
        raise RepositoryError(
            folder,
            [
                f"loading would run code that is not this project's: {listed}; read it, then --trust_remote_code"
            ],
        )
    return not other


def code_elsewhere(folder: Path) -> list[str]:
    """Entries that make the library take code from another repository ("USER/NAME--file.Class") or another folder."""
    files = [
        "config.json",
        *(name for name in ("tokenizer_config.json",) if (folder / name).is_file()),
    ]
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
            parts += [
                (key or (name if name in keys else ""), inner) for name, inner in part.items()
            ]
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


def write_manifest(folder: Path) -> None:
    """MANIFEST.sha256: the SHA-256 of every file, in the form that `sha256sum --check` reads."""
    names = sorted(
        path.name for path in folder.iterdir() if path.name not in (MANIFEST, OF_THE_HUB)
    )
    (folder / MANIFEST).write_text(
        "".join(f"{sha256(folder / name)}  {name}\n" for name in names), "utf-8", newline="\n"
    )


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
            raise RepositoryError(
                folder,
                [
                    f"{MANIFEST}:{number}: expected SHA-256, two spaces and a file that no line above names"
                ],
            )
        entries[match[2]] = match[1]
    return entries


def faults_of(folder: Path) -> list[str]:
    """Everything that is wrong with a repository's files; nothing of it is loaded or run."""
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    names = [path.relative_to(folder).as_posix() for path in paths]
    faults = [
        f"{name}: is no plain file"
        for name, path in zip(names, paths, strict=True)
        if not stat.S_ISREG(path.lstat().st_mode)
    ]
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
    faults = [
        f"{name}: {MANIFEST} names it, and it is not there"
        for name in sorted(set(listed) - set(names))
    ]
    faults += [
        f"{name}: {MANIFEST} does not name it"
        for name in sorted(set(names) - set(listed) - {MANIFEST, OF_THE_HUB})
    ]
    faults += [
        f"{name}: not the file that {MANIFEST} names (SHA-256 differs)"
        for name, digest in listed.items()
        if name in names and sha256(folder / name) != digest
    ]
    return faults


def structure_faults(folder: Path) -> list[str]:
    """Files that are there but cannot be what their names say."""
    try:
        code = travelling_files(folder / MODELING_FILES[model_type_of(folder)])
        missing = [f"{name} is missing" for name in code if not (folder / name).is_file()]
    except RepositoryError as error:
        return error.faults
    try:
        elsewhere = code_elsewhere(folder)
    except RepositoryError as error:
        elsewhere = error.faults
    return missing + elsewhere + weight_faults(folder)


# ---------------------------------------------------------------------------------------- packaging
def package(
    model_dir: Path,
    folder: Path,
    metadata: Mapping[str, Any] | None = None,
    *,
    repo_id: str | None = None,
) -> Path:
    """Copy a run's `model/` into `folder` as a repository: card with `metadata`, manifest; checked but not loaded.

    Args:
        model_dir: what `run_ner.py train` leaves, or a folder with the same files.
        metadata: fields of the card's head to set, such as license, language, datasets, base_model.
        repo_id: name on the Hub, for the card's example.

    Raises:
        RepositoryError: the folder holds what it must not, or lacks something.
    """
    names = sorted(
        path.relative_to(model_dir).as_posix() for path in model_dir.rglob("*") if not path.is_dir()
    )
    faults = content_faults(names)
    if faults:
        raise RepositoryError(model_dir, faults)
    fresh_folder(folder)
    for name in names:
        if name not in (MANIFEST, OF_THE_HUB):
            shutil.copyfile(
                model_dir / name, folder / name
            )  # follows links: a snapshot of the cache is made of them
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
        raise RepositoryError(
            card_file.parent,
            [f"{card_file.name}: the head, between the lines of ---, is no YAML ({said})"],
        ) from error


# ----------------------------------------------------------------------- loading in a clean process
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
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(NOT_FOR_STRANGERS)
        }
        environment = {**kept, "HF_HOME": elsewhere, "HF_HUB_OFFLINE": "1", "PYTHONSAFEPATH": "1"}
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                LOADING,
                str(folder.resolve()),
                str((folder / "examples.json").resolve()),
            ],
            cwd=elsewhere,
            env=environment,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise RepositoryError(
            folder,
            [
                f"does not load in a clean process: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
            ],
        )
    found = json.loads(done.stdout.strip().splitlines()[-1])
    for example, mentions in zip(examples, found, strict=True):
        if not same_mentions(example["mentions"], mentions):
            raise RepositoryError(
                folder,
                [
                    f"finds {mentions} in {example['text']!r}: examples.json holds {example['mentions']}"
                ],
            )


def read_examples(folder: Path) -> list[dict[str, Any]]:
    """examples.json: texts with the mentions found in them. RepositoryError if it holds something else, or nothing to repeat."""
    try:
        examples = read_json(folder / "examples.json")
        well_formed = isinstance(examples, list) and all(
            isinstance(example["text"], str)
            and all(isinstance(mention["score"], float) for mention in example["mentions"])
            for example in examples
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        examples, well_formed = [], False
    if not examples or not well_formed:
        raise RepositoryError(
            folder,
            [
                "examples.json holds no predictions to repeat: expected a list of texts with their mentions"
            ],
        )
    return examples


def same_mentions(expected: list[dict[str, Any]], found: list[dict[str, Any]]) -> bool:
    """Whether two lists hold the same mentions with the same scores, but for rounding."""
    if len(expected) != len(found):
        return False
    return all(
        {**a, "score": 0} == {**b, "score": 0} and abs(a["score"] - b["score"]) <= SAME_SCORE
        for a, b in zip(expected, found, strict=True)
    )
