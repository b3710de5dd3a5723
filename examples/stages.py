"""Stage one (contrastive) and stage two (tagger) by hand.

python examples/stages.py OUTPUT [STEPS]      (in a clone of the repository)
"""

import sys

from transformers import AutoTokenizer, Trainer, TrainingArguments

import contrastive_ner as cn

output, steps = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100
encoder, shared = "encoders/zh-char-mini", {"label_unit": "token", "max_window_tokens": 128}
tokenizer = AutoTokenizer.from_pretrained(encoder)
reader = cn.text_reader(tokenizer, **shared)
train, dev = (cn.read_records(f"samples/zh/{split}.jsonl")[0] for split in ("train", "dev"))
labels = cn.bio_labels(cn.entity_types(train))
train, dev = (cn.tag_features(records, reader, labels)[0] for records in (train, dev))

model = cn.NercoModel.from_encoder(encoder, **shared)
args = cn.ContrastiveTrainingArguments(f"{output}/one", max_steps=steps, report_to="none")
classes = cn.semantic_classes(labels)
one = cn.ContrastiveTrainer(
    model, args, train_dataset=train, eval_dataset=dev, label_classes=classes
)
one.train()
print("token F1 of the nearest neighbours", one.evaluate()["eval_knn_f1"])
model.save_pretrained(f"{output}/stage1")

tagger = cn.NercoForTokenClassification.from_pretrained(f"{output}/stage1", labels=labels)
two = Trainer(
    model=tagger,
    args=TrainingArguments(f"{output}/two", max_steps=steps, learning_rate=5e-4, report_to="none"),
    train_dataset=train,
    eval_dataset=dev,
    data_collator=cn.TagCollator(tokenizer.pad_token_id),
    **cn.decoded_metrics(tagger),
)
two.train()
print("dev F1", two.evaluate()["eval_f1"])
tagger.save_pretrained(f"{output}/model")
tokenizer.save_pretrained(f"{output}/model")
