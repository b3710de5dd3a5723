"""What a lexicon costs: speed of taggers with one against the plain tagger, load time, memory.

python -m benchmarks.lexicon WORDS.txt TEXT --results results/lexicon.json

WORDS.txt is a lexicon, such as `contrastive-ner lexicon --jieba --output WORDS.txt` writes; TEXT
are texts in any format of `predict`. All taggers have the same encoder, untrained, which does not
matter to their speed: texts are read, matched, tagged and decoded as users' are, and a
training step is one of the full phase. Each ratio is the median of ratios of neighbouring
measurements.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.measuring import Comparison, compare, in_turns, peak_bytes
from contrastive_ner.cli.options import add_layout_options
from contrastive_ner.data.records import Record
from contrastive_ner.data.schemes import bio_labels
from contrastive_ner.data.streams import read_rows
from contrastive_ner.errors import ConfigError
from contrastive_ner.files import expand, write_json
from contrastive_ner.models.lattice_ner import Vocabulary, pairs_of
from contrastive_ner.models.lexicon_ner import Lexicon
from contrastive_ner.models.modeling_nerco import NercoForTokenClassification
from contrastive_ner.provenance import provenance
from contrastive_ner.training.config import layout_of
from contrastive_ner.training.encoder import encoder_place

PLAIN, ADAPTER, FLAT = "plain", "adapter", "flat"
SPEED = {ADAPTER: 0.85, FLAT: 0.5}  # of the plain tagger's, at least
LOADING = """
import sys, time
from contrastive_ner.models.lexicon_ner import Lexicon

def resident():
    with open("/proc/self/status") as file:
        return 1024 * int(next(line for line in file if line.startswith("VmRSS")).split()[1])

before, began = resident(), time.process_time()
lexicon = Lexicon.read(sys.argv[1])
print(time.process_time() - began, resident() - before, len(lexicon))
"""


def taggers(encoder: str, lexicon: Lexicon, texts: list[str]) -> dict[str, Any]:
    """Pipelines of untrained taggers by name; the lattice knows the words of the texts."""
    from transformers import AutoTokenizer

    place = encoder_place(encoder)
    tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    labels = bio_labels(["PER", "ORG", "LOC", "GPE"])
    found = (match.word for text in texts for match in lexicon.matches(text))
    vocabulary = Vocabulary([*"".join(texts), *found], [p for t in texts for p in pairs_of(t)])
    fusions: Mapping[str, dict[str, Any]] = {
        PLAIN: {},
        ADAPTER: {"lexicon_fusion": "adapter", "lexicon_types": lexicon.types},
        FLAT: {"lexicon_fusion": "flat", "lattice": vocabulary.facts()},
    }
    made = {}
    for name, fusion in fusions.items():
        torch.manual_seed(0)
        model = NercoForTokenClassification.from_encoder(
            place, labels, label_unit="token", **fusion
        )
        if fusion:
            model.lexicon = lexicon
        if name == FLAT:
            model.vocabulary = vocabulary
        made[name] = model.pipeline(tokenizer)
    return made


def training_step(pipeline: Any, texts: list[str]) -> Callable[[], object]:
    """A call that runs forward and backward on a batch of texts, features made beforehand."""
    from contrastive_ner.models.pipeline_ner import pad_windows

    windows = [row.windows[0] for row in pipeline.preprocess(texts) if row.windows]

    def step() -> None:
        batch = pad_windows(windows, 0)
        batch.pop("word_end_mask")
        labels = torch.zeros_like(batch["input_ids"]).masked_fill(~batch["word_mask"], -100)
        pipeline.model.train()
        pipeline.model(**batch, labels=labels).loss.backward()
        pipeline.model.zero_grad()
        pipeline.model.eval()

    return step


def loading(path: Path, repetitions: int) -> dict[str, Any]:
    """Processor seconds and resident bytes of reading a lexicon, in a new process each."""
    rows = []
    for _ in range(repetitions):
        command = [sys.executable, "-c", LOADING, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append([float(value) for value in done.stdout.split()])
    seconds, size, words = zip(*rows, strict=True)
    return {
        "words": int(words[0]),
        "seconds": median(seconds),
        "fastest": min(seconds),
        "bytes": int(median(size)),
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All measurements."""
    path = Path(expand(arguments.lexicon))
    lexicon = Lexicon.read(path)
    source = read_rows(expand(arguments.file), layout_of(arguments))
    texts = [row.text for row in source.rows if isinstance(row, Record)][: arguments.texts]
    if not texts:
        raise ConfigError(f"{arguments.file}: expected texts, found none")
    torch.set_num_threads(arguments.threads)
    pipelines = taggers(arguments.encoder, lexicon, texts)
    tagging = {name: partial(run, texts) for name, run in pipelines.items()}
    seconds = in_turns(tagging, arguments.repetitions, warmup=1)
    batch = texts[: arguments.batch_size]
    steps = {name: training_step(run, batch) for name, run in pipelines.items()}
    step_seconds = in_turns(steps, arguments.repetitions, warmup=1)
    memory = {name: [float(peak_bytes(step))] for name, step in steps.items()}
    comparisons: dict[str, Comparison] = {}
    for name, least in SPEED.items():
        comparisons |= {
            f"tagging, {name}": compare(seconds, PLAIN, name, at_least=least),
            f"training step, {name}": compare(step_seconds, PLAIN, name, at_least=least),
            f"memory of a training step, {name}": compare(memory, name, PLAIN, unit="bytes"),
        }
    return {
        "encoder": Path(arguments.encoder).name,
        "texts": len(texts),
        "characters": sum(map(len, texts)),
        "threads": arguments.threads,
        "loading": loading(path, arguments.repetitions),
        "comparisons": {name: asdict(found) for name, found in comparisons.items()},
        **provenance(),
    }


def main() -> int:
    """Measure, print and perhaps write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lexicon",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("lexicon", metavar="WORDS.txt")
    parser.add_argument("file", metavar="TEXT")
    parser.add_argument("--encoder", default="encoders/zh-char-mini")
    parser.add_argument("--texts", type=int, default=300, help="texts that are tagged [300]")
    parser.add_argument("--batch_size", type=int, default=16, help="of a training step [16]")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch [1]")
    parser.add_argument("--repetitions", type=int, default=7, help="measurements of each [7]")
    parser.add_argument("--results", type=Path, help="JSON file to write")
    parser.add_argument("--text_column", default="text")
    add_layout_options(parser)
    arguments = parser.parse_args()
    found = measure(arguments)
    for name, row in found["comparisons"].items():
        low, high = row["quartiles"]
        print(f"{name}: {row['name']} = {row['ratio']:.2f} ({low:.2f} to {high:.2f})")
    load = found["loading"]
    print(f"loading {load['words']} words: {load['seconds']:.2f} s, {load['bytes'] / 1e6:.0f} MB")
    if arguments.results:
        write_json(found, arguments.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
