"""The demonstration behind `make demo`: NerCo, a CRF tagger and a plain token classifier.

All three train on the bundled corpus for the same number of epochs, with the same encoder and
seed. Their scores are printed side by side, then the NerCo model tags three sentences.
"""

import os
import subprocess
import sys
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from contrastive_ner.cli import main
from contrastive_ner.evaluation.report import score_table
from contrastive_ner.files import read_json
from contrastive_ner.training.settings import load_config

ROOT = Path(__file__).resolve().parent.parent
METHODS = ("nerco", "crf", "ce")
SENTENCES = (
    "昨天下午，李明远教授在南京大学鼓楼校区讲了一堂关于长江大桥的课。",
    "新买的华为Mate 70到了😀，从深圳寄到成都只用了两天！",
    "妈，您别等我吃饭了，今晚要加班。",
)
TAG = """
import json, sys
from transformers import pipeline
ner = pipeline("ner", model=sys.argv[1], trust_remote_code=True)
for text in sys.argv[2:]:
    print(text)
    for mention in ner(text):
        print("   ", json.dumps(mention, ensure_ascii=False))
"""


def demo(seed: int = 0) -> None:
    """Train, compare, tag."""
    os.chdir(ROOT)  # the configuration names files of the clone
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    started = time.monotonic()
    print("Trains three taggers; takes about 5 minutes on two idle CPU cores.", flush=True)
    results = {}
    for method in METHODS:
        print(f"\n=== training {method}", flush=True)
        overrides = [f"method={method}", f"seed={seed}"]
        with redirect_stdout(StringIO()):  # its own tables: they follow side by side
            code = main(["train", "configs/demo.yaml", *overrides])
        if code:
            raise SystemExit(code)
        run_dir = load_config("configs/demo.yaml", overrides).run_dir
        results[method] = read_json(run_dir / "metrics.json")
    for split in ("dev", "test"):
        print(f"\n=== {split}: NerCo, CRF tagger, plain token classifier (percent, seed {seed})")
        print(score_table({method: metrics[split] for method, metrics in results.items()}))
    model = load_config("configs/demo.yaml", [f"seed={seed}"]).run_dir / "model"
    print('\n=== pipeline("ner") in a new process, with the code in the model folder', flush=True)
    command = [sys.executable, "-c", TAG, str(model), *SENTENCES]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    phases = [phase for metrics in results.values() for phase in metrics["phases"].values()]
    training, seconds = sum(phase["seconds"] for phase in phases), time.monotonic() - started
    print(f"\nHub-ready folder: {model} (training {training:.0f} s, total {seconds:.0f} s)")


if __name__ == "__main__":
    demo()
