"""Sections of benchmarks.speed: the contrastive loss, the CRF, training steps and the pipeline.

Each section sets up competitors, checks that they agree and measures them in turns. The arguments
of each `measure_...` are its sizes; the targets are stated for their defaults.

Notation: N tokens, A anchors, C tags, D width, B batch, T tokens in a sentence, n_c tokens of
class c.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForTokenClassification, AutoTokenizer, Trainer

from benchmarks.measuring import (
    Section,
    compare,
    in_turns,
    on_each,
    peak_bytes,
    summary,
)
from contrastive_ner.data.layout import Layout
from contrastive_ner.data.readers import read_records
from contrastive_ner.files import expand
from contrastive_ner.models.batches_ner import DEFAULT_BATCH_SIZE
from contrastive_ner.models.crf_layer_ner import (
    LinearChainCRF,
    crf_log_partition,
    crf_sequence_score,
    crf_viterbi,
)
from contrastive_ner.models.encoder_ner import IGNORED
from contrastive_ner.models.modeling_nerco import NercoForTokenClassification
from contrastive_ner.models.pipeline_ner import NerPipeline
from contrastive_ner.serving.inference import load_pipeline
from contrastive_ner.training.loading import load_data
from contrastive_ner.training.losses import pairwise_contrastive_loss
from contrastive_ner.training.phases import (
    ready_for_training,
    stage1_trainer,
    stage2_trainer,
    use_bf16,
)
from contrastive_ner.training.settings import load_config
from contrastive_ner.training.task import Task, prepare_task

ROOT = Path(__file__).resolve().parent.parent
ENCODER = str(ROOT / "encoders" / "zh-char-mini")


# --------------------------------------------------------------------------------- contrastive loss
def definition_loss(embeddings: Tensor, classes: Tensor, *, temperature: float) -> Tensor:
    """The pairwise loss by definition: one row of logits per ordered pair, positive and negatives.

    Computes sum over c of n_c (n_c - 1) (N - n_c + 1) logits, one class at a time, without a loop
    over tokens: (N, D), (N,) -> scalar.
    """
    z = F.normalize(embeddings, dim=-1)
    total = z.sum() * 0.0
    for c in classes[classes > 0].unique():
        members, others = (classes == c).nonzero().squeeze(1), (classes != c).nonzero().squeeze(1)
        if len(members) < 2 or len(others) == 0:
            continue
        scores = z[members] @ z.T / temperature  # (n_c, N)
        anchors, partners = (~torch.eye(len(members), dtype=torch.bool)).nonzero(
            as_tuple=True
        )  # (pairs,)
        positives = scores[anchors, members[partners]]  # (pairs,)
        negatives = scores[:, others][anchors]  # (pairs, N - n_c)
        logits = torch.cat([positives[:, None], negatives], dim=1)
        total = total + F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
    return total


def contrastive_tokens(
    tokens: int, types: int, entity_share: float, width: int
) -> tuple[Tensor, Tensor]:
    """Random embeddings (N, D) that require a gradient, and classes (N,).

    Types have equal sizes, the cheapest case for the definition.
    """
    generator = torch.Generator().manual_seed(0)
    entity_tokens = round(entity_share * tokens)
    classes = torch.zeros(tokens, dtype=torch.long)
    classes[:entity_tokens] = torch.arange(entity_tokens) % types + 1
    classes = classes[torch.randperm(tokens, generator=generator)]
    return torch.randn(tokens, width, generator=generator).requires_grad_(), classes


def value_and_gradient(
    loss: Callable[..., Tensor], embeddings: Tensor, classes: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """A loss and its gradient by the embeddings: (N, D), (N,) -> scalar, (N, D)."""
    value = loss(embeddings, classes, temperature=temperature)
    return value.detach(), torch.autograd.grad(value, embeddings)[0]


def product_and_gradient(z: Tensor, anchors: Tensor, upstream: Tensor) -> Tensor:
    """Forward and backward of only the similarity matrix (A, N) of normalised embeddings."""
    return torch.autograd.grad(z[anchors] @ z.T, z, upstream)[0]


def measure_loss(
    *,
    sentences: int = 40,
    length: int = 55,
    types: int = 4,
    entity_share: float = 0.07,
    width: int = 200,
    temperature: float = 0.08,
    repetitions: int = 30,
) -> Section:
    """Forward and backward of the stage-one loss.

    Competitors: its definition, and the bare matrix product inside it.
    """
    embeddings, classes = contrastive_tokens(sentences * length, types, entity_share, width)
    z = F.normalize(embeddings.detach(), dim=-1).requires_grad_()
    anchors = (classes > 0).nonzero().squeeze(1)
    upstream = torch.randn(len(anchors), len(classes), generator=torch.Generator().manual_seed(1))
    ours = partial(value_and_gradient, pairwise_contrastive_loss, embeddings, classes, temperature)
    definition = partial(value_and_gradient, definition_loss, embeddings, classes, temperature)
    torch.testing.assert_close(ours(), definition(), rtol=1e-4, atol=1e-6)

    # Two series: the definition's many megabytes leave cold caches, which must not affect the
    # comparison with the product.
    slow = in_turns({"definition": definition, "loss": ours}, repetitions, warmup=3)
    bare = in_turns(
        {"loss": ours, "product": partial(product_and_gradient, z, anchors, upstream)},
        repetitions,
        warmup=3,
    )
    memory = {"definition": [float(peak_bytes(definition))], "loss": [float(peak_bytes(ours))]}
    return Section(
        {
            "tokens": len(classes),
            "anchors": len(anchors),
            "types": types,
            "width": width,
            "temperature": temperature,
        },
        [
            compare(slow, "definition", "loss", at_least=10),
            compare(memory, "definition", "loss", at_least=5, unit="bytes"),
            compare(bare, "loss", "product", at_most=3),
        ],
    )


# ---------------------------------------------------------------------------------------------- CRF
def crf_loss(crf: LinearChainCRF, emissions: Tensor, tags: Tensor, valid: Tensor) -> Tensor:
    """Mean negative log-likelihood, with its gradient: (B, T, C), (B, T), (B, T) -> scalar."""
    crf.zero_grad()
    emissions.grad = None
    lengths = valid.sum(1)
    transitions, start = crf.scores()
    partition = crf_log_partition(emissions, transitions, start, lengths)
    loss = (partition - crf_sequence_score(emissions, transitions, start, tags, lengths)).mean()
    loss.backward()
    return loss.detach()


def crf_paths(crf: LinearChainCRF, emissions: Tensor, valid: Tensor) -> list[list[int]]:
    """Viterbi paths as lists, as pytorch-crf returns them."""
    with torch.no_grad():
        paths = crf_viterbi(emissions, *crf.scores(), valid.sum(1)).tolist()
    return [[tag for tag in path if tag != IGNORED] for path in paths]


def library_loss(crf: Any, emissions: Tensor, tags: Tensor, valid: Tensor) -> Tensor:
    """`crf_loss` with pytorch-crf."""
    crf.zero_grad()
    emissions.grad = None
    loss = -crf(emissions, tags, mask=valid, reduction="mean")
    loss.backward()
    return loss.detach()


def library_paths(crf: Any, emissions: Tensor, valid: Tensor) -> list[list[int]]:
    """`crf_paths` with pytorch-crf."""
    with torch.no_grad():
        return crf.decode(emissions, mask=valid)


def same_crfs(tags: int) -> tuple[LinearChainCRF, Any]:
    """Both CRFs with the same random transitions, without start and end scores."""
    from torchcrf import CRF

    types = [f"T{i}" for i in range((tags - 1) // 2)]
    ours = LinearChainCRF(
        ["O", *(prefix + name for name in types for prefix in ("B-", "I-"))], constrain=False
    )
    library = CRF(tags, batch_first=True)
    torch.nn.init.normal_(library.transitions, generator=torch.Generator().manual_seed(0))
    for scores in (library.start_transitions, library.end_transitions):
        torch.nn.init.zeros_(scores.requires_grad_(False))
    with torch.no_grad():
        ours.get_parameter("transitions").copy_(library.transitions)
    return ours, library


def measure_crf(
    *, batch: int = 32, length: int = 128, tags: int = 17, repetitions: int = 30
) -> Section:
    """Loss (forward and backward) and Viterbi decoding of one ragged batch, against pytorch-crf.

    `tags` is odd: O, and B- and I- of each type.
    """
    generator = torch.Generator().manual_seed(0)
    emissions = torch.randn(batch, length, tags, generator=generator).requires_grad_()
    gold = torch.randint(tags, (batch, length), generator=generator)
    lengths = torch.randint(1, length + 1, (batch,), generator=generator)
    lengths[0] = length
    valid = torch.arange(length)[None, :] < lengths[:, None]  # (B, T)
    ours, library = same_crfs(tags)

    losses, gradients = [], []
    for loss, crf in ((crf_loss, ours), (library_loss, library)):
        losses.append(loss(crf, emissions, gold, valid))
        gradients.append((emissions.grad, crf.get_parameter("transitions").grad))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5)
    if crf_paths(ours, emissions, valid) != library_paths(library, emissions, valid):
        raise RuntimeError("the Viterbi paths differ from pytorch-crf's")

    seconds = in_turns(
        {
            "pytorch-crf loss": partial(library_loss, library, emissions, gold, valid),
            "loss": partial(crf_loss, ours, emissions, gold, valid),
            "pytorch-crf Viterbi": partial(library_paths, library, emissions, valid),
            "Viterbi": partial(crf_paths, ours, emissions, valid),
        },
        repetitions,
        warmup=3,
    )
    seconds["pytorch-crf both"] = [
        sum(parts)
        for parts in zip(seconds["pytorch-crf loss"], seconds["pytorch-crf Viterbi"], strict=True)
    ]
    seconds["both"] = [
        sum(parts) for parts in zip(seconds["loss"], seconds["Viterbi"], strict=True)
    ]
    return Section(
        {
            "batch": batch,
            "length": length,
            "tags": tags,
            "positions": int(valid.sum()),
            "pytorch-crf": version("pytorch-crf"),
        },
        [
            compare(seconds, "pytorch-crf both", "both", at_least=5),
            compare(seconds, "pytorch-crf loss", "loss"),
            compare(seconds, "pytorch-crf Viterbi", "Viterbi"),
        ],
    )


# ----------------------------------------------------------------------------------- training steps
def sample_task(method: str, encoder: str, batch_size: int) -> Task:
    """The task of configs/demo.yaml (the bundled corpus), with full training batches only."""
    files = [f"{split}_file={ROOT}/samples/zh/{split}.jsonl" for split in ("train", "dev", "test")]
    sizes = [f"stage1_batch_size={batch_size}", f"stage2_batch_size={batch_size}"]
    config = load_config(
        ROOT / "configs" / "demo.yaml", [*files, *sizes, f"method={method}", f"encoder={encoder}"]
    )
    with redirect_stdout(None):  # counts of the data
        data = load_data(config)
        task, _ = prepare_task(config, data)
    full_batches = len(task.features["train"]) // batch_size
    task.features["train"] = task.features["train"][: full_batches * batch_size]
    return task


def stepper(trainer: Trainer) -> Callable[[dict[str, Tensor]], None]:
    """A function that does one training step on a batch.

    The step is forward and backward in the precision of the run, gradient clipping and optimiser.
    """
    model, optimizer = trainer.accelerator.prepare(trainer.model, trainer.create_optimizer())
    model.train()

    def step(batch: dict[str, Tensor]) -> None:
        trainer.accelerator.backward(trainer.compute_loss(model, dict(batch)))
        trainer.accelerator.clip_grad_norm_(model.parameters(), trainer.args.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

    return step


def step_setting(task: Task, batches: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
    """What a measured training step depends on."""
    return {
        "data": "samples/zh",
        "batches": len(batches),
        "batch_size": len(batches[0]["labels"]),
        "mean_tokens": sum(int(batch["attention_mask"].sum()) for batch in batches) / len(batches),
        "bf16": use_bf16(task.config),
        "labels": len(task.labels),
    }


def measure_step(
    *, encoder: str = ENCODER, batch_size: int = 16, batches: int = 8, repetitions: int = 32
) -> Section:
    """A training step of the CRF tagger against one of the plain tagger, on the same batches."""
    tasks = {method: sample_task(method, encoder, batch_size) for method in ("crf", "ce")}
    with tempfile.TemporaryDirectory() as folder:
        trainers = {
            name: stage2_trainer(task, Path(folder), None, head_only=False)
            for name, task in tasks.items()
        }
        chosen = list(islice(trainers["crf"].get_train_dataloader(), batches))
        steps = {
            f"{name} step": on_each(stepper(trainer), chosen) for name, trainer in trainers.items()
        }
        # Warm up with each batch, as kernels are prepared per shape.
        seconds = in_turns(steps, repetitions, warmup=len(chosen))
    return Section(
        step_setting(tasks["crf"], chosen), [compare(seconds, "crf step", "ce step", at_most=1.15)]
    )


def measure_stage1(
    *, encoder: str = ENCODER, batch_size: int = 40, batches: int = 8, repetitions: int = 32
) -> Section:
    """A step of stage one against a step of plain token classification.

    Both have the same encoder, batches, optimiser and parameters.
    """
    task, plain = sample_task("nerco", encoder, batch_size), sample_task("ce", encoder, batch_size)
    tagger = NercoForTokenClassification.from_encoder(encoder, plain.labels, **plain.model_fields)
    tagger.classifier.requires_grad_(False)  # as in stage one, only the encoder trains
    with tempfile.TemporaryDirectory() as folder:
        contrastive = stage1_trainer(task, Path(folder))
        classification = Trainer(
            ready_for_training(tagger, plain.config),
            contrastive.args,
            plain.collator,
            plain.features["train"],
            plain.features["dev"],
        )
        chosen = list(islice(contrastive.get_train_dataloader(), batches))
        trainers = {"stage-one step": contrastive, "classification step": classification}
        steps = {name: on_each(stepper(trainer), chosen) for name, trainer in trainers.items()}
        seconds = in_turns(steps, repetitions, warmup=len(chosen))
    return Section(
        step_setting(task, chosen),
        [compare(seconds, "stage-one step", "classification step", at_most=1.10)],
    )


# ----------------------------------------------------------------------------------------- pipeline
def weibo_or_sample_texts() -> tuple[str, list[str]]:
    """Name of the source, and its train, dev and test sentences.

    Weibo if NER_DATA is set, otherwise the bundled corpus.
    """
    if "NER_DATA" in os.environ:
        name, layout = "weibo", Layout(indexed_characters=True)
        files = [
            expand("${NER_DATA}/weibo/weiboNER_2nd_conll.") + split
            for split in ("train", "dev", "test")
        ]
    else:
        name, layout = "samples/zh", Layout()
        files = [
            str(ROOT / "samples" / "zh" / f"{split}.jsonl") for split in ("train", "dev", "test")
        ]
    return name, [record.text for file in files for record in read_records(file, layout)[0]]


def ready_pipeline(model_dir: str | None, encoder: str) -> NerPipeline:
    """The pipeline of a model folder, or of an untrained tagger with Weibo's eight types."""
    if model_dir is not None:
        return load_pipeline(model_dir)
    torch.manual_seed(0)
    types = [f"{name}.{kind}" for name in ("PER", "ORG", "GPE", "LOC") for kind in ("NAM", "NOM")]
    labels = ["O", *(prefix + name for name in types for prefix in ("B-", "I-"))]
    model = NercoForTokenClassification.from_encoder(encoder, labels, label_unit="token")
    return model.pipeline(AutoTokenizer.from_pretrained(encoder))


def stock_pipeline(ner: NerPipeline) -> Any:
    """The transformers pipeline with its defaults and a token classifier of the same weights."""
    config = ner.model.config
    encoder_config = type(config.encoder_config)(
        **{**config.encoder_config.to_dict(), "id2label": config.id2label}
    )
    model = AutoModelForTokenClassification.from_config(encoder_config).eval()
    model.base_model.load_state_dict(ner.model.nerco.encoder.state_dict())
    model.classifier.load_state_dict(ner.model.classifier.state_dict())
    return transformers.pipeline(
        "token-classification", model=model, tokenizer=ner.tokenizer, aggregation_strategy="simple"
    )


def forward_batches(ner: NerPipeline, texts: Sequence[str]) -> list[dict[str, Tensor]]:
    """The padded batches, sorted by length, that the pipeline gives to its model."""
    batches: list[dict[str, Tensor]] = []
    hook = ner.model.register_forward_pre_hook(
        lambda model, arguments, inputs: batches.append(inputs), with_kwargs=True
    )
    ner(texts)
    hook.remove()
    return batches


@torch.inference_mode()
def encode(encoder: torch.nn.Module, batches: Sequence[dict[str, Tensor]]) -> None:
    """The bare encoder's forward pass: no text, no decoding."""
    for batch in batches:
        encoder(**batch)


def measure_pipeline(
    *,
    model_dir: str | None = None,
    encoder: str = ENCODER,
    sentences: int = 2000,
    parts: int = 4,
    repetitions: int = 12,
) -> Section:
    """From raw texts to mentions.

    Competitors: the bare encoder on the same batches, and the transformers pipeline with its
    defaults. A repetition is one of the `parts` of the texts, so that competitors alternate often.
    """
    source, own = weibo_or_sample_texts()
    texts = list(islice(cycle(own), sentences))
    chunks = [texts[part::parts] for part in range(parts)]
    ner = ready_pipeline(model_dir, encoder)
    batches = [forward_batches(ner, chunk) for chunk in chunks]
    seconds = in_turns(
        {
            "encoder": on_each(partial(encode, ner.model.nerco.encoder), batches),
            "pipeline": on_each(ner, chunks),
            "stock pipeline": on_each(stock_pipeline(ner), chunks),
        },
        repetitions,
        warmup=1,
    )
    setting = {
        "source": source,
        "texts": len(texts),
        "texts_of_the_source": len(own),  # repeated until there are enough
        "texts_in_a_repetition": len(chunks[0]),
        "model": model_dir or "untrained",
        "mentions": sum(map(len, ner(texts))),
        "batch_size": DEFAULT_BATCH_SIZE,
        "texts_per_second": {
            name: len(chunks[0]) / summary(values).median for name, values in seconds.items()
        },
    }
    return Section(
        setting,
        [
            compare(seconds, "encoder", "pipeline", at_least=0.90),
            compare(seconds, "stock pipeline", "pipeline", at_least=3),
        ],
    )


MEASURE: dict[str, Callable[..., Section]] = {
    "loss": measure_loss,
    "crf": measure_crf,
    "step": measure_step,
    "stage1": measure_stage1,
    "pipeline": measure_pipeline,
}
