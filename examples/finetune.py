"""Fine-tune a tagger with the standard Trainer, on a `datasets` data set, and fit its scores.

python examples/finetune.py OUTPUT [STEPS]      (in a clone of the repository)
"""

import sys

from datasets import Dataset
from transformers import AutoTokenizer, Trainer, TrainingArguments

import contrastive_ner as cn

output, steps = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100
encoder = "encoders/zh-char-mini"
tokenizer = AutoTokenizer.from_pretrained(encoder)
records = {split: cn.read_records(f"samples/zh/{split}.jsonl")[0] for split in ("train", "dev")}
labels = cn.bio_labels(cn.entity_types(records["train"]))


def rows(split: str) -> Dataset:
    """Characters and tag ids, as on the Hub."""
    found = []
    for record in records[split]:
        tags = ["O"] * len(record.text)
        for mention in cn.outermost(record.entities)[0]:
            tags[mention.start : mention.end] = [f"I-{mention.label}"] * (
                mention.end - mention.start
            )
            tags[mention.start] = f"B-{mention.label}"
        found.append({"tokens": list(record.text), "ner_tags": [labels.index(t) for t in tags]})
    return Dataset.from_list(found)


def features(row: dict) -> dict:
    """One token per character, with special tokens around; -100 where there is no label."""
    tokens, tags = row["tokens"][:126], row["ner_tags"][:126]
    ids = tokenizer("".join(tokens))["input_ids"]
    return {"input_ids": ids, "labels": [-100, *tags, -100]}


data = {split: rows(split).map(features) for split in records}
model = cn.NercoForTokenClassification.from_encoder(encoder, labels, label_unit="token")
trainer = Trainer(
    model=model,
    args=TrainingArguments(output, max_steps=steps, learning_rate=5e-4, report_to="none"),
    train_dataset=data["train"],
    eval_dataset=data["dev"],
    data_collator=cn.TagCollator(tokenizer.pad_token_id),
    **cn.decoded_metrics(model),
)
trainer.train()
print("dev F1", trainer.evaluate()["eval_f1"])
print(cn.calibrate(model, data["dev"]))
model.save_pretrained(f"{output}/model")
tokenizer.save_pretrained(f"{output}/model")
print(cn.load_pipeline(f"{output}/model")("王经理明天从上海虹桥站出发"))
