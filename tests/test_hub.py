"""Model repositories: manifest, contents, bundles; the Hub's client against a test Hub."""

import contextlib
import filecmp
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import MODELS, ROOT, arguments
from hub_server import Fault, TestHub, card_faults
from huggingface_hub import ModelCard
from test_binder_cli import binder, nested_files  # noqa: F401

from contrastive_ner.cli import main
from contrastive_ner.errors import RepositoryError
from contrastive_ner.hub import clean_process
from contrastive_ner.hub import repository as checks
from contrastive_ner.hub.bundle import entry_faults, unpack_bundle, write_bundle
from contrastive_ner.hub.metadata import set_metadata
from contrastive_ner.hub.repository import (
    MANIFEST,
    faults_of,
    manifest_faults,
    package,
    write_manifest,
)

METADATA = {"license": "apache-2.0", "language": ["zh"]}


@pytest.fixture(scope="module")
def models(tmp_path_factory, files, nested_files, tiny_encoder) -> dict[str, Path]:  # noqa: F811
    """A trained model of each method, as written by a run."""
    folder = tmp_path_factory.mktemp("models")
    assert main(arguments(files, tiny_encoder, folder / "nerco", stage2_epochs=2)) == 0
    assert main(binder(nested_files, tiny_encoder, folder / "binder", stage2_epochs=12)) == 0
    return {method: folder / method / "model" for method in ("nerco", "binder")}


@pytest.fixture
def repository(models, tmp_path) -> Path:
    return package(models["nerco"], tmp_path / "repository", METADATA)


# ------------------------------------------------------------------------------- contents, manifest
@pytest.mark.parametrize("method", ["nerco", "binder"])
def test_a_run_leaves_a_model_that_its_manifest_describes(models, method):
    assert faults_of(models[method]) == []
    assert (
        subprocess.run(["sha256sum", "--check", "--quiet", MANIFEST], cwd=models[method]).returncode
        == 0
    )


def test_packaging_sets_the_head_of_the_card_and_keeps_its_text(models, repository):
    before, after = (
        (folder / "README.md").read_text("utf-8") for folder in (models["nerco"], repository)
    )
    assert "license: apache-2.0" in after.split("---")[1]
    assert before.split("\n# ")[1] == after.split("\n# ")[1]
    assert faults_of(repository) == []


def test_the_card_names_the_repository_once_it_is_known(models, tmp_path):
    card = package(models["nerco"], tmp_path / "repository", repo_id="tester/model") / "README.md"
    assert 'name = "tester/model"' in card.read_text("utf-8")
    assert checks.NAME_TO_COME in (models["nerco"] / "README.md").read_text("utf-8")
    assert checks.NAME_TO_COME not in card.read_text("utf-8")


def test_the_card_names_no_place_on_the_machine(models):
    for folder in models.values():
        for name in ("README.md", "metrics.json", "config.json", "examples.json"):
            assert str(folder.parent.parent) not in (folder / name).read_text("utf-8")
            assert "/tmp" not in (folder / name).read_text("utf-8")


@pytest.mark.parametrize("method", ["nerco", "binder"])
def test_the_head_of_the_card_holds_the_measured_values_unrounded(models, method):
    metrics = json.loads((models[method] / "metrics.json").read_text("utf-8"))
    data = ModelCard.load(models[method] / "README.md").data
    found = {
        (result.dataset_split, result.metric_type): result.metric_value
        for result in data.eval_results
    }
    assert found == {
        (split, key): metrics[split]["micro"][key]
        for split in ("dev", "test")
        for key in ("precision", "recall", "f1")
    }
    assert [example["text"] for example in data.widget] == [
        e["text"] for e in json.loads((models[method] / "examples.json").read_text())
    ]
    assert (data.library_name, data.pipeline_tag) == ("transformers", "token-classification")
    assert card_faults((models[method] / "README.md").read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pytorch_model.bin", "execute code"),
        ("training_args.bin", "execute code"),
        ("weights.pt", "execute code"),
        ("state.pkl", "execute code"),
        ("notes.exe", "does not belong"),
        ("setup.py", "does not belong"),
        ("folder/config.json", "does not belong"),
    ],
)
def test_what_does_not_belong_is_not_packaged_and_not_accepted(repository, tmp_path, name, says):
    (repository / name).parent.mkdir(exist_ok=True)
    (repository / name).write_text("x")
    with pytest.raises(RepositoryError, match=says):
        package(repository, tmp_path / "again")
    assert any(says in fault and name in fault for fault in faults_of(repository))


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "pipeline_ner.py", "README.md", "examples.json", MANIFEST],
)
def test_every_file_is_missed(repository, name):
    (repository / name).unlink()
    assert any(name in fault for fault in faults_of(repository))


def test_links_are_no_files_of_a_repository(repository, tmp_path):
    shutil.move(repository / "config.json", tmp_path / "config.json")
    (repository / "config.json").symlink_to(tmp_path / "config.json")
    assert faults_of(repository) == ["config.json: is not a regular file"]


def test_a_flipped_bit_in_any_byte_of_a_small_file_and_of_the_manifest_is_found(repository):
    for name in ("model.safetensors", "tokenizer.json"):  # for speed
        (repository / name).write_text("small")
    write_manifest(repository)
    names = os.listdir(repository)
    for name in (MANIFEST, "tokenizer_config.json"):
        path = repository / name
        content = path.read_bytes()
        for at in range(len(content)):
            flipped = bytearray(content)
            flipped[at] ^= 1 << at % 8
            path.write_bytes(flipped)
            assert manifest_faults(repository, names), (name, at)
        path.write_bytes(content)
    assert manifest_faults(repository, names) == []


@pytest.mark.parametrize("damage", ["cut", "header", "longer"])
def test_damaged_weights_are_found_even_if_the_manifest_names_them(repository, damage):
    path = repository / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(
        {"cut": content[:-10], "header": b"\xff" * 9 + content[9:], "longer": content + b"x"}[
            damage
        ]
    )
    write_manifest(repository)
    (fault,) = faults_of(repository)
    assert "model.safetensors is damaged" in fault


@pytest.mark.parametrize(
    "config", ["", "[]", "{}", '{"model_type": "bert"}', '{"model_type": ["nerco"]}', "{" * 100_000]
)
def test_a_hostile_config_is_a_fault(repository, config):
    (repository / "config.json").write_text(config)
    write_manifest(repository)
    (fault,) = faults_of(repository)
    assert "config.json" in fault


def test_other_code_is_named_and_runs_only_when_trusted(repository, tmp_path, capsys):
    marker = tmp_path / "ran"
    code = repository / "pipeline_ner.py"
    code.write_text(f"open({str(marker)!r}, 'w')\n" + code.read_text("utf-8"), "utf-8")
    write_manifest(repository)
    assert set(checks.code_differs(repository)) == {"pipeline_ner.py"}
    assert main(["push", str(repository), "tester/model"]) == 2
    assert "pipeline_ner.py (SHA-256" in capsys.readouterr().err
    assert main(["verify", str(repository), "--run"]) == 2
    (tmp_path / "text").write_text("张三昨天去了华为。\n", "utf-8")
    predict = ["predict", str(repository), str(tmp_path / "text")]
    assert main(predict) == 2
    assert "pipeline_ner.py (SHA-256" in capsys.readouterr().err
    assert not marker.exists()

    assert main([*predict, "--trust_remote_code"]) == 0
    assert marker.exists()
    trusted = capsys.readouterr().out
    shutil.copyfile(MODELS / code.name, code)
    assert main(predict) == 0
    assert capsys.readouterr().out == trusted


@pytest.mark.parametrize("key", ["auto_map", "custom_pipelines"])
def test_code_of_another_repository_is_never_fetched(repository, tmp_path, capsys, key):
    config = json.loads((repository / "config.json").read_text("utf-8"))
    entry = config[key]["ner"] if key == "custom_pipelines" else config[key]
    name = "impl" if key == "custom_pipelines" else "AutoConfig"
    entry[name] = f"someone/else--{entry[name]}"
    (repository / "config.json").write_text(json.dumps(config), "utf-8")
    write_manifest(repository)
    (fault,) = faults_of(repository)
    assert f"{key} names code of another repository or folder ('someone/else--" in fault
    for command in ("verify", "evaluate"):
        given = [
            command,
            str(repository),
            *([str(tmp_path / "text")] if command == "evaluate" else []),
            "--trust_remote_code",
        ]
        (tmp_path / "text").write_text("张 B-PER\n三 I-PER\n", "utf-8")
        assert main(given) == 2
        assert "another repository" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        (
            "tokenizer_config.json",
            ["auto_map"],
            {"AutoTokenizer": [None, "someone/else--tokenizer.Tokenizer"]},
        ),
        ("tokenizer_config.json", ["auto_map"], ["someone/else--tokenizer.Tokenizer", None]),
        ("config.json", ["auto_map"], {"AutoModel": "/tmp/model.Model"}),
        ("config.json", ["encoder_config", "attn_implementation"], "someone/else"),
    ],
)
def test_code_elsewhere_is_found_in_whatever_file_and_depth(repository, name, path, value):
    content = json.loads((repository / name).read_text("utf-8"))
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (repository / name).write_text(json.dumps(content), "utf-8")
    write_manifest(repository)
    (fault,) = faults_of(repository)
    assert f"{name}: {path[-1]} names code of another repository or folder" in fault
    with pytest.raises(RepositoryError, match="names code of another"):
        clean_process.check_loads(repository, trust_remote_code=True)


def test_an_encoder_in_a_model_names_no_code(repository):
    content = json.loads((repository / "config.json").read_text("utf-8"))
    # transformers has its own class for it: nothing would run, but nothing shall depend on that.
    content["encoder_config"]["auto_map"] = {"AutoModel": "someone/encoder--model.Model"}
    (repository / "config.json").write_text(json.dumps(content), "utf-8")
    write_manifest(repository)
    (fault,) = faults_of(repository)
    assert "auto_map inside it names code" in fault
    with pytest.raises(RepositoryError, match="auto_map inside it names code"):
        clean_process.check_loads(repository, trust_remote_code=True)


def test_code_in_a_subfolder_is_other_code(repository):
    (repository / "sub").mkdir()
    (repository / "sub" / "pipeline_ner.py").write_text("")
    assert set(checks.code_differs(repository)) == {"sub/pipeline_ner.py"}


@pytest.mark.slow
def test_the_clean_process_sees_no_token_and_no_cache(repository, monkeypatch):
    start, seen = subprocess.Popen, {}

    def noted(*given, env, **options):
        seen.update(env)
        return start(*given, env=env, **options)

    for name in (
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_HUB_CACHE",
        "HF_MODULES_CACHE",
        "PYTHONPATH",
    ):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setattr(subprocess, "Popen", noted)
    clean_process.check_loads(repository)
    assert seen
    assert "secret" not in seen.values()


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", "[3]", '[{"text": "a"}]', '[{"text": "a", "mentions": [{}]}]', "[" * 100_000],
)
def test_examples_that_are_none_are_a_fault(repository, content):
    (repository / "examples.json").write_text(content)
    with pytest.raises(RepositoryError, match="no predictions to repeat"):
        clean_process.check_loads(repository)


def test_a_card_whose_head_is_no_yaml_is_refused(models, tmp_path, capsys):
    model = shutil.copytree(models["nerco"], tmp_path / "model")
    (model / "README.md").write_text("---\nlicense: [mit\n---\n# Mine\n", "utf-8")
    assert main(["push", str(model), "tester/model"]) == 2
    assert "the metadata between the --- lines is not valid YAML" in capsys.readouterr().err


def test_a_folder_here_has_no_revision(repository, capsys):
    assert main(["verify", str(repository), "--revision", "v1"]) == 2
    assert "it has no revision v1" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------ bundles
def test_bundles_of_equal_content_are_equal_and_unpack_to_it(repository, tmp_path):
    for name in ("one/model.zip", "two/model.zip"):
        write_bundle(repository, tmp_path / name)
    assert (tmp_path / "one/model.zip").read_bytes() == (tmp_path / "two/model.zip").read_bytes()
    unpack_bundle(tmp_path / "one/model.zip", tmp_path / "unpacked")
    assert filecmp.cmpfiles(
        tmp_path / "unpacked", repository, os.listdir(repository), shallow=False
    )[1:] == ([], [])
    assert faults_of(tmp_path / "unpacked") == []
    assert zipfile.ZipFile(tmp_path / "one/model.zip").testzip() is None


def archive(path: Path, *entries: tuple[str, bytes, int, int]) -> Path:
    """A ZIP archive of (name, content, mode, compression)."""
    with zipfile.ZipFile(path, "w") as target:
        for name, content, mode, compression in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, compression
            target.writestr(info, content)
    return path


FILE, LINK = stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([("../config.json", b"{}", FILE, zipfile.ZIP_STORED)], "FOLDER/FILE"),
        ([("/etc/passwd", b"{}", FILE, zipfile.ZIP_STORED)], "FOLDER/FILE"),
        ([("m/../../x", b"{}", FILE, zipfile.ZIP_STORED)], "FOLDER/FILE"),
        ([("m\\..\\x", b"{}", FILE, zipfile.ZIP_STORED)], "FOLDER/FILE"),
        ([("C:/x", b"{}", FILE, zipfile.ZIP_STORED)], "FOLDER/FILE"),
        ([("m/config.json", b"/etc/passwd", LINK, zipfile.ZIP_STORED)], "not a regular file"),
        ([("m/config.json", b"0" * 10_000_000, FILE, zipfile.ZIP_DEFLATED)], "compressed"),
        (
            [("m/a", b"1", FILE, zipfile.ZIP_STORED), ("m/a", b"2", FILE, zipfile.ZIP_STORED)],
            "twice",
        ),
        (
            [("m/a", b"1", FILE, zipfile.ZIP_STORED), ("n/b", b"2", FILE, zipfile.ZIP_STORED)],
            "several folders",
        ),
    ],
)
def test_hostile_archives_are_refused_and_leave_nothing(tmp_path, entries, says):
    bundle = archive(tmp_path / "model.zip", *entries)
    with pytest.raises(RepositoryError, match=says):
        unpack_bundle(bundle, tmp_path / "out" / "model")
    assert [path.name for path in tmp_path.rglob("*")] in (
        ["model.zip"],
        ["model.zip", "out"],
        ["out", "model.zip"],
    )


def test_entries_as_bundles_have_them_are_accepted():
    info = zipfile.ZipInfo("m/config.json")
    info.external_attr = FILE << 16
    assert entry_faults([info]) == []


def test_a_cut_bundle_is_refused(repository, tmp_path):
    write_bundle(repository, tmp_path / "model.zip")
    content = (tmp_path / "model.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(RepositoryError, match="damaged"):
        unpack_bundle(tmp_path / "cut.zip", tmp_path / "out")


# ------------------------------------------------------------------------------------------ the Hub
PUSH = """
import sys
from pathlib import Path
from contrastive_ner.hub.upload import push
options = eval(sys.argv[3])
try:
    print(push(Path(sys.argv[1]), sys.argv[2], **options))
except ValueError as error:
    sys.exit(f"error: {error}")
"""


@pytest.fixture
def hub(tmp_path):
    with TestHub(tmp_path / "hub") as server:
        yield server


def run(
    hub: TestHub, cache: Path, command: list[str], *, token: bool = True, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **hub.environment(cache, token=token)}
    return subprocess.run(
        command,
        env=environment,
        cwd=cwd or cache.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )


def push(
    hub: TestHub, folder: Path, cache: Path, *, token: bool = True, **options: object
) -> subprocess.CompletedProcess[str]:
    """`push` in a separate process."""
    done = run(
        hub,
        cache,
        [sys.executable, "-c", PUSH, str(folder), "tester/model", repr(options)],
        token=token,
    )
    assert hub.token not in done.stdout + done.stderr
    return done


def test_a_push_makes_one_commit_and_an_unchanged_one_makes_none(hub, repository, tmp_path):
    first = push(hub, repository, tmp_path / "cache", tag="v1")
    assert first.returncode == 0, first.stderr
    assert len(hub.commits("tester/model")) == 2  # the repository's initial one, and ours
    assert {name: len(data) for name, data in hub.files("tester/model").items()} == {
        path.name: path.stat().st_size for path in repository.iterdir()
    }
    again = push(hub, repository, tmp_path / "cache", tag="v1")
    assert "unchanged" in again.stdout
    assert len(hub.commits("tester/model")) == 2
    commit = hub.commits("tester/model")[0]
    assert all(f"revision={commit!r}" in done.stdout for done in (first, again))
    assert hub.repositories["tester/model"].tags == {"v1": commit}


@pytest.mark.parametrize("tag", ["bad tag", "-v1", "v1..2", "v1.lock", "v1/", "a:b", ""])
def test_a_name_that_no_tag_has_is_refused_before_the_commit(tag, hub, repository, tmp_path):
    done = push(hub, repository, tmp_path / "cache", tag=tag)
    assert "expected the name of a tag of git" in done.stderr
    assert hub.requests == []


def test_a_push_sends_what_changed_and_removes_what_is_gone(hub, repository, tmp_path):
    (repository / "LICENSE").write_text("free")
    write_manifest(repository)
    assert push(hub, repository, tmp_path / "cache").returncode == 0
    (repository / "LICENSE").unlink()
    card = repository / "README.md"
    card.write_text(card.read_text("utf-8") + "\nMore.\n", "utf-8")
    write_manifest(repository)
    before = len(hub.requests)
    shown = push(hub, repository, tmp_path / "cache", dry_run=True)
    assert re.findall(r"^  (\S+)", shown.stdout, re.M) == [MANIFEST, "README.md", "LICENSE"]
    assert not [
        request for request in hub.requests[before:] if not request.startswith(("GET", "HEAD"))
    ]
    done = push(hub, repository, tmp_path / "cache")
    assert "2 files changed, 1 removed" in done.stdout
    # The weights were not uploaded again.
    assert not [request for request in hub.requests[before:] if "/large/" in request]
    assert "LICENSE" not in hub.files("tester/model")


def test_a_card_that_the_hub_refuses_is_not_uploaded(hub, repository, tmp_path):
    set_metadata(repository / "README.md", {"base_model": "a folder of mine"})
    write_manifest(repository)
    done = push(hub, repository, tmp_path / "cache")
    assert done.returncode != 0
    assert "is no model id" in done.stderr
    assert not [name for name in hub.files("tester/model") if name != ".gitattributes"]


def test_a_dry_run_creates_nothing(hub, repository, tmp_path):
    done = push(hub, repository, tmp_path / "cache", dry_run=True)
    assert "would be created" in done.stdout, done.stderr
    assert hub.repositories == {}


def test_branches_proposals_and_private_repositories(hub, repository, tmp_path):
    done = push(hub, repository, tmp_path / "cache", private=True, branch="second")
    assert done.returncode == 0, done.stderr
    assert hub.repositories["tester/model"].private
    assert hub.files("tester/model") == {}
    assert "model.safetensors" in hub.files("tester/model", "second")
    shown = push(hub, repository, tmp_path / "cache", branch="third", dry_run=True)
    assert (
        f"tester/model, third: {len(list(repository.iterdir()))} files would change" in shown.stdout
    ), shown.stderr
    proposed = push(hub, repository, tmp_path / "cache", pull_request=True)
    assert "/discussions/1" in proposed.stdout, proposed.stderr
    assert hub.files("tester/model") == {}


def test_what_shall_be_private_does_not_go_into_a_public_repository(hub, repository, tmp_path):
    hub.create("tester/model", private=False)
    done = push(hub, repository, tmp_path / "cache", private=True)
    assert done.returncode == 1
    assert "is public" in done.stderr
    assert hub.files("tester/model") == {}


def test_a_tag_is_never_moved(hub, repository, tmp_path):
    assert push(hub, repository, tmp_path / "cache", tag="v1").returncode == 0
    commit = hub.commits("tester/model")[0]
    (repository / "README.md").write_text(
        (repository / "README.md").read_text("utf-8") + "\nMore.\n", "utf-8"
    )
    done = push(hub, repository, tmp_path / "cache", tag="v1")
    assert done.returncode == 1
    assert "choose another name" in done.stderr
    assert hub.repositories["tester/model"].tags == {"v1": commit}
    assert hub.commits("tester/model")[0] == commit  # refused before any upload


@pytest.mark.slow  # the client retries several times and waits in between
def test_a_connection_cut_in_the_middle_of_an_upload_shows_nothing_and_the_same_push_succeeds(
    hub, repository, tmp_path
):
    hub.faults.append(Fault("PUT /large/", status=0, times=100))
    done = push(hub, repository, tmp_path / "cache")
    assert done.returncode == 1
    assert "again" in done.stderr
    assert hub.files("tester/model") == {}
    hub.faults.clear()
    assert push(hub, repository, tmp_path / "cache").returncode == 0
    assert len(hub.files("tester/model")) == len(list(repository.iterdir()))


def test_a_server_error_at_the_commit_shows_nothing(hub, repository, tmp_path):
    hub.faults.append(Fault("POST .*/commit/", status=500, times=100))
    done = push(hub, repository, tmp_path / "cache")
    assert done.returncode == 1
    assert "status 500" in done.stderr
    assert "Traceback" not in done.stderr
    assert hub.files("tester/model") == {}


def test_slow_answers_are_waited_for(hub, repository, tmp_path):
    hub.faults.append(Fault("/tree/", seconds=2.0, times=1))
    assert push(hub, repository, tmp_path / "cache").returncode == 0


def test_of_two_pushes_at_once_one_is_made_and_the_other_says_so(hub, repository, tmp_path):
    assert push(hub, repository, tmp_path / "cache").returncode == 0
    others = []
    for number in range(2):
        other = shutil.copytree(repository, tmp_path / f"other{number}")
        (other / "LICENSE").write_text(f"license {number}")
        write_manifest(other)
        others.append(other)
    # Both read the head before either commits.
    hub.faults.append(Fault("POST .*/preupload/", seconds=3.0, times=2))
    with ThreadPoolExecutor(2) as pool:
        done = list(
            pool.map(
                lambda folder: push(
                    hub, folder, tmp_path / folder.name / ".." / f"cache-{folder.name}"
                ),
                others,
            )
        )
    assert sorted(result.returncode for result in done) == [0, 1], [
        result.stderr for result in done
    ]
    (lost,) = (result for result in done if result.returncode)
    assert "someone else pushed" in lost.stderr
    assert len(hub.commits("tester/model")) == 3


def test_without_a_token_nothing_is_pushed_and_the_error_says_how_to_log_in(
    hub, repository, tmp_path
):
    done = push(hub, repository, tmp_path / "cache", token=False)
    assert done.returncode == 1
    assert re.search(r"log in|hf auth login", done.stderr)


VERIFY = [sys.executable, str(ROOT / "run_ner.py"), "verify"]


@pytest.mark.slow
def test_verify_reads_a_repository_at_a_revision(hub, repository, tmp_path):
    assert push(hub, repository, tmp_path / "cache").returncode == 0
    good = hub.commits("tester/model")[0]
    (repository / "README.md").write_text("---\nlicense: mit\n---\n# changed\n")
    assert push(hub, repository, tmp_path / "cache").returncode == 0  # with the old manifest
    ok = run(hub, tmp_path / "cache", [*VERIFY, "tester/model", "--revision", good])
    assert ok.returncode == 0, ok.stderr
    assert f"tester/model@{good}" in ok.stdout
    bad = run(hub, tmp_path / "cache", [*VERIFY, "tester/model"])
    assert bad.returncode == 2
    assert "README.md: not the file that" in bad.stderr


@pytest.mark.slow
def test_verify_does_not_fetch_what_does_not_belong(hub, repository, tmp_path):
    (repository / "pytorch_model.bin").write_bytes(b"pickle")
    assert push(hub, repository, tmp_path / "cache").returncode == 0
    done = run(hub, tmp_path / "cache", [*VERIFY, "tester/model"])
    assert done.returncode == 2
    assert "execute code" in done.stderr
    assert not [request for request in hub.requests if "/resolve/" in request]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tester/nothing"], "no such repository"),
        (["tester/model", "--revision", "v9"], "no such revision"),
        (["no/such/name"], "not a repository name"),
    ],
)
def test_missing_and_wrong_names_are_said(hub, repository, tmp_path, arguments, says):
    hub.create("tester/model", private=False)
    done = run(hub, tmp_path / "cache", [*VERIFY, *arguments])
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_private_repository_is_read_with_a_token_only(hub, repository, tmp_path):
    assert push(hub, repository, tmp_path / "cache", private=True).returncode == 0
    assert run(hub, tmp_path / "cache", [*VERIFY, "tester/model"]).returncode == 0
    done = run(hub, tmp_path / "cache", [*VERIFY, "tester/model"], token=False)
    assert done.returncode == 2
    assert "private" in done.stderr


def test_push_needs_a_license(models, capsys):
    assert main(["push", str(models["nerco"]), "tester/model"]) == 2
    assert "--license" in capsys.readouterr().err


def test_a_folder_that_is_no_model_is_refused(tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert main(["bundle", str(tmp_path / "model"), str(tmp_path / "m.zip")]) == 2
    assert "model.safetensors is missing" in capsys.readouterr().err
    assert main(["bundle", str(tmp_path), "m.tar"]) == 2
    assert "ends in .zip" in capsys.readouterr().err


@pytest.mark.slow
def test_stored_predictions_that_the_model_does_not_repeat_are_refused(repository, tmp_path):
    examples = json.loads((repository / "examples.json").read_text("utf-8"))
    examples[0]["mentions"] = [
        {"entity_group": "PER", "score": 0.5, "word": "x", "start": 0, "end": 1}
    ]
    (repository / "examples.json").write_text(json.dumps(examples), "utf-8")
    with pytest.raises(RepositoryError, match=r"examples\.json holds"):
        clean_process.check_loads(repository)


# ----------------------------------------------------------------------------- the whole round trip
TUNE = """
import sys
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer
source, commit, target = sys.argv[1:]
pinned = {"trust_remote_code": True, "revision": commit, "code_revision": commit}
model = AutoModelForTokenClassification.from_pretrained(source, **pinned)
tokenizer = AutoTokenizer.from_pretrained(source, **pinned)
ids = tokenizer(["张三去了华为"], return_tensors="pt")
mask = torch.tensor([[False] + [True] * 6 + [False]])
if model.config.model_type == "binder":
    given = {"word_mask": mask, "word_end_mask": mask, "labels": torch.tensor([[[0, 1, 2]]])}
else:
    given = {"word_mask": mask, "labels": torch.tensor([[-100, 1, 2, 0, 0, 3, 4, -100]])}
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
model.train()(**ids, **given).loss.backward()
optimizer.step()
model.eval().push_to_hub(target)
tokenizer.push_to_hub(target)
"""
USE = """
import json, sys
from transformers import AutoModel, pipeline
name, commit, texts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
pinned = {"trust_remote_code": True, "revision": commit, "code_revision": commit}
AutoModel.from_pretrained(name, **pinned)
print("\\n" + json.dumps(pipeline("ner", model=name, **pinned)(texts)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nerco", "binder"])
def test_a_model_goes_to_the_hub_is_used_tuned_and_pushed_again(hub, models, tmp_path, method):
    command = [
        sys.executable,
        str(ROOT / "run_ner.py"),
        "push",
        str(models[method]),
        "model",
        "--license",
        "mit",
        "--private",
    ]
    pushed = run(hub, tmp_path / "cache0", command)
    assert pushed.returncode == 0, pushed.stderr
    assert hub.token not in pushed.stdout + pushed.stderr
    commit = hub.commits("tester/model")[0]
    assert re.findall("commit ([0-9a-f]{40})", pushed.stdout) == [commit]
    examples = json.loads(hub.files("tester/model")["examples.json"])
    assert any(example["mentions"] for example in examples)
    texts = json.dumps([example["text"] for example in examples])

    used = run(hub, tmp_path / "cache1", [sys.executable, "-c", USE, "tester/model", commit, texts])
    assert used.returncode == 0, used.stderr
    for example, mentions in zip(examples, json.loads(used.stdout.splitlines()[-1]), strict=True):
        assert clean_process.same_mentions(example["mentions"], mentions)

    tuned = run(
        hub,
        tmp_path / "cache2",
        [sys.executable, "-c", TUNE, "tester/model", commit, "tester/tuned"],
    )
    assert tuned.returncode == 0, tuned.stderr
    again = run(
        hub,
        tmp_path / "cache3",
        [sys.executable, "-c", USE, "tester/tuned", hub.commits("tester/tuned")[0], texts],
    )
    assert again.returncode == 0, again.stderr
    names = set(hub.files("tester/tuned"))
    assert set(checks.travelling_files(MODELS / checks.MODELING_FILES[method])) <= names
    assert not [name for name in names if Path(name).suffix in (".bin", ".pt", ".pkl")]
    missing = run(
        hub,
        tmp_path / "cache4",
        [sys.executable, "-c", USE, "tester/model", commit, texts],
        token=False,
    )
    assert missing.returncode != 0
    assert "tester/model" in missing.stderr


@pytest.mark.slow
def test_a_bundle_unpacks_and_loads_without_the_project_and_without_network(models, tmp_path):
    assert main(["bundle", str(models["nerco"]), str(tmp_path / "tagger.zip")]) == 0
    assert main(["verify", str(tmp_path / "tagger.zip"), "--run"]) == 0
    subprocess.run(
        [
            sys.executable,
            "-m",
            "zipfile",
            "-e",
            str(tmp_path / "tagger.zip"),
            str(tmp_path / "out"),
        ],
        check=True,
    )
    clean_process.check_loads(tmp_path / "out" / "tagger")


# --------------------------------------------------------------------------------------- the Space
@pytest.mark.slow
@pytest.mark.parametrize("method", ["nerco", "binder"])
def test_a_space_serves_the_model_without_the_project(hub, models, tmp_path, method):
    pytest.importorskip("gradio", reason="needs the extra demo")
    from gradio_client import Client

    folder, command = tmp_path / "space", [sys.executable, "-m", "contrastive_ner", "push"]
    command += [str(models[method]), "tester/page", "--license", "mit", "--space", str(folder)]
    hub.faults.append(Fault("POST .*/commit/", status=500, times=9))
    failed = run(hub, tmp_path / "cache", command)
    assert "status 500" in failed.stderr
    assert not folder.exists()  # so that the same command can be given again
    hub.faults.clear()
    done = run(hub, tmp_path / "cache", command)
    assert done.returncode == 0, done.stderr
    assert f"{hub.environment(tmp_path)['HF_ENDPOINT']}/spaces/tester/page" in done.stdout
    here = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    assert {name: path.read_bytes() for name, path in here.items()} == hub.files("tester/page")
    assert "model/model.safetensors" in here
    head = here["README.md"].read_text("utf-8")
    assert "sdk: gradio\n" in head
    assert "license: mit\n" in head
    assert re.search(r"^transformers==[\d.]+$", here["requirements.txt"].read_text(), re.M)
    again = run(hub, tmp_path / "cache", command)
    assert again.returncode == 2
    assert "exists; choose another folder" in again.stderr

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"GRADIO_SERVER_PORT": str(port), "HF_HOME": str(tmp_path / "empty")}
    blocked = "import sys; sys.modules['contrastive_ner'] = None; import runpy;"
    code = f"{blocked} runpy.run_path('app.py', run_name='__main__')"
    server = subprocess.Popen([sys.executable, "-c", code], cwd=folder, env=environment)
    try:
        wait_for(port, server)
        client = Client(f"http://127.0.0.1:{port}", verbose=False)
        html = client.predict("张三昨天去了华为。", 0, api_name="/tag")
        assert "mentions as JSON" in html
    finally:
        server.kill()
        server.wait()


def wait_for(port: int, server: subprocess.Popen, seconds: int = 120) -> None:
    """Wait until a server listens."""
    for _ in range(seconds):
        assert server.poll() is None
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(1)
    raise AssertionError("the server does not listen")


def test_a_space_needs_a_new_folder_and_gradio(models, tmp_path, capsys, monkeypatch):
    command = ["push", str(models["nerco"]), "tester/page", "--space", str(tmp_path)]
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(command) == 2
    assert "gradio is not installed: pip install 'contrastive-ner[demo]'" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "gradio", object())
    assert main(command) == 2
    assert capsys.readouterr().err.endswith(f"{tmp_path} exists; choose another folder\n")


def test_a_push_removes_nothing_that_no_push_wrote(hub, repository, tmp_path):
    """A mistyped name, or files that someone added on the repository's page."""

    def add(repo_id: str, *names: str) -> None:
        own = hub.repositories[repo_id]
        kept = {name: {"sha256": hub.keep(name.encode()), "lfs": False} for name in names}
        before = own.read(own.resolve("main"))["files"]
        own.commit({**before, **kept}, "main", f"Add {names}")

    hub.create("tester/model", private=False)
    add("tester/model", "README.md", ".gitattributes", "LICENSE")  # as the Hub's page begins one
    assert push(hub, repository, tmp_path / "cache").returncode == 0
    content = hub.files("tester/model")
    add("tester/model", "NOTES.txt", "handler.py")
    for options in ({}, {"dry_run": True}):
        refused = push(hub, repository, tmp_path / "cache", **options)
        assert refused.returncode != 0
        assert "files that no push of this project wrote (NOTES.txt, handler.py)" in refused.stderr
        assert "--replace" in refused.stderr
    assert {*hub.files("tester/model")} == {*content, "NOTES.txt", "handler.py"}
    done = push(hub, repository, tmp_path / "cache", replace=True)
    assert done.returncode == 0, done.stderr
    assert hub.files("tester/model").keys() == content.keys()


def test_a_card_that_was_edited_on_the_hub_is_not_replaced(hub, repository, tmp_path):
    assert push(hub, repository, tmp_path / "cache").returncode == 0
    own = hub.repositories["tester/model"]
    files = own.read(own.resolve("main"))["files"]
    edited = hub.files("tester/model")["README.md"] + b"\nEdited on its page.\n"
    files["README.md"] = {"sha256": hub.keep(edited), "lfs": False}
    own.commit(files, "main", "Edit")
    refused = push(hub, repository, tmp_path / "cache")
    assert "README.md was edited there since the last push" in refused.stderr
    (repository / "README.md").write_bytes(edited)
    write_manifest(repository)
    assert push(hub, repository, tmp_path / "cache").returncode == 0, "the change was taken over"
    assert hub.files("tester/model")["README.md"] == edited


@pytest.mark.parametrize("manifest", [False, True])
def test_another_model_is_not_replaced_by_mistake(manifest, hub, repository, tmp_path):
    """Also where its files have the names of ours, or it has a manifest of another kind."""
    hub.create("tester/model", private=False)
    names = ["README.md", "config.json", "model.safetensors", *[MANIFEST] * manifest]
    own = hub.repositories["tester/model"]
    files = {name: {"sha256": hub.keep(b"{}"), "lfs": False} for name in names}
    own.commit(files, "main", "Another model")
    refused = push(hub, repository, tmp_path / "cache")
    assert refused.returncode != 0
    assert "no push of this project wrote" in refused.stderr
    assert hub.files("tester/model").keys() == {*names}
