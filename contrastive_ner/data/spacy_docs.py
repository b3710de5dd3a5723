"""spaCy's binary documents (DocBin, .spacy). Needs spaCy: the extra `spacy`."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from contrastive_ner.data.layout import ReadReport
from contrastive_ner.data.records import Mention, Record
from contrastive_ner.errors import DataError


def load_spacy() -> Any:
    """The spacy package; DataError if it is not installed."""
    try:
        import spacy
        import spacy.tokens
    except ImportError as error:
        raise DataError("spaCy is not installed: pip install 'contrastive-ner[spacy]'") from error
    return spacy


def read_docs(name: str, report: ReadReport) -> Iterator[Record]:
    """Yield a record per document: its entities and the spans of all its groups.

    Raises:
        DataError: spaCy is missing, or the file cannot be read.
    """
    spacy = load_spacy()
    if not Path(name).is_file():
        raise DataError(f"{name}: no such file")
    try:
        docs = spacy.tokens.DocBin().from_disk(name).get_docs(spacy.blank("xx").vocab)
        for number, doc in enumerate(docs):
            spans = [*doc.ents, *(span for group in doc.spans.values() for span in group)]
            mentions = {Mention(s.start_char, s.end_char, s.label_) for s in spans if s.label_}
            tokens = [(t.idx, t.idx + len(t)) for t in doc if not t.is_space]
            yield Record(f"{Path(name).stem}-{number}", doc.text, sorted(mentions), None, tokens)
    except Exception as error:
        raise DataError(f"{name}: cannot be read as spaCy's documents ({error})") from error


def write_docs(records: Sequence[Record], path: Path) -> int:
    """Write records to a file of documents, tokenised by their tokens or by characters.

    Flat mentions become entities; where mentions overlap, all go to the span group "sc". Returns
    the number of mentions that do not fall on token boundaries and are left out.
    """
    spacy = load_spacy()
    vocab = spacy.blank("xx").vocab
    docs, lost = spacy.tokens.DocBin(), 0
    for record in records:
        doc = spacy.tokens.Doc(vocab, *words_and_spaces(record))
        spans = [doc.char_span(m.start, m.end, label=m.label) for m in record.entities]
        kept = [span for span in spans if span is not None]
        lost += len(spans) - len(kept)
        flat = spacy.util.filter_spans(kept)
        if len(flat) == len(kept):
            doc.ents = flat
        else:
            doc.spans["sc"] = kept
        docs.add(doc)
    docs.to_disk(path)
    return lost


def words_and_spaces(record: Record) -> tuple[list[str], list[bool]]:
    """A text as words and whether a space follows each, as spaCy wants it."""
    bounds = {0, len(record.text)}
    for start, end in record.tokens or ((i, i + 1) for i in range(len(record.text))):
        bounds |= {start, end}
    for mention in record.entities:
        bounds |= {mention.start, mention.end}
    starts, ends = ({m[i] for m in record.entities} for i in (0, 1))
    words: list[str] = []
    spaces: list[bool] = []
    for start, end in pairwise(sorted(bounds)):
        piece = record.text[start:end]
        # A space at the edge of a mention is a token of its own, or the mention would lose it.
        own = start in starts or end in ends
        if piece == " " and words and not spaces[-1] and not own:
            spaces[-1] = True
        else:
            words.append(piece)
            spaces.append(False)
    return words, spaces
