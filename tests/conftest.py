"""Shared fixtures: tiny random encoders, a tagger that is saved like a trained one, subprocesses without a network."""

import os
import subprocess
import sys
from pathlib import Path

# Nothing in the suite may reach the Hub; set before any Hugging Face import.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # the models here are tiny: threads would only wait for each other

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from modeling_nerco import NercoForTokenClassification  # noqa: E402

ENCODER = ROOT / "encoders" / "zh-char-mini"
LABELS = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG"]


@pytest.fixture(scope="session")
def character_tok() -> PreTrainedTokenizerFast:
    """The bundled encoder's tokenizer: one token per code point."""
    return AutoTokenizer.from_pretrained(ENCODER)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory, character_tok: PreTrainedTokenizerFast) -> Path:
    """A random two-layer BERT with the bundled tokenizer, on disk."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(character_tok), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
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
def saved_tagger(tmp_path: Path, tiny_tagger: NercoForTokenClassification, character_tok: PreTrainedTokenizerFast) -> Path:
    """`tiny_tagger` and its tokenizer in a folder, ready for the Hub."""
    folder = tmp_path / "model"
    tiny_tagger.save_pretrained(folder)
    character_tok.save_pretrained(folder)
    return folder


def run_python(code: str, cwd: Path, cache: Path, *arguments: str) -> str:
    """Run code in a fresh process elsewhere, with an empty Hugging Face cache and no network; returns its standard output."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout
