"""The command line on a tiny encoder: train, evaluate, predict, inspect, and bad input."""

import io
import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
from conftest import ROOT, arguments, corpus
from transformers import Trainer

from contrastive_ner.cli import main, tag
from contrastive_ner.data.readers import read_records
from contrastive_ner.data.records import Mention, Record
from contrastive_ner.data.writers import write_records
from contrastive_ner.errors import ConfigError
from contrastive_ner.evaluation.report import print_scores
from contrastive_ner.training.config import RunConfig


@pytest.fixture(scope="session")
def run(files: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete NerCo run."""
    run_dir = tmp_path_factory.mktemp("runs") / "nerco"
    assert main(arguments(files, tiny_encoder, run_dir)) == 0
    return run_dir


def test_help_takes_less_than_a_second():
    seconds = []
    for _ in range(5):  # the best of five: other tests run beside this one
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, str(ROOT / "run_ner.py"), "train", "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        seconds.append(time.monotonic() - started)
        assert "stage1_temperature" in done.stdout
        if seconds[-1] < 1:
            break
    assert min(seconds) < 1


def test_output_that_nobody_reads_is_no_error(files):
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, str(ROOT / "run_ner.py"), "inspect", str(files / "dev.jsonl")]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, env=buffered)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_run_directory_holds_what_it_should(run):
    names = {path.name for path in run.iterdir()}
    assert names == {
        "config.json",
        "metrics.json",
        "training.png",
        "embeddings.png",
        "reliability.png",
        "model",
        "stage1",
        "head",
        "full",
    }
    assert {path.name for path in (run / "model").iterdir()} >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "modeling_nerco.py",
        "pipeline_ner.py",
        "windows_ner.py",
        "README.md",
    }
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    assert metrics["data"]["train"]["texts"] == 40
    assert len(metrics["data"]["train"]["sha256"]) == 64
    assert set(metrics["phases"]) == {"stage1", "head", "full"}
    assert set(metrics["test"]["per_type"]) == {"PER", "ORG"}
    assert metrics["dev"]["micro"]["f1"] > 0.5
    assert metrics["versions"]["torch"]
    assert len(metrics["encoder_sha256"]) == 64
    assert (
        metrics["encoder_sha256"]
        == json.loads((run / "config.json").read_text("utf-8"))["encoder_sha256"]
    )


def test_model_folder_holds_no_pickle(run):
    assert not [
        path
        for path in (run / "model").rglob("*")
        if path.suffix in (".bin", ".pt", ".pth", ".pkl")
    ]


def test_complete_run_is_only_reported(run, files, tiny_encoder, capsys):
    before = (run / "model" / "model.safetensors").stat().st_mtime_ns
    assert main(arguments(files, tiny_encoder, run)) == 0
    assert "is complete" in capsys.readouterr().out
    assert (run / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_run_directory_with_another_configuration_is_refused(run, files, tiny_encoder, capsys):
    assert main(arguments(files, tiny_encoder, run, seed=7)) == 2
    error = capsys.readouterr().err
    assert "another configuration" in error
    assert "seed: 0 there, 7 now" in error


def test_directory_that_is_no_run_is_refused(files, tiny_encoder, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    assert main(arguments(files, tiny_encoder, tmp_path / "mine")) == 2
    assert "not a run directory" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("method", ["ce", "crf"])
def test_controls_train_for_the_same_number_of_epochs(files, tiny_encoder, tmp_path, method):
    run_dir = tmp_path / method
    assert main(arguments(files, tiny_encoder, run_dir, method=method)) == 0
    metrics = json.loads((run_dir / "metrics.json").read_text("utf-8"))
    assert {name: phase["epochs"] for name, phase in metrics["phases"].items()} == {"full": 6.0}
    assert json.loads((run_dir / "model" / "config.json").read_text("utf-8"))["use_crf"] == (
        method == "crf"
    )


def test_killed_phase_is_continued_and_complete_ones_are_not_repeated(
    run, files, tiny_encoder, tmp_path, capsys
):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "metrics.json").unlink()
    (copy / "full" / "DONE.json").unlink()
    config = json.loads((copy / "config.json").read_text("utf-8"))
    (copy / "config.json").write_text(json.dumps({**config, "output_dir": str(copy)}), "utf-8")
    stage1 = (copy / "stage1" / "DONE.json").read_bytes()
    assert main(arguments(files, tiny_encoder, copy)) == 0
    output = capsys.readouterr().err
    assert "-- full" in output
    assert "-- stage1" not in output
    assert (copy / "stage1" / "DONE.json").read_bytes() == stage1


# ----------------------------------------------------------------------------- evaluate and predict
def test_evaluate_repeats_the_run_s_test_scores(run, files, tmp_path, capsys):
    report = tmp_path / "scores.json"
    options = ["--train", str(files / "train.jsonl"), "--output", str(report)]
    assert main(["evaluate", str(run / "model"), str(files / "test.jsonl"), *options]) == 0
    scores = json.loads(report.read_text("utf-8"))
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    assert {key: scores[key] for key in metrics["test"]} == metrics["test"]
    assert set(metrics["dev"]) == set(metrics["test"])
    output = capsys.readouterr().out
    for words in ("PER", "boundary and type", "seen in train", "4-5 characters"):
        assert words in output


def test_evaluate_shows_confusions_and_lists_errors_and_misaligned_mentions(
    run, tmp_path, capsys, monkeypatch
):
    load = tag.load_pipeline

    def load_by_words(*given, **options):
        pipeline = load(*given, **options)
        pipeline.reader.label_unit = "word"
        return pipeline

    monkeypatch.setattr(tag, "load_pipeline", load_by_words)
    record = Record("r7", "小明在 Hello", [Mention(0, 2, "PER"), Mention(4, 6, "ORG")])
    write_records([record], tmp_path / "test.jsonl")
    errors, report = tmp_path / "errors.jsonl", tmp_path / "scores.json"
    options = ["--errors", str(errors), "--output", str(report), "--min_score", "0.999999"]
    assert main(["evaluate", str(run / "model"), str(tmp_path / "test.jsonl"), *options]) == 0
    rows = list(map(json.loads, errors.read_text("utf-8").splitlines()))
    scores = json.loads(report.read_text("utf-8"))
    assert sum(row["gold"] is not None for row in rows) == (
        scores["micro"]["gold"] - scores["micro"]["correct"]
    )
    assert sum(map(sum, (row.values() for row in scores["confusions"].values()))) >= 2
    output = capsys.readouterr().out
    assert "gold | predicted" in output
    assert "(missed)" in output
    assert "1 mentions not on token boundaries (the first: 'He' (ORG) in " in output
    assert "record r7, characters 4 to 6)" in output


def test_evaluate_without_training_data_says_nothing_about_them(run, files, tmp_path, capsys):
    report = tmp_path / "scores.json"
    assert (
        main(["evaluate", str(run / "model"), str(files / "test.jsonl"), "--output", str(report)])
        == 0
    )
    scores = json.loads(report.read_text("utf-8"))
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    assert set(metrics["test"]) - set(scores) == {"seen", "unseen", "new_texts", "recurring_texts"}
    assert scores["errors"] == metrics["test"]["errors"]
    output = capsys.readouterr().out
    assert "boundary and type" in output
    assert "in train" not in output


def test_texts_of_the_training_data_are_counted_apart(run, files, tmp_path, capsys):
    test = [*corpus(1, 500), *corpus(2), *corpus(1, 501)]
    write_records(test, tmp_path / "test.jsonl")
    report = tmp_path / "scores.json"
    options = ["--train", str(files / "train.jsonl"), "--output", str(report)]
    assert main(["evaluate", str(run / "model"), str(tmp_path / "test.jsonl"), *options]) == 0
    scores = json.loads(report.read_text("utf-8"))
    assert scores["recurring_texts"] == [1, 2]
    assert (scores["new_texts"]["texts"], scores["new_texts"]["gold"]) == (2, 4)
    assert (scores["seen"]["gold"], scores["unseen"]["gold"]) == (8, 0)
    assert len(scores["counts"]) == 3 * len(test)
    assert sum(scores["counts"][0::3]) == scores["micro"]["correct"]
    assert "2 new texts" in capsys.readouterr().out


def test_scores_without_a_breakdown_are_printed_without_one(run, capsys):
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    for split in ("dev", "test"):
        metrics[split] = {
            key: metrics[split][key] for key in ("micro", "macro", "per_type", "all_mentions")
        }
    print_scores(metrics)
    output = capsys.readouterr().out
    assert "micro" in output
    assert "errors" not in output
    assert "mentions" not in output


def test_predict_writes_records_that_evaluate_scores_alike(run, files, tmp_path):
    out = tmp_path / "out.jsonl"
    assert (
        main(["predict", str(run / "model"), str(files / "test.jsonl"), "--output", str(out)]) == 0
    )
    predicted, gold = read_records(out)[0], read_records(files / "test.jsonl")[0]
    correct = sum(
        len({m[:3] for m in p.entities} & {m[:3] for m in g.entities})
        for p, g in zip(predicted, gold, strict=True)
    )
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    assert correct == metrics["test"]["micro"]["correct"]
    assert all(0 <= m.score <= 1 for p in predicted for m in p.entities)


def test_predict_gives_the_input_s_own_format_back(run, files, tmp_path):
    out = tmp_path / "out.bmes"
    options = [
        "--format",
        "columns",
        "--tag_scheme",
        "BMES",
        "--output_format",
        "same",
        "--output",
        str(out),
    ]
    assert main(["predict", str(run / "model"), str(files / "test.bmes"), *options]) == 0
    first = out.read_text("utf-8").splitlines()[0].split("\t")
    assert len(first) == 2
    assert [r.text for r in read_records(out)[0]] == [
        r.text for r in read_records(files / "test.bmes")[0]
    ]


def test_predict_reads_lines_from_standard_input(run, monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.stdin", io.TextIOWrapper(io.BytesIO(("张三去了华为\n\n今天下雨\n").encode()))
    )
    assert main(["predict", str(run / "model")]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == ["张三去了华为", "", "今天下雨"]
    assert rows[1]["entities"] == []


def test_columns_from_standard_input(run, files, monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.stdin",
        io.TextIOWrapper(io.BytesIO(((files / "test.bmes").read_text("utf-8")).encode())),
    )
    assert main(["predict", str(run / "model"), "-", "--format", "columns"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 12


@pytest.mark.parametrize(
    "content", ["\ufeff张三去了华为\n", '\ufeff{"text": "张三去了华为"}\n'], ids=["text", "jsonl"]
)
def test_byte_order_mark_is_no_part_of_the_text(run, tmp_path, capsys, content):
    (tmp_path / "in.txt").write_text(content, "utf-8")
    assert main(["predict", str(run / "model"), str(tmp_path / "in.txt")]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == "张三去了华为"


def test_columns_are_recognised_and_keep_their_scheme(run, files, tmp_path):
    out = tmp_path / "out.bmes"
    assert (
        main(
            [
                "predict",
                str(run / "model"),
                str(files / "test.bmes"),
                "--output_format",
                "same",
                "--output",
                str(out),
            ]
        )
        == 0
    )
    assert {line.split("\t")[1][0] for line in out.read_text("utf-8").splitlines() if line} == set(
        "BMEO"
    )


def test_mentions_off_the_given_tokens_are_counted_not_fatal(run, tmp_path, capsys):
    (tmp_path / "in.bio").write_text("张\tO\n三昨天\tO\n去了华为。\tO\n", "utf-8")
    assert (
        main(["predict", str(run / "model"), str(tmp_path / "in.bio"), "--output_format", "same"])
        == 0
    )
    captured = capsys.readouterr()
    assert captured.out == "张\tO\n三昨天\tO\n去了华为。\tO\n\n"
    assert "their ends are not token boundaries" in captured.err


def test_output_through_a_link_leaves_the_link(run, files, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert (
        main(
            [
                "predict",
                str(run / "model"),
                str(files / "test.jsonl"),
                "--output",
                str(tmp_path / "link"),
            ]
        )
        == 0
    )
    assert (tmp_path / "link").is_symlink()
    assert len((tmp_path / "target").read_text("utf-8").splitlines()) == 12


def test_run_is_not_continued_on_other_data(run, files, tiny_encoder, tmp_path, capsys):
    import shutil

    shutil.copytree(run, tmp_path / "copy")
    config = tmp_path / "copy" / "config.json"
    values = json.loads(config.read_text("utf-8"))
    hashes = dict.fromkeys(values["data_sha256"], "0" * 64)
    config.write_text(
        json.dumps({**values, "output_dir": str(tmp_path / "copy"), "data_sha256": hashes}), "utf-8"
    )
    assert main(arguments(files, tiny_encoder, tmp_path / "copy")) == 2
    assert "data_sha256" in capsys.readouterr().err


def test_published_configuration_names_no_place_on_this_machine(run):
    assert str(run.parent.parent) not in (run / "model" / "config.json").read_text("utf-8")
    assert (
        json.loads((run / "model" / "config.json").read_text("utf-8"))["encoder_config"].get(
            "_name_or_path", ""
        )
        == ""
    )


def test_runs_without_git(monkeypatch):
    from contrastive_ner.provenance import provenance

    monkeypatch.setenv("PATH", "")
    assert provenance()["commit"] is None


def test_inspect_reports_what_is_there(files, tmp_path, capsys):
    doubled = [*corpus(3), *corpus(1)]
    doubled[0].entities.append(Mention(0, 1, "PER"))
    write_records(doubled, tmp_path / "doubled.jsonl")
    (tmp_path / "orphan.bio").write_text(
        "张\tI-PER\n三\tI-PER\n\n去\tO\n五\tB-PER\n六\tB-PER\n", "utf-8"
    )
    names = [
        str(files / "train.jsonl"),
        str(tmp_path / "doubled.jsonl"),
        str(tmp_path / "orphan.bio"),
    ]
    assert main(["inspect", *names]) == 0
    output = capsys.readouterr().out
    assert "40 (0 without entity)" in output
    assert "80, " in output
    assert "duplicates within    1" in output
    assert f"also in {names[0]}: 4 sentences" in output
    assert "repaired tags        1" in output
    assert "overlapping          1" in output


def test_inspect_counts_mentions_off_token_boundaries(tmp_path, tiny_encoder, capsys):
    write_records([Record("a", "Huawei在深圳", [Mention(0, 3, "ORG")])], tmp_path / "a.jsonl")
    write_records(
        [Record("a", "张三", [Mention(0, 1, "PER")], None, [(0, 2)])], tmp_path / "b.jsonl"
    )
    assert main(["inspect", str(tmp_path / "a.jsonl"), "--tokenizer", str(tiny_encoder)]) == 0
    assert "off token boundaries 0 mentions" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "b.jsonl")]) == 0
    assert "off token boundaries 1 mentions" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------- bad input
BAD_TRAIN = {
    "malformed row": ("张\tB-PER\n三\tI-PER\textra\n", "train.txt:2"),
    "unknown tag": ("张\tB-PER\n三\tI_PER\n", "train.txt:2"),
    "mixed schemes": (
        "张\tB-PER\n三\tM-PER\n四\tE-PER\n去\tO\n中\tB-ORG\n兴\tI-ORG\n",
        "one scheme",
    ),
    "empty file": ("", "no sentence"),
    "no entity": ("张\tO\n三\tO\n", "no entity at all"),
    "reversed": (
        '{"text": "张三", "entities": [{"start": 2, "end": 1, "label": "PER"}]}\n',
        "train.txt:1",
    ),
    "outside": (
        '{"text": "张三", "entities": [{"start": 0, "end": 9, "label": "PER"}]}\n',
        "train.txt:1",
    ),
    "no text": ('{"other": "张三"}\n', "train.txt:1"),
}


@pytest.mark.parametrize("name", BAD_TRAIN)
def test_bad_training_data_is_named_and_nothing_is_written(
    files, tiny_encoder, tmp_path, capsys, name
):
    content, message = BAD_TRAIN[name]
    (tmp_path / "train.txt").write_text(content, "utf-8")
    assert (
        main(arguments(files, tiny_encoder, tmp_path / "run", train_file=tmp_path / "train.txt"))
        == 2
    )
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_invalid_utf8_is_named(files, tiny_encoder, tmp_path, capsys):
    (tmp_path / "train.txt").write_bytes("张\tB-PER\n".encode() + "三\tI-PER\n".encode("gb18030"))
    assert (
        main(arguments(files, tiny_encoder, tmp_path / "run", train_file=tmp_path / "train.txt"))
        == 2
    )
    assert "train.txt:2: not UTF-8" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "magic"}, "expected one of ce, crf, nerco"),
        ({"stage3_epochs": 1}, "unknown key stage3_epochs"),
        ({"stage1_epochs": "many"}, "stage1_epochs is 'many': expected int"),
        ({"stage1_temperature": 0}, "expected a number in (0, 100]"),
        ({"train_file": "absent.jsonl"}, "absent.jsonl: no such file"),
        ({"dev_file": ""}, "train_file and dev_file are needed"),
        ({"encoder": "absent-encoder"}, "could not be loaded"),
        ({"stage1_freeze_layers": 2}, "no parameter is left to train"),
        ({"stage1_freeze_encoder": True}, "nothing is left to train in stage one"),
        ({"max_window_tokens": 100000}, "the encoder reads 512 at most"),
        ({"output_dropout": 2}, "expected a number in [0, 1)"),
        ({"stage2_warmup": 7}, "expected a number in [0, 1)"),
        ({"output_dir": "runs/{dataset}"}, "only {method} and {seed} are filled in"),
    ],
)
def test_bad_configuration_is_refused(files, tiny_encoder, tmp_path, capsys, changes, message):
    assert main(arguments(files, tiny_encoder, tmp_path / "run", **changes)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_label_unknown_to_the_model_is_named(run, tmp_path, capsys):
    write_records([Record("odd", "张三", [Mention(0, 2, "ALIEN")])], tmp_path / "odd.jsonl")
    assert (
        main(
            [
                "evaluate",
                str(run / "model"),
                str(tmp_path / "odd.jsonl"),
                "--output",
                str(tmp_path / "out.json"),
            ]
        )
        == 2
    )
    assert (
        "'odd': entity type 'ALIEN' is unknown to the model (it knows ORG, PER)"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "out.json").exists()


def test_types_unknown_to_the_model_can_count_as_missed(run, files, tmp_path, capsys):
    """One mention more in gold, nothing else changes."""
    odd = [*corpus(12, 200), Record("odd", "去了火星", [Mention(2, 4, "ALIEN")])]
    write_records(odd, tmp_path / "odd.jsonl")
    command = ["evaluate", str(run / "model"), str(tmp_path / "odd.jsonl")]
    report = tmp_path / "scores.json"
    assert main([*command, "--unseen_types", "missed", "--output", str(report)]) == 0
    assert "does not know, counted as missed: ALIEN 1" in capsys.readouterr().out
    scores = json.loads(report.read_text("utf-8"))
    before = json.loads((run / "metrics.json").read_text("utf-8"))["test"]
    assert scores["unseen_types"] == {"ALIEN": 1}
    assert scores["micro"]["gold"] == before["micro"]["gold"] + 1
    assert scores["micro"]["correct"] == before["micro"]["correct"]
    alien = scores["per_type"]["ALIEN"]
    assert (alien["gold"], alien["predicted"], alien["recall"]) == (1, 0, 0.0)
    assert main(command) == 2
    assert "unseen_types=missed counts it" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["crf", "binder"])
def test_types_of_test_alone_can_count_as_missed(files, tiny_encoder, tmp_path, capsys, method):
    odd = [*corpus(12, 200), Record("odd", "去了火星", [Mention(2, 4, "ALIEN")])]
    write_records(odd, tmp_path / "odd.jsonl")
    types = tmp_path / "types.yaml"
    types.write_text("types:\n  PER: 人物：人的名字。\n  ORG: 机构：公司的名字。\n", "utf-8")
    changes = {
        "method": method,
        "types_file": types if method == "binder" else "",
        "test_file": tmp_path / "odd.jsonl",
        "stage1_epochs": 0,
        "head_epochs": 0,
        "stage2_epochs": 1,
    }
    command = arguments(files, tiny_encoder, tmp_path / "run", **changes)
    assert main(command) == 2
    assert "ALIEN" in capsys.readouterr().err
    assert main([*command, "unseen_types=missed"]) == 0
    assert "counted as missed: ALIEN 1" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text("utf-8"))
    assert metrics["test"]["unseen_types"] == {"ALIEN": 1}
    assert metrics["test"]["micro"]["gold"] == 25
    assert "ALIEN" not in metrics["types"]
    dev = [*command, "unseen_types=missed", f"dev_file={tmp_path / 'odd.jsonl'}"]
    assert main([*dev, f"output_dir={tmp_path / 'other'}"]) == 2


def test_dev_label_that_train_lacks_is_named(files, tiny_encoder, tmp_path, capsys):
    write_records([Record("odd", "张三", [Mention(0, 2, "ALIEN")])], tmp_path / "odd.jsonl")
    assert (
        main(arguments(files, tiny_encoder, tmp_path / "run", dev_file=tmp_path / "odd.jsonl")) == 2
    )
    assert "ALIEN does not occur in train" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_folder_that_is_no_model_is_refused(files, tmp_path, capsys):
    assert (
        main(
            [
                "predict",
                str(tmp_path),
                str(files / "test.jsonl"),
                "--output",
                str(tmp_path / "out.jsonl"),
            ]
        )
        == 2
    )
    assert "is not a model folder" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def test_pickled_model_is_refused(run, files, tmp_path, capsys):
    import shutil

    import torch

    shutil.copytree(run / "model", tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "model" / "pytorch_model.bin")
    assert main(["predict", str(tmp_path / "model"), str(files / "test.jsonl")]) == 2
    assert "pickled weights are refused" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------- messages
def test_messages_go_to_standard_error_and_results_to_standard_output(
    files, tiny_encoder, tmp_path, capsys
):
    small = {"method": "ce", "stage1_epochs": 0, "head_epochs": 0, "stage2_epochs": 1}
    command = arguments(files, tiny_encoder, tmp_path / "quiet", **small)
    assert main(["--quiet", *command]) == 0
    quiet = capsys.readouterr()
    assert "-- full" not in quiet.err
    command = arguments(files, tiny_encoder, tmp_path / "verbose", **small)
    assert main(["--verbose", *command]) == 0
    verbose = capsys.readouterr()
    assert re.search(r"^full: 1 epochs, \d+ s, best eval_f1 ", verbose.err, flags=re.M)
    assert re.search(r"^step 5: .*eval_f1", verbose.err, flags=re.M)
    assert "eval_f1" not in verbose.out
    for captured in (quiet, verbose):
        assert "micro" in captured.out
        assert "it/s" not in captured.err  # no progress bar without a terminal


# ------------------------------------------------------------------------- hostile configurations
ALIAS_BOMB = "a: &a [x, x]\n" + "".join(
    f"{name}: &{name} [*{before}, *{before}, *{before}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (ALIAS_BOMB, "expected at most 10 aliases"),
        ("base: 5\n", "base is 5"),
        ("1: 2\n", "unknown key 1"),
        ("[a]: 2\n", "valid YAML"),
        ("seed: !!bool x\n", "valid YAML"),
        ("seed: !!timestamp x\n", "valid YAML"),
        ("seed: !!python/object:os.system x\n", "valid YAML"),
        ("seed: 1\nseed: 2\n", "expected unique keys"),
        ("seed: [1]\n", "seed is [1]"),
        ("seed: {a: 1}\n", "seed is {'a': 1}"),
        ("train_file: [a]\n", "train_file is ['a']"),
        ("train_file: !!binary aGk=\n", "train_file is b'hi'"),
        ("train_file: 2026-01-01\n", "train_file is datetime.date"),
        ("stage2_learning_rate: .nan\n", "expected a number in (0, 1]"),
        ("stage2_learning_rate: .inf\n", "expected a number in (0, 1]"),
        ("stage2_learning_rate: 1000\n", "expected a number in (0, 1]"),
        ("stage2_weight_decay: .nan\n", "expected a number in [0, 1]"),
        ("stage1_temperature: .inf\n", "expected a number in (0, 100]"),
        ("stage2_epochs: 99999999999\n", "expected at most"),
        ("token_column: -1\n", "token_column is -1: expected at least 0"),
        ("tag_columns: [1, -9]\n", "counted from 0: found -9"),
        ("tag_columns: [.inf]\n", "tag_columns is [inf]"),
        ("tag_columns: [1.5]\n", "tag_columns is [1.5]"),
        ("tag_columns: !!binary aGk=\n", "tag_columns is b'hi'"),
        (
            "delimiter: 5\n",
            "delimiter: expected one of auto, tab, space, any, comma, semicolon, found '5'",
        ),
        ("joiner: yes\n", "joiner: expected one of auto, none, space, found 'true'"),
        ("tag_scheme: IOB\n", "tag_scheme: expected one of auto, IO, IOB1"),
        ("format: .nan\n", "format is 'nan': expected one of auto, columns"),
        ("stage2_learning_rate: yes\n", "stage2_learning_rate is True: expected float"),
        ("stage2_weight_decay: 1" + "0" * 400 + "\n", "...: expected float"),
        ("seed: 0x" + "f" * 10_000 + "\n", "seed is a int too large to show: expected int"),
        ("projection_size: 4000000000\n", "expected at most 65536"),
        ("eval_batch_size: 4000000000\n", "expected at most 1048576"),
        ('output_dir: "a\\0b"\n', "output_dir is 'a\\x00b'"),
        ('train_file: "\\ud800"\n', "train_file is '\\ud800'"),
        ('base: "a\\0b"\n', "base is 'a\\x00b'"),
        ("base: [a]\n", "base is ['a']"),
        ("seed: " + "[" * 500 + "]" * 500 + "\n", "valid YAML"),
        ("".join(f"k{n}: 1\n" for n in range(3000)), "unknown key k0, k1, k10"),
        ("output_dir: '{seed:3000000000}'\n", "only {method} and {seed}"),
        ("output_dir: '{method.x}'\n", "only {method} and {seed}"),
        ("output_dir: 'runs/{name}'\n", "only {method} and {seed}"),
        ("x" * 2 + ": " + "[" * 2000 + "\n", "valid YAML"),
        ("- a\n", "expected keys and values"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_one_line(tmp_path, capsys, content, reason):
    (tmp_path / "c.yaml").write_text(content, "utf-8")
    assert main(["train", str(tmp_path / "c.yaml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert reason in line
    assert len(line) < len(str(tmp_path)) + 300


@pytest.mark.parametrize("item", [item for item in fields(RunConfig) if item.type is float])
def test_numbers_in_the_library_are_checked_as_in_a_file(item):
    """Also whole numbers for keys that hold fractions."""
    for value in (math.nan, math.inf, -math.inf, -1):
        with pytest.raises(ConfigError, match=f"{item.name} is {value}: expected a number in"):
            RunConfig(**{item.name: value})
    if not item.name.endswith(("learning_rate", "temperature")):
        assert getattr(RunConfig(**{item.name: 0}), item.name) == 0
    with pytest.raises(ConfigError, match="seed is nan"):
        RunConfig(seed=math.nan)


@pytest.mark.parametrize("method", ["nerco", "crf"])
def test_training_that_diverges_stops_and_leaves_no_model(
    files, tiny_encoder, tmp_path, capsys, monkeypatch, method
):
    step = Trainer.training_step
    steps = []

    def poisoned(self, model, *given, **options):
        loss = step(self, model, *given, **options)
        steps.append(loss)
        if len(steps) == 3:
            next(model.parameters()).data[0] = float("nan")
        return loss

    monkeypatch.setattr(Trainer, "training_step", poisoned)
    assert main(arguments(files, tiny_encoder, tmp_path / "run", method=method)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    phase = "stage1" if method == "nerco" else "full"
    assert error.startswith(f"error: {phase}: training diverged by step 5")
    assert "learning rate" in error
    assert not list(tmp_path.glob("run/**/model"))


def test_numbers_of_a_configuration_may_be_whole():
    assert RunConfig(stage2_weight_decay=0, stage2_learning_rate=1).stage2_weight_decay == 0
    with pytest.raises(ConfigError, match=r"stage2_learning_rate is 0: expected a number in"):
        RunConfig(stage2_learning_rate=0)
