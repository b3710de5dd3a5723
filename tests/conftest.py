"""Shared fixtures: tiny random encoders, saved models, subprocesses without a network."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# No test may reach the Hub; set before any Hugging Face import.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # threads only cost time for tiny models

import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    dynamic_module_utils,
)

from contrastive_ner.data.records import Mention, Record
from contrastive_ner.data.writers import write_records
from contrastive_ner.models.modeling_binder import BinderModel
from contrastive_ner.models.modeling_nerco import NercoForTokenClassification

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "contrastive_ner" / "models"
ENCODER = ROOT / "encoders" / "zh-char-mini"
LABELS = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG"]
# Files with the longest tests: they begin first, so that no worker waits for them at the end.
LONGEST = ("test_slow.py", "test_readme.py", "test_wheel.py", "test_survival.py", "test_hub.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """Write a text exactly as given."""

    def write(text: str | bytes, name: str = "data.txt") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


@pytest.fixture(scope="session")
def character_tok() -> PreTrainedTokenizerFast:
    """The bundled encoder's tokenizer: one token per code point."""
    return AutoTokenizer.from_pretrained(ENCODER)


@pytest.fixture(scope="session")
def tiny_encoder(
    tmp_path_factory: pytest.TempPathFactory, character_tok: PreTrainedTokenizerFast
) -> Path:
    """A random two-layer BERT with the bundled tokenizer, on disk."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(character_tok),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    folder = tmp_path_factory.mktemp("tiny-encoder")
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    character_tok.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_tagger(tiny_encoder: Path) -> NercoForTokenClassification:
    """An untrained tagger over `LABELS` whose random head finds mentions in any text."""
    torch.manual_seed(1)
    model = NercoForTokenClassification.from_encoder(str(tiny_encoder), LABELS, label_unit="token")
    torch.nn.init.normal_(model.classifier.weight, std=2.0)
    torch.nn.init.normal_(model.crf.transitions, std=0.5)
    return model.eval()


@pytest.fixture
def saved_tagger(
    tmp_path: Path, tiny_tagger: NercoForTokenClassification, character_tok: PreTrainedTokenizerFast
) -> Path:
    """Folder of `tiny_tagger` and its tokenizer, ready for the Hub."""
    folder = tmp_path / "model"
    tiny_tagger.save_pretrained(folder)
    character_tok.save_pretrained(folder)
    return folder


@pytest.fixture
def saved_binder(
    tiny_encoder: Path, character_tok: PreTrainedTokenizerFast, tmp_path: Path
) -> tuple[Path, BinderModel]:
    """Folder of an untrained BINDER model that finds mentions in any text, and the model.

    The folder is ready for the Hub. The types are not in alphabetical order.
    """
    torch.manual_seed(3)
    descriptions = {
        "PER": "人物：人的名字。",
        "ORG": "机构：公司、学校的名字。",
        "GPE": ["政区：国家的名字。", "政区"],
    }
    model = BinderModel.from_encoders(
        str(tiny_encoder),
        descriptions=descriptions,
        label_unit="token",
        max_span_width=5,
        projection_size=16,
    )
    for parameter in (*model.heads.parameters(), *model.type_heads.parameters()):
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.eval().save_pretrained(tmp_path / "model")
    character_tok.save_pretrained(tmp_path / "model")
    return tmp_path / "model", model


@pytest.fixture
def modules_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Cache the code that models carry in a folder of the test; unload it afterwards."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    forget_remote_code()
    yield
    forget_remote_code()


def forget_remote_code() -> None:
    """Unload the modules that models carried."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        del sys.modules[name]


def run_python(code: str, cwd: Path, cache: Path, *arguments: str) -> str:
    """Run code in a new process and return its standard output.

    The process runs in `cwd`, uses `cache` as its Hugging Face cache and has no network.
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "HF_HOME": str(cache),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


NAMES = ("张三", "李小四", "王五", "赵六", "钱七", "孙八")
COMPANIES = ("华为", "中兴", "腾讯公司", "北大", "招商银行")


def corpus(count: int, offset: int = 0) -> list[Record]:
    """Records with one person and one organisation each."""
    records = []
    for i in range(offset, offset + count):
        name, company = NAMES[i % len(NAMES)], COMPANIES[i % len(COMPANIES)]
        text = f"{name}昨天第{i}次去了{company}。"
        at = text.index(company)
        records.append(
            Record(
                f"s{i}", text, [Mention(0, len(name), "PER"), Mention(at, at + len(company), "ORG")]
            )
        )
    return records


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the small corpus: train, dev and test."""
    folder = tmp_path_factory.mktemp("corpus")
    for split, count, offset in (("train", 40, 0), ("dev", 12, 100), ("test", 12, 200)):
        write_records(corpus(count, offset), folder / f"{split}.jsonl")
    write_records(corpus(12, 200), folder / "test.bmes", "columns", "BMES")
    return folder


def arguments(files: Path, tiny_encoder: Path, run_dir: Path, **changes: object) -> list[str]:
    """Arguments of a training command on the small corpus."""
    config = run_dir.parent / "config.yaml"
    config.write_text(
        "stage1_epochs: 1\nhead_epochs: 1\nstage2_epochs: 4\nencoder_dropout: 0\nbf16: false\n",
        "utf-8",
    )
    values = {
        "output_dir": run_dir,
        "encoder": tiny_encoder,
        **{f"{split}_file": files / f"{split}.jsonl" for split in ("train", "dev", "test")},
        "stage2_batch_size": 8,
        "stage1_batch_size": 8,
        "stage2_learning_rate": 5e-3,
        "stage2_head_learning_rate": 2e-2,
        **changes,
    }
    return ["train", str(config), *(f"{key}={value}" for key, value in values.items())]
