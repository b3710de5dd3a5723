"""BINDER sections of benchmarks.speed: inference, memory of decoding, a training step.

Notation: B windows, L tokens, E entity types, H hidden size, D projection size, W maximum span
width.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer

from benchmarks.measuring import Section, compare, in_turns, peak_bytes
from benchmarks.sections import ENCODER
from contrastive_ner.models.modeling_binder import BinderModel, BinderOutput
from contrastive_ner.models.types_binder import TypeEmbeddings

SPANS_FOUND = 5  # per window, about as many as a text of this length has


def ready_binder(encoder: str, types: int, width: int) -> BinderModel:
    """An untrained model with short descriptions and no dropout in its encoders."""
    torch.manual_seed(0)
    descriptions = {
        f"type {i}": f"第{i}类实体：公司、学校、医院等机构的名字，不含泛称。" for i in range(types)
    }
    return BinderModel.from_encoders(
        encoder,
        descriptions=descriptions,
        label_unit="token",
        max_span_width=width,
        max_window_tokens=512,
    )


def random_windows(encoder: str, batch: int, length: int) -> dict[str, Tensor]:
    """Windows (B, L) of random characters; each may start and end a mention."""
    size = len(AutoTokenizer.from_pretrained(encoder))
    ids = torch.randint(200, size, (batch, length), generator=torch.Generator().manual_seed(0))
    inside = torch.ones(batch, length, dtype=torch.bool)
    inside[:, [0, -1]] = False
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "word_mask": inside,
        "word_end_mask": inside,
    }


def random_types(model: BinderModel, count: int) -> TypeEmbeddings:
    """Stored types with random unit vectors (3, E, D)."""
    vectors = F.normalize(
        torch.randn(
            3, count, model.config.projection_size, generator=torch.Generator().manual_seed(1)
        ),
        dim=-1,
    )
    return TypeEmbeddings({f"type {i}": "" for i in range(count)}, vectors, model.type_fingerprint)


def find_few_spans(
    model: BinderModel, hidden: Tensor, windows: dict[str, Tensor], types: TypeEmbeddings
) -> None:
    """Set margins so that the model finds about `SPANS_FOUND` spans per window.

    An untrained model would find half of all spans.
    """
    scores = model.scores(hidden, windows["word_mask"], windows["word_end_mask"], types.vectors)
    margins = (scores.span - scores.span[..., :1, :1]).flatten()
    model.config.margins = dict.fromkeys(
        types.labels, float(margins.topk(SPANS_FOUND * len(windows["input_ids"])).values[-1])
    )


@torch.inference_mode()
def measure_binder(
    *,
    encoder: str = ENCODER,
    batch: int = 32,
    length: int = 128,
    few: int = 10,
    many: int = 1000,
    width: int = 30,
    repetitions: int = 9,
) -> Section:
    """From windows to decoded spans with stored types, against the bare text encoder."""
    model = ready_binder(encoder, 1, width).eval()
    windows = random_windows(encoder, batch, length)
    inputs = {name: windows[name] for name in ("input_ids", "attention_mask")}
    masks = windows["word_mask"], windows["word_end_mask"]

    def tag(types: TypeEmbeddings) -> list:
        return model.decode(model(**inputs), *masks, types=types)

    seconds: dict[str, list[float]] = {}
    found = {}
    for count in (few, many):
        types = random_types(model, count)
        find_few_spans(model, model(**inputs).last_hidden_state, windows, types)
        competitors: dict[str, Callable[[], object]] = {
            f"encoder beside {count} types": partial(model.encoder, **inputs),
            f"{count} types": partial(tag, types),
        }
        seconds |= in_turns(competitors, repetitions, warmup=1)
        found[f"{count} types"] = sum(map(len, tag(types)))
    return Section(
        {"batch": batch, "length": length, "max_span_width": width, "spans": found},
        [
            compare(seconds, f"encoder beside {few} types", f"{few} types", at_least=0.90),
            compare(seconds, f"encoder beside {many} types", f"{many} types", at_least=0.60),
        ],
    )


def plain_spans(model: BinderModel, hidden: Tensor, types: Tensor) -> Tensor:
    """Span scores by definition: a projection of [h_i; h_j; D_w] for each pair of tokens.

    hidden (B, L, H), types (E, D) -> (B, E, L, L).
    """
    batch, length, size = hidden.shape
    width = (torch.arange(length)[None, :] - torch.arange(length)[:, None]).clamp(
        0, model.config.max_span_width - 1
    )  # (L, L)
    first = hidden[:, :, None].expand(batch, length, length, size)
    last = hidden[:, None, :].expand(batch, length, length, size)
    widths = model.heads.width(width).expand(batch, -1, -1, -1)
    spans = F.normalize(
        model.heads.span(torch.cat([first, last, widths], dim=-1)), dim=-1
    )  # (B, L, L, D)
    return torch.einsum("ed,bijd->beij", types, spans)


@torch.inference_mode()
def measure_binder_memory(
    *,
    encoder: str = ENCODER,
    batch: int = 4,
    lengths: tuple[int, int, int] = (128, 256, 512),
    types: int = 10,
    width: int = 30,
    repetitions: int = 1,
) -> Section:
    """Peak memory of scoring and decoding, without the encoder.

    Compares lengths with each other, and the longest with the plain definition.
    """
    model = ready_binder(encoder, 1, width).eval()
    given = random_types(model, types)
    peaks: dict[str, list[float]] = {}
    for length in lengths:
        windows = random_windows(encoder, batch, length)
        hidden = torch.randn(batch, length, model.config.encoder_config.hidden_size)
        find_few_spans(model, hidden, windows, given)
        decode = partial(
            model.decode,
            BinderOutput(last_hidden_state=hidden),
            windows["word_mask"],
            windows["word_end_mask"],
            types=given,
        )
        peaks[f"{length} tokens"] = [float(peak_bytes(decode)) for _ in range(repetitions)]
    longest = f"{lengths[-1]} tokens"
    plain: Callable[[], Tensor] = partial(plain_spans, model, hidden, given.vectors[2])
    peaks[f"definition at {longest}"] = [float(peak_bytes(plain)) for _ in range(repetitions)]
    return Section(
        {
            "batch": batch,
            "types": types,
            "max_span_width": width,
            "projection_size": model.config.projection_size,
        },
        [
            compare(peaks, f"definition at {longest}", longest, at_least=10, unit="bytes"),
            compare(
                peaks,
                f"{lengths[1]} tokens",
                f"{lengths[0]} tokens",
                at_most=1.1 * lengths[1] / lengths[0],
                unit="bytes",
            ),
            compare(
                peaks,
                longest,
                f"{lengths[0]} tokens",
                at_most=1.1 * lengths[2] / lengths[0],
                unit="bytes",
            ),
        ],
    )


def measure_binder_step(
    *,
    encoder: str = ENCODER,
    batch: int = 8,
    length: int = 128,
    types: int = 5,
    width: int = 30,
    mentions: int = 6,
    repetitions: int = 9,
) -> Section:
    """Forward and backward of a training step, against those of both encoders alone."""
    model = ready_binder(encoder, types, width).train()
    windows = random_windows(encoder, batch, length)
    generator = torch.Generator().manual_seed(2)
    first = torch.randint(1, length - width, (batch, mentions), generator=generator)
    last = first + torch.randint(0, width, (batch, mentions), generator=generator)
    labels = torch.stack(
        [torch.randint(types, (batch, mentions), generator=generator), first, last], dim=-1
    )  # (B, M, 3)
    descriptions, type_encoder = model.description_ids[:, 0], model.get_submodule("type_encoder")
    attention = torch.arange(descriptions.shape[1])[None, :] < model.description_lengths

    def step() -> None:
        model(**windows, labels=labels).loss.backward()
        model.zero_grad()

    def encoders() -> None:
        text = model.encoder(
            input_ids=windows["input_ids"], attention_mask=windows["attention_mask"]
        ).last_hidden_state
        kinds = type_encoder(
            input_ids=descriptions, attention_mask=attention.long()
        ).last_hidden_state
        (text.sum() + kinds[:, 0].sum()).backward()
        model.zero_grad()

    seconds = in_turns({"step": step, "encoders": encoders}, repetitions, warmup=1)
    setting = {
        "batch": batch,
        "length": length,
        "types": types,
        "tokens of a description": descriptions.shape[1],
        "max_span_width": width,
    }
    return Section(setting, [compare(seconds, "step", "encoders", at_most=1.5)])


MEASURE: dict[str, Callable[..., Section]] = {
    "binder": measure_binder,
    "binder_memory": measure_binder_memory,
    "binder_step": measure_binder_step,
}
