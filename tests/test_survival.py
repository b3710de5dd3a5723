"""An interrupted run that is started again ends with the same weights and scores."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, arguments
from safetensors.torch import load_file

from contrastive_ner.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# 40 sentences in batches of 8 make 5 steps per epoch: 10 in stage one, 5 head-only, 15 in the full
# phase.
OPTIONS = {
    "stage1_epochs": 2,
    "head_epochs": 1,
    "stage2_epochs": 3,
    "stage1_projection": 8,
    "stage1_patience": 5,
    "stage2_patience": 5,
}
STAGE1_STEP = "contrastive_ner.training.contrastive:ContrastiveTrainer.training_step"
STAGE2_STEP = "transformers:Trainer.training_step"  # stage one also calls it
# Here a checkpoint has its weights but not its state.
WRITING = "transformers:Trainer._save_optimizer_and_scheduler"


@pytest.fixture(scope="module")
def undisturbed(files: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run without interruption."""
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    assert main(arguments(files, tiny_encoder, run_dir, **OPTIONS)) == 0
    return run_dir


def struck(place: str, call: int, blow: str, command: list[str]) -> subprocess.CompletedProcess:
    worker = [sys.executable, str(ROOT / "tests" / "interrupted_worker.py"), place, str(call), blow]
    return subprocess.run([*worker, *command], capture_output=True, text=True, timeout=600)


def assert_same_outcome(run_dir: Path, undisturbed: Path) -> None:
    for folder in [
        path.parent.relative_to(undisturbed) for path in undisturbed.rglob("model.safetensors")
    ]:
        weights, expected = (
            load_file(root / folder / "model.safetensors") for root in (run_dir, undisturbed)
        )
        assert weights.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(weights[name], tensor), f"{folder}: {name}"
    found, expected = (
        json.loads((root / "metrics.json").read_text("utf-8")) for root in (run_dir, undisturbed)
    )
    assert found["dev"] == expected["dev"]
    assert found["test"] == expected["test"]
    for phase, values in expected["phases"].items():
        assert found["phases"][phase]["epochs"] == values["epochs"]
        assert found["phases"][phase]["best"] == values["best"]
    assert not list(run_dir.rglob("checkpoint-*"))
    assert not list(run_dir.rglob("*partial*"))


KILLED = {
    "stage one, before any checkpoint": (STAGE1_STEP, 3),
    "stage one, second epoch": (STAGE1_STEP, 8),
    "stage one, a checkpoint half written": (WRITING, 2),
    "stage one, trained but not marked": ("contrastive_ner.training.phases:leave_model", 1),
    "head-only": (STAGE2_STEP, 10 + 3),
    "full, third epoch": (STAGE2_STEP, 15 + 13),
    "full, a checkpoint half written": (WRITING, 2 + 1 + 2),
    "full, trained but not marked": ("contrastive_ner.training.phases:leave_model", 3),
    "measuring": ("contrastive_ner.cli.train:write_json", 2),
}


@pytest.mark.parametrize("place", KILLED)
def test_killed_run_ends_as_if_nothing_had_happened(
    place, files, tiny_encoder, tmp_path, undisturbed
):
    command = arguments(files, tiny_encoder, tmp_path / "run", **OPTIONS)
    done = struck(*KILLED[place], "SIGKILL", command)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert not (tmp_path / "run" / "model").exists() or place == "measuring"
    assert main(command) == 0
    assert_same_outcome(tmp_path / "run", undisturbed)


@pytest.fixture(scope="module")
def binder_options(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """One phase of 15 steps that samples types and their descriptions."""
    types = tmp_path_factory.mktemp("types") / "types.yaml"
    types.write_text(
        "types:\n  PER: 人物：人的名字。\n  ORG: 机构：公司的名字。\n  GPE: 政区：城市的名字。\n",
        "utf-8",
    )
    drawn = {"type_variants": True, "types_per_batch": 2}
    return {
        **OPTIONS,
        **drawn,
        "method": "binder",
        "types_file": types,
        "stage1_epochs": 0,
        "head_epochs": 0,
    }


@pytest.fixture(scope="module")
def undisturbed_binder(
    files: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory, binder_options: dict
) -> Path:
    run_dir = tmp_path_factory.mktemp("undisturbed-binder") / "run"
    assert main(arguments(files, tiny_encoder, run_dir, **binder_options)) == 0
    return run_dir


BINDER_STRUCK = {
    "a checkpoint half written": (WRITING, 2, "SIGKILL"),
    "trained but not marked": ("contrastive_ner.training.phases:leave_model", 1, "SIGKILL"),
    "in the middle of an epoch": (STAGE2_STEP, 8, "SIGTERM"),
}


@pytest.mark.parametrize("place", BINDER_STRUCK)
def test_struck_binder_run_ends_as_if_nothing_had_happened(
    place, files, tiny_encoder, tmp_path, undisturbed_binder, binder_options
):
    command = arguments(files, tiny_encoder, tmp_path / "run", **binder_options)
    assert struck(*BINDER_STRUCK[place], command).returncode in (
        -signal.SIGKILL,
        128 + signal.SIGTERM,
    )
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert main(command) == 0
    assert_same_outcome(tmp_path / "run", undisturbed_binder)


@pytest.mark.parametrize(
    ("place", "call", "blow"),
    [(STAGE1_STEP, 7, "SIGTERM"), (STAGE2_STEP, 15 + 8, "SIGINT")],
    ids=["stage one", "full"],
)
def test_stop_in_the_middle_of_an_epoch_loses_nothing(
    place, call, blow, files, tiny_encoder, tmp_path, undisturbed
):
    command = arguments(files, tiny_encoder, tmp_path / "run", **OPTIONS)
    done = struck(place, call, blow, command)
    assert done.returncode == 128 + getattr(signal, blow), done.stderr
    assert f"stopped by {blow}" in done.stderr
    assert "run the same command again to resume" in done.stderr
    phase, step = ("stage1", 7) if place == STAGE1_STEP else ("full", 8)
    state = tmp_path / "run" / phase / f"checkpoint-{step}" / "trainer_state.json"
    saved = json.loads(state.read_text("utf-8"))["stateful_callbacks"]
    before = saved["Stopwatch"]["attributes"]["before"]
    assert before > 0
    assert main(command) == 0
    assert_same_outcome(tmp_path / "run", undisturbed)
    done = json.loads((tmp_path / "run" / phase / "DONE.json").read_text("utf-8"))
    assert done["seconds"] > before, "the seconds of all starts are counted"


@pytest.mark.parametrize("step", [5, 15])
def test_stop_at_the_end_of_an_epoch_keeps_its_scores(
    step, files, tiny_encoder, tmp_path, undisturbed
):
    command = arguments(files, tiny_encoder, tmp_path / "run", **OPTIONS)
    done = struck(STAGE2_STEP, 15 + step, "SIGTERM", command)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    checkpoint = tmp_path / "run" / "full" / f"checkpoint-{step}" / "trainer_state.json"
    history = json.loads(checkpoint.read_text("utf-8"))["log_history"]
    assert [row["step"] for row in history if "eval_f1" in row] == list(range(5, step + 1, 5))
    assert main(command) == 0
    assert_same_outcome(tmp_path / "run", undisturbed)


def test_early_stopping_is_not_forgotten(files, tiny_encoder, tmp_path, capsys):
    """Killed when patience ran out, before the phase was marked: no further epoch is trained."""
    options = {**OPTIONS, "stage2_epochs": 8, "stage2_patience": 1, "keep_checkpoints": True}
    expected_dir = tmp_path / "expected" / "run"
    expected_dir.parent.mkdir()
    assert main(["--verbose", *arguments(files, tiny_encoder, expected_dir, **options)]) == 0
    assert "'loss'" in capsys.readouterr().err, "the premise: training is logged"
    expected = json.loads((expected_dir / "full" / "DONE.json").read_text("utf-8"))
    assert expected["epochs"] < 8, "the premise: early stopping ended the phase"
    command = arguments(files, tiny_encoder, tmp_path / "run", **options)
    assert (
        struck("transformers:Trainer._finalize_training", 3, "SIGKILL", command).returncode
        == -signal.SIGKILL
    )
    capsys.readouterr()
    assert main(["--verbose", *command]) == 0
    assert "'loss'" not in capsys.readouterr().err, "nothing was trained"
    found = json.loads((tmp_path / "run" / "full" / "DONE.json").read_text("utf-8"))
    assert (found["epochs"], found["best"]) == (expected["epochs"], expected["best"])
    weights, wanted = (
        load_file(root / "model" / "model.safetensors") for root in (tmp_path / "run", expected_dir)
    )
    assert all(torch.equal(weights[name], tensor) for name, tensor in wanted.items())


def test_full_disk_is_said_and_costs_nothing(files, tiny_encoder, tmp_path, undisturbed):
    command = arguments(files, tiny_encoder, tmp_path / "run", **OPTIONS)
    done = struck("transformers:Trainer._save_checkpoint", 2, "full-disk", command)
    assert done.returncode == 2, done.stderr
    assert "no space left" in done.stderr
    assert "run the same command again" in done.stderr
    assert [path.name for path in (tmp_path / "run" / "stage1").glob("checkpoint-*")] == [
        "checkpoint-5"
    ]
    assert main(command) == 0
    assert_same_outcome(tmp_path / "run", undisturbed)


def children_of(pid: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    """Whether a process exists and is more than an entry that nobody has collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


STAGES = {"starting": 0, "importing": 0.7, "importing more": 2, "loading": 4, "predicting": None}
# With the parent stopped the workers first finish what is queued, then wait for more.
STOPPED = {"queues full": 0.2, "queues empty": 15}


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
@pytest.mark.parametrize("stage", [*STAGES, *STOPPED])
def test_workers_end_within_seconds_of_a_killed_job(saved_tagger, tmp_path, stage):
    (tmp_path / "in.txt").write_text("小明在北京大学读书，小红在上海工作。\n" * 20_000, "utf-8")
    command = ["predict", str(saved_tagger), str(tmp_path / "in.txt"), "--num_processes", "2"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run_ner.py"), *command, "--output", str(tmp_path / "out")],
        stderr=subprocess.DEVNULL,
    )
    progress = tmp_path / ".out.progress"
    # The first child is multiprocessing's own tracker of resources.
    while len(children_of(process.pid)) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    if STAGES.get(stage) is None:
        while not progress.exists():
            assert process.poll() is None
            time.sleep(0.01)
    else:
        time.sleep(STAGES[stage])
    if stage in STOPPED:
        process.send_signal(signal.SIGSTOP)
        time.sleep(STOPPED[stage])
    workers = children_of(process.pid)
    process.kill()
    process.wait()
    end = time.monotonic() + 5
    while any(map(is_alive, workers)) and time.monotonic() < end:
        time.sleep(0.05)
    left = [pid for pid in workers if is_alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def test_two_runs_in_one_directory_are_refused(files, tiny_encoder, tmp_path, capsys):
    from contrastive_ner.training.run import lock_run_dir

    command = arguments(files, tiny_encoder, tmp_path / "run", **OPTIONS)
    lock = lock_run_dir(tmp_path / "run")
    done = subprocess.run(
        [sys.executable, str(ROOT / "run_ner.py"), *command],
        capture_output=True,
        text=True,
        timeout=600,
    )
    lock.release()
    assert done.returncode == 2
    assert "another process trains there" in done.stderr
