"""An exported model finds the same mentions as the model, without torch."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import run_python

from contrastive_ner.cli import main
from contrastive_ner.errors import ConfigError
from contrastive_ner.models.modeling_nerco import NercoForTokenClassification
from contrastive_ner.serving import export as export_onnx
from contrastive_ner.serving.inference import load_pipeline
from contrastive_ner.serving.runtime_onnx import OnnxPipeline

LABELS = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG"]
TEXTS = [
    "",
    " \n",
    "小明在北京大学读书，小红在上海工作。",
    "Hi 😀[SEP]ＡＢＣ \ud800张三\x00, 李四",
    "张三去了北京。" * 60,
    "a" * 5000,
]
WITHOUT_TORCH = """
import json, sys
sys.modules["torch"] = sys.modules["transformers"] = None
sys.path.insert(0, sys.argv[1])
from runtime_onnx import OnnxPipeline
print(json.dumps(OnnxPipeline()(json.loads(sys.argv[2]))))
"""


@pytest.fixture(scope="module", params=["nerco", "binder"])
def exported(request, tmp_path_factory, tiny_encoder, character_tok) -> tuple[Path, Path]:
    """Model folder and exported folder of a tiny tagger or a tiny BINDER model."""
    from contrastive_ner.models.modeling_binder import BinderModel

    folder = tmp_path_factory.mktemp("export")
    torch.manual_seed(5)
    if request.param == "nerco":
        model = NercoForTokenClassification.from_encoder(
            str(tiny_encoder), LABELS, label_unit="token", score_temperature=1.7
        )
        torch.nn.init.normal_(model.classifier.weight, std=2.0)
        torch.nn.init.normal_(model.crf.transitions, std=0.5)
    else:
        descriptions = {
            "PER": "人物：人的名字。",
            "ORG": "机构：公司、学校的名字。",
            "GPE": "政区：国家的名字。",
        }
        model = BinderModel.from_encoders(
            str(tiny_encoder),
            descriptions=descriptions,
            label_unit="token",
            max_span_width=5,
            projection_size=16,
            score_slope=0.6,
        )
        for parameter in (*model.heads.parameters(), *model.type_heads.parameters()):
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    model.eval().save_pretrained(folder / "model")
    character_tok.save_pretrained(folder / "model")
    export_onnx.export(folder / "model", folder / "onnx")
    return folder / "model", folder / "onnx"


def without_scores(mentions: list[dict]) -> list[tuple]:
    return [
        (m["start"], m["end"], m["entity_group"], m["word"], m.get("abstained")) for m in mentions
    ]


def assert_same(expected: list[list[dict]], found: list[list[dict]]) -> None:
    assert list(map(without_scores, found)) == list(map(without_scores, expected))
    for mine, theirs in zip(found, expected, strict=True):
        assert [m["score"] for m in mine] == pytest.approx([m["score"] for m in theirs], abs=1e-4)
        for a, b in zip(mine, theirs, strict=True):
            assert [best["label"] for best in a.get("labels", [])] == [
                best["label"] for best in b.get("labels", [])
            ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 2, "stride": 40},
        {"ignore_labels": None, "batch_size": None, "coverage": None},
        {"top_k": 2, "min_score": 0.2},
        {"abstain_below": {"PER": 0.8}, "ignore_labels": ["ORG"]},
    ],
)
def test_the_same_mentions_as_in_torch(exported, options):
    model, folder = exported
    expected = load_pipeline(model)(TEXTS, **options)
    assert sum(map(len, expected)) > 20
    assert_same(expected, OnnxPipeline(folder, threads=1)(TEXTS, **options))


def test_coverage_strings_and_streams(exported):
    ner = OnnxPipeline(exported[1], threads=1)
    result = ner(TEXTS[4], coverage=True)
    assert (result["coverage"], result["windows"] > 1) == (1.0, True)
    assert (
        result["entities"]
        == ner(TEXTS[4])
        == ner([TEXTS[4]])[0]
        == next(ner(text for text in TEXTS[4:]))
    )
    assert json.loads(json.dumps(result)) == result


def test_flat_decoding_of_binder(exported):
    model, folder = exported
    ner = OnnxPipeline(folder, threads=1)
    if ner.settings["model_type"] != "binder":
        with pytest.raises(ValueError, match="decoding can be given to a BINDER model only"):
            ner("好", decoding="flat")
        return
    assert_same(load_pipeline(model)(TEXTS, decoding="flat"), ner(TEXTS, decoding="flat"))


def test_int8_is_smaller_and_runs(exported):
    sizes = {
        name: (exported[1] / file).stat().st_size
        for name, file in (("float32", "model.onnx"), ("int8", "model.int8.onnx"))
    }
    assert sizes["int8"] < sizes["float32"]
    found = OnnxPipeline(exported[1], precision="int8", threads=1)(TEXTS)
    assert sum(map(len, found)) > 10


def test_it_runs_without_torch_and_transformers_and_elsewhere(exported, tmp_path):
    text = TEXTS[2]
    found = json.loads(
        run_python(
            WITHOUT_TORCH,
            tmp_path,
            tmp_path / "cache",
            str(exported[1].resolve()),
            json.dumps([text]),
        )
    )
    assert_same(load_pipeline(exported[0])([text]), found)


def test_the_runtime_as_a_command(exported, tmp_path):
    (tmp_path / "in.txt").write_text("张三在北京\n\n小红", "utf-8")
    command = [
        sys.executable,
        str(exported[1] / "runtime_onnx.py"),
        str(tmp_path / "in.txt"),
        "--threads",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["text"] for row in rows] == ["张三在北京", "", "小红"]
    expected = load_pipeline(exported[0])([row["text"] for row in rows])
    assert [[(e["start"], e["end"], e["label"]) for e in row["entities"]] for row in rows] == [
        [(m["start"], m["end"], m["entity_group"]) for m in mentions] for mentions in expected
    ]
    failed = subprocess.run(
        [*command[:2], str(tmp_path / "none.txt")], capture_output=True, text=True
    )
    assert (failed.returncode, "No such file" in failed.stderr) == (2, True)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_command_reads_and_writes_utf_8_and_says_what_is_none(exported, tmp_path, encoding):
    command = [sys.executable, str(exported[1] / "runtime_onnx.py"), "--threads", "1"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(
        command, input="\ufeff张三\r\n小红 \n\ufeff".encode(), capture_output=True, env=environment
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert [json.loads(line)["text"] for line in done.stdout.decode("utf-8").splitlines()] == [
        "张三",
        "小红 ",
        "\ufeff",
    ]
    bad = subprocess.run(
        command, input="张三\n\n小".encode() + b"\xff", capture_output=True, env=environment
    )
    assert (bad.returncode, bad.stdout, bad.stderr.strip()) == (
        2,
        b"",
        b"error: line 3 is not UTF-8, at byte 4",
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_nobody_reads_or_that_cannot_be_written(exported, tmp_path):
    (tmp_path / "in.txt").write_text("张三\n", "utf-8")  # written only at the end
    command = [
        sys.executable,
        str(exported[1] / "runtime_onnx.py"),
        str(tmp_path / "in.txt"),
        "--threads",
        "1",
    ]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    read, write = os.pipe()
    os.close(read)
    unread = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, env=buffered)
    os.close(write)
    assert (unread.returncode, unread.stderr) == (0, b"")
    with open("/dev/full", "wb") as full:
        unwritten = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=buffered)
    assert (unwritten.returncode, unwritten.stderr.splitlines()) == (
        2,
        [b"error: [Errno 28] No space left on device"],
    )


def test_what_is_refused(exported, tmp_path, monkeypatch):
    model, folder = exported
    with pytest.raises(ConfigError, match="exists; choose another folder"):
        export_onnx.export(model, folder)
    with pytest.raises(ValueError, match="precision is 'int4'"):
        OnnxPipeline(folder, precision="int4")
    with pytest.raises(ValueError, match=r"ner\.json is missing: expected a folder that"):
        OnnxPipeline(tmp_path)
    ner = OnnxPipeline(folder, threads=1)
    for options, reason in (
        ({"strid": 3}, r"unknown options \['strid'\]: expected batch_size, stride, "),
        ({"min_score": {"LOC": 0.4}}, "min_score names LOC"),
        ({"min_score": 1.5}, "between 0 and 1"),
        ({"top_k": 0}, "positive integer"),
        ({"batch_size": 0}, "batch_size is 0: expected at least 1"),
    ):
        with pytest.raises(ValueError, match=reason):
            ner("好", **options)
    with pytest.raises(ValueError, match="unknown options"):  # before the first text is requested
        ner(iter(["好"]), strid=3)
    with pytest.raises(ValueError, match="text 1: expected a string"):
        ner(["好", 3])
    if ner.settings["model_type"] == "nerco":
        with pytest.raises(ConfigError, match="types can be given to a BINDER model only"):
            export_onnx.export(model, tmp_path / "new", types={"PER": "人"})
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match="export needs the extra onnx: pip install"):
        export_onnx.export(model, tmp_path / "new")
    assert not list(tmp_path.glob("*new*"))


def test_a_graph_that_finds_other_mentions_is_not_kept(exported, tmp_path, monkeypatch):
    model, folder = exported
    real = export_onnx.settings_of

    def wrong(*given):
        settings = real(*given)
        return {
            **settings,
            "labels": [label.replace("PER", "DUCK") for label in settings["labels"]],
        }

    def same_graphs(_pipeline, target, _types):  # exporting them takes seconds
        for path in folder.glob("*.onnx"):
            shutil.copy(path, target)

    monkeypatch.setattr(export_onnx, "settings_of", wrong)
    monkeypatch.setattr(export_onnx, "write_graphs", same_graphs)
    with pytest.raises(ConfigError, match=r"the exported graph finds .*DUCK"):
        export_onnx.export(model, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_export_by_command_measures_and_takes_other_types(exported, tmp_path, files, capsys):
    model, _ = exported
    is_binder = json.loads((model / "config.json").read_text())["model_type"] == "binder"
    (tmp_path / "types.yaml").write_text("types:\n  NAME: 人的名字\n  ORG: 公司\n", "utf-8")
    annotated = (files / "dev.jsonl").read_text("utf-8")
    (tmp_path / "dev.jsonl").write_text(
        annotated.replace('"PER"', '"NAME"') if is_binder else annotated, "utf-8"
    )
    options = [
        "--data",
        str(tmp_path / "dev.jsonl"),
        *(["--types", str(tmp_path / "types.yaml")] if is_binder else []),
    ]
    assert main(["export", str(model), str(tmp_path / "out"), *options]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[:3]] == ["torch", "float32", "int8"]
    measured = json.loads((tmp_path / "out" / "export.json").read_text())["measured"]
    assert measured["float32"]["f1"] == pytest.approx(measured["torch"]["f1"])
    if is_binder:
        types = {"NAME": "人的名字", "ORG": "公司"}
        assert_same(
            load_pipeline(model)(TEXTS, types=types),
            OnnxPipeline(tmp_path / "out", threads=1)(TEXTS),
        )


def test_an_encoder_that_reads_words_is_exported_too(tmp_path):
    """As in RoBERTa: byte-level tokens, positions that start after the padding id."""
    from test_pipeline import WORD_TOKENIZERS
    from transformers import RobertaConfig, RobertaModel

    tokenizer = WORD_TOKENIZERS["byte-level"]()
    torch.manual_seed(2)
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 140,
    }
    config = RobertaConfig(vocab_size=len(tokenizer), **sizes)
    RobertaModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "encoder")
    model = NercoForTokenClassification.from_encoder(
        str(tmp_path / "encoder"), LABELS, label_unit="word"
    )
    torch.nn.init.normal_(model.classifier.weight, std=2.0)
    model.eval().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    export_onnx.export(tmp_path / "model", tmp_path / "onnx")
    texts = [*TEXTS, "Hello  wörld, Angela Merkel\tvisited Paris."]
    expected = load_pipeline(tmp_path / "model")(texts)
    assert sum(map(len, expected)) > 10
    assert_same(expected, OnnxPipeline(tmp_path / "onnx", threads=1)(texts))


def test_the_bundled_tokenizer_is_the_one_exported(exported):
    from tokenizers import Tokenizer

    text = "小明Ａ😀[SEP] x"
    own = Tokenizer.from_file(str(exported[1] / "tokenizer.json"))
    own.encode_special_tokens = True
    assert own.encode(text, add_special_tokens=False).offsets == [
        (i, i + 1) for i in range(len(text))
    ]
