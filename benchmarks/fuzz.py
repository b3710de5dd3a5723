"""Fuzz `verify` and model loading with thousands of damaged and hostile model folders.

python -m benchmarks.fuzz --examples 600 --output results/fuzz.json

Each input is a small model folder with one fault: truncated weights, flipped bits or a false header
of the weights; a configuration value of the wrong type or size; a false manifest. Expected:
`verify` detects every change that the manifest does not cover up. With a rewritten manifest,
loading returns a model or raises a documented error (ValueError, OSError), in bounded time and
memory. Anything else is a failure, reported with a description of its input. Loading uses this
project's classes and runs no code of the folder.
"""

import argparse
import json
import resource
import shutil
import signal
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contrastive_ner.hub.repository import (
    MANIFEST,
    faults_of,
    package,
    read_manifest,
    write_manifest,
)

ROOT = Path(__file__).resolve().parent.parent

SECONDS = 30  # time limit for loading a tiny model
HOSTILE = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 10**9, 10**30, -(10**30), 0.5, float("nan"), float("inf")]),
    st.sampled_from(
        [
            "",
            "x" * 100_000,
            "../../etc/passwd",
            "os.system",
            "__main__.X",
            "\ud7ff",
            "nerco",
            "bert",
            "binder",
        ]
    ),
    st.sampled_from(
        [
            [],
            {},
            [[]],
            {"": {}},
            [None],
            {"0": "B-PER"},
            {"model_type": "bert", "num_hidden_layers": 10**9},
        ]
    ),
    st.recursive(
        st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
    ),
)


@dataclass
class Report:
    """Counts of outcomes by kind of input, and descriptions of the failures."""

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def count(self, kind: str, outcome: str) -> None:
        """Count one outcome."""
        self.outcomes.setdefault(kind, Counter())[outcome] += 1

    def fail(self, kind: str, description: str) -> None:
        """Count a failure and keep its description."""
        self.count(kind, "FAILURE")
        self.failures.append(f"{kind}: {description}")

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types: number of inputs, outcomes, failures."""
        outcomes = {
            kind: dict(counts.most_common()) for kind, counts in sorted(self.outcomes.items())
        }
        return {
            "inputs": sum(sum(c.values()) for c in self.outcomes.values()),
            "outcomes": outcomes,
            "failures": self.failures,
        }


# ------------------------------------------------------------------------------------------- inputs
@st.composite
def damaged_bytes(draw: st.DrawFn, content: bytes, densest: int) -> tuple[bytes, str]:
    """Truncated content, or content with flipped bits.

    Half of the flips fall into the first `densest` bytes, which hold the structure.
    """
    if draw(st.booleans()):
        length = draw(st.integers(0, len(content) - 1))
        return content[:length], f"cut at {length}"
    flipped = bytearray(content)
    places = st.integers(0, min(densest, len(content)) - 1) | st.integers(0, len(content) - 1)
    bits = draw(st.lists(st.tuples(places, st.integers(0, 7)), min_size=1, max_size=4, unique=True))
    for at, bit in bits:
        flipped[at] ^= 1 << bit
    return bytes(flipped), f"bits flipped: {bits}"


@st.composite
def lying_header(draw: st.DrawFn, content: bytes) -> tuple[bytes, str]:
    """Weights whose header has one false entry for a tensor."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    name = draw(st.sampled_from(sorted(set(header) - {"__metadata__"})))
    key = draw(st.sampled_from(["dtype", "shape", "data_offsets", "all"]))
    value = draw(
        HOSTILE
        | st.lists(st.integers(-(2**70), 2**70), max_size=3)
        | st.sampled_from(["F64", "I8", "F8_E5M2", "BOOL"])
    )
    if key == "all":
        header[name] = value
    else:
        header[name][key] = value
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + content[
        8 + length :
    ], f"header of {name}: {key} = {value!r:.60}"


@st.composite
def hostile_config(draw: st.DrawFn, content: bytes) -> tuple[bytes, str]:
    """A configuration with one value replaced, added or removed, at any depth."""
    config = json.loads(content)
    place, path = config, []
    while True:
        key = draw(st.sampled_from(sorted(place)) | st.text(max_size=8))
        path.append(key)
        if isinstance(place.get(key), dict) and place[key] and draw(st.booleans()):
            place = place[key]
            continue
        break
    if key in place and draw(st.integers(0, 9)) == 0:
        del place[key]
        return json.dumps(config).encode(), f"{path} removed"
    place[key] = value = draw(HOSTILE)
    return json.dumps(config).encode("utf-8", "surrogatepass"), f"{path} = {value!r:.60}"


@st.composite
def lying_manifest(draw: st.DrawFn, content: bytes) -> tuple[bytes, str]:
    """A manifest with one line changed, swapped, duplicated or removed."""
    lines = content.decode().splitlines(keepends=True)
    at = draw(st.integers(0, len(lines) - 1))
    kind = draw(
        st.sampled_from(
            [
                "removed",
                "doubled",
                "digest",
                "name",
                "outside",
                "upper case",
                "line end",
                "exchanged",
            ]
        )
    )
    digest, name = lines[at].split()
    other = lines[at - 1].split()
    changed = {
        "removed": [],
        "doubled": [lines[at]] * 2,
        "digest": [f"{draw(st.binary(min_size=32, max_size=32)).hex()}  {name}\n"],
        "name": [f"{digest}  {draw(st.text(st.characters(codec='utf-8'), max_size=12))}\n"],
        "outside": [f"{digest}  ../{name}\n"],
        "upper case": [f"{digest.upper()}  {name}\n"],
        "line end": [f"{digest}  {name}\r\n"],
        "exchanged": [f"{other[0]}  {name}\n"],
    }[kind]
    return "".join([*lines[:at], *changed, *lines[at + 1 :]]).encode(), f"line {at + 1}: {kind}"


# ------------------------------------------------------------------------------------------- checks
@contextmanager
def bounded() -> Iterator[None]:
    """Limit time and memory (POSIX).

    Raises:
        TimeoutError: after `SECONDS`.
        MemoryError: (or torch's own error) far more memory than a tiny model needs was requested.
    """

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        if Path("/proc/self/statm").is_file()
        else None
    )
    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    if used is not None:
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**31, limits[1]))
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def check(
    folder: Path, name: str, kind: str, report: Report, content: bytes, description: str
) -> None:
    """Check one input: replace file `name` of a good folder by `content`, then restore it."""
    from contrastive_ner.serving.inference import load_pipeline

    path = folder / name
    good, manifest = path.read_bytes(), (folder / MANIFEST).read_bytes()
    try:
        path.write_bytes(content)
        if content != good and is_visible(folder, name, manifest) and not faults_of(folder):
            report.fail(kind, f"{description}: verify found nothing")
            return
        if name == MANIFEST:
            report.count(kind, "verify finds it" if content != good else "unchanged")
            return
        write_manifest(folder)
        before = {entry.name for entry in folder.iterdir()}
        try:
            with bounded():
                load_pipeline(folder)
            outcome = "loads"
        except TimeoutError as error:
            report.fail(kind, f"{description}: {error}")
            return
        except (ValueError, OSError) as error:
            outcome = type(error).__name__
        except Exception as error:  # undocumented errors are what we look for
            report.fail(kind, f"{description}: {type(error).__name__}: {str(error)[:200]}")
            return
        if {entry.name for entry in folder.iterdir()} != before:
            report.fail(kind, f"{description}: loading wrote files")
        else:
            report.count(kind, outcome)
    finally:
        path.write_bytes(good)
        (folder / MANIFEST).write_bytes(manifest)


def is_visible(folder: Path, name: str, manifest: bytes) -> bool:
    """Whether a manifest can reveal the change; a reordered manifest is equivalent."""
    if name != MANIFEST:
        return True
    try:
        changed = read_manifest(folder)
    except ValueError:
        return True
    lines = [line.split() for line in manifest.decode().splitlines()]
    return changed != {file: digest for digest, file in lines}


def fuzz(folders: dict[str, Path], examples: int) -> Report:
    """Check `examples` inputs of each kind for each model (manifests: first model only)."""
    report = Report()
    for method, folder in folders.items():
        kinds: dict[str, tuple[str, Callable[[bytes], st.SearchStrategy]]] = {
            "weights": ("model.safetensors", lambda content: damaged_bytes(content, 4000)),
            "header": ("model.safetensors", lying_header),
            "config": ("config.json", hostile_config),
            "config bytes": ("config.json", lambda content: damaged_bytes(content, len(content))),
        }
        if len(report.outcomes) == 0:
            kinds["manifest"] = (MANIFEST, lying_manifest)
            kinds["manifest bytes"] = (
                MANIFEST,
                lambda content: damaged_bytes(content, len(content)),
            )
        for kind, (name, strategy) in kinds.items():
            draw_each(
                strategy((folder / name).read_bytes()),
                examples,
                partial(check, folder, name, f"{method}, {kind}", report),
            )
    return report


def draw_each(
    strategy: st.SearchStrategy, examples: int, use: Callable[[bytes, str], None]
) -> None:
    """Call `use` with `examples` inputs drawn from a strategy, the same ones each time."""

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(drawn: tuple[bytes, str]) -> None:
        use(*drawn)

    each()


def tiny_models(folder: Path) -> dict[str, Path]:
    """Package a minimal untrained model of each method; {method: folder}."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    from contrastive_ner.files import write_json
    from contrastive_ner.models.modeling_binder import BinderModel
    from contrastive_ner.models.modeling_nerco import NercoForTokenClassification

    tokenizer = AutoTokenizer.from_pretrained(ROOT / "encoders" / "zh-char-mini")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    encoder = str(folder / "encoder")
    descriptions = {"PER": "人名", "ORG": "机构的名字"}
    models: dict[str, Any] = {
        "nerco": NercoForTokenClassification.from_encoder(
            encoder, ["O", "B-PER", "I-PER"], label_unit="token"
        ),
        "binder": BinderModel.from_encoders(
            encoder, descriptions=descriptions, label_unit="token", max_span_width=4
        ),
    }
    packages = {}
    for method, model in models.items():
        source = folder / f"{method}-model"
        model.save_pretrained(source)
        tokenizer.save_pretrained(source)
        (source / "README.md").write_text("---\nlicense: apache-2.0\n---\n# tiny\n", "utf-8")
        write_json({}, source / "metrics.json")
        write_json([], source / "examples.json")
        packages[method] = package(source, folder / method)
    return packages


def main() -> int:
    """Fuzz tiny models, print the report and return 1 if there were failures."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--examples", type=int, default=600, help="inputs of each of the ten kinds [600]"
    )
    parser.add_argument("--output", type=Path, help="JSON file for the report")
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp())
    try:
        report = fuzz(tiny_models(scratch), arguments.examples)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    result = report.to_dict()
    print(json.dumps(result, indent=1, ensure_ascii=False))
    if arguments.output:
        from contrastive_ner.files import write_json
        from contrastive_ner.provenance import provenance

        write_json(
            {
                **result,
                "command": f"python -m benchmarks.fuzz --examples {arguments.examples}",
                **provenance(),
            },
            arguments.output,
        )
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
