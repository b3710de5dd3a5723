"""Batches: collators that turn features into tensors, and the sampler that groups sentences."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import torch
from torch.utils.data import Sampler

from contrastive_ner.errors import DataError
from contrastive_ner.models.encoder_ner import IGNORED
from contrastive_ner.models.lattice_ner import LATTICE_INPUTS
from contrastive_ner.models.matching_ner import INPUTS
from contrastive_ner.models.pipeline_ner import pad_rows
from contrastive_ner.training.losses import OUTSIDE


# --------------------------------------------------------------------------------------- collators
def model_inputs(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a batch that a tagger's encoder reads."""
    names = ("input_ids", "attention_mask", *INPUTS, *LATTICE_INPUTS)
    return {name: batch[name] for name in names if name in batch}


class TagCollator:
    """Pad `tag_features` on the right: input_ids, attention_mask, word_mask, labels (B, T).

    With the words of a lexicon, also the tensors of `lexicon_arrays` or `lattice_arrays`.
    Features of the usual scripts have no `word_mask`: it is then where a label is. Features of
    texts to tag need no labels.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, features: Sequence[dict]) -> dict[str, torch.Tensor]:
        if any("word_mask" not in row for row in features):
            if any("labels" not in row for row in features):
                raise DataError(
                    "features have neither labels nor word_mask: make them with tag_features"
                )
            features = [
                {"word_mask": [tag != IGNORED for tag in row["labels"]], **row} for row in features
            ]
        padding = {"input_ids": self.pad_token_id, "labels": IGNORED, "word_mask": False}
        if all("labels" not in row for row in features):  # of texts to tag
            del padding["labels"]
        if all("attention_mask" in row for row in features):  # rows that are padded already
            padding["attention_mask"] = 0
        return pad_rows(features, padding)


class SpanCollator:
    """Pad `span_features` on the right.

    Returns input_ids, attention_mask, word_mask and word_end_mask (B, T), and labels (B, M, 3); for
    features of several data sets also type_mask (B, E) and data_set (B,).
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, features: Sequence[dict]) -> dict[str, torch.Tensor]:
        batch = pad_rows(
            features, {"input_ids": self.pad_token_id, "word_mask": False, "word_end_mask": False}
        )
        # The set and its types; the number of the window, for `DocumentCounts`.
        own = [name for name in ("type_mask", "data_set", "number") if name in features[0]]
        batch |= {name: torch.tensor([feature[name] for feature in features]) for name in own}
        if not all("labels" in feature for feature in features):  # of texts to tag
            return batch
        most = max(1, *(len(feature["labels"]) for feature in features))
        rows = [
            feature["labels"] + [[IGNORED] * 3] * (most - len(feature["labels"]))
            for feature in features
        ]
        return {**batch, "labels": torch.tensor(rows)}


# ------------------------------------------------------------------------------------------ batches
def sentence_batches(
    sentences: Sequence[Sequence[int]],
    batch_size: int,
    seed: int,
    epoch: int,
    *,
    processes: int = 1,
    paired: bool = True,
) -> list[list[int]]:
    """Batches of one epoch, as lists of sentence indices.

    A pure function of its arguments, so that a run can resume at any step. Every sentence occurs
    once, except that with several processes up to `processes - 1` sentences, different ones in each
    epoch, are left out: every batch then splits into equal parts without repeating a sentence
    (a repeated sentence is a perfect positive for a contrastive loss). The size of these parts
    differs by at most one between batches. Sentences of similar length tend to share a batch, which
    saves padding.

    Args:
        sentences: classes of the tokens of each sentence (0 = O).
        batch_size: largest number of sentences per process.
        seed: seed of the run.
        epoch: number of the epoch, which changes the order.
        processes: number of processes that share each batch.
        paired: where the data allow it, put two tokens of one entity class into each batch, from
            one sentence that has both or from two sentences that share a class.

    Raises:
        DataError: fewer sentences than processes.
    """
    if len(sentences) < processes:
        raise DataError(
            f"{len(sentences)} sentences for {processes} processes: expected at least one for "
            "each; start fewer processes"
        )
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    shuffled = torch.randperm(len(sentences), generator=generator).tolist()
    used = shuffled[: len(sentences) - len(sentences) % processes]
    shares = len(used) // processes  # sentences per process
    count = -(-shares // batch_size)
    sizes = [processes * (shares // count + (i < shares % count)) for i in range(count)]
    # Sorted by length times a random factor, a sentence has other neighbours in each epoch. With a
    # standard deviation of 0.1, padding adds 15 to 20 %; with 0.3 it would add 50 %.
    factors = (0.1 * torch.randn(len(sentences), generator=generator)).exp().tolist()
    keys = [(len(classes) + 1) * factor for classes, factor in zip(sentences, factors, strict=True)]
    units = _pair_units(sentences, used)[:count] if paired else []
    units = sorted(units, key=lambda unit: (-len(unit), keys[unit[0]])) + [
        [] for _ in range(count - len(units))
    ]
    # A batch of one sentence cannot hold a pair.
    batches = [
        [*unit] if len(unit) <= size else [] for unit, size in zip(units, sizes, strict=True)
    ]
    placed = {number for batch in batches for number in batch}
    rest = iter(sorted((number for number in used if number not in placed), key=keys.__getitem__))
    for batch, size in zip(batches, sizes, strict=True):
        batch.extend(islice(rest, size - len(batch)))
    return [batches[i] for i in torch.randperm(count, generator=generator).tolist()]


def _pair_units(sentences: Sequence[Sequence[int]], order: Sequence[int]) -> list[list[int]]:
    """Groups of one or two sentences with two tokens of one entity class.

    Groups of one come first; otherwise they follow `order`.
    """
    singles: list[list[int]] = []
    pairs: list[list[int]] = []
    waiting: dict[int, int] = {}  # class -> a sentence with one token of this class
    for number in order:
        classes = [c for c in sentences[number] if c > OUTSIDE]
        if len(set(classes)) < len(classes):
            singles.append([number])
            continue
        partner = next((waiting[c] for c in classes if c in waiting), None)
        if partner is not None:
            pairs.append([partner, number])
            waiting = {c: other for c, other in waiting.items() if other != partner}
        else:
            waiting |= dict.fromkeys(classes, number)
    return singles + pairs


class EpochBatches(Sampler[list[int]]):
    """Batch sampler for a DataLoader: this process's part of each of the `sentence_batches`."""

    def __init__(
        self,
        sentences: Sequence[Sequence[int]],
        batch_size: int,
        seed: int,
        *,
        paired: bool,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.sentences, self.batch_size, self.seed, self.paired, self.epoch = (
            sentences,
            batch_size,
            seed,
            paired,
            0,
        )
        self.process, self.processes = process, processes
        self.drop_last = False  # read by accelerate

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; the Trainer calls this."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        batches = sentence_batches(
            self.sentences,
            self.batch_size,
            self.seed,
            self.epoch,
            processes=self.processes,
            paired=self.paired,
        )
        yield from (batch[self.process :: self.processes] for batch in batches)

    def __len__(self) -> int:
        return -(-(len(self.sentences) // self.processes) // self.batch_size)


class SetBatches(Sampler[list[int]]):
    """Batch sampler over several data sets, each batch from one of them.

    A set's batches are those of an endless row of epochs over it; each epoch of the mixture takes
    as many further ones as the set has in an epoch, times its weight, in an order drawn anew.

    Args:
        sets: for each set, the numbers of its sentences and its own sampler.
        weights: how often an epoch goes through each set.
        seed: seed of the run.

    Raises:
        DataError: a set has fewer sentences than there are processes.
    """

    def __init__(
        self,
        sets: Sequence[tuple[Sequence[int], EpochBatches]],
        weights: Sequence[float],
        seed: int,
    ) -> None:
        self.sets, self.seed, self.epoch = sets, seed, 0
        for _, own in sets:
            list(own)  # refuses a set with fewer sentences than processes
        self.counts = [
            max(round(weight * len(own)), 1) for weight, (_, own) in zip(weights, sets, strict=True)
        ]
        self.batch_size = sets[0][1].batch_size
        self.drop_last = False  # read by accelerate

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; the Trainer calls this."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        batches: list[list[int]] = []
        for count, (numbers, own) in zip(self.counts, self.sets, strict=True):
            first, round_of = self.epoch * count, -1
            for place in range(first, first + count):
                if place // len(own) != round_of:
                    round_of = place // len(own)
                    own.set_epoch(round_of)
                    drawn = list(own)
                batches.append([numbers[n] for n in drawn[place % len(own)]])
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        yield from (batches[i] for i in torch.randperm(len(batches), generator=generator).tolist())

    def __len__(self) -> int:
        return sum(self.counts)
