"""Optimiser, clipping, schedule, and an encoder that is frozen at first."""

import json
import signal
from pathlib import Path

import pytest
import torch
from conftest import arguments
from safetensors.torch import load_file
from torch import nn
from transformers import Trainer

from contrastive_ner.cli import main
from contrastive_ner.errors import ConfigError
from contrastive_ner.training import phases
from contrastive_ner.training.config import RunConfig
from contrastive_ner.training.schedules import (
    ClipValues,
    Unfreezing,
    make_optimizer,
)
from contrastive_ner.training.settings import load_config

PAPER = {"optimizer": "sgd", "schedule": "constant", "clip_value": 5.0}
FULL_ALONE = {"stage1_epochs": 0, "head_epochs": 0}


class Watch(phases.Sealing):
    """A callback that notes what each step of a run does."""

    seen: list[dict]

    def on_pre_optimizer_step(self, args, state, control, **given) -> None:
        self.before = {n: p.detach().clone() for n, p in given["model"].named_parameters()}

    def on_optimizer_step(self, args, state, control, **given) -> None:
        moved = {
            n for n, p in given["model"].named_parameters() if not torch.equal(p, self.before[n])
        }
        self.seen.append(
            {
                "phase": Path(args.output_dir).name,
                "epoch": int(state.epoch or 0),
                "moved": {"encoder" if ".encoder." in f".{n}" else "head" for n in moved},
                "optimizer": type(given["optimizer"].optimizer),
                "rates": [group["lr"] for group in given["optimizer"].param_groups],
                "modes": {
                    m.training for m in given["model"].modules() if isinstance(m, nn.Dropout)
                },
                "norm": args.max_grad_norm,
            }
        )


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    Watch.seen = []
    monkeypatch.setattr(phases, "Sealing", Watch)
    return Watch.seen


@pytest.mark.slow
def test_the_recipe_of_the_released_code(files, tiny_encoder, tmp_path, watched):
    """SGD at a constant rate; the encoder learns from the third epoch on, and patience waits."""
    options = {
        **PAPER,
        "stage2_epochs": 4,
        "stage2_patience": 1,
        "stage2_unfreeze_epoch": 3,
        "stage2_warmup": 0.1,
        "stage2_contrastive_weight": 1,
        "stage2_contrastive_after_dropout": True,
        "encoder_dropout": 0.1,
    }
    command = arguments(files, tiny_encoder, tmp_path / "run", **options)
    assert main(command) == 0
    assert {step["optimizer"] for step in watched} == {torch.optim.SGD}
    assert {step["norm"] for step in watched} == {0}
    assert all(step["modes"] == {True} for step in watched), "dropout is on, frozen or not"
    stages = {
        name: [s for s in watched if s["phase"] == name] for name in ("stage1", "head", "full")
    }
    assert stages["stage1"][1]["moved"] == {"encoder"}
    assert all(step["moved"] == {"head"} for step in stages["head"][1:])
    full = stages["full"]
    for step in full[1:]:  # the warm-up starts at a rate of 0
        assert step["moved"] == ({"head"} if step["epoch"] < 2 else {"head", "encoder"})
    assert max(step["epoch"] for step in full) >= 2, "patience of 1 did not end it before"
    warm = [step["rates"] for step in full[3:]]  # warm-up is 2 of 20 steps
    assert all(rates == warm[0] for rates in warm)
    assert {0.005, 0.02} == set(warm[0])


@pytest.mark.slow
def test_stage_one_trains_an_adapter_alone(files, tiny_encoder, tmp_path, watched):
    words = tmp_path / "words.txt"
    assert main(["lexicon", "--from_training", f"{files}/train.jsonl", "--output", str(words)]) == 0
    given = {"lexicon_fusion": "adapter", "lexicon_file": words, "stage1_freeze_encoder": True}
    command = arguments(files, tiny_encoder, tmp_path / "run", **given, encoder_dropout=0.1)
    assert main(command) == 0
    stages = {
        name: [s for s in watched if s["phase"] == name] for name in ("stage1", "head", "full")
    }
    assert all(step["moved"] == {"head"} for step in stages["stage1"][1:])  # the adapter
    assert all(step["modes"] == {True} for step in stages["stage1"])
    assert all(step["moved"] == {"head", "encoder"} for step in stages["full"][1:])


def test_defaults_are_as_ever(files, tiny_encoder, tmp_path, watched):
    command = arguments(files, tiny_encoder, tmp_path / "run", **FULL_ALONE, stage2_epochs=1)
    assert main(command) == 0
    assert {step["optimizer"] for step in watched} == {torch.optim.AdamW}
    assert {step["norm"] for step in watched} == {1.0}
    assert watched[-1]["rates"] < watched[-2]["rates"]
    assert all("encoder" in step["moved"] for step in watched[1:])


@pytest.mark.slow
def test_patience_counts_from_the_epoch_that_unfreezes(files, tiny_encoder, tmp_path):
    """Rates so low that nothing gets better: it ends `patience` epochs after the frozen ones."""
    options = {
        **FULL_ALONE,
        "stage2_epochs": 9,
        "stage2_patience": 2,
        "stage2_unfreeze_epoch": 5,
        "stage2_learning_rate": 1e-12,
        "stage2_head_learning_rate": 1e-12,
    }
    assert main(arguments(files, tiny_encoder, tmp_path / "run", **options)) == 0
    assert json.loads((tmp_path / "run" / "full" / "DONE.json").read_text("utf-8"))["epochs"] == 6


@pytest.mark.slow
@pytest.mark.parametrize("step", [10, 12])
def test_a_stopped_run_resumes_frozen_or_not(
    files, tiny_encoder, tmp_path, monkeypatch, watched, step
):
    """Stopped at the end of the last frozen epoch, and in one that is not frozen (5 steps)."""
    options = {
        **PAPER,
        **FULL_ALONE,
        "stage2_epochs": 3,
        "stage2_unfreeze_epoch": 3,
        "stage2_warmup": 0,
        "encoder_dropout": 0.1,
    }
    (tmp_path / "whole").mkdir()
    assert main(arguments(files, tiny_encoder, tmp_path / "whole" / "run", **options)) == 0
    watched.clear()
    command = arguments(files, tiny_encoder, tmp_path / "run", **options)
    train = Trainer.training_step

    def interrupted(trainer: Trainer, *args, **kwargs):
        if trainer.state.global_step == step - 1:
            signal.raise_signal(signal.SIGTERM)
        return train(trainer, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", interrupted)
        assert main(command) == 128 + signal.SIGTERM
    assert (tmp_path / "run" / "full" / f"checkpoint-{step}").is_dir()
    assert main(command) == 0
    weights, expected = (
        load_file(root / "model" / "model.safetensors")
        for root in (tmp_path / "run", tmp_path / "whole" / "run")
    )
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    assert [s["moved"] for s in watched] == [{"head"}] * 10 + [{"head", "encoder"}] * 5


# ------------------------------------------------------------------------------------------- pieces
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_optimizer_and_clipping_are_those_of_the_equations(name):
    """One step on a loss with the gradient (20, -0.5): SGD moves by rate times clipped gradient."""
    weight = nn.Parameter(torch.zeros(2))
    model = nn.ParameterList([weight])
    config = RunConfig(optimizer=name, clip_value=5)
    optimizer = make_optimizer(config, [{"params": [weight], "lr": 0.1, "weight_decay": 0.0}])
    for _ in range(2):
        weight.grad = torch.tensor([20.0, -0.5])
        ClipValues(config.clip_value).on_pre_optimizer_step(None, None, None, model=model)
        assert weight.grad.tolist() == [5.0, -0.5]
        optimizer.step()
    moved = (1 + 1.9) * 0.1 if name == "sgd" else None  # the second step adds 0.9 of the first
    expected = [-5 * moved, 0.5 * moved] if moved else [-0.2, 0.2]
    torch.testing.assert_close(weight.detach(), torch.tensor(expected), rtol=1e-4, atol=1e-6)


def test_several_processes_cannot_unfreeze():
    class Several:
        args = type("Arguments", (), {"world_size": 2})

    with pytest.raises(ConfigError, match="stage2_unfreeze_epoch is 3: expected 0 or 1 with sev"):
        Unfreezing(Several(), [], 3)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optimizer", "adam", "expected one of adamw, sgd"),
        ("schedule", "cosine", "expected one of linear, constant"),
        ("clip_value", "-1", "expected a number in"),
        ("clip_value", "nan", "expected a number in"),
        ("stage2_unfreeze_epoch", "-1", "expected at least 0"),
    ],
)
def test_bad_values_are_refused(tmp_path, key, value, message):
    (tmp_path / "config.yaml").write_text("{}", "utf-8")
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "config.yaml", [f"{key}={value}"])
