"""The lattice layer of a run: its vocabulary, and public vectors that users have fetched."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from contrastive_ner.errors import DataError
from contrastive_ner.files import expand
from contrastive_ner.logs import log
from contrastive_ner.models.lattice_ner import Vocabulary, pairs_of
from contrastive_ner.models.lexicon_ner import Lexicon
from contrastive_ner.training.config import RunConfig

if TYPE_CHECKING:
    from contrastive_ner.models.windows_ner import TextReader

MOST_BIGRAMS = 200_000  # of a file of vectors, which has the frequent ones first
VECTOR_SIZE = 50

Vectors = dict[str, np.ndarray]


class Lattice(NamedTuple):
    """What a run's lattice layer begins with: `vectors` are of its entries and of its pairs."""

    vocabulary: Vocabulary
    vectors: tuple[Vectors, Vectors]


def lattice_of(
    config: RunConfig, texts: Iterable[str], reader: "TextReader", lexicon: Lexicon
) -> Lattice:
    """The vocabulary of a run, and vectors.

    It has the characters, pairs and words of the training texts. With files of vectors, it also has
    all characters and words of the lexicon that have one, and the most frequent pairs: what only
    other texts have is then no unknown.

    Raises:
        DataError: a file of vectors cannot be used.
    """
    entries: dict[str, None] = {}
    bigrams: dict[str, None] = {}
    words: dict[str, None] = {}
    rows = list(texts)
    for text, row in zip(rows, reader.tokenize(rows), strict=True):
        own = [text[start:end] for start, end in row.spans]
        entries.update(dict.fromkeys(own))
        bigrams.update(dict.fromkeys(pairs_of(own)))
        words.update(dict.fromkeys(m.word for m in lexicon.matches(text, held_out=True)))
    entries |= words
    of_entries = read_vectors(
        config.lattice_vectors, lambda name, _: len(name) == 1 or name in lexicon or name in entries
    )
    of_bigrams = read_vectors(
        config.lattice_bigram_vectors, lambda name, at: at < MOST_BIGRAMS or name in bigrams
    )
    vocabulary = Vocabulary([*entries, *of_entries], [*bigrams, *of_bigrams])
    log.info(
        "lattice: %d characters and words, %d of them with a vector; %d pairs, %d with one",
        len(vocabulary.entries),
        len(of_entries),
        len(vocabulary.bigrams),
        len(of_bigrams),
    )
    return Lattice(vocabulary, (of_entries, of_bigrams))


def read_vectors(file: str, keep: Callable[[str, int], bool]) -> Vectors:
    """Vectors of a text file, each of length 1: a name and 50 numbers a line.

    A first line with their number and size, as word2vec writes it, is left out.

    Args:
        file: its name; empty: no vectors.
        keep: whether a name, with its number from 0, is kept.

    Raises:
        DataError: there is no such file, or a line holds something else.
    """
    if not file:
        return {}
    path = Path(expand(file))
    if not path.is_file():
        raise DataError(f"{path}: no such file of vectors")
    found: Vectors = {}
    with path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
        for number, line in enumerate(lines):
            name, _, rest = line.strip(" \t\r\n").partition(" ")
            if not name or (number == 0 and rest.isdigit()) or not keep(name, number):
                continue
            try:
                vector = np.array(rest.split(), dtype=np.float32)
            except ValueError:
                vector = np.zeros(0, dtype=np.float32)
            if vector.size != VECTOR_SIZE or not np.isfinite(vector).all():
                raise DataError(
                    f"{path}:{number + 1}: expected a name and {VECTOR_SIZE} numbers, "
                    f"found {line.strip()!r:.60}"
                )
            length = float(np.linalg.norm(vector))
            found.setdefault(name, vector / length if length else vector)
    return found


def start_lattice(model: Any, lattice: Lattice | None) -> None:
    """Give a new `NercoModel` its vocabulary, and the vectors that there are."""
    import torch

    if lattice is None:
        return
    vocabulary = model.vocabulary = lattice.vocabulary
    tables = (model.lattice.entries, model.lattice.bigrams)
    names = (vocabulary.entries, vocabulary.bigrams)
    with torch.no_grad():
        for table, numbers, vectors in zip(tables, names, lattice.vectors, strict=True):
            there = [name for name in vectors if name in numbers]
            if there:
                rows = torch.tensor([numbers[name] for name in there])
                table.weight[rows] = torch.from_numpy(np.stack([vectors[n] for n in there]))
