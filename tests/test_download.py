"""Models by their names on the Hub: predict, evaluate, export and verify; what is refused."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Fault, TestHub
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model

from contrastive_ner.cli import main
from contrastive_ner.errors import ConfigError
from contrastive_ner.hub.download import HubName, foreign_files, hub_name, model_folder, snapshot
from contrastive_ner.models.modeling_nerco import NercoForTokenClassification

TEXT = "小明在北京大学读书。"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestHub]:
    """A Hub that this process uses, with an empty cache."""
    with TestHub(tmp_path / "hub") as server:
        endpoint = server.environment(tmp_path)["HF_ENDPOINT"]
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        snapshot.cache_clear()
        yield server
        snapshot.cache_clear()


def published(hub: TestHub, name: str, folder: Path) -> str:
    """Put the files of a folder into a repository; returns the commit."""
    hub.create(name, private=False)
    files = {
        path.name: {"sha256": hub.keep(path.read_bytes()), "lfs": path.suffix == ".safetensors"}
        for path in folder.iterdir()
    }
    return hub.repositories[name].commit(files, "main", "models")


@pytest.fixture
def folders(saved_tagger: Path, tmp_path: Path) -> dict[str, Path]:
    """Repositories: a model, one whose code is not ours, one with a pickle, and an adapter."""
    other = shutil.copytree(saved_tagger, tmp_path / "other")
    code = other / "pipeline_ner.py"
    marker = tmp_path / "ran"
    code.write_text(f"open({str(marker)!r}, 'w')\n" + code.read_text("utf-8"), "utf-8")
    pickled = shutil.copytree(saved_tagger, tmp_path / "pickled")
    (pickled / "pytorch_model.bin").write_bytes(b"pickle")
    tagger = NercoForTokenClassification.from_pretrained(saved_tagger)
    wrapped = get_peft_model(tagger, LoraConfig(target_modules=["query"], r=2))
    wrapped.peft_config["default"].base_model_name_or_path = "tester/own"
    wrapped.peft_config["default"].revision = "main"
    wrapped.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "README.md").unlink()  # its head names a base model in a folder
    return {
        "tester/own": saved_tagger,
        "tester/other": other,
        "tester/pickled": pickled,
        "tester/adapter": tmp_path / "adapter",
    }


def test_commands_take_models_by_their_names_on_the_hub(
    hub: TestHub, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commits = {name: published(hub, name, folder) for name, folder in folders.items()}
    text, gold, report = tmp_path / "in.txt", tmp_path / "gold.txt", tmp_path / "scores.json"
    text.write_text(f"{TEXT}\n", "utf-8")
    gold.write_text("小 B-PER\n明 I-PER\n", "utf-8")
    assert main(["predict", str(folders["tester/own"]), str(text)]) == 0
    expected = capsys.readouterr().out
    own = f"tester/own@{commits['tester/own']}"
    for name in ("tester/own", own):
        assert main(["predict", name, str(text)]) == 0
        found = capsys.readouterr()
        assert found.out == expected
        assert f"model: {own}\n" in found.err
    assert main(["evaluate", "tester/own@main", str(gold), "--output", str(report)]) == 0
    assert json.loads(report.read_text("utf-8"))["model"] == own
    assert main(["predict", "tester/adapter", str(text)]) == 0
    assert f"model: {own}\n" in capsys.readouterr().err  # the base model
    assert main(["verify", own]) == 2
    assert "README.md is missing" in capsys.readouterr().err


def test_code_from_the_hub_runs_only_when_trusted(
    hub: TestHub,
    folders: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    modules_cache: None,
) -> None:
    published(hub, "tester/other", folders["tester/other"])
    text, marker = tmp_path / "in.txt", tmp_path / "ran"
    text.write_text(f"{TEXT}\n", "utf-8")
    assert main(["predict", "tester/other", str(text)]) == 2
    message = capsys.readouterr().err
    assert re.search(r"^error: tester/other@[0-9a-f]{40} .*pipeline_ner.py \(SHA-256", message)
    assert "pass --trust_remote_code" in message
    assert not [request for request in hub.requests if "model.safetensors" in request]
    assert not marker.exists()
    assert main(["predict", "tester/other", str(text), "--trust_remote_code"]) == 0
    assert marker.exists()


def test_what_the_hub_has_not_or_must_not_have_is_one_line(
    hub: TestHub,
    folders: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    published(hub, "tester/pickled", folders["tester/pickled"])
    text = tmp_path / "in.txt"
    text.write_text(f"{TEXT}\n", "utf-8")

    def refused(name: str) -> str:
        assert main(["predict", name, str(text)]) == 2
        message = capsys.readouterr().err
        assert len(message.splitlines()) == 1
        return message

    assert "pytorch_model.bin: can execute code" in refused("tester/pickled")
    assert not [request for request in hub.requests if "/resolve/" in request]
    assert "no such repository" in refused("tester/nothing")
    assert "no such revision" in refused("tester/pickled@v9")
    hub.faults.append(Fault("GET /api/models/tester/pickled", status=403, times=100))
    assert "log in with a token that has access to the repository" in refused("tester/pickled")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused("tester/own@main")


def test_a_commit_in_the_cache_needs_no_network(
    hub: TestHub, saved_tagger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = published(hub, "tester/own", saved_tagger)
    folder = model_folder("tester/own")
    snapshot.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = len(hub.requests)
    assert model_folder(f"tester/own@{commit}") == folder
    assert len(hub.requests) == before


def test_a_name_that_looks_like_a_path_is_never_asked_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    assert hub_name("runs/mine") is None
    for name in (
        "runs/yours",
        "./a/b",
        "/a/b",
        "../b",
        "a/b/c",
        "a/b/",
        "encoders/x",
        "model",
        "~/m",
    ):
        with pytest.raises(ConfigError, match=r"no such folder .* USER/NAME"):
            hub_name(name)
    with pytest.raises(ConfigError, match="a folder here and has no revision"):
        hub_name("runs/mine@main")
    with pytest.raises(ConfigError, match="no revision after @"):
        hub_name("user/name@")
    assert hub_name("user/name") == HubName("user/name", "main")
    assert hub_name("user/name@refs/pr/1") == HubName("user/name", "refs/pr/1")


def test_an_adapter_on_the_hub_is_no_model_with_another_file() -> None:
    weights = "adapter_model.safetensors"
    assert foreign_files(["adapter_config.json", weights, "README.md", ".gitattributes"]) == []
    assert foreign_files(["config.json", "model.safetensors", weights]) == [
        f"{weights}: does not belong in a model repository"
    ]


def test_two_revisions_are_one_too_many(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "user/name@v1", "--revision", "v2"]) == 2
    assert "two revisions" in capsys.readouterr().err
