"""Two processes (gloo, CPU) train like one process with the same global batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, arguments

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def run(command: list[str], cwd: Path = ROOT) -> str:
    environment = {
        k: v for k, v in os.environ.items() if k not in ("WORLD_SIZE", "RANK", "LOCAL_RANK")
    } | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done.stdout


@pytest.fixture(scope="module")
def steps(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Gradients and metrics of the same steps in one process and in each of two."""
    folder = tmp_path_factory.mktemp("steps")
    worker = [str(ROOT / "tests" / "distributed_worker.py"), str(tiny_encoder), str(folder)]
    run([sys.executable, *worker])
    run([*TORCHRUN, *worker])
    return {
        name: torch.load(folder / f"{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1")
    }


CASES = [
    "pairwise",
    "with O",
    "Khosla",
    "chunks",
    "projection",
    "projection, chunks",
    "one sentence with entities",
    "words",
    "words, chunks",
    "tagger",
    "joint",
    "weighted",
    "BINDER",
]


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_two_processes_equal_those_of_one(steps, case):
    alone = steps["1-0"]["gradients"][case]
    assert alone
    assert max(gradient.abs().max() for gradient in alone.values()) > 1e-3
    for process in ("2-0", "2-1"):
        found = steps[process]["gradients"][case]
        assert found.keys() == alone.keys()
        for name, gradient in alone.items():
            # A sum in another order differs in its last digits, more on some processors; a wrong
            # mean differs in the first.
            torch.testing.assert_close(
                found[name],
                gradient,
                atol=max(1e-6, 1e-4 * float(gradient.abs().max())),
                rtol=1e-5,
                msg=lambda text, name=name: f"{name}: {text}",
            )


@pytest.mark.parametrize("case", ["odd number of sentences", "BINDER, one sentence with entities"])
def test_both_processes_hold_the_same_gradients_where_their_batches_weigh_differently(steps, case):
    """A sentence is dropped; BINDER's mention loss is a mean of the processes' means.

    See `BinderModel.accepts_loss_kwargs`.
    """
    first, second = (steps[process]["gradients"][case] for process in ("2-0", "2-1"))
    assert first
    for name, gradient in first.items():
        assert torch.equal(second[name], gradient)


@pytest.mark.parametrize("case", [*CASES, "BINDER, documents"])
def test_metrics_are_known_to_both_processes_and_equal_those_of_one(steps, case):
    # The library averages the loss of taggers and BINDER over batches, which differ for two
    # processes; scores count mentions.
    tolerance = (
        {"rel": 2e-2} if case in ("tagger", "joint", "weighted", "BINDER") else {"rel": 1e-4}
    )
    for process in ("2-0", "2-1"):
        assert steps[process]["metrics"][case] == pytest.approx(
            steps["1-0"]["metrics"][case], **tolerance
        )


def test_run_under_torchrun_leaves_one_complete_run_directory(files, tiny_encoder, tmp_path):
    command = arguments(files, tiny_encoder, tmp_path / "run")
    output = run([*TORCHRUN, str(ROOT / "run_ner.py"), *command], cwd=tmp_path)
    assert output.count("Hub-ready model") == 1
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text("utf-8"))
    assert set(metrics["phases"]) == {"stage1", "head", "full"}
    assert metrics["dev"]["micro"]["f1"] > 0.5
    assert not (tmp_path / "run" / ".lock").exists()
    assert "is complete" in run([*TORCHRUN, str(ROOT / "run_ner.py"), *command], cwd=tmp_path)
