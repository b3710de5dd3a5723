"""Speed of the CRF decoder compared with that of another version of this project.

python -m benchmarks.crf_decoder OTHER [--repetitions N] [--output FILE]

OTHER is a checkout of another version, 0.1.0 or later. Both versions decode and learn from the
same random logits, each in processes of its own, in turns. The ratios are other / this: above 1
this version is faster.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median, quantiles

from contrastive_ner.files import write_json
from contrastive_ner.provenance import provenance

ROOT = Path(__file__).resolve().parent.parent
SIZES = {"windows": 32, "tokens": 126, "types": 8}
WORKER = """
import json, os, sys, time
import numpy as np, torch
from transformers import BertConfig
if os.path.isdir("contrastive_ner"):
    from contrastive_ner.models.modeling_nerco import NercoConfig, NercoForTokenClassification
    from contrastive_ner.models import crf_ner
else:  # version 0.1.0: flat modules
    from modeling_nerco import NercoConfig, NercoForTokenClassification
    import runtime_onnx
    crf_ner = None
sizes = json.loads(sys.argv[1])
torch.manual_seed(0)
labels = ["O", *(f"{prefix}-{n}" for n in range(sizes["types"]) for prefix in "BI")]
names = {"id2label": dict(enumerate(labels)), "label2id": {x: i for i, x in enumerate(labels)}}
encoder = BertConfig(
    vocab_size=8, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4
)
model = NercoForTokenClassification(NercoConfig(encoder_config=encoder, **names)).eval()
torch.nn.init.normal_(model.crf.transitions)
shape = sizes["windows"], sizes["tokens"], len(labels)
logits = 2 * torch.randn(shape)
logits[..., 0] += 4  # most tokens are outside
mask = torch.ones(shape[:2], dtype=torch.bool)
output = type("Output", (), {"logits": logits})()
tags = model.viterbi(logits, mask)
transitions, start = (scores.detach().numpy() for scores in model.crf.scores())

def onnx():
    if crf_ner is not None:
        packed = crf_ner.pack_left(logits.numpy(), mask.numpy())
        return crf_ner.decode_tags(*packed, transitions, start, labels)
    tags = runtime_onnx.Tags(labels, transitions, start, 1.0, False)
    return runtime_onnx.decode_tags(logits.numpy(), mask.numpy(), tags, {})

def learn():
    leaf = logits.clone().requires_grad_()
    model.loss(leaf, tags, mask).backward()

def seconds(job):
    job()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < 1:
        job()
        count += 1
    return (time.perf_counter() - began) / count

jobs = {"torch decode": lambda: model.decode(output, mask), "onnx decode": onnx, "loss": learn}
print(json.dumps({name: seconds(job) for name, job in jobs.items()}))
"""


def measure(checkout: Path) -> dict[str, float]:
    """Seconds of each job with the code of a checkout, on one thread."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER, json.dumps(SIZES)]
    done = subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def main() -> int:
    """Measure both versions in turns, print the ratios, write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", type=Path, help="checkout of another version")
    parser.add_argument("--repetitions", type=int, default=7, help="processes of each version [7]")
    output = ROOT / "results" / "crf_decoder.json"
    parser.add_argument("--output", type=Path, default=output, help="JSON file to write")
    arguments = parser.parse_args()
    pairs = [(measure(arguments.other), measure(ROOT)) for _ in range(arguments.repetitions)]
    rows = {}
    for name in pairs[0][1]:
        ratios = [other[name] / own[name] for other, own in pairs]
        low, _, high = quantiles(ratios, n=4)
        rows[name] = {
            "ratio": median(ratios),
            "quartiles": [low, high],
            "seconds": median(own[name] for _, own in pairs),
        }
        print(f"{name:<14} {rows[name]['ratio']:.2f} ({low:.2f} to {high:.2f})")
    command = "python -m benchmarks.crf_decoder OTHER"
    setting = {"sizes": SIZES, "repetitions": arguments.repetitions, "other": "0.1.0"}
    write_json({"rows": rows, **setting, "command": command, **provenance()}, arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
