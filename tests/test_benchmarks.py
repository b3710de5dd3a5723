"""benchmarks/: competitors agree, measurements are right, every section runs with tiny sizes."""

import json
import math
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import arguments
from transformers import AutoTokenizer

from benchmarks import (
    add_type,
    distant,
    experiments,
    held_out,
    peer_worker,
    peers,
    runtimes,
    sections,
    sections_binder,
    speed,
    windows,
)
from benchmarks.measuring import Comparison, Section, compare, in_turns, peak_bytes
from benchmarks.sections import definition_loss, value_and_gradient
from benchmarks.tables import peers_table, runtimes_table, speed_table, windows_table
from contrastive_ner.data.descriptions import read_types
from contrastive_ner.data.readers import read_records
from contrastive_ner.data.records import Mention, Record
from contrastive_ner.files import write_json
from contrastive_ner.serving.inference import load_pipeline
from contrastive_ner.training.config import RunConfig
from contrastive_ner.training.losses import pairwise_contrastive_loss
from contrastive_ner.training.run import encoder_hash
from contrastive_ner.training.settings import load_config

TINY_STEP = {"batch_size": 4, "batches": 2, "repetitions": 2}


def assert_positive_ratios(section: Section, count: int) -> None:
    assert len(section.comparisons) == count
    for comparison in section.comparisons:
        values = [
            comparison.ratio,
            *comparison.quartiles,
            *(measured.median for measured in comparison.measured.values()),
        ]
        assert all(math.isfinite(value) and value > 0 for value in values)
        assert (comparison.met is None) == (comparison.target is None)


# ---------------------------------------------------------------------------------------- agreement
@pytest.mark.parametrize("types", [1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_definition_equals_pairwise_loss_in_value_and_gradient(seed: int, types: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, types + 1, (40,), generator=generator)
    embeddings = torch.randn(40, 16, generator=generator).requires_grad_()
    expected = value_and_gradient(definition_loss, embeddings, classes, 0.08)
    torch.testing.assert_close(
        value_and_gradient(pairwise_contrastive_loss, embeddings, classes, 0.08),
        expected,
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("classes", [[0, 0, 0], [0, 1, 2], [1, 1, 1], [0, 1, 1, 2]], ids=str)
def test_definition_equals_pairwise_loss_where_classes_lack_a_pair_or_a_negative(
    classes: list[int],
) -> None:
    embeddings = torch.randn(
        len(classes), 8, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    expected = value_and_gradient(definition_loss, embeddings, torch.tensor(classes), 0.1)
    torch.testing.assert_close(
        value_and_gradient(pairwise_contrastive_loss, embeddings, torch.tensor(classes), 0.1),
        expected,
    )


# ---------------------------------------------------------------------------------------- measuring
def test_competitors_take_turns_and_the_warm_up_is_not_counted() -> None:
    calls: list[str] = []
    seconds = in_turns(
        {name: partial(calls.append, name) for name in "AB"}, repetitions=3, warmup=2
    )
    assert "".join(calls) == "AB" * 5
    assert {name: len(values) for name, values in seconds.items()} == {"A": 3, "B": 3}


def test_ratio_is_the_median_of_the_repetitions_ratios() -> None:
    measured = {"slow": [2.0, 30.0, 8.0, 10.0, 12.0], "fast": [1.0, 10.0, 2.0, 2.0, 2.0]}
    comparison = compare(measured, "slow", "fast", at_least=4)
    assert comparison.ratio == 4  # of 2, 3, 4, 5, 6; not the ratio of the medians, 5
    assert comparison.quartiles == (3, 5)
    assert comparison.measured["slow"].median == 10
    assert (comparison.target, comparison.met) == (">= 4.00", True)
    assert not compare(measured, "slow", "fast", at_most=3.9).met
    assert compare(measured, "slow", "fast").met is None


def test_peak_memory_counts_what_lives_at_one_time() -> None:
    def call() -> None:
        torch.zeros(1000, 1000)  # 4 MB, released at once
        held = torch.zeros(500, 1000)
        held.logsumexp(0).sum()  # its temporary copy of `held` also counts

    assert peak_bytes(call) == pytest.approx(4e6, rel=0.01)


# ----------------------------------------------------------------------------------------- sections
def test_loss_section_runs() -> None:
    assert_positive_ratios(
        sections.measure_loss(sentences=4, length=20, entity_share=0.3, width=8, repetitions=2), 3
    )


def test_crf_section_runs_and_agrees_with_pytorch_crf() -> None:
    assert_positive_ratios(sections.measure_crf(batch=3, length=6, tags=5, repetitions=2), 3)


def test_step_section_runs(tiny_encoder: Path) -> None:
    assert_positive_ratios(sections.measure_step(encoder=str(tiny_encoder), **TINY_STEP), 1)


def test_stage1_section_runs(tiny_encoder: Path) -> None:
    assert_positive_ratios(sections.measure_stage1(encoder=str(tiny_encoder), **TINY_STEP), 1)


def test_pipeline_section_runs(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NER_DATA", raising=False)
    section = sections.measure_pipeline(
        encoder=str(tiny_encoder), sentences=8, parts=2, repetitions=2
    )
    assert_positive_ratios(section, 2)
    assert section.setting["texts"] == 8


def test_pipeline_section_measures_a_model_folder(
    saved_tagger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NER_DATA", raising=False)
    section = sections.measure_pipeline(
        model_dir=str(saved_tagger), sentences=4, parts=2, repetitions=1
    )
    assert section.setting["model"] == str(saved_tagger)
    assert section.setting["mentions"] > 0


def test_stock_pipeline_scores_tokens_as_our_model_does(tiny_encoder: Path) -> None:
    ner = sections.ready_pipeline(None, str(tiny_encoder))
    stock = sections.stock_pipeline(ner)
    inputs = ner.tokenizer("王经理明天从上海出发", return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        torch.testing.assert_close(stock.model(**inputs).logits, ner.model(**inputs).logits)


def test_weibo_is_read_where_ner_data_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weibo").mkdir()
    for split in ("train", "dev", "test"):
        (tmp_path / "weibo" / f"weiboNER_2nd_conll.{split}").write_text(
            "王0\tB-PER.NAM\n说0\tO\n\n", "utf-8"
        )
    monkeypatch.setenv("NER_DATA", str(tmp_path))
    assert sections.weibo_or_sample_texts() == ("weibo", ["王说"] * 3)


# ------------------------------------------------------------------------------------------- BINDER
def test_binder_sections_run_and_decode_few_spans(tiny_encoder: Path) -> None:
    section = sections_binder.measure_binder(
        encoder=str(tiny_encoder), batch=3, length=20, few=2, many=5, width=4, repetitions=2
    )
    assert_positive_ratios(section, 2)
    # The margin equals the score of the last span, which does not exceed it.
    assert section.setting["spans"] == {"2 types": 15 - 1, "5 types": 15 - 1}
    sizes = {"batch": 1, "lengths": (8, 12, 16), "types": 2, "width": 3}
    assert_positive_ratios(
        sections_binder.measure_binder_memory(encoder=str(tiny_encoder), **sizes), 3
    )
    sizes = {"batch": 2, "length": 16, "types": 2, "width": 4, "mentions": 2}
    assert_positive_ratios(
        sections_binder.measure_binder_step(encoder=str(tiny_encoder), repetitions=2, **sizes), 1
    )


def test_the_plain_definition_scores_as_the_model_does(tiny_encoder: Path) -> None:
    model = sections_binder.ready_binder(str(tiny_encoder), 1, 4).eval()
    windows, types = (
        sections_binder.random_windows(str(tiny_encoder), 2, 10),
        sections_binder.random_types(model, 3),
    )
    hidden = torch.randn(2, 10, 32)
    with torch.no_grad():
        plain = (
            sections_binder.plain_spans(model, hidden, types.vectors[2])
            * model.heads.log_scale[2].exp()
        )
        band = model.scores(
            hidden, windows["word_mask"], windows["word_end_mask"], types.vectors
        ).span
    for i, j in ((1, 1), (1, 4), (3, 5), (0, 0)):
        torch.testing.assert_close(band[:, :, i, j - i], plain[:, :, i, j])


# ------------------------------------------------------------------------------------- experiments
def test_a_run_is_measured_once(files, tiny_encoder, tmp_path, monkeypatch):
    """In another clone, too: what counts are its metrics, its configuration and its encoder."""
    _, file, *keys = arguments(files, tiny_encoder, tmp_path / "run")
    config = load_config(file, keys)
    started: list[list[str]] = []

    def start(command: list[str], **_: Any) -> SimpleNamespace:
        started.append(command)
        return SimpleNamespace(returncode=1)

    monkeypatch.setattr(experiments.subprocess, "run", start)
    results = tmp_path / "results"
    found = {"config": config.to_dict(), "encoder_sha256": encoder_hash(config)}
    results.mkdir()
    write_json(found, results / "run.json")
    options = {"threads": 1, "results": results}
    assert experiments.train(file, keys, **options) == 0
    assert not started
    assert experiments.train(file, [*keys, "stage2_epochs=9"], **options) == 1
    write_json({**found, "encoder_sha256": "0"}, results / "run.json")
    assert experiments.train(file, keys, **options) == 1
    assert len(started) == 2


# -------------------------------------------------------------------------- data of the experiments
def write_column(path: Path, sentences: list[list[tuple[str, str]]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(
            "".join(f"{token}\t{tag}\n" for token, tag in sentence) + "\n" for sentence in sentences
        ),
        "utf-8",
    )


def test_distant_labels_come_from_the_first_half_alone(tmp_path: Path) -> None:
    aspirin, fever = ("Aspirin", "B-Chemical"), ("fever", "B-Disease")
    first, second = (
        [[aspirin, ("helps", "O")], [fever, ("!", "O")]],
        [[aspirin, ("and", "O"), ("ibuprofen", "B-Chemical")], [fever]],
    )
    write_column(tmp_path / "train.tsv", first + second)
    _, scores = distant.label_second_half(
        tmp_path / "train.tsv", tmp_path / "out.jsonl", min_length=3
    )
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert [[(e["start"], e["end"], e["label"]) for e in row["entities"]] for row in rows] == [
        [(0, 7, "Chemical")],
        [(0, 5, "Disease")],
    ]
    assert (scores["micro"]["precision"], scores["micro"]["recall"]) == (1.0, pytest.approx(2 / 3))


def test_held_out_types_are_those_that_training_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {
        "ai": "algorithm",
        "literature": "book",
        "music": "song",
        "politics": "politician",
        "science": "enzyme",
    }
    for domain, label in own.items():
        for split in ("train", "dev", "test"):
            sentence = [("Word", f"B-{label}"), ("of", "O"), ("Rome", "B-location")]
            write_column(tmp_path / "crossner" / domain / f"{split}.txt", [sentence, [("No", "O")]])
    monkeypatch.setenv("NER_DATA", str(tmp_path))
    folder = tmp_path / "held_out"
    assert "algorithm" in held_out.prepare("ai", folder)
    asked = {item.label for item in read_types(folder / "held_out.yaml")}
    assert not asked & {"location", *own.values()} - {"algorithm"}
    assert {item.label for item in read_types(folder / "types.yaml")} == {
        "location",
        *own.values(),
    } - {"algorithm"}
    records = {
        name: read_records(folder / f"{name}.jsonl")[0]
        for name in ("train", "dev", "held_out_dev", "held_out_test")
    }
    assert [len(records[name]) for name in records] == [8, 8, 2, 2]
    for name in ("held_out_dev", "held_out_test"):
        assert [[m.label for m in record.entities] for record in records[name]] == [
            ["algorithm"],
            [],
        ]


@pytest.mark.parametrize("domain", held_out.DOMAINS)
def test_the_mixture_has_all_sets_but_the_held_out_domain(domain: str, tmp_path: Path) -> None:
    config = load_config(held_out.write_mixture(domain, tmp_path))
    assert set(config.sets) == {"conll03", "bc2gm", "bc5cdr", *held_out.DOMAINS} - {domain}
    for name, own in config.sets.items():
        files = {own.train_file, own.dev_file, own.test_file, own.types_file}
        assert len(files) == 4
        if name in held_out.DOMAINS:
            assert all(name in str(file) for file in files)
            assert own.types_file is not None
            assert (held_out.ROOT / own.types_file).is_file()


# ------------------------------------------------------------------------------------ other taggers
@pytest.mark.parametrize(("kind", "share"), [("nerco", 1), ("binder", 1), ("stock", 255 / 300)])
def test_a_tagger_is_made_and_measured(
    kind: str, share: float, tiny_encoder: Path, tmp_path: Path, modules_cache: None
) -> None:
    """Spaces are tokens of this encoder: the stock pipeline reads 510 of 300 words, 299 spaces."""
    texts = ["王经理明天从上海出发", "李明在北京大学读书", "好", "南京长江大桥"]
    job = {
        "encoder": str(tiny_encoder),
        "types": {"person": "人", "place": "地"},
        "texts": texts,
        **peers.long_text(str(tiny_encoder), 300),
    }
    peer_worker.make(kind, str(tmp_path), job)
    measured = peer_worker.measure(kind, str(tmp_path), job, 2)
    assert measured["read"] == pytest.approx(share)
    assert all(measured[name] > 0 for name in peers.MEASURED)
    assert measured["mentions"] <= 4 * len("".join(texts))
    assert measured["versions"]["torch"] == torch.__version__


def test_the_long_text_has_a_token_a_word(tiny_encoder: Path) -> None:
    found = peers.long_text(str(tiny_encoder), 50)
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    assert len(set(found["long_ids"])) == len(found["long_text"].split()) == 50
    assert [
        tokenizer.encode(word, add_special_tokens=False) for word in found["long_text"].split()
    ] == [[i] for i in found["long_ids"]]


def test_an_environment_is_made_again_only_when_it_is_incomplete_or_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, installed = tmp_path / "peer", []

    def install(place: Path, requirements: str, options: tuple[str, ...]) -> None:
        assert not place.exists()
        place.mkdir()
        installed.append((requirements, options))
        if requirements == "broken":
            raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(peers, "install", install)
    for _ in range(2):
        assert peers.ready_environment(folder, "a==1") == folder / "bin" / "python"
    peers.ready_environment(folder, "a==2", "--no-deps")
    for _ in range(2):
        with pytest.raises(subprocess.CalledProcessError):
            peers.ready_environment(folder, "broken")
    peers.ready_environment(folder, "a==2")
    assert installed == [
        ("a==1", ()),
        ("a==2", ("--no-deps",)),
        ("broken", ()),
        ("broken", ()),
        ("a==2", ()),
    ]


def test_texts_are_repeated_until_there_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NER_DATA", raising=False)
    source, texts = peers.english_texts(3000)
    assert (source, len(texts)) == ("documents", 3000)
    assert peers.english_texts(5)[1] == texts[:5]
    assert len(set(texts)) > 100


def test_a_worker_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "FOLDER", tmp_path)
    code = "import sys; print(1); print(2); print('told', file=sys.stderr)"
    assert peers.run([sys.executable, "-c", code]) == ("2", "told\n")
    with pytest.raises(SystemExit, match="told"):
        peers.run([sys.executable, "-c", f"{code}; sys.exit(3)"])


def test_a_worker_finds_this_project_and_no_other_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "FOLDER", tmp_path)
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.setenv("PYTHONHASHSEED", "1")
    code = "import os; print(*(f'{k}={v}' for k, v in os.environ.items() if k[:6] == 'PYTHON'))"
    assert peers.run([sys.executable, "-sP", "-c", code])[0] == f"PYTHONPATH={peers.ROOT}"


def test_taggers_are_measured_in_turns_and_reported(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def run(command: list[str]) -> tuple[str, str]:
        assert command[1] == "-sP"  # with -I Python would ignore PYTHONPATH
        calls.append(" ".join([*command[3:5], *command[7:]]))
        found = {
            "start": 2.0,
            "texts_per_second": 50.0 / len(calls),
            "peak_bytes": 5e8,
            "mentions": 8,
            "read": 0.25,
            "versions": {"torch": "2"},
        }
        return json.dumps(found), "Sentence has been truncated" if "gliner" in command else ""

    for name, value in {
        "FOLDER": tmp_path,
        "run": run,
        "prepare_environment": lambda threads: None,
        "ready_environment": lambda *_: Path("python"),
        "minilm": lambda python: str(tiny_encoder),
    }.items():
        monkeypatch.setattr(peers, name, value)
    monkeypatch.setenv("HF_HOME", "")  # restored afterwards
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("NER_DATA", raising=False)
    assert (
        peers.main(["--texts", "4", "--repetitions", "2", "--output", str(tmp_path / "peers.json")])
        == 0
    )
    assert calls[:6] == [
        f"make {kind}" for kind in ("encoder", "nerco", "binder", "stock", "gliner", "span_marker")
    ]
    turn = [f"measure {peer.kind} {peer.batch_size}" for peer in peers.PEERS]
    assert calls[6:] == turn * 2
    report = json.loads((tmp_path / "peers.json").read_text("utf-8"))
    assert {peer["kind"]: peer["says_so"] for peer in report["peers"]}["gliner"]
    assert report["peers"][1]["share_of_encoder"] == pytest.approx((7 / 8 + 14 / 15) / 2)
    speed = 50 * (1 / 7 + 1 / 14) / 2
    rows = peers_table(report)
    assert rows[2] == (
        f"| encoder alone | 32 | {speed:.1f} | 100 % | 2.0 s | 500 MB | 2.0 "
        "| 25 % (first 512 tokens) | no |"
    )
    assert [row.rpartition("| ")[2] for row in rows[2:9]] == ["no |"] * 5 + ["yes |", "no |"]


# ------------------------------------------------------------------------------------- command line
@pytest.fixture
def one_section(monkeypatch: pytest.MonkeyPatch) -> list[Comparison]:
    """One section has known measurements; the environment of this process stays as it is."""
    comparisons = [
        compare({"a": [6.0], "b": [2.0]}, "a", "b", at_least=2),
        compare({"a": [6.0], "b": [2.0]}, "a", "b", at_most=2),
    ]
    monkeypatch.setattr(speed, "prepare_environment", lambda threads: None)
    monkeypatch.setitem(
        sections.MEASURE,
        "loss",
        lambda repetitions: Section({"repetitions": repetitions}, comparisons),
    )
    return comparisons


def test_command_line_reports_a_missed_target_and_succeeds(
    one_section: list[Comparison], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "deep" / "speed.json"
    assert speed.main(["loss", "--repetitions", "7", "--output", str(output)]) == 0
    report = json.loads(output.read_text("utf-8"))
    assert report["sections"]["loss"]["setting"] == {"repetitions": 7}
    assert [
        (c["ratio"], c["target"], c["met"]) for c in report["sections"]["loss"]["comparisons"]
    ] == [
        (3.0, ">= 2.00", True),
        (3.0, "<= 2.00", False),
    ]
    assert report["command"] == f"python -m benchmarks.speed loss --repetitions 7 --output {output}"
    assert {"versions", "machine", "commit", "date", "threads"} <= set(report)
    printed = capsys.readouterr().out
    assert "pass" in printed
    assert "FAIL" in printed
    assert "1 of 2 targets met" in printed


@pytest.mark.parametrize(
    "argv", [["speed"], ["loss", "--threads", "0"], ["--repetitions", "-1"]], ids=" ".join
)
def test_arguments_that_make_no_sense_are_refused(argv: list[str]) -> None:
    with pytest.raises(SystemExit):
        speed.main(argv)


def test_speed_table_has_a_row_a_comparison() -> None:
    row = {
        "name": "a / b",
        "ratio": 5.391,
        "quartiles": [5.1, 5.64],
        "target": ">= 5.00",
        "met": True,
        "repetitions": 30,
    }
    info = {**row, "target": None, "met": None}
    report = {
        "sections": {"crf": {"comparisons": [row, info]}},
        "threads": 1,
        "command": "python x",
        "machine": "CPU",
    }
    lines = speed_table({**report, "versions": {"torch": "2", "transformers": "5"}})
    assert lines[2] == "| crf | a / b | 5.39 | 5.10 to 5.64 | >= 5.00 | yes | 30 |"
    assert lines[3] == "| crf | a / b | 5.39 | 5.10 to 5.64 |  |  | 30 |"
    assert lines[-1] == "`python x`, 1 thread. Measured on CPU; torch 2, transformers 5."


# -------------------------------------------------------------------------------- runtimes, windows
@pytest.fixture
def small_run(saved_tagger: Path, files: Path, tmp_path: Path) -> Path:
    """The files of a complete run that benchmarks read."""
    config = RunConfig(
        train_file=str(files / "train.jsonl"),
        dev_file=str(files / "dev.jsonl"),
        test_file=str(files / "test.jsonl"),
        output_dir=str(tmp_path / "run"),
        method="crf",
    )
    saved_tagger.rename(tmp_path / "run-model")
    (tmp_path / "run").mkdir()
    (tmp_path / "run-model").rename(tmp_path / "run" / "model")
    write_json(config.to_dict(), tmp_path / "run" / "config.json")
    return tmp_path / "run"


@pytest.mark.slow
def test_runtimes_are_measured_beside_torch(
    small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def uncompiled(*given: object, compile_encoder: bool = False, **options: Any) -> Any:
        return load_pipeline(*given, **options)  # compiling takes half a minute

    monkeypatch.setattr("contrastive_ner.serving.inference.load_pipeline", uncompiled)
    measured = runtimes.measure(small_run, threads=1, repetitions=1)
    base = measured["ways"].pop(runtimes.BASE)
    assert base["speed"] == 1.0
    assert (
        measured["ways"]["ONNX float32"]["f1"]
        == measured["ways"]["torch float32, compiled"]["f1"]
        == base["f1"]
    )
    assert all(row["seconds"] > 0 and row["speed"] > 0 for row in measured["ways"].values())
    assert (
        len(runtimes_table([{**measured, "ways": {"torch float32": base, **measured["ways"]}}]))
        == 2 + 6
    )


def test_windows_of_other_lengths_are_held_against_those_of_training(small_run: Path) -> None:
    measured = windows.measure(small_run)
    assert (measured["documents"], measured["trained"]) == (2, 128)  # of twelve texts
    rows = measured["sizes"]
    assert sorted(rows) == [64, 128, 256, 512]
    assert rows[128]["agreement"] == 1.0 != rows[64]["agreement"]
    assert rows[64]["windows"] > rows[256]["windows"]
    assert {row["coverage"] for row in rows.values()} == {1.0}
    assert len([line for line in windows_table([measured]) if "(training)" in line]) == 1


def test_examples_of_a_type_hold_its_mentions_only_and_are_drawn_by_sample() -> None:
    mentions = [Mention(0, 1, "A"), Mention(1, 2, "B")]
    records = [Record(str(n), "ab", mentions[n % 2 :]) for n in range(20)]
    first = add_type.drawn(records, "A", 5, 0)
    assert len(first) == 5
    assert all(record.entities == mentions[:1] for record in first)
    assert add_type.drawn(records, "A", 5, 0) == first != add_type.drawn(records, "A", 5, 1)
    assert len(add_type.drawn(records, "A", 20, 0)) == 10
    assert mentions == records[0].entities
