"""Train a LoRA adapter of BINDER, open it, merge it. Needs the extra peft.

python examples/lora.py OUTPUT [STEPS]      (in a clone of the repository)
"""

import sys

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoTokenizer, Trainer, TrainingArguments

import contrastive_ner as cn

output, steps = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100
encoder = "encoders/zh-char-mini"
tokenizer = AutoTokenizer.from_pretrained(encoder)
records, _ = cn.read_records("samples/zh/train.jsonl")
texts = {
    "PER": "人物：人的名字。",
    "ORG": "机构：公司、学校的名字。",
    "LOC": "地点：山河、城市的名字。",
}
records = [cn.Record(r.id, r.text, [m for m in r.entities if m.label in texts]) for r in records]
base = cn.BinderModel.from_encoders(encoder, descriptions=texts, label_unit="token")
base.save_pretrained(f"{output}/base")
tokenizer.save_pretrained(f"{output}/base")
base = cn.BinderModel.from_pretrained(f"{output}/base")

reader = cn.text_reader(tokenizer, label_unit="token", max_window_tokens=128)
width = base.config.max_span_width
features, _ = cn.span_features(records, reader, base.config.labels, max_width=width, overlap=width)
config = LoraConfig(target_modules=["query", "value"], modules_to_save=["heads", "type_heads"])
model = get_peft_model(base, config)
args = TrainingArguments(
    f"{output}/run",
    max_steps=steps,
    learning_rate=1e-3,
    remove_unused_columns=False,  # peft's model does not name its arguments
    label_names=["labels"],
    report_to="none",
)
Trainer(model=model, args=args, train_dataset=features, data_collator=cn.SpanCollator(0)).train()
model.save_pretrained(f"{output}/adapter")

opened = cn.load_pipeline(f"{output}/adapter")  # as pipeline("ner", model=...) does
print(opened("王经理明天从上海虹桥站出发"))
merged = PeftModel.from_pretrained(
    cn.BinderModel.from_pretrained(f"{output}/base"), f"{output}/adapter"
)
merged.merge_and_unload().save_pretrained(f"{output}/model")
tokenizer.save_pretrained(f"{output}/model")
