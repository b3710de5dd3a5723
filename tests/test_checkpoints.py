"""What is left of an interrupted run is used only if it is as it was written."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import arguments
from safetensors.torch import load_file
from transformers import Trainer

from contrastive_ner.cli import main
from contrastive_ner.files import SEAL
from contrastive_ner.training.checkpoints import checkpoints, finished, newest_checkpoint
from contrastive_ner.training.config import RunConfig
from contrastive_ner.training.run import check_run_dir, data_hash, is_same

OPTIONS = {"method": "crf", "stage1_epochs": 0, "head_epochs": 0, "stage2_epochs": 4}
KILLED_AT = 13  # 5 steps an epoch: in the third one, whose predecessors left a checkpoint each
FIRST, SECOND = "checkpoint-5", "checkpoint-10"  # the best and the newest


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(autouse=True)
def first_epoch_is_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first epoch is the best one, so that the best checkpoint is not the newest."""
    patch_scores(monkeypatch)


def patch_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = Trainer.evaluate
    monkeypatch.setattr(
        Trainer,
        "evaluate",
        lambda *given, **options: evaluate(*given, **options) | {"eval_f1": 0.5},
    )


def train(files: Path, tiny_encoder: Path, run_dir: Path, **changes: object) -> int:
    return main(arguments(files, tiny_encoder, run_dir, **{**OPTIONS, **changes}))


@pytest.fixture(scope="module")
def runs(files: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same run twice: `whole`, and `killed` in its third epoch."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch_scores(patch)
        assert train(files, tiny_encoder, folder / "whole") == 0
        step, steps = Trainer.training_step, []

        def dying(self, *given, **options):
            steps.append(step(self, *given, **options))
            if len(steps) == KILLED_AT:
                raise Killed
            return steps[-1]

        patch.setattr(Trainer, "training_step", dying)
        with pytest.raises(Killed):
            train(files, tiny_encoder, folder / "killed")
    assert [path.name for path in checkpoints(folder / "killed" / "full")] == [SECOND, FIRST]
    return folder


@pytest.fixture
def copied(runs: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copies a run to a directory of the test."""

    def copy(name: str) -> Path:
        shutil.copytree(runs / name, tmp_path / name)
        config = tmp_path / name / "config.json"
        values = json.loads(config.read_text("utf-8"))
        config.write_text(json.dumps({**values, "output_dir": str(tmp_path / name)}), "utf-8")
        return tmp_path / name

    return copy


def flip(path: Path, at: float = 0.7) -> None:
    """Flip one bit."""
    raw = bytearray(path.read_bytes())
    raw[int(at * len(raw))] ^= 1
    path.write_bytes(raw)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def write(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content, "utf-8") and None


def change_state(path: Path, **changes: object) -> None:
    """Another state in an old checkpoint, which has no hashes."""
    path.with_name(SEAL).unlink()
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


NEWEST_DAMAGED = {
    "weights, a bit": ("model.safetensors", flip),
    "weights, cut": ("model.safetensors", truncate),
    "weights, removed": ("model.safetensors", Path.unlink),
    "optimizer, a bit": ("optimizer.pt", flip),
    "scheduler, removed": ("scheduler.pt", Path.unlink),
    "random state, a bit": ("rng_state.pth", flip),
    "random state, removed": ("rng_state.pth", Path.unlink),
    "state, a digit": (
        "trainer_state.json",
        lambda path: path.write_text(path.read_text("utf-8").replace('"epoch": 1', '"epoch": 0')),
    ),
    "state, a mapping": ("trainer_state.json", write("{}")),
    "state, a list": ("trainer_state.json", write("[]")),
    "state, deep": ("trainer_state.json", write("[" * 10_000 + "]" * 10_000)),
    "hashes, a list": (SEAL, write("[]")),
    "hashes, a mapping": (SEAL, write("{}")),
    "hashes, of numbers": (SEAL, write('{"model.safetensors": 3}')),
    "hashes, no JSON": (SEAL, write("{")),
    "hashes, a pipe": (SEAL, lambda path: path.unlink() or os.mkfifo(path)),
}


@pytest.mark.parametrize("damage", NEWEST_DAMAGED)
@pytest.mark.parametrize("sealed", [True, False])
def test_damaged_newest_checkpoint_is_passed_over(copied, damage, sealed):
    name, harm = NEWEST_DAMAGED[damage]
    full = copied("killed") / "full"
    assert newest_checkpoint(full) == full / SECOND
    if not sealed:
        if name == SEAL or damage in ("weights, a bit", "state, a digit"):
            return  # an old checkpoint does not show it
        (full / SECOND / SEAL).unlink()
        assert newest_checkpoint(full) == full / SECOND, "an old checkpoint is accepted"
    harm(full / SECOND / name)
    assert newest_checkpoint(full) == full / FIRST


@pytest.mark.parametrize(
    "changes",
    [
        {"no_such_key": 1},
        {"global_step": 11},
        {"global_step": "10"},
        {"max_steps": 3},
        {"epoch": None},
        {"log_history": [3]},
        {"log_history": [{"epoch": 1, "loss": "low"}]},
        {"best_global_step": [5]},
        {"best_metric": "high"},
        {"stateful_callbacks": []},
        {"stateful_callbacks": {}},
        {"stateful_callbacks": {"EarlyStoppingCallback": {}}},
        {"stateful_callbacks": {"EarlyStoppingCallback": {"args": {}, "attributes": {}}}},
        {"stateful_callbacks": {"TrainerControl": {"args": {"evil": True}, "attributes": {}}}},
        {"stateful_callbacks": {"Stopwatch": {"args": {}, "attributes": {"before": "x"}}}},
        {"best_global_step": 7},  # no such checkpoint
    ],
    ids=str,
)
def test_state_of_the_wrong_shape_is_passed_over(copied, changes):
    full = copied("killed") / "full"
    change_state(full / SECOND / "trainer_state.json", **changes)
    assert newest_checkpoint(full) == full / FIRST


BEST_DAMAGED = {
    "a bit": flip,
    "cut": truncate,
    "removed": Path.unlink,
    "folder removed": lambda path: shutil.rmtree(path.parent),
    "weights and hashes of another epoch": lambda path: [
        shutil.copy(path.parent.with_name(SECOND) / name, path.with_name(name))
        for name in (path.name, SEAL)
    ],
}


@pytest.mark.parametrize("damage", BEST_DAMAGED)
def test_without_the_best_model_the_phase_is_trained_again(copied, damage):
    full = copied("killed") / "full"
    BEST_DAMAGED[damage](full / FIRST / "model.safetensors")
    assert newest_checkpoint(full) is None


def test_what_only_resuming_needs_may_be_lost_of_the_best_checkpoint(copied):
    full = copied("killed") / "full"
    flip(full / FIRST / "optimizer.pt")
    assert newest_checkpoint(full) == full / SECOND


def test_foreign_folders_are_no_checkpoints(copied):
    full = copied("killed") / "full"
    (full / "checkpoint-best").mkdir()
    (full / "checkpoint-99").write_text("")
    assert newest_checkpoint(full) == full / SECOND
    (full / SECOND / "pytorch_model.bin").write_bytes(b"")
    assert newest_checkpoint(full) == full / FIRST


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(lambda full: None, id="unharmed", marks=pytest.mark.slow),
        pytest.param(lambda full: flip(full / FIRST / "model.safetensors"), id="best"),
        pytest.param(lambda full: flip(full / SECOND / "model.safetensors"), id="newest"),
        pytest.param(
            lambda full: [(full / name / SEAL).unlink() for name in (FIRST, SECOND)],
            id="old",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_damaged_run_ends_as_if_nothing_had_happened(
    copied, runs, files, tiny_encoder, harm, capsys
):
    run_dir = copied("killed")
    harm(run_dir / "full")
    assert train(files, tiny_encoder, run_dir) == 0
    assert_same(run_dir, runs / "whole")
    assert not list(run_dir.rglob("checkpoint-*"))


def assert_same(run_dir: Path, expected: Path) -> None:
    weights, wanted = (load_file(path / "model/model.safetensors") for path in (run_dir, expected))
    assert weights.keys() == wanted.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in wanted.items())


PHASE_DAMAGED = {
    "a bit": lambda full: flip(full / "model" / "model.safetensors"),
    "cut": lambda full: truncate(full / "model" / "model.safetensors"),
    "no model": lambda full: shutil.rmtree(full / "model"),
    "a list": lambda full: write("[]")(full / "DONE.json"),
    "a mapping": lambda full: write("{}")(full / "DONE.json"),
    "no JSON": lambda full: write("{")(full / "DONE.json"),
    "another number": lambda full: (full / "DONE.json").write_text(
        (full / "DONE.json").read_text("utf-8").replace('"epochs": 4', '"epochs": 3'), "utf-8"
    ),
}


@pytest.mark.parametrize("damage", PHASE_DAMAGED)
def test_a_damaged_phase_is_not_complete(copied, damage):
    full = copied("whole") / "full"
    assert finished(full)["epochs"] == 4
    PHASE_DAMAGED[damage](full)
    assert finished(full) is None


def test_a_phase_without_hashes_is_complete_if_its_model_can_be_read(copied):
    full = copied("whole") / "full"
    done = json.loads((full / "DONE.json").read_text("utf-8"))
    del done["files"], done["sha256"]
    (full / "DONE.json").write_text(json.dumps(done), "utf-8")
    assert finished(full) == done
    (full / "model" / "config.json").rename(full / "config.json")
    assert finished(full) is None
    (full / "config.json").rename(full / "model" / "config.json")
    assert finished(full) == done
    truncate(full / "model" / "model.safetensors")
    assert finished(full) is None


@pytest.mark.slow
def test_a_damaged_phase_is_trained_again(copied, runs, files, tiny_encoder, capsys):
    run_dir = copied("whole")
    (run_dir / "metrics.json").unlink()
    flip(run_dir / "full" / "model" / "model.safetensors")
    assert train(files, tiny_encoder, run_dir) == 0
    assert "training this phase again" in capsys.readouterr().err
    assert_same(run_dir, runs / "whole")


def test_a_best_model_that_changes_while_training_ends_the_run(
    copied, files, tiny_encoder, capsys, monkeypatch
):
    run_dir = copied("killed")
    step = Trainer.training_step

    def harmful(self, *given, **options):
        if self.state.global_step == 17:
            flip(run_dir / "full" / FIRST / "model.safetensors")
        return step(self, *given, **options)

    monkeypatch.setattr(Trainer, "training_step", harmful)
    assert train(files, tiny_encoder, run_dir) == 2
    assert f"{FIRST} holds the best model, but model.safetensors" in capsys.readouterr().err
    assert not (run_dir / "model").exists()
    assert newest_checkpoint(run_dir / "full") is None, "the next start trains again"


@pytest.mark.parametrize("content", ["[]", "3", '"x"', "null", "{", "[" * 10_000])
def test_a_configuration_of_the_wrong_shape_is_one_line(
    copied, files, tiny_encoder, capsys, content
):
    run_dir = copied("killed")
    (run_dir / "config.json").write_text(content, "utf-8")
    assert train(files, tiny_encoder, run_dir) == 2
    assert f"remove {run_dir}" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[]", "{}", '{"dev": 3}', "{", '{"dev": {}}'])
def test_a_report_of_the_wrong_shape_is_one_line(copied, files, tiny_encoder, capsys, content):
    run_dir = copied("whole")
    (run_dir / "metrics.json").write_text(content, "utf-8")
    assert train(files, tiny_encoder, run_dir) == 2
    assert "metrics.json" in capsys.readouterr().err


def test_another_encoder_in_the_same_folder_is_another_run(
    copied, files, tiny_encoder, capsys, tmp_path
):
    run_dir = copied("killed")
    encoder = tmp_path / "encoder"
    shutil.copytree(tiny_encoder, encoder)
    config = run_dir / "config.json"
    values = {**json.loads(config.read_text("utf-8")), "encoder": str(encoder)}
    config.write_text(json.dumps(values), "utf-8")
    (encoder / "README.md").write_text("is not read")
    flip(encoder / "model.safetensors")
    assert train(files, encoder, run_dir) == 2
    assert "encoder_sha256: " in capsys.readouterr().err
    del values["encoder_sha256"], values["order_of_sets"]  # a run of an earlier version
    config.write_text(json.dumps(values), "utf-8")
    assert check_run_dir(RunConfig(**{k: v for k, v in values.items() if k != "data_sha256"}))


def test_another_data_set_in_the_same_folder_is_another_run(tmp_path):
    for split in ("train", "dev"):
        (tmp_path / "data" / split).mkdir(parents=True)
        (tmp_path / "data" / split / "data.arrow").write_text(split)
    name = f"{tmp_path / 'data'}@train"
    before = data_hash(name)
    (tmp_path / "data" / "train" / "cache-1.arrow").write_text("made by others")
    assert data_hash(name) == before
    (tmp_path / "data" / "train" / "data.arrow").write_text("other")
    assert not is_same("data_sha256", {name: before}, {name: data_hash(name)})
    assert is_same("data_sha256", {name: None}, {name: before}), "a run of an earlier version"


@pytest.mark.slow
def test_two_starts_at_once_make_one_run(files, tiny_encoder, tmp_path, monkeypatch, capsys):
    """The second start waits, so to speak, between its first look and the lock."""
    from contrastive_ner.cli import train as command

    plain, begun = command.lock_run_dir, time.monotonic()

    def late(run_dir: Path):
        monkeypatch.setattr(command, "lock_run_dir", plain)
        assert train(files, tiny_encoder, run_dir, seed=1) == 0
        return plain(run_dir)

    monkeypatch.setattr(command, "lock_run_dir", late)
    assert train(files, tiny_encoder, tmp_path / "run") == 2
    assert "seed: 1 there, 0 now" in capsys.readouterr().err
    assert (tmp_path / "run" / "metrics.json").is_file()
    assert time.monotonic() - begun < 60
