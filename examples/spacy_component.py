"""Train a small tagger and use it as a component of spaCy. Needs the extra spacy.

python examples/spacy_component.py OUTPUT [STEPS]      (in a clone of the repository)
"""

import sys

import spacy
from transformers import AutoTokenizer, Trainer, TrainingArguments

import contrastive_ner as cn

output, steps = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100
encoder = "encoders/zh-char-mini"
tokenizer = AutoTokenizer.from_pretrained(encoder)
records, _ = cn.read_records("samples/zh/train.jsonl")
labels = cn.bio_labels(cn.entity_types(records))
reader = cn.text_reader(tokenizer, label_unit="token", max_window_tokens=128)
features, _ = cn.tag_features(records, reader, labels)
model = cn.NercoForTokenClassification.from_encoder(encoder, labels, label_unit="token")
args = TrainingArguments(f"{output}/run", max_steps=steps, learning_rate=5e-4, report_to="none")
collator = cn.TagCollator(tokenizer.pad_token_id)
Trainer(model=model, args=args, train_dataset=features, data_collator=collator).train()
model.save_pretrained(f"{output}/model")
tokenizer.save_pretrained(f"{output}/model")

nlp = spacy.blank("zh")
nlp.add_pipe("contrastive_ner", config={"model": f"{output}/model"})
for doc in nlp.pipe(["王经理明天从上海虹桥站出发", "李明在北京大学读书"]):
    print([(ent.text, ent.label_, round(ent._.score, 2)) for ent in doc.ents])
nlp.to_disk(f"{output}/pipeline")  # with a copy of the model
nlp = spacy.load(f"{output}/pipeline")
print(nlp("王经理明天从上海虹桥站出发").ents)
