"""What a run must survive: late signals, foreign files, odd names, keys in vain."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import arguments
from transformers import EarlyStoppingCallback, Trainer

from contrastive_ner.cli import main
from contrastive_ner.data.joining import is_chinese
from contrastive_ner.data.readers import read_records
from contrastive_ner.data.writers import write_records
from contrastive_ner.errors import ConfigError
from contrastive_ner.hub.card import spread_line
from contrastive_ner.training.run import check_run_dir, identity_of
from contrastive_ner.training.settings import config_from

SHORT = {"method": "crf", "stage1_epochs": 0, "head_epochs": 0, "stage2_epochs": 1}


@pytest.fixture(scope="module")
def metrics(
    files: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Metrics of a short run with seed 1."""
    folder = tmp_path_factory.mktemp("run")
    assert main(arguments(files, tiny_encoder, folder / "crf-1", seed=1, **SHORT)) == 0
    return json.loads((folder / "crf-1" / "metrics.json").read_text("utf-8"))


# ------------------------------------------------------------------------------------------ signals
@pytest.mark.parametrize("stops", ["head", "full"])
def test_a_signal_after_the_last_step_of_a_phase_stops_the_run(
    stops, files, tiny_encoder, tmp_path, monkeypatch, capsys
):
    """During the last evaluation no step follows that could notice it."""
    options = {"method": "nerco", "stage1_epochs": 0, "head_epochs": 1, "stage2_epochs": 1}
    command = arguments(files, tiny_encoder, tmp_path / "run", **options)
    evaluate = Trainer.evaluate

    def interrupted(trainer: Trainer, *args: Any, **kwargs: Any) -> Any:
        if Path(trainer.args.output_dir).name == stops:
            signal.raise_signal(signal.SIGTERM)
        return evaluate(trainer, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "evaluate", interrupted)
        assert main(command) == 128 + signal.SIGTERM
    assert f"finished {stops}; run the same command again" in capsys.readouterr().err
    assert (tmp_path / "run" / stops / "DONE.json").is_file()
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert (tmp_path / "run" / "full").exists() == (stops == "full")
    assert main(command) == 0


def test_a_signal_when_patience_runs_out_stops_the_run(files, tiny_encoder, tmp_path, monkeypatch):
    options = {"method": "nerco", "stage1_epochs": 3, "stage1_patience": 1, "head_epochs": 1}
    command = arguments(files, tiny_encoder, tmp_path / "run", **options, stage2_epochs=1)

    def stop(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        control.should_training_stop = True

    with monkeypatch.context() as patch:
        patch.setattr(EarlyStoppingCallback, "on_evaluate", stop)
        assert main(command) == 128 + signal.SIGTERM
    assert not (tmp_path / "run" / "full").exists()
    assert main(command) == 0


# ------------------------------------------------------------------------------------ run directory
def test_files_beside_a_run_do_not_stop_it(files, tiny_encoder, tmp_path):
    """The card looks for runs with other seeds."""
    for name, content in {
        "crf-notes": '{"f1": 0.5}',
        "crf-2": '{"f1": 0.5}',
        "crf-3": "",
        "crf-4": '["a list"]',
        "crf-5": '{"config": 1, "encoder_sha256": "", "data": 2}',
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(content, "utf-8")
    (tmp_path / "crf-6" / "metrics.json").mkdir(parents=True)
    template = tmp_path / "{method}-{seed}"
    assert main(arguments(files, tiny_encoder, template, seed=1, **SHORT)) == 0
    assert (tmp_path / "crf-1" / "model" / "README.md").is_file()


@pytest.mark.parametrize("changed", ["nothing", "data", "encoder", "keys"])
def test_seeds_are_pooled_over_equal_runs(changed, metrics, tmp_path):
    own = {**metrics, "config": {**metrics["config"], "output_dir": str(tmp_path / "crf-{seed}")}}
    other = json.loads(json.dumps(own))
    other["seed"] = other["config"]["seed"] = 2
    if changed == "data":
        other["data"]["train"]["sha256"] = "0" * 64
    elif changed == "encoder":
        other["encoder_sha256"] = "0" * 64
    elif changed == "keys":
        other["config"]["stage2_epochs"] = 9
    (tmp_path / "crf-2").mkdir()
    (tmp_path / "crf-2" / "metrics.json").write_text(json.dumps(other), "utf-8")
    assert ("seeds 1, 2" in spread_line(own)) == (changed == "nothing")


def test_a_run_goes_on_with_keys_that_change_no_result(files, tiny_encoder, tmp_path):
    """After evaluation ran out of memory, say."""
    run_dir = tmp_path / "run"
    assert main(arguments(files, tiny_encoder, run_dir, **SHORT)) == 0
    changes = {"eval_batch_size": 3, "keep_checkpoints": "true"}
    assert main(arguments(files, tiny_encoder, run_dir, **SHORT, **changes)) == 0


def test_the_order_of_data_sets_belongs_to_a_run(tmp_path):
    """It numbers the types, whose order a checkpoint has."""
    own = {"train_file": "t.jsonl", "dev_file": "d.jsonl", "types_file": "types.yaml"}
    keys = {"output_dir": str(tmp_path / "run"), "method": "binder", "encoder": str(tmp_path)}
    config = config_from({**keys, "data_sets": {"a": own, "b": own}})
    (tmp_path / "run").mkdir()
    content = json.dumps(identity_of(config))
    (tmp_path / "run" / "config.json").write_text(content, "utf-8")
    assert check_run_dir(config) is not None
    turned = config_from({**keys, "data_sets": {"b": own, "a": own}})
    with pytest.raises(ConfigError, match="order_of_sets"):
        check_run_dir(turned)
    old = {key: value for key, value in json.loads(content).items() if key != "order_of_sets"}
    (tmp_path / "run" / "config.json").write_text(json.dumps(old), "utf-8")
    assert check_run_dir(config) is not None, "runs of earlier versions do not name it"


# ------------------------------------------------------------------------------ names, keys, units
def test_names_of_types_are_no_mathematics(files, tiny_encoder, tmp_path):
    """The plot of the embeddings names them."""
    renamed = tmp_path / "files"
    renamed.mkdir()
    for split in ("train", "dev", "test"):
        records, _ = read_records(files / f"{split}.jsonl")
        names = {"PER": "A$^$", "ORG": "_B"}
        for record in records:
            record.entities = [m._replace(label=names[m.label]) for m in record.entities]
        write_records(records, renamed / f"{split}.jsonl")
    assert main(arguments(renamed, tiny_encoder, tmp_path / "run", **SHORT)) == 0
    assert "A$^$" in (tmp_path / "run" / "metrics.json").read_text("utf-8")
    assert list((tmp_path / "run").glob("*.svg")) + list((tmp_path / "run").glob("*.png"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"method": "crf", "stage1_epochs": 0, "head_epochs": 0, "stage2_epochs": 2,
          "stage2_unfreeze_epoch": 3}, "full phase has 2 epochs"),
        ({"method": "nerco", "stage1_epochs": 5, "stage2_epochs": 2, "stage2_unfreeze_epoch": 3},
         "full phase has 2 epochs"),
        ({"method": "binder", "max_span_width": 65}, "at most half of max_window_tokens, 64"),
    ],
)  # fmt: skip
def test_keys_that_cannot_work_are_refused_before_training(keys, message):
    with pytest.raises(ConfigError, match=message):
        config_from(keys)


def test_keys_without_effect_are_reported():
    assert config_from({}).remarks() == []
    config = config_from(
        {"method": "binder", "stage2_contrastive_weight": 1.0, "equal_types": "merge"}
    )
    assert [remark.split()[0] for remark in config.remarks()] == [
        "stage2_contrastive_weight",
        "equal_types",
    ]
    assert "documents_of" in config_from({"documents_of": 3}).remarks()[0]


def test_the_text_unit_does_not_depend_on_the_order_of_texts():
    texts = [*["这是中文"] * 500, *["plain English text of some length"] * 5000]
    assert is_chinese(texts) == is_chinese(texts[::-1]) is False
    assert not is_chinese([*["plain English"] * 600, "中"])
    assert is_chinese([])
    assert is_chinese(["中"])


def test_a_blank_text_in_dev_is_read_by_every_method(files, tiny_encoder, tmp_path):
    blank = tmp_path / "files"
    shutil.copytree(files, blank)
    with (blank / "dev.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"text": "", "entities": []}\n{"text": "  ", "entities": []}\n')
    (tmp_path / "types.yaml").write_text("types: {PER: 人, ORG: 机构}", "utf-8")
    for method in ("crf", "binder"):
        keys = {**SHORT, "method": method, "types_file": tmp_path / "types.yaml"}
        assert main(arguments(blank, tiny_encoder, tmp_path / method, **keys)) == 0
