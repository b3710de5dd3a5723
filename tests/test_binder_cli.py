"""BINDER on the command line: train, evaluate, predict, new types; refused input."""

import json
from pathlib import Path

import pytest
from conftest import arguments, corpus

from contrastive_ner.cli import main
from contrastive_ner.data.records import Mention, Record
from contrastive_ner.data.writers import write_records

TYPES = """types:
  PER: 人物：人的名字，如张三。
  ORG: 机构：公司、学校的名字，如华为。
  GPE: 政区：国家、城市的名字，如北京。
"""


def nested_corpus(count: int, offset: int = 0) -> list[Record]:
    """The small corpus with a place in some organisations, in documents of four texts."""
    records = []
    for i, record in enumerate(corpus(count, offset)):
        at = len(record.text) - 1
        text = record.text[:at] + "和北京大学。"
        inner = [Mention(at + 1, at + 3, "GPE"), Mention(at + 1, at + 5, "ORG")]
        records.append(Record(record.id, text, sorted([*record.entities, *inner]), f"doc{i // 4}"))
    return records


@pytest.fixture(scope="module")
def nested_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nested")
    for split, count, offset in (("train", 40, 0), ("dev", 12, 100), ("test", 12, 200)):
        write_records(nested_corpus(count, offset), folder / f"{split}.jsonl")
    (folder / "types.yaml").write_text(TYPES, "utf-8")
    return folder


def binder(files: Path, tiny_encoder: Path, run_dir: Path, **changes: object) -> list[str]:
    settings = {
        "method": "binder",
        "types_file": files / "types.yaml",
        "stage1_epochs": 0,
        "head_epochs": 0,
        "stage2_epochs": 30,
        "stage2_batch_size": 4,
        "stage2_learning_rate": 3e-3,
        "stage2_head_learning_rate": 1e-2,
        "projection_size": 32,
        "projection_dropout": 0,
    }
    return arguments(files, tiny_encoder, run_dir, **{**settings, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, nested_files: Path, tiny_encoder: Path) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "binder"
    assert main(binder(nested_files, tiny_encoder, run_dir)) == 0
    return run_dir


def test_a_run_learns_nested_mentions_and_leaves_a_model(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    assert metrics["types"] == ["PER", "ORG", "GPE"]
    assert metrics["test"]["micro"]["gold"] == metrics["test"]["all_mentions"]["gold"] == 48
    assert (metrics["test"]["inner"]["gold"], metrics["test"]["outer"]["gold"]) == (12, 36)
    assert metrics["test"]["inner"]["recall"] > 0.8
    assert metrics["test"]["micro"]["f1"] > 0.6
    assert set(metrics["phases"]) == {"full"}
    config = json.loads((run / "model" / "config.json").read_text("utf-8"))
    assert (config["decoding"], config["several_labels"], config["max_span_width"]) == (
        "nested",
        False,
        4,
    )
    assert config["id2label"] == {"0": "PER", "1": "ORG", "2": "GPE"}
    names = {path.name for path in (run / "model").iterdir()}
    assert names >= {
        "model.safetensors",
        "modeling_binder.py",
        "encoder_ner.py",
        "pipeline_ner.py",
        "tokenizer.json",
        "README.md",
    }
    assert "modeling_nerco.py" not in names
    card = (run / "model" / "README.md").read_text("utf-8")
    assert "| GPE | 北京 | 政区：国家、城市的名字，如北京。 |" in card
    assert "including nested ones" in card


def test_evaluate_repeats_the_scores_of_the_run(
    run: Path, nested_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    report = tmp_path / "scores.json"
    options = ["--train", str(nested_files / "train.jsonl"), "--output", str(report)]
    assert main(["evaluate", str(run / "model"), str(nested_files / "test.jsonl"), *options]) == 0
    scores, metrics = (
        json.loads(path.read_text("utf-8")) for path in (report, run / "metrics.json")
    )
    assert {key: scores[key] for key in metrics["test"]} == metrics["test"]
    assert "inner" in capsys.readouterr().out


def test_types_that_training_never_saw_are_tagged(
    run: Path, nested_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    types = tmp_path / "types.yaml"
    types.write_text("types:\n  UNI: 机构：公司、学校的名字，如华为。\n", "utf-8")
    (tmp_path / "in.txt").write_text(nested_corpus(1, 205)[0].text, "utf-8")
    assert (
        main(["predict", str(run / "model"), str(tmp_path / "in.txt"), "--types", str(types)]) == 0
    )
    entities = json.loads(capsys.readouterr().out)["entities"]
    # UNI has the description of ORG.
    assert {entity["label"] for entity in entities} == {"UNI"}
    records = [
        Record(
            r.id, r.text, [Mention(m.start, m.end, "UNI") for m in r.entities if m.label == "ORG"]
        )
        for r in nested_corpus(8, 300)
    ]
    write_records(records, tmp_path / "uni.jsonl")
    assert (
        main(["evaluate", str(run / "model"), str(tmp_path / "uni.jsonl"), "--types", str(types)])
        == 0
    )
    assert "UNI" in capsys.readouterr().out
    assert main(["evaluate", str(run / "model"), str(tmp_path / "uni.jsonl")]) == 2
    assert "'UNI' is unknown to the model" in capsys.readouterr().err


def test_predictions_keep_their_texts_in_documents(
    run: Path, nested_files: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["predict", str(run / "model"), str(nested_files / "test.jsonl")]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == [record.text for record in nested_corpus(12, 200)]
    assert all(
        0 <= e["start"] < e["end"] <= len(row["text"]) for row in rows for e in row["entities"]
    )
    assert {row["doc"] for row in rows} == {"doc0", "doc1", "doc2"}


def test_flat_decoding_and_the_other_options_train(
    nested_files: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    options = {
        "decoding": "flat",
        "type_encoder": "tied",
        "types_per_batch": 2,
        "type_variants": "true",
        "stage2_epochs": 1,
        "max_span_width": 3,
    }
    assert main(binder(nested_files, tiny_encoder, tmp_path / "flat", **options)) == 0
    metrics = json.loads((tmp_path / "flat" / "metrics.json").read_text("utf-8"))
    assert metrics["test"]["micro"]["gold"] == 36
    assert metrics["data"]["train"]["alignment"]["too_wide"] > 0
    config = json.loads((tmp_path / "flat" / "model" / "config.json").read_text("utf-8"))
    assert len(config["descriptions"]["PER"]) == 3
    assert "type_encoder_config" not in config or config["type_encoder_config"] is None


@pytest.mark.parametrize(
    ("types", "message"),
    [
        (None, "method=binder needs types_file"),
        ("types:\n  PER: 人物。\n", "found none for 'GPE', 'ORG'"),
        (TYPES + "  PER: 又是人物。\n", "expected unique keys, found 'PER'"),
        (TYPES.replace("人物：人的名字，如张三。", "' '"), "types.PER.description: expected text"),
        ("types: [", "expected valid YAML"),
    ],
)
def test_types_that_do_not_serve_are_refused_and_leave_nothing(
    nested_files: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    types: str | None,
    message: str,
) -> None:
    path = ""
    if types is not None:
        path = str(tmp_path / "types.yaml")
        Path(path).write_text(types, "utf-8")
    assert main(binder(nested_files, tiny_encoder, tmp_path / "run", types_file=path)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_window_too_short_for_the_widest_span_is_refused(
    nested_files: Path, tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert (
        main(
            binder(
                nested_files,
                tiny_encoder,
                tmp_path / "run",
                max_span_width=20,
                max_window_tokens=16,
            )
        )
        == 2
    )
    assert "raise max_window_tokens or lower max_span_width" in capsys.readouterr().err


def test_a_tagger_refuses_types(
    saved_tagger: Path, nested_files: Path, capsys: pytest.CaptureFixture
) -> None:
    assert (
        main(
            [
                "predict",
                str(saved_tagger),
                str(nested_files / "test.jsonl"),
                "--types",
                str(nested_files / "types.yaml"),
            ]
        )
        == 2
    )
    assert "types and decoding are a BINDER model's" in capsys.readouterr().err


def test_a_changed_description_is_another_run(
    run: Path, nested_files: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture
) -> None:
    types = nested_files / "types.yaml"
    types.write_text(TYPES.replace("张三", "李四"), "utf-8")
    try:
        assert main(binder(nested_files, tiny_encoder, run)) == 2
    finally:
        types.write_text(TYPES, "utf-8")
    assert "another configuration" in capsys.readouterr().err


DAY = 'types:\n  DAY: "日子：今天、昨天这样的词。"\n'


@pytest.fixture
def with_days(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> Path:
    """The model of the run with a type that is fitted to four documents."""
    records = nested_corpus(16, 400)
    for record in records:
        begin = record.text.index("昨天")
        record.entities.append(Mention(begin, begin + 2, "DAY"))
    write_records(records, tmp_path / "few.jsonl")
    (tmp_path / "new.yaml").write_text(DAY, "utf-8")
    files = ["--types", str(tmp_path / "new.yaml"), "--examples", str(tmp_path / "few.jsonl")]
    command = ["add-type", str(run / "model"), *files, "--output", str(tmp_path / "more")]
    assert main(command) == 0
    assert "DAY: 4 texts, 16 mentions; 4 fits, each tested" in capsys.readouterr().out
    return tmp_path / "more"


def test_a_model_with_an_added_type_is_a_whole_repository(
    run: Path, with_days: Path, nested_files: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["verify", str(with_days)]) == 0
    found = []
    for model in (run / "model", with_days):
        capsys.readouterr()
        assert main(["predict", str(model), str(nested_files / "test.jsonl")]) == 0
        found.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    for row in found[1]:
        row["entities"] = [m for m in row["entities"] if m["label"] != "DAY"]
    assert found[0] == found[1]
    config = json.loads((with_days / "config.json").read_text("utf-8"))
    assert (list(config["fits"]), config["id2label"]["3"]) == (["DAY"], "DAY")
    metrics = json.loads((with_days / "metrics.json").read_text("utf-8"))
    assert metrics["added_types"]["DAY"]["left_out"]["gold"] == 16
    card = (with_days / "README.md").read_text("utf-8")
    assert "## Types added from examples" in card
    assert "DAY: 4 texts, 16 mentions" in card


@pytest.mark.slow
def test_a_model_with_an_added_type_runs_elsewhere(with_days: Path, tmp_path: Path) -> None:
    assert main(["verify", str(with_days), "--run"]) == 0
    assert main(["export", str(with_days), str(tmp_path / "exported")]) == 0
    settings = json.loads((tmp_path / "exported" / "ner.json").read_text("utf-8"))
    assert settings["later_types"] == ["DAY"]
