"""One call trains a tagger on a `datasets` data set; `map` tags another one with it, in batches.

python examples/datasets_map.py OUTPUT [STEPS]      (in a clone of the repository)
"""

import sys

from datasets import Dataset

import contrastive_ner as cn

output, steps = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 60
data = {
    split: Dataset.from_json(f"samples/zh/{split}.jsonl").rename_column("text", "sentence")
    for split in ("train", "dev", "test")
}
trainer = cn.NerTrainer(
    "encoders/zh-char-mini",
    {
        "method": "crf", "output_dir": f"{output}/run", "train_texts": 16 * steps,
        "stage1_epochs": 0, "head_epochs": 0, "stage2_epochs": 1,
    },
    data["train"],
    data["dev"],
    column_mapping={"sentence": "text"},
)  # fmt: skip
print("dev F1", trainer.train()["dev"]["micro"]["f1"])
trainer.pipeline.save_pretrained(f"{output}/model")

# The same class is for Ray Data and Spark: docs/serving.md.
tagger = cn.BatchTagger(f"{output}/model", "sentence")
tagged = data["test"].select_columns("sentence").map(tagger, batched=True, batch_size=512)
print(tagged[0]["sentence"], tagged[0]["entities"])
