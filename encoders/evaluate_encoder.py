#!/usr/bin/env python3
"""Fine-tune a Chinese character encoder with a linear head and print entity F1.

    python evaluate_encoder.py --encoder zh-char-mini --data DIR --task weibo --seeds 0 1

Tasks, each on development text only unless --test is given (resume and uner):
    weibo    5 folds over train + dev, the F1 of all folds' mentions together
    resume   trained on train, measured on dev
    uner     UNER Chinese-GSD, trained on train, measured on dev

With --windows the dev sentences of resume and uner are also joined to one text and read in windows
of so many tokens, with the same tagger.

DIR holds the folders weibo, resume and uner_zh_gsd with their column files.  Needs torch and
transformers.  The recipe: AdamW, encoder 2e-4, head 1e-3, batch 16, 10 % warm-up, linear decay,
Weibo 6 epochs, the others 4, dropout 0.1, bf16 autocast, the last epoch; no CRF.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

FILES = {
    "weibo": "weibo/weiboNER_2nd_conll.{}",
    "resume": "resume/{}.char.bmes",
    "uner": "uner_zh_gsd/zh_gsd-ud-{}.iob2",
}
EPOCHS = {"weibo": 6, "resume": 4, "uner": 4}
BATCH, ENCODER_LR, HEAD_LR, WARM, DROPOUT = 16, 2e-4, 1e-3, 0.1, 0.1
LONGEST = 254  # characters of a sentence that are read, without [CLS] and [SEP]

Span = tuple[int, int, str]  # char_start, char_end, type
Mention = tuple[int, int, int, str]  # sentence, char_start, char_end, type


@dataclass
class Sentence:
    """A text, one code point a character, and its entities."""

    text: str
    spans: list[Span]


# ---------------------------------------------------------------- column files
def read_columns(path: Path) -> Iterator[list[tuple[str, str]]]:
    """The (token, tag) pairs of each sentence of a file of this project's three layouts."""
    pairs: list[tuple[str, str]] = []
    for raw in path.read_text(encoding="utf-8").split("\n"):
        line = raw.rstrip("\r")
        if line.startswith("# ") and "\t" not in line:
            continue
        if not line.strip():
            if pairs:
                yield pairs
            pairs = []
            continue
        if path.suffix == ".iob2":
            _, token, tag, *_ = line.split("\t")
        elif path.suffix == ".bmes":
            token, _, tag = line.rpartition(" ")
        else:
            token, tag = line.split("\t")
            token = token[0]  # the rest is the index of the character in its word
        pairs.append((token, tag))
    if pairs:
        yield pairs


def spans_of(pairs: list[tuple[str, str]]) -> Sentence:
    """Tags of BIO or BMES to half-open character spans; a stray I, M or E continues or opens."""
    text, spans, start, kind = "", [], 0, ""
    for token, tag in [*pairs, ("", "O")]:
        mark, _, name = tag.partition("-")
        if kind and (mark in "BSO" or name != kind):
            spans.append((start, len(text), kind))
            kind = ""
        if mark != "O" and not kind:
            start, kind = len(text), name
        text += token
    return Sentence(text, spans)


def read(data: Path, task: str, part: str) -> list[Sentence]:
    """The sentences of one part of a set, cut at LONGEST characters."""
    found = [spans_of(p) for p in read_columns(data / FILES[task].format(part))]
    return [Sentence(s.text[:LONGEST], [x for x in s.spans if x[1] <= LONGEST]) for s in found]


# ---------------------------------------------------------------- tags and scores
def tags_of(sentence: Sentence, names: list[str]) -> list[int]:
    """BIO classes: 0 is O, then B and I of each type."""
    tags = [0] * len(sentence.text)
    for start, end, kind in sentence.spans:
        first = 1 + 2 * names.index(kind)
        tags[start:end] = [first] + [first + 1] * (end - start - 1)
    return tags


def decode(tags: list[int], names: list[str]) -> set[Span]:
    """BIO classes to spans; an I that continues nothing opens a span."""
    spans, start, kind = set(), 0, -1
    for at, tag in enumerate([*tags, 0]):
        own, inside = (tag - 1) // 2, tag > 0 and tag % 2 == 0
        if kind >= 0 and not (inside and own == kind):
            spans.add((start, at, names[kind]))
            kind = -1
        if tag and kind < 0:
            start, kind = at, own
    return spans


def f1(found: set, gold: set) -> float:
    """F1 of two sets of mentions; 0 where both are empty."""
    return 2 * len(found & gold) / max(1, len(found) + len(gold))


# ---------------------------------------------------------------- the tagger
class Tagger(nn.Module):
    """Encoder, dropout, linear head."""

    def __init__(self, encoder: str, classes: int) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(
            encoder, add_pooling_layer=False, attn_implementation="eager"
        )
        self.dropout = nn.Dropout(DROPOUT)
        self.head = nn.Linear(self.encoder.config.hidden_size, classes)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Ids and mask (B, T) to logits (B, T, C)."""
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return self.head(self.dropout(hidden))


class Experiment:
    """An encoder's tokenizer and the set's types; trains taggers and reads with them."""

    def __init__(self, encoder: str, names: list[str]) -> None:
        self.encoder, self.names = encoder, names
        self.tokenizer = AutoTokenizer.from_pretrained(encoder)

    def collate(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask, (B, T); one token a code point between [CLS] and [SEP]."""
        batch = self.tokenizer(texts, padding=True, return_tensors="pt")
        lengths = batch["attention_mask"].sum(1).tolist()
        if lengths != [len(t) + 2 for t in texts]:
            raise ValueError(f"{self.encoder}: its tokenizer does not give a token a code point")
        return batch["input_ids"], batch["attention_mask"]

    def train(self, sentences: list[Sentence], epochs: int, seed: int) -> Tagger:
        """A tagger after `epochs` over the sentences."""
        torch.manual_seed(seed)
        rng = random.Random(seed)
        model = Tagger(self.encoder, 1 + 2 * len(self.names)).train()
        groups = [
            {"params": list(model.encoder.parameters()), "lr": ENCODER_LR},
            {"params": list(model.head.parameters()), "lr": HEAD_LR},
        ]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)
        steps = epochs * -(-len(sentences) // BATCH)
        schedule = transformers.get_linear_schedule_with_warmup(
            optimizer, round(WARM * steps), steps
        )
        for _ in range(epochs):
            for batch in batches(sentences, rng):
                loss = self.loss(model, batch)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
        return model.eval()

    def loss(self, model: Tagger, batch: list[Sentence]) -> Tensor:
        """Cross-entropy over the characters of the batch."""
        ids, mask = self.collate([s.text for s in batch])
        gold = torch.full(ids.shape, -100)  # (B, T)
        for row, sentence in enumerate(batch):
            tags = tags_of(sentence, self.names)
            gold[row, 1 : len(tags) + 1] = torch.tensor(tags)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(ids, mask)
        return F.cross_entropy(logits.float().flatten(0, 1), gold.flatten(), ignore_index=-100)

    @torch.inference_mode()
    def tag(self, model: Tagger, texts: list[str]) -> list[list[int]]:
        """The best class of each character."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        tags: list[list[int]] = [[] for _ in texts]
        for at in range(0, len(order), 32):
            rows = order[at : at + 32]
            with torch.autocast("cpu", torch.bfloat16):
                best = model(*self.collate([texts[i] for i in rows])).argmax(-1)
            for row, i in enumerate(rows):
                tags[i] = best[row, 1 : len(texts[i]) + 1].tolist()
        return tags

    def read(self, model: Tagger, texts: list[str]) -> set[Mention]:
        """The mentions of all texts."""
        tags = self.tag(model, texts)
        return {(i, *span) for i, t in enumerate(tags) for span in decode(t, self.names)}

    def read_windows(self, model: Tagger, text: str, window: int) -> set[Mention]:
        """The mentions of one long text, read in windows of `window` tokens that overlap by half.

        A character is tagged by the window in which it is farthest from an edge."""
        size = window - 2
        starts = range(0, max(1, len(text) - size // 2), size // 2)
        tags, depth = [0] * len(text), [-1] * len(text)
        pieces = [text[s : s + size] for s in starts]
        for start, own in zip(starts, self.tag(model, pieces), strict=True):
            for at, tag in enumerate(own):
                room = min(at, len(own) - 1 - at)
                if room > depth[start + at]:
                    depth[start + at], tags[start + at] = room, tag
        return {(0, *span) for span in decode(tags, self.names)}


def batches(sentences: list[Sentence], rng: random.Random) -> list[list[Sentence]]:
    """Random batches of sentences of about one length."""
    order = rng.sample(sentences, len(sentences))
    made = []
    for at in range(0, len(order), 8 * BATCH):
        block = sorted(order[at : at + 8 * BATCH], key=lambda s: len(s.text))
        made += [block[b : b + BATCH] for b in range(0, len(block), BATCH)]
    rng.shuffle(made)
    return made


# ---------------------------------------------------------------- tasks
def gold_of(sentences: Iterable[Sentence]) -> set[Mention]:
    """The annotated mentions."""
    return {(i, *span) for i, s in enumerate(sentences) for span in s.spans}


def names_of(sentences: Iterable[Sentence]) -> list[str]:
    """The entity types, sorted."""
    return sorted({kind for s in sentences for *_, kind in s.spans})


def folds(args: argparse.Namespace, seed: int) -> dict[str, float]:
    """F1 over the mentions of five folds of Weibo's train + dev."""
    pool = read(args.data, "weibo", "train") + read(args.data, "weibo", "dev")
    random.Random(0).shuffle(pool)
    experiment = Experiment(args.encoder, names_of(pool))
    found: set[Mention] = set()
    gold: set[Mention] = set()
    each = {}
    for fold in args.folds:
        held = [i for i in range(len(pool)) if i % 5 == fold]
        model = experiment.train(
            [s for i, s in enumerate(pool) if i % 5 != fold], EPOCHS["weibo"], seed
        )
        own = experiment.read(model, [pool[i].text for i in held])
        each[f"fold_{fold}"] = f1(own, gold_of(pool[i] for i in held))
        found |= {(held[i], start, end, kind) for i, start, end, kind in own}
        gold |= {(i, *span) for i in held for span in pool[i].spans}
        print(f"seed {seed} fold {fold} F1 {each[f'fold_{fold}']:.4f}", file=sys.stderr, flush=True)
    return {"f1": f1(found, gold), **each}


def single(args: argparse.Namespace, task: str, seed: int) -> dict[str, float]:
    """F1 on dev (and test) after training on train; windows over the joined dev text too."""
    train, dev = read(args.data, task, "train"), read(args.data, task, "dev")
    experiment = Experiment(args.encoder, names_of(train + dev))
    model = experiment.train(train, EPOCHS[task], seed)
    scores = {"f1": f1(experiment.read(model, [s.text for s in dev]), gold_of(dev))}
    if args.test:
        test = read(args.data, task, "test")
        scores["test_f1"] = f1(experiment.read(model, [s.text for s in test]), gold_of(test))
    joined = Sentence("", [])
    for sentence in dev:
        at = len(joined.text)
        joined.spans += [(at + a, at + z, kind) for a, z, kind in sentence.spans]
        joined.text += sentence.text
    for window in args.windows:
        own = experiment.read_windows(model, joined.text, window)
        scores[f"window_{window}"] = f1(own, gold_of([joined]))
    return scores


def main() -> None:
    """Measure each task and seed; print and write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", required=True, help="folder of AutoModel and AutoTokenizer")
    parser.add_argument("--data", required=True, type=Path, help="folder of the column files")
    parser.add_argument("--task", nargs="+", choices=list(FILES), default=list(FILES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--folds", nargs="+", type=int, choices=range(5), default=[0, 1, 2, 3, 4], help="of weibo"
    )
    parser.add_argument("--windows", nargs="*", type=int, default=[], help="e.g. 128 256")
    parser.add_argument("--test", action="store_true", help="measure resume and uner on test too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    report: dict = {
        "command": " ".join(["evaluate_encoder.py", *sys.argv[1:]]),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "scores": {},
    }
    for task in args.task:
        for seed in args.seeds:
            started = time.time()
            scores = folds(args, seed) if task == "weibo" else single(args, task, seed)
            rounded = {k: round(v, 4) for k, v in scores.items()}
            report["scores"][f"{task}/seed_{seed}"] = rounded
            print(task, seed, rounded, f"{time.time() - started:.0f} s", flush=True)
            if args.out:
                args.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
