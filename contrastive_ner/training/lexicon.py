"""The lexicon of a run: read, put into the features, and compared between train and dev.

Words that were taken from the training data must not match where they were taken from (see
`Lexicon.matches`, `held_out`): every mention of train would be a word, and few of dev.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from contrastive_ner.errors import ConfigError
from contrastive_ner.files import expand
from contrastive_ner.logs import log
from contrastive_ner.models.lexicon_ner import Lexicon
from contrastive_ner.training.config import RunConfig
from contrastive_ner.training.lattice import Lattice

if TYPE_CHECKING:
    from contrastive_ner.models.windows_ner import TextReader

MUCH_MORE = 0.2  # by which the share of mentions that are words may be higher in train than in dev


def load_lexicon(config: RunConfig) -> Lexicon | None:
    """The lexicon of a run; None without fusion.

    Raises:
        ConfigError: a lexicon is named without fusion, or the other way round.
        InputError: the file cannot be used.
    """
    if config.lexicon_fusion == "none":
        if config.lexicon_file:
            raise ConfigError(
                f"lexicon_file is {config.lexicon_file!r}, but lexicon_fusion is none: set "
                "lexicon_fusion=adapter (or flat), or leave lexicon_file out"
            )
        return None
    if not config.lexicon_file:
        raise ConfigError(
            f"lexicon_fusion is {config.lexicon_fusion}: expected lexicon_file, a file with a word "
            "a line (contrastive-ner lexicon builds one)"
        )
    lexicon = Lexicon.read(expand(config.lexicon_file), max_word_length=config.max_word_length)
    types = lexicon.types
    log.info(
        "lexicon: %d words%s", len(lexicon), f", of the types {', '.join(types)}" * bool(types)
    )
    for remark in lexicon.remarks(types):
        log.info("lexicon: %s", remark)
    return lexicon


def with_lexicon(
    config: RunConfig,
    reader: "TextReader",
    lexicon: Lexicon | None,
    lattice: Lattice | None,
    *,
    held_out: bool = False,
) -> "TextReader":
    """The reader of a model that is trained with this lexicon.

    `lattice`: of a model with a lattice layer; `held_out`: for its train texts.
    """
    from contrastive_ner.models.lattice_ner import LatticeReader
    from contrastive_ner.models.matching_ner import LexiconReader

    if lexicon is None:
        return reader
    if lattice is not None:
        longest, known = config.max_word_length, lattice.vocabulary
        return LatticeReader(reader, known, lexicon, longest=longest, held_out=held_out)
    return LexiconReader(reader, lexicon, lexicon.types, held_out=held_out)


class Coverage(NamedTuple):
    """What the words of a lexicon have of some texts.

    Tokens, those that are part of a word, mentions, and those that are exactly a word.
    """

    tokens: int
    covered: int
    mentions: int
    words: int

    @property
    def share(self) -> float:
        """Share of the tokens."""
        return self.covered / max(self.tokens, 1)

    @property
    def of_mentions(self) -> float:
        """Share of the mentions."""
        return self.words / max(self.mentions, 1)

    def __str__(self) -> str:
        return (
            f"{100 * self.share:.1f} % of {self.tokens} tokens are in a word, "
            f"{100 * self.of_mentions:.1f} % of {self.mentions} mentions are one"
        )


def coverage_of(features: Sequence[dict[str, Any]], labels: Sequence[str]) -> Coverage:
    """Coverage of tag features."""
    tokens = covered = mentions = words = 0
    for row in features:
        names = [labels[tag] if tag >= 0 else "" for tag in row["labels"]]
        where = [at for at, name in enumerate(names) if name]
        inside: set[int] = set()
        spans = set()
        for first, last, is_whole in words_of(row):
            inside.update(range(first, last + 1))
            if is_whole:
                spans.add((first, last))
        tokens += len(where)
        covered += sum(at in inside for at in where)
        for number, at in enumerate(where):
            if names[at].startswith("B-"):
                rest = where[number + 1 :]
                end = next((n for n, other in enumerate(rest) if names[other][0] != "I"), len(rest))
                last = rest[end] - 1 if end < len(rest) else len(names) - 1
                mentions += 1
                words += any((at, stop) in spans for stop in (last, *rest[end - 1 : end]))
    return Coverage(tokens, covered, mentions, words)


def words_of(row: Mapping[str, Any]) -> list[tuple[int, int, bool]]:
    """First and last token of each word of a feature, and whether it is all there."""
    if "lattice_words" in row:
        return [(first, last, True) for _, first, last in row["lattice_words"]]
    return [(w.first, w.last, w.begins and w.ends) for w in row["lexicon_words"]]


def report_coverage(features: dict[str, list[dict]], labels: Sequence[str]) -> None:
    """Log the coverage of train and dev; warn if train's mentions are words far more often."""
    train, dev = (coverage_of(features[split], labels) for split in ("train", "dev"))
    log.info("lexicon: train: %s; dev: %s", train, dev)
    if train.of_mentions > dev.of_mentions + MUCH_MORE:
        log.warning(
            "the mentions of train are words of the lexicon far more often than those of dev (%.0f "
            "%% and %.0f %%): if they were taken from train, take them by folds "
            "(contrastive-ner lexicon --from_training)",
            100 * train.of_mentions,
            100 * dev.of_mentions,
        )
