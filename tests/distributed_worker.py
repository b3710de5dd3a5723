"""Run one step of each case of tests/test_distributed.py and write the gradients to a file.

Runs alone or under torchrun:

python tests/distributed_worker.py ENCODER_DIR OUTPUT_DIR
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoTokenizer, TrainerCallback, TrainingArguments, set_seed

from contrastive_ner.data.documents import join_documents
from contrastive_ner.data.records import Mention, Record
from contrastive_ner.models.lexicon_ner import Lexicon
from contrastive_ner.models.matching_ner import LexiconReader
from contrastive_ner.models.modeling_binder import BinderModel
from contrastive_ner.models.modeling_nerco import NercoForTokenClassification, NercoModel
from contrastive_ner.models.pipeline_ner import text_reader
from contrastive_ner.models.windows_ner import TextReader, prepare
from contrastive_ner.training.batches import SpanCollator, TagCollator
from contrastive_ner.training.binder import BinderTrainer, DocumentCounts, SpanCounts
from contrastive_ner.training.contrastive import ContrastiveTrainer, ContrastiveTrainingArguments
from contrastive_ner.training.decoding import tag_scores
from contrastive_ner.training.features import span_features, tag_features
from contrastive_ner.training.joint import JointTrainer
from contrastive_ner.training.losses import semantic_classes
from contrastive_ner.training.sentence_trainer import SentenceTrainer
from contrastive_ner.training.weights import tag_weights

ROOT = Path(__file__).resolve().parent.parent

LABELS = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG"]
DESCRIPTIONS = {"PER": "人名", "ORG": "公司、学校等机构"}
PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))
GLOBAL_BATCH = 8
CASES = {
    "pairwise": {},
    "with O": {"with_o": True},
    "Khosla": {"contrastive_loss": "supcon"},
    "chunks": {"chunk_size": 1},
    "projection": {"projection_size": 6},
    "projection, chunks": {"projection_size": 6, "chunk_size": 1},
    "one sentence with entities": {},
    "odd number of sentences": {},
    "words": {},
    "words, chunks": {"chunk_size": 1},
}


class Gradients(TrainerCallback):
    """Keep the gradients of the step and the number of tokens they come from."""

    def __init__(self) -> None:
        self.found: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        self.found = {
            name.removeprefix("module."): p.grad.clone()
            for name, p in model.named_parameters()
            if p.grad is not None
        }


def records(case: str) -> list[Record]:
    """Sentences of different lengths.

    In one case only one has an entity, so that one of two processes has none.
    """
    found = []
    for i in range(9 if case.startswith("odd") else 8):
        text, entities = (
            f"张三{'又' * (i % 3)}去华为了",
            [Mention(0, 2, "PER"), Mention(3 + i % 3, 5 + i % 3, "ORG")],
        )
        found.append(
            Record(str(i), text, [] if case.startswith("one sentence") and i else entities)
        )
    return found


def reader_of(encoder: str) -> TextReader:
    return text_reader(
        AutoTokenizer.from_pretrained(encoder), label_unit="token", max_window_tokens=64
    )


def features(case: str, encoder: str) -> list[dict]:
    reader = reader_of(encoder)
    if case.startswith("words"):
        words = Lexicon({"张三": "PER", "张三又": None, "华为": None})
        reader = LexiconReader(reader, words, ["PER"])
    return tag_features(records(case), reader, LABELS)[0]


def encoder_model(case: str, encoder: str) -> NercoModel:
    """The model of stage one; with words, they all count."""
    if not case.startswith("words"):
        return NercoModel.from_encoder(encoder, label_unit="token")
    model = NercoModel.from_encoder(
        encoder,
        label_unit="token",
        lexicon_fusion="adapter",
        lexicon_types=["PER"],
        lexicon_dropout=0.0,
        lexicon_absent=0.0,
    )
    torch.nn.init.normal_(model.lexicon_adapter.output, std=0.1)
    return model


def shared(output: Path) -> dict:
    return {
        "output_dir": str(output),
        "per_device_train_batch_size": GLOBAL_BATCH // PROCESSES,
        "per_device_eval_batch_size": 3,
        "max_steps": 1,
        "max_grad_norm": 0.0,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "label_names": ["labels"],
    }


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def document_scores(trainer: BinderTrainer, encoder: str) -> dict[str, float]:
    """Scores of one document in several windows, which the processes share."""
    reader = text_reader(
        AutoTokenizer.from_pretrained(encoder), label_unit="token", max_window_tokens=16
    )
    documents = join_documents([replace(record, doc="d") for record in records("BINDER")])
    data, _ = span_features(
        [d.record for d in documents], reader, list(DESCRIPTIONS), max_width=4, overlap=None
    )
    rows = prepare(reader, [d.record.text for d in documents], min_overlap=4)
    trainer.model.config.decoding = "flat"
    trainer.documents = trainer.compute_metrics = DocumentCounts(documents, rows)
    found = trainer.evaluate([{**row, "number": number} for number, row in enumerate(data)])
    return {name: found[f"eval_{name}"] for name in ("precision", "recall", "f1")}


def main(encoder: str, output: Path) -> None:
    collator = TagCollator(0)
    gradients, metrics = {}, {}
    classes = semantic_classes(LABELS)
    for case, options in CASES.items():
        set_seed(0)
        kept = Gradients()
        data = features(case, encoder)
        trainer = ContrastiveTrainer(
            model=without_dropout(encoder_model(case, encoder)),
            args=ContrastiveTrainingArguments(**shared(output), **options),
            train_dataset=data,
            eval_dataset=data,
            data_collator=collator,
            label_classes=classes,
            callbacks=[kept],
        )
        trainer.train()
        gradients[case] = kept.found
        metrics[case] = {
            name: value
            for name, value in trainer.evaluate().items()
            if not name.endswith(("runtime", "second"))
        }
    for case, kind, extra in (
        ("tagger", SentenceTrainer, {}),
        ("joint", JointTrainer, {"label_classes": classes, "weight": 0.5, "temperature": 0.1}),
        ("weighted", SentenceTrainer, {}),
    ):
        set_seed(0)
        kept = Gradients()
        model = without_dropout(
            NercoForTokenClassification.from_encoder(encoder, LABELS, label_unit="token")
        )
        data = features(case, encoder)
        trainer = kind(
            model=model,
            args=TrainingArguments(**shared(output)),
            train_dataset=data,
            eval_dataset=data,
            data_collator=collator,
            callbacks=[kept],
            compute_metrics=lambda prediction: tag_scores(
                prediction.predictions, prediction.label_ids, LABELS
            ),
            preprocess_logits_for_metrics=lambda logits, labels, model=model: model.viterbi(
                logits, labels != -100
            ),
            **extra,
        )
        if case == "weighted":
            trainer.tag_weights = tag_weights(LABELS, {"PER": 1.5, "ORG": 0.5})
        trainer.train()
        gradients[case] = kept.found
        metrics[case] = {
            name: value
            for name, value in trainer.evaluate().items()
            if not name.endswith(("runtime", "second"))
        }
    for case in ("BINDER", "BINDER, one sentence with entities"):
        set_seed(0)
        kept = Gradients()
        data, _ = span_features(
            records(case.removeprefix("BINDER, ")),
            reader_of(encoder),
            list(DESCRIPTIONS),
            max_width=4,
            overlap=4,
        )
        fields = {
            "descriptions": DESCRIPTIONS,
            "label_unit": "token",
            "max_span_width": 4,
            "projection_dropout": 0.0,
        }
        trainer = BinderTrainer(
            model=without_dropout(BinderModel.from_encoders(encoder, **fields)),
            args=TrainingArguments(**shared(output), batch_eval_metrics=True),
            train_dataset=data,
            eval_dataset=data,
            data_collator=SpanCollator(0),
            callbacks=[kept],
            compute_metrics=SpanCounts(),
        )
        trainer.train()
        gradients[case] = kept.found
        metrics[case] = {
            name: value
            for name, value in trainer.evaluate().items()
            if not name.endswith(("runtime", "second"))
        }
    metrics["BINDER, documents"] = document_scores(trainer, encoder)
    rank = int(os.environ.get("RANK", "0"))
    torch.save({"gradients": gradients, "metrics": metrics}, output / f"{PROCESSES}-{rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
