"""The package as a whole: imports, public names, errors, provenance, models saved earlier."""

import ast
import base64
import itertools
import json
import re
import subprocess
import sys
import tomllib
import zlib
from pathlib import Path

import pytest
import transformers
from conftest import ROOT, run_python

import contrastive_ner
from contrastive_ner import logs, provenance
from contrastive_ner.cli import main
from contrastive_ner.errors import UserError, is_user_error
from contrastive_ner.hub.repository import MODELING_FILES, travelling_files
from contrastive_ner.models.modeling_nerco import NercoModel
from contrastive_ner.models.windows_ner import InputError
from contrastive_ner.training.encoder import encoder_place

PACKAGE = ROOT / "contrastive_ner"
# Who may import whom: a room imports itself and what its line names. The order in which the lines
# can be read from top to bottom is the order of the floors.
MAY_IMPORT = {
    "models": set(),
    "base": {"models"},
    "data": {"models", "base"},
    "evaluation": {"models", "base", "data"},
    "hub": {"models", "base", "data", "evaluation"},
    "training": {"models", "base", "data", "evaluation"},
    "serving": {"models", "base", "data", "evaluation", "hub"},
    "insight": {"models", "base", "data", "evaluation", "hub", "training", "serving"},
    "cli": {"models", "base", "data", "evaluation", "hub", "training", "serving", "insight"},
    "library": {
        "models", "base", "data", "evaluation", "hub", "training", "serving", "insight", "cli",
    },
}  # fmt: skip
FILES = sorted(PACKAGE.rglob("*.py"))


def imports_of(path: Path) -> list[tuple[int, str]]:
    """(level, module) of every import statement in a file, those in functions included."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
            if node.module == "contrastive_ner":  # from contrastive_ner import room
                modules = [f"contrastive_ner.{alias.name}" for alias in node.names]
            found += [(node.level, module) for module in modules]
    return found


def room_of(parts: tuple[str, ...]) -> str:
    return parts[0] if parts and (PACKAGE / parts[0]).is_dir() else "base"


# ---------------------------------------------------------------------------------------- structure
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_what_its_room_may(path: Path):
    room = "cli" if path.name == "__main__.py" else room_of(path.relative_to(PACKAGE).parts)
    for level, module in imports_of(path):
        if room == "models":
            assert not module.startswith("contrastive_ner"), (
                "a travelling file imports siblings as `from .sibling`"
            )
        elif module.startswith("contrastive_ner"):
            other = room_of(tuple(module.split(".")[1:]))
            assert other == room or other in MAY_IMPORT[room], f"{room} imports {other}"
        if room != "models":
            assert level == 0, "outside models/ imports are absolute"


def test_modules_do_not_import_each_other_in_a_circle():
    names = {
        ".".join(
            ("contrastive_ner", *path.relative_to(PACKAGE).with_suffix("").parts)
        ).removesuffix(".__init__"): path
        for path in FILES
    }
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        found = {f"{package}.{module}" if level else module for level, module in imports_of(path)}
        graph[name] = {module for module in found if module in names and module != name}
    for name in names:  # a package imports no member of itself that imports it
        seen, waiting = set(), list(graph[name])
        while waiting:
            other = waiting.pop()
            assert other != name, f"{name} imports itself through others"
            if other not in seen:
                seen.add(other)
                waiting += graph[other]


def test_travelling_files_import_nothing_else_of_the_project():
    files = {
        name
        for file in MODELING_FILES.values()
        for name in travelling_files(PACKAGE / "models" / file)
    }
    assert files == {path.name for path in (PACKAGE / "models").glob("*.py")} - {"__init__.py"}


@pytest.mark.parametrize("file", MODELING_FILES.values())
def test_a_modeling_file_imports_every_travelling_file_itself(file: str):
    """Older versions of transformers 5 copy what a modeling file imports, not what that imports."""
    path = PACKAGE / "models" / file
    direct = {f"{module}.py" for level, module in imports_of(path) if level}
    assert direct == set(travelling_files(path)) - {file}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_names_have_docstrings(path: Path):
    tree = ast.parse(path.read_text("utf-8"))
    missing = [] if ast.get_docstring(tree) else ["the module"]
    for node in tree.body:
        members = node.body if isinstance(node, ast.ClassDef) else []
        for part in (node, *members):
            if isinstance(part, ast.FunctionDef | ast.ClassDef) and not part.name.startswith("_"):
                missing += [] if ast.get_docstring(part) else [part.name]
    assert missing == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_functions_and_files_stay_short(path: Path):
    text = path.read_text("utf-8")
    assert path.name == "modeling_binder.py" or len(text.splitlines()) <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno + 1 <= 60, node.name


def test_every_package_that_is_imported_is_declared():
    named = {"yaml": "pyyaml", "huggingface_hub": "huggingface-hub"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    listed = [*project["dependencies"], *itertools.chain.from_iterable(extras)]
    declared = {re.match(r"[\w-]+", requirement)[0].lower() for requirement in listed}
    own = {"contrastive_ner", *(path.stem for path in FILES)}  # the files of an exported folder
    for path in FILES:
        roots = {module.partition(".")[0] for level, module in imports_of(path) if not level}
        for root in roots - own - sys.stdlib_module_names:
            assert named.get(root, root.replace("_", "-")) in declared, f"{path}: {root}"


def test_nobody_changes_the_path_or_imports_twice():
    for path in [
        *FILES,
        *ROOT.glob("*.py"),
        *(ROOT / "benchmarks").glob("*.py"),
        *(ROOT / "samples").glob("*.py"),
    ]:
        tree = ast.parse(path.read_text("utf-8"))
        assert not any(
            isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path.insert"
            for node in ast.walk(tree)
        ), path
        assert not any(
            isinstance(node, ast.ExceptHandler)
            and node.type is not None
            and "ImportError" in ast.unparse(node.type)
            and any(isinstance(part, ast.ImportFrom | ast.Import) for part in node.body)
            for node in ast.walk(tree)
        ), path


# ------------------------------------------------------------------------------------- public names
def test_importing_the_package_is_quick_and_loads_no_torch(tmp_path: Path):
    code = (
        "import time, sys; began = time.perf_counter(); import contrastive_ner;"
        "print(time.perf_counter() - began, 'torch' in sys.modules)"
    )
    times = []
    for _ in range(5):
        seconds, has_torch = run_python(code, tmp_path, tmp_path).split()
        assert has_torch == "False"
        times.append(float(seconds))
    assert min(times) < 0.05


def test_every_public_name_is_there():
    for name in contrastive_ner.__all__:
        assert getattr(contrastive_ner, name) is not None
        assert name in dir(contrastive_ner)
    with pytest.raises(AttributeError):
        _ = contrastive_ner.no_such_name


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "from modeling_nerco import NercoForTokenClassification",
        "from trainer_contrastive import ContrastiveTrainer, ContrastiveTrainingArguments",
    ],
)
def test_names_at_the_root_work_in_a_clone(code: str, tmp_path: Path):
    run_python(code, ROOT, tmp_path)


@pytest.mark.parametrize("command", [["-m", "contrastive_ner"], [str(ROOT / "run_ner.py")]])
def test_every_way_to_call_the_command_gives_the_version(command: list[str], tmp_path: Path):
    done = subprocess.run(
        [sys.executable, *command, "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"contrastive-ner {contrastive_ner.__version__}\n"


# ------------------------------------------------------------------------------------------- errors
def test_user_errors_are_one_line_and_bugs_show_their_traceback(
    monkeypatch, capsys, tmp_path: Path
):
    missing = str(tmp_path / "missing.jsonl")
    assert main(["inspect", missing]) == 2
    assert capsys.readouterr().err == f"error: {missing}: no such file\n"

    def bug(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("contrastive_ner.cli.inspect.read_files", bug)
    with pytest.raises(ValueError, match="a bug"):
        main(["inspect", missing])


def test_a_models_own_copy_of_the_error_class_counts():
    copy = type("InputError", (ValueError,), {})
    assert is_user_error(copy("no such type"))
    assert is_user_error(UserError("x"))
    assert is_user_error(FileNotFoundError("x"))
    assert not is_user_error(ValueError("x"))
    assert issubclass(UserError, InputError)


def test_a_user_of_the_library_keeps_their_own_log_settings(monkeypatch):
    library_logging = transformers.utils.logging
    before = library_logging.get_verbosity()
    library_logging.set_verbosity_info()
    try:
        monkeypatch.setattr(logs.log, "handlers", [])
        logs.quiet_libraries()
        assert library_logging.get_verbosity() == library_logging.INFO
        logs.show_messages()
        logs.quiet_libraries()
        assert library_logging.get_verbosity() == library_logging.ERROR
    finally:
        library_logging.set_verbosity(before)


# --------------------------------------------------------------------------------------- provenance
def test_the_commit_is_this_projects_and_never_the_users(monkeypatch, tmp_path: Path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x"]
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    for place in (
        tmp_path,
        tmp_path / ".venv" / "site-packages",
    ):  # a vendored and an installed package
        place.mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(provenance, "ROOT", place)
        assert provenance.commit() is None
    inside = tmp_path / "ours"
    inside.mkdir()
    (inside / "pyproject.toml").write_text('name = "contrastive-ner"\n')
    monkeypatch.setattr(
        provenance, "ROOT", inside
    )  # this project's files, copied into the user's repository
    assert provenance.commit() is None
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    (tmp_path / "pyproject.toml").write_text('name = "contrastive-ner"\n')
    assert provenance.commit() is not None


# -------------------------------------------------------------------------------------- the encoder
def test_a_relative_encoder_folder_is_never_asked_of_the_hub(monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    assert encoder_place("encoders/zh-char-mini") == str(ROOT / "encoders" / "zh-char-mini")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)  # not a clone
    (tmp_path / "here").mkdir()
    paths = ["encoders/mine", "./mine", "../mine", "mine/", "a/b/c", "here/mine"]
    for name in (*paths, "encoders/zh-char-mini", str(tmp_path / "mine")):
        for look in (encoder_place, NercoModel.from_encoder):
            with pytest.raises(InputError, match="there is no such folder"):
                look(name)
    for name in ("bert-base-chinese", "google-bert/bert-base-chinese"):
        assert encoder_place(name) == name
    (tmp_path / "encoders" / "mine").mkdir(parents=True)
    assert encoder_place("encoders/mine") == "encoders/mine"


# ----------------------------------------------------------------------------- models saved earlier
SAVED = json.loads((ROOT / "tests" / "fixtures" / "saved_0_1_0.json").read_text("utf-8"))
OPEN = """
import json, sys
from transformers import AutoModel, AutoModelForTokenClassification, pipeline
folder = sys.argv[1]
AutoModel.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForTokenClassification.from_pretrained(folder, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules"), type(model)
print(json.dumps(pipeline("ner", model=folder, trust_remote_code=True)(sys.argv[2:])))
"""


@pytest.fixture(params=["nerco", "binder"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model folder as version 0.1.0 wrote it, before the code became a package."""
    folder = tmp_path / f"saved-{request.param}"
    folder.mkdir()
    for name, content in SAVED[request.param].items():
        if isinstance(content, dict) and "zlib" in content:
            (folder / name).write_bytes(zlib.decompress(base64.b64decode(content["zlib"])))
        else:
            text = SAVED[content["same_as"]][name] if isinstance(content, dict) else content
            (folder / name).write_text(text, "utf-8")
    return folder


@pytest.mark.slow
def test_a_model_saved_before_opens_by_its_own_code(saved: Path, tmp_path: Path):
    examples = json.loads((saved / "examples.json").read_text("utf-8"))
    found = json.loads(
        run_python(
            OPEN, tmp_path, tmp_path / "cache", str(saved), *(e["text"] for e in examples)
        ).splitlines()[-1]
    )
    assert any(example["mentions"] for example in examples)
    for example, mentions in zip(examples, found, strict=True):
        assert [{**m, "score": None} for m in mentions] == [
            {**m, "score": None} for m in example["mentions"]
        ]
        assert [m["score"] for m in mentions] == pytest.approx(
            [m["score"] for m in example["mentions"]], abs=1e-4
        )


@pytest.mark.slow
def test_a_model_saved_before_is_tagged_and_verified_by_the_commands(
    saved: Path, tmp_path: Path, capsys
):
    examples = json.loads((saved / "examples.json").read_text("utf-8"))
    (tmp_path / "texts.txt").write_text("".join(f"{e['text']}\n" for e in examples), "utf-8")
    command = ["predict", str(saved), str(tmp_path / "texts.txt"), "--precision", "float32"]
    assert main(command) == 0  # as the scores of the examples were measured
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for example, record in zip(examples, records, strict=True):
        assert [(m["start"], m["end"], m["label"]) for m in record["entities"]] == [
            (m["start"], m["end"], m["entity_group"]) for m in example["mentions"]
        ]
        assert [m["score"] for m in record["entities"]] == pytest.approx(
            [m["score"] for m in example["mentions"]], abs=1e-4
        )
    assert main(["verify", str(saved), "--run"]) == 0
    assert "code: this project's, version 0.1.0" in capsys.readouterr().out


def test_the_lock_names_every_package_that_development_needs():
    """A package that only requirements-dev.txt names would be missing in CI."""
    lines = [
        line
        for name in ("requirements.txt", "requirements-dev.txt", "requirements-onnx.txt")
        for line in (ROOT / name).read_text("utf-8").splitlines()
    ]
    named = (line.split(" #")[0].strip().lower() for line in lines if "==" in line)
    pinned = {name.replace("_", "-") for name in named}
    locked = (ROOT / "requirements.lock").read_text("utf-8").lower()
    assert len(pinned) > 10
    for requirement in pinned:
        assert re.search(rf"^{re.escape(requirement)}[ +]", locked, re.M), requirement
