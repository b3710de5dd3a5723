"""The wheel in a fresh environment: what a user does with it, from an empty directory."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from conftest import ROOT

from contrastive_ner import __version__

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
CONFIG = """
output_dir: runs/{{method}}
encoder: {encoder}
train_file: train.jsonl
dev_file: dev.jsonl
stage1_epochs: 1
head_epochs: 1
stage2_epochs: 4
stage1_batch_size: 8
stage2_batch_size: 8
stage2_learning_rate: 5e-3
stage2_head_learning_rate: 2e-2
encoder_dropout: 0
"""


def call(*command: object, cwd: Path) -> str:
    """Run a command outside the clone, with the Hub offline; returns its standard output."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "HF_", "VIRTUAL"))}
    environment = {**kept, "HF_HUB_OFFLINE": "1", "HF_HOME": str(cwd / ".hf")}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel and an sdist of the clone."""
    folder = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands of a fresh environment that has the wheel and its extra onnx."""
    folder = tmp_path_factory.mktemp("fresh") / "env"
    venv.create(folder, with_pip=True, symlinks=True)
    pip = [folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
    (wheel,) = dist.glob("*.whl")
    # The tested versions first: an open range would take a build of torch of several gigabytes.
    call(*pip, "-r", ROOT / "requirements-onnx.txt", cwd=folder)
    call(*pip, f"contrastive-ner[onnx,spacy] @ file://{wheel}", cwd=folder)
    return folder / "bin"


@pytest.fixture(scope="module")
def work(files: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's directory with data and a configuration, in a git repository of the user's."""
    folder = tmp_path_factory.mktemp("work")
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    call("git", "init", "-q", cwd=folder)
    call(*git, "commit", "-q", "--allow-empty", "-m", "mine", cwd=folder)
    for name in ("train.jsonl", "dev.jsonl"):
        (folder / name).write_bytes((files / name).read_bytes())
    (folder / "mine.yaml").write_text(CONFIG.format(encoder=tiny_encoder), "utf-8")
    return folder


@pytest.fixture(scope="module")
def trained(installed: Path, work: Path) -> Path:
    call(installed / "contrastive-ner", "train", "mine.yaml", cwd=work)
    return work / "runs" / "nerco" / "model"


def test_both_archives_hold_what_they_should(dist: Path):
    (wheel,), (archive,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    names = call(sys.executable, "-m", "zipfile", "-l", wheel, cwd=dist)
    for name in ("hub/model_card.md", "hub/released_code.json", "models/crf_ner.py", "py.typed"):
        assert f"contrastive_ner/{name}" in names
    assert "encoders" not in names
    assert wheel.stat().st_size < 1_000_000
    assert archive.stat().st_size < 1_000_000


def test_the_command_and_the_module_answer(installed: Path, tmp_path: Path):
    version = f"contrastive-ner {__version__}\n"
    assert call(installed / "contrastive-ner", "--version", cwd=tmp_path) == version
    assert call(installed / "python", "-m", "contrastive_ner", "--version", cwd=tmp_path) == version
    place = call(
        installed / "python", "-c", "import contrastive_ner as c; print(c.__file__)", cwd=tmp_path
    )
    assert str(ROOT) not in place


def test_a_missing_encoder_folder_is_reported_at_once(installed: Path, work: Path):
    command = [installed / "contrastive-ner", "train", "mine.yaml", "encoder=encoders/zh-char-mini"]
    done = subprocess.run(
        [*map(str, command), "output_dir=x"], cwd=work, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: encoder 'encoders/zh-char-mini'")
    assert not (work / "x").exists()


def test_a_user_trains_evaluates_and_predicts(installed: Path, work: Path, trained: Path):
    ner = installed / "contrastive-ner"
    assert "40" in call(ner, "inspect", "train.jsonl", cwd=work)
    assert "micro" in call(ner, "evaluate", trained, "dev.jsonl", cwd=work)
    (work / "texts.txt").write_text("张三昨天第3次去了华为。\n", "utf-8")
    record = json.loads(call(ner, "predict", trained, "texts.txt", cwd=work))
    assert record["entities"]
    metrics = json.loads((trained / "metrics.json").read_text("utf-8"))
    assert metrics["commit"] is None
    assert metrics["versions"]["contrastive-ner"] == __version__
    assert (trained / "README.md").read_text("utf-8").startswith("---")


def test_a_user_bundles_verifies_and_exports(installed: Path, work: Path, trained: Path):
    ner = installed / "contrastive-ner"
    call(ner, "bundle", trained, "model.zip", cwd=work)
    assert "repeats its stored predictions" in call(ner, "verify", "model.zip", "--run", cwd=work)
    call(ner, "export", trained, "onnx", cwd=work)
    (work / "texts.txt").write_text("张三昨天第3次去了华为。\n", "utf-8")
    tagged = call(installed / "python", "onnx/runtime_onnx.py", "texts.txt", cwd=work)
    expected = call(ner, "predict", trained, "texts.txt", cwd=work)
    keys = [
        [(m["start"], m["end"], m["label"]) for m in json.loads(t)["entities"]]
        for t in (tagged, expected)
    ]
    assert keys[0] == keys[1]


def test_a_user_converts_to_spacy_and_back(installed: Path, work: Path):
    ner = installed / "contrastive-ner"
    call(ner, "convert", "dev.jsonl", "dev.spacy", "--to", "spacy", cwd=work)
    call(ner, "convert", "dev.spacy", "again.jsonl", "--to", "jsonl", cwd=work)
    rows, again = (
        [json.loads(line) for line in (work / name).read_text("utf-8").splitlines()]
        for name in ("dev.jsonl", "again.jsonl")
    )
    assert [(r["text"], r["entities"]) for r in rows] == [(r["text"], r["entities"]) for r in again]


def test_the_library_is_there(installed: Path, trained: Path, tmp_path: Path):
    code = (
        "import sys, contrastive_ner as cn; assert all(getattr(cn, name) for name in cn.__all__);"
        "print(cn.load_pipeline(sys.argv[1])('张三昨天去了华为。'))"
    )
    assert "entity_group" in call(installed / "python", "-c", code, trained, cwd=tmp_path)
