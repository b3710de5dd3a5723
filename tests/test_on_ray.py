"""Tagging with real Ray, and the class for datasets, Ray Data and Spark."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest
import safetensors.torch
import torch
from conftest import ROOT, corpus
from datasets import Dataset

from contrastive_ner.cli import main
from contrastive_ner.errors import ConfigError
from contrastive_ner.serving.batch_tagger import SPARK_TYPE, BatchTagger, mention_type
from contrastive_ner.serving.inference import load_pipeline

TEXTS = [record.text for record in corpus(30)]


def expected(folder: Path, texts: list[Any], **options: Any) -> list[Any]:
    pipeline = load_pipeline(folder)
    return [
        None if not isinstance(text, str) else [spans(m) for m in pipeline(text, **options)]
        for text in texts
    ]


def spans(mention: dict[str, Any]) -> tuple:
    label = mention.get("entity_group") or mention["label"]
    return mention["start"], mention["end"], label, round(mention["score"], 4)


def rounded(column: Any) -> list[Any]:
    return [None if own is None else [spans(m) for m in own] for own in column]


# --------------------------------------------------------------------------------------- the class
def test_one_class_tags_batches_of_every_kind(saved_tagger):
    texts = [*TEXTS[:4], None, "", 7]
    gold = expected(saved_tagger, texts)
    assert sum(len(own or []) for own in gold) > 4
    tagger = BatchTagger(saved_tagger, "body")
    columns = {"id": list(range(7)), "body": texts}
    found = tagger(columns)
    assert list(found) == ["id", "body", "entities"]
    assert rounded(found["entities"]) == gold
    (frame,) = tagger.frames(
        [pandas.DataFrame({**columns, "body": pandas.Series(texts, dtype=object)})]
    )
    assert list(frame.columns) == ["id", "body", "entities"]
    assert rounded(frame["entities"]) == gold
    table = tagger(pyarrow.table({"id": [1, 2], "body": [texts[0], None]}))
    assert table.schema.field("entities").type == mention_type()
    assert rounded(table["entities"].to_pylist()) == [gold[0], None]
    data = Dataset.from_dict({"id": [1, 2, 3], "body": texts[:3]})
    tagged = data.map(tagger, batched=True, batch_size=2)
    assert tagged.column_names == ["id", "body", "entities"]
    assert rounded(tagged["entities"]) == gold[:3]


def test_the_model_is_not_sent_along_and_options_reach_it(saved_tagger):
    tagger = BatchTagger(saved_tagger, min_score=0.99)
    found = tagger({"text": TEXTS[:3]})
    assert rounded(found["entities"]) == expected(saved_tagger, TEXTS[:3], min_score=0.99)
    sent = pickle.dumps(tagger)
    assert len(sent) < 2000
    assert pickle.loads(sent)({"text": TEXTS[:3]}) == found
    with pytest.raises(ConfigError, match="text_column is 'text': expected one of body"):
        tagger({"body": TEXTS})
    with pytest.raises(ConfigError, match="a column 'entities' already"):
        BatchTagger(saved_tagger)({"text": TEXTS[:1], "entities": [[]]})
    assert "bigint" in SPARK_TYPE


def test_rows_without_mentions_have_the_type_of_the_others(saved_tagger):
    """In each of the first batches nothing is found, from which no type could be inferred."""
    empty = next(text for text in ("。", "一", "") if not expected(saved_tagger, [text])[0])
    texts = [*[empty] * 4, None, None, *TEXTS[:3]]
    data = Dataset.from_dict({"id": list(range(9)), "text": texts})
    for options in ({}, {"top_k": 2}, {"abstain_below": 0.9}, {"top_k": 1, "abstain_below": 0.5}):
        tagger = BatchTagger(saved_tagger, **options)
        (kind,) = {
            tagger(table).schema.field("entities").type
            for table in (pyarrow.table({"text": [empty]}), pyarrow.table({"text": TEXTS[:3]}))
        }
        assert kind == mention_type(options)
        named = ("top_k", "labels"), ("abstain_below", "abstained")
        more = [name for option, name in named if option in options]
        kinds = kind.value_type
        assert [field.name for field in kinds] == ["start", "end", "label", "score", *more]
        tagged = data.map(tagger, batched=True, batch_size=2, writer_batch_size=2)
        assert tagged.data.schema.field("entities").type == kind
        assert tagged["entities"][4] is None
        assert rounded(tagged["entities"][6:]) == rounded(tagger({"text": TEXTS[:3]})["entities"])
        alone = data.map(tagger, batched=True, remove_columns=["id", "text"])
        assert alone.column_names == ["entities"]
        streamed = data.to_iterable_dataset().map(tagger, batched=True, batch_size=2)
        assert rounded(row["entities"] for row in streamed) == rounded(tagged["entities"])


def test_another_model_in_the_folder_is_not_answered_from_the_cache(saved_tagger, tmp_path):
    model = tmp_path / "copy"
    shutil.copytree(saved_tagger, model)
    Dataset.from_dict({"text": TEXTS[:6]}).save_to_disk(tmp_path / "data")
    data = Dataset.load_from_disk(str(tmp_path / "data"))
    first = data.map(BatchTagger(model), batched=True)
    tagger = BatchTagger(model)
    again = data.map(tagger, batched=True)
    assert tagger._tagger is None  # found in the cache
    assert again["entities"][:] == first["entities"][:]
    weights = safetensors.torch.load_file(model / "model.safetensors")
    for name, value in weights.items():
        if "classifier" in name:
            weights[name] = torch.flip(value, [0])
    safetensors.torch.save_file(weights, model / "model.safetensors", {"format": "pt"})
    other = data.map(BatchTagger(model), batched=True)
    assert other["entities"][:] != first["entities"][:]


def test_batches_of_arrays_and_new_columns_alone(saved_tagger):
    tagger = BatchTagger(saved_tagger)
    empty = next(text for text in ("。", "一") if not expected(saved_tagger, [text])[0])
    for texts in ([empty], TEXTS[:2]):
        batch = {"id": np.arange(len(texts)), "text": np.array(texts, dtype=object)}
        table = tagger(batch)
        assert table.schema.field("entities").type == mention_type()
        assert table.column_names == ["id", "text", "entities"]
        assert rounded(table["entities"].to_pylist()) == expected(saved_tagger, texts)
        with_tensor = tagger({**batch, "image": np.zeros((len(texts), 2, 2))})
        assert rounded(with_tensor["entities"]) == expected(saved_tagger, texts)
    (frame,) = tagger.frames([pandas.DataFrame({"text": pandas.Series([], dtype=object)})])
    assert frame["entities"].dtype == object
    data = Dataset.from_dict({"id": [1, None, 3], "text": TEXTS[:3]})
    alone = BatchTagger(saved_tagger, only_new=True)
    for way in (data, data.with_format("numpy"), data.with_format("arrow")):
        found = way.map(alone, batched=True, remove_columns=["text"]).with_format(None)
        assert rounded(found["entities"]) == expected(saved_tagger, TEXTS[:3])
    kept = data.with_format("numpy").map(alone, batched=True).with_format(None)
    assert kept["id"][:] == [1, None, 3]
    streamed = data.to_iterable_dataset().map(alone, batched=True, remove_columns=["text"])
    assert [list(row) for row in streamed] == [["id", "entities"]] * 3
    assert list(alone(pyarrow.table({"text": TEXTS[:1]})).column_names) == ["entities"]


def test_what_is_no_batch_or_no_option_is_refused(saved_tagger):
    data = Dataset.from_dict({"text": TEXTS[:2]})
    tagger = BatchTagger(saved_tagger)
    with pytest.raises(ConfigError, match="leave out input_columns"):
        data.map(tagger, batched=True, input_columns=["text"])
    counted = data.map(tagger, batched=True, with_indices=True)
    assert rounded(counted["entities"]) == expected(saved_tagger, TEXTS[:2])
    with pytest.raises(ConfigError, match="coverage is not an option of batches"):
        BatchTagger(saved_tagger, coverage=True)


FORKED = """
import sys
from datasets import Dataset
from contrastive_ner import BatchTagger
tagger, texts = BatchTagger(sys.argv[1]), ["张三在北京大学工作"] * 40
tagger({"text": texts})  # the threads of this process are at work
found = Dataset.from_dict({"text": texts}).map(tagger, batched=True, num_proc=2)
print(len(found["entities"]))
"""


def test_processes_that_datasets_forks_do_not_stand_still(saved_tagger):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", FORKED, str(saved_tagger)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == "40", done.stderr


@pytest.mark.parametrize("value", [TEXTS[0], None])
def test_a_single_row_is_refused(saved_tagger, value):
    tagger = BatchTagger(saved_tagger)
    with pytest.raises(ConfigError, match=r"a row: expected a batch .*batched=True"):
        tagger({"text": value})
    with pytest.raises(ConfigError, match="a row: "):
        Dataset.from_dict({"text": TEXTS[:2]}).map(tagger)


# ------------------------------------------------------------------------------------------- faults
def test_ray_that_is_missing_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["predict", "no-such-model", "x.txt", "--engine", "ray"]) == 2
    said = "error: ray is not installed: pip install 'contrastive-ner[ray]'\n"
    assert capsys.readouterr().err == said


def test_the_device_and_precision_of_actors_are_theirs(monkeypatch, saved_tagger, tmp_path, capsys):
    """They may be on other machines than the one that reads and writes."""
    pytest.importorskip("ray", reason="needs the extra ray")
    (tmp_path / "in.txt").write_text("第一", "utf-8")
    given = []

    def tag_here(parts, make, actors, device):
        (job,) = make.args
        given.append((job.precision, job.device, device))
        return map(make.func(replace(job, device="cpu")), parts)

    monkeypatch.setattr("contrastive_ner.serving.on_ray.tag_on_ray", tag_here)
    command = ["predict", str(saved_tagger), str(tmp_path / "in.txt"), "--engine", "ray"]
    assert main([*command, "--device", "cuda", "--precision", "auto"]) == 0
    assert given == [("auto", "cuda", "cuda")]
    # What the actors chose, not "auto".
    own = str(load_pipeline(saved_tagger, precision="auto", device="cpu").model.dtype)
    assert capsys.readouterr().err.endswith(f"including loading, {own.removeprefix('torch.')}\n")
    assert main([*command, "--device", "cuda:1"]) == 2
    assert "with --engine ray, expected cpu or cuda" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------- real Ray
@pytest.fixture(scope="module")
def ray_data() -> Iterator[Any]:
    """Ray with three processors, in this process; `predict` uses it, too."""
    pytest.importorskip("ray", reason="needs the extra ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("PYTHONPATH", str(ROOT))
        import ray
        import ray.data

        ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
        yield ray.data
        ray.shutdown()


@pytest.mark.slow
def test_ray_data_reads_tags_and_writes(ray_data, saved_tagger, tmp_path):
    texts = [*TEXTS, None, ""]
    table = pyarrow.table({"id": list(range(len(texts))), "text": texts})
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet", row_group_size=8)
    tagged = ray_data.read_parquet(str(tmp_path / "in.parquet")).map_batches(
        BatchTagger,
        fn_constructor_args=[str(saved_tagger)],
        batch_format="pyarrow",
        batch_size=8,
        concurrency=2,
    )
    tagged.write_parquet(str(tmp_path / "out"))
    rows = sorted(
        pyarrow.parquet.read_table(tmp_path / "out").to_pylist(), key=lambda row: row["id"]
    )
    assert [row["text"] for row in rows] == texts
    assert rounded(row["entities"] for row in rows) == expected(saved_tagger, texts)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_the_engine_writes_what_one_process_writes(
    ray_data, saved_tagger, tmp_path, capsys, ending
):
    rows = [{"id": f"r{i}", "text": text, "url": f"u{i}"} for i, text in enumerate(TEXTS)]
    source = tmp_path / f"in.{ending}"
    if ending == "jsonl":
        lines = [json.dumps(row) for row in rows]
        source.write_text("\n".join([*lines[:9], '{"text": 7}', *lines[9:]]), "utf-8")
    elif ending == "csv":
        pandas.DataFrame(rows).to_csv(source, index=False)
    else:
        rows[9]["text"] = None  # a bad row in a block
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), source, row_group_size=8)
    said, command = [], ["predict", str(saved_tagger), str(source), "--batch_size", "1"]
    for engine in ("local", "ray"):
        options = ["--num_processes", "2", "--engine", "ray"] if engine == "ray" else []
        output = tmp_path / f"{engine}.{ending}"
        assert main([*command, "--output", str(output), *options]) == 0
        said.append([line for line in capsys.readouterr().err.splitlines() if "row" in line])
    assert said[0] == said[1]
    assert len(said[0]) == (0 if ending == "csv" else 2)
    written = [(tmp_path / f"{engine}.{ending}").read_bytes() for engine in ("local", "ray")]
    assert written[0] == written[1]


@pytest.mark.slow
def test_errors_of_the_engine_are_one_line(ray_data, saved_tagger, tmp_path, capsys):
    source = tmp_path / "in.txt"
    source.write_text("".join(f"{text}\n" for text in TEXTS), "utf-8")
    command = ["predict", str(saved_tagger), str(source), "--engine", "ray"]
    assert main([*command, "--output", str(tmp_path / "out.jsonl"), "--device", "cuda"]) == 2
    assert "num_processes is 1, but Ray has 0 GPU" in capsys.readouterr().err
    code = saved_tagger / "modeling_nerco.py"
    code.write_text("1 / 0\n" + code.read_text("utf-8"), "utf-8")
    assert main([*command, "--output", str(tmp_path / "out.jsonl")]) == 2
    errors = capsys.readouterr().err
    assert "not this project's" in errors.splitlines()[-1]
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(saved_tagger, tmp_path):
    """In a process that starts Ray itself."""
    pytest.importorskip("ray", reason="needs the extra ray")
    import psutil

    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("".join(f"{text}\n" for text in TEXTS * 200), "utf-8")
    command = [sys.executable, "-m", "contrastive_ner", "predict", saved_tagger, source]
    command += ["--output", output, "--num_processes", 2, "--engine", "ray"]
    job = subprocess.Popen(
        list(map(str, command)),
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"},
        stderr=subprocess.PIPE,
        text=True,
    )
    partial, killed = tmp_path / ".out.jsonl.partial", 0
    while job.poll() is None and not killed:
        time.sleep(0.05)
        if partial.exists() and partial.stat().st_size:
            for process in psutil.Process(job.pid).children(recursive=True):
                if not killed and "ray::Worker" in "".join(process.cmdline()):
                    process.send_signal(signal.SIGKILL)
                    killed = process.pid
    errors = job.communicate()[1]
    assert job.returncode == 0, errors
    assert killed
    lines = output.read_text("utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == TEXTS * 200


@pytest.mark.slow
def test_a_slow_actor_gets_fewer_rows(ray_data, tmp_path):
    from contrastive_ner.serving.on_ray import tag_on_ray

    class Tagger:  # in here, because actors cannot import the tests
        def __init__(self) -> None:
            try:
                (tmp_path / "first").touch(exist_ok=False)
                self.name = "slow"
            except FileExistsError:
                self.name = "fast"

        def __call__(self, rows: list[Any]) -> tuple[str, list[Any]]:
            time.sleep(1 if self.name == "slow" else 0)
            return self.name, rows

    parts = [[number] for number in range(12)]
    found = list(tag_on_ray(parts, Tagger, 2))
    assert [rows for _, rows in found] == parts
    # In turns it would be 6.
    assert 1 <= [name for name, _ in found].count("slow") <= 5
