"""The demonstration behind `make demo`: NerCo and a plain token classifier on the bundled corpus, side by side.

Both train for the same number of epochs with the same encoder and seed; then the trained NerCo tags three sentences.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from contrastive_ner.cli import main
from contrastive_ner.evaluation.report import score_table
from contrastive_ner.files import read_json
from contrastive_ner.training.config import load_config

ROOT = Path(__file__).resolve().parent.parent
os.chdir(ROOT)
os.environ.setdefault("HF_HUB_OFFLINE", "1")

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
    started = time.monotonic()
    results = {}
    for method in ("nerco", "ce"):
        print(f"\n=== {method}")
        overrides = [f"method={method}", f"seed={seed}"]
        if main(["train", "configs/demo.yaml", *overrides]):
            raise SystemExit(1)
        results[method] = read_json(
            load_config("configs/demo.yaml", overrides).run_dir / "metrics.json"
        )
    for split in ("dev", "test"):
        print(
            f"\n=== {split}: NerCo beside a plain token classifier of the same number of epochs (seed {seed}, percent)"
        )
        print(score_table({method: metrics[split] for method, metrics in results.items()}))
    training = sum(
        phase["seconds"] for metrics in results.values() for phase in metrics["phases"].values()
    )
    model = load_config("configs/demo.yaml", [f"seed={seed}"]).run_dir / "model"
    print(
        '\n=== pipeline("ner") with the trained model, in a process of its own, by the code that travels with it',
        flush=True,
    )
    subprocess.run(
        [sys.executable, "-c", TAG, str(model), *SENTENCES], check=True, stderr=subprocess.DEVNULL
    )
    print(
        f"\nHub-ready folder: {model}   (training {training:.0f} s, all {time.monotonic() - started:.0f} s)"
    )


if __name__ == "__main__":
    demo()
