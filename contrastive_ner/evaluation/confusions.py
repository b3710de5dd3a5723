"""Errors one by one: what was found in place of each gold mention, and in which context.

Wrong predictions and gold mentions that were not found are paired within a text, each with at most
one other: first those with the same borders, then those that overlap most, of the same type first.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from contrastive_ner.data.records import Mention, Record
from contrastive_ner.errors import shown

CONTEXT = 40  # characters on each side of an error
Span = tuple[int, int, str]  # start, end, label
SHOWN = 5  # mentions in a message
MISSED, SPURIOUS, BORDER = "(missed)", "(spurious)", "(border)"


def pairs(found: set[Span], wanted: set[Span]) -> list[tuple[Span | None, Span | None]]:
    """Pairs (gold, predicted) of the errors of a text, in order; one of the two may be None.

    >>> pairs({(0, 2, "PER"), (7, 9, "LOC")}, {(0, 2, "ORG"), (3, 5, "PER")})
    [((0, 2, 'ORG'), (0, 2, 'PER')), ((3, 5, 'PER'), None), (None, (7, 9, 'LOC'))]
    """
    from contrastive_ner.evaluation.metrics import touching

    gold, predicted = wanted - found, found - wanted
    near = touching(predicted)

    def closeness(g: Span, p: Span) -> tuple[bool, int, bool]:
        return g[:2] != p[:2], -(min(g[1], p[1]) - max(g[0], p[0])), g[2] != p[2]

    candidates = [(g, p) for g in gold for p in near(g)]
    result: list[tuple[Span | None, Span | None]] = []
    for g, p in sorted(candidates, key=lambda pair: (closeness(*pair), pair)):
        if g in gold and p in predicted:
            result.append((g, p))
            gold.remove(g)
            predicted.remove(p)
    result += [(g, None) for g in gold] + [(None, p) for p in predicted]
    return sorted(result, key=lambda pair: ((pair[0] or pair[1] or ())[:2], pair[0] is None, *pair))


def kind_of(gold: Span | None, predicted: Span | None) -> str:
    """The kind of an error: missed, spurious, wrong type, wrong border, or wrong type and border.

    >>> kind_of((0, 2, "PER"), (0, 3, "ORG"))
    'wrong type and border'
    """
    if gold is None or predicted is None:
        return "missed" if predicted is None else "spurious"
    if gold[:2] == predicted[:2]:
        return "wrong type"
    return "wrong border" if gold[2] == predicted[2] else "wrong type and border"


def confusions(
    predictions: Sequence[Iterable[Sequence[Any]]], references: Sequence[Iterable[Sequence[Any]]]
) -> dict[str, dict[str, int]]:
    """Counts of gold types (rows) by what was predicted in their place (columns).

    A column is a predicted type, with the right borders where it equals the row, with any
    otherwise; "(border)": the right type with wrong borders; or "(missed)". The row "(spurious)"
    has predictions in place of nothing. So a row adds up to the gold mentions of its type.

    Args:
        predictions, references: as in `span_scores`.

    >>> confusions([[(0, 2, "PER"), (4, 6, "PER")]], [[(0, 2, "PER"), (3, 6, "PER")]])
    {'PER': {'PER': 1, '(border)': 1}}
    """
    from contrastive_ner.evaluation.metrics import span_sets

    counts: dict[str, dict[str, int]] = {}

    def count(row: str, column: str) -> None:
        counts.setdefault(row, {})
        counts[row][column] = counts[row].get(column, 0) + 1

    for found, wanted in span_sets(predictions, references):
        for _, _, label in sorted(found & wanted):
            count(label, label)
        for gold, predicted in pairs(found, wanted):
            row = SPURIOUS if gold is None else gold[2]
            column = MISSED if predicted is None else predicted[2]
            count(row, BORDER if row == column else column)
    return {
        row: {column: counts[row][column] for column in sorted(counts[row], key=last_in_brackets)}
        for row in sorted(counts, key=last_in_brackets)
    }


def last_in_brackets(name: str) -> tuple[bool, str]:
    """Sorts types before the names in brackets."""
    return name in (MISSED, SPURIOUS, BORDER), name


def confusion_table(counts: dict[str, dict[str, int]]) -> str:
    """`confusions` as a table; empty without mentions."""
    if not counts:
        return ""
    types = {name for row in counts.values() for name in row} | counts.keys()
    columns = [*sorted(types - {SPURIOUS, BORDER, MISSED}), BORDER, MISSED]
    width = max(12, *(len(name) + 2 for name in types))
    lines = ["", f"{'gold | predicted':<{width + 6}}" + "".join(f"{c:>{width}}" for c in columns)]
    for row, own in counts.items():
        cells = "".join(f"{own.get(column, 0) or '-':>{width}}" for column in columns)
        lines.append(f"{row:<{width + 6}}{cells}")
    return "".join(f"{line}\n" for line in lines)


def list_errors(
    records: Sequence[Record],
    predictions: Sequence[Sequence[Mention]],
    references: Sequence[Sequence[Mention]],
) -> Iterator[dict[str, Any]]:
    """Every error of the records with its kind, context, gold and predicted mention, and score."""
    from contrastive_ner.evaluation.metrics import span_sets

    sets = span_sets(predictions, references)
    for record, found, (predicted, wanted) in zip(records, predictions, sets, strict=True):
        scores = {tuple(m[:3]): m.score for m in found}
        for gold, other in pairs(predicted, wanted):
            both = [span for span in (gold, other) if span is not None]
            start, end = min(span[0] for span in both), max(span[1] for span in both)
            row = {"kind": kind_of(gold, other), "id": record.id}
            row |= {} if record.doc is None else {"doc": record.doc}
            yield {
                **row,
                "before": record.text[max(start - CONTEXT, 0) : start],
                "text": record.text[start:end],
                "after": record.text[end : end + CONTEXT],
                "gold": spelled_out(record, gold),
                "predicted": None
                if other is None
                else {**(spelled_out(record, other) or {}), "score": scores[other]},
            }


def spelled_out(record: Record, span: Span | None) -> dict[str, Any] | None:
    """A mention with its text."""
    if span is None:
        return None
    start, end, label = span
    return {"start": start, "end": end, "label": label, "text": record.text[start:end]}


def place_of(record: Record, mention: Sequence[Any]) -> str:
    """A mention and its place, for messages.

    >>> place_of(Record("7", "in Berlin"), (3, 6, "LOC"))
    "'Ber' (LOC) in 'in Berlin', record 7, characters 3 to 6"
    """
    start, end, label = mention[:3]
    around = record.text[max(start - 10, 0) : end + 10]
    surface = record.text[start:end]
    place = f"record {record.id}, characters {start} to {end}"
    return f"{shown(surface)} ({label}) in {shown(around)}, {place}"


def misaligned(
    records: Sequence[Record], positions: Sequence[Sequence[tuple[int, int]]]
) -> list[str]:
    """Places of the mentions whose borders are not those of positions (offsets, by record)."""
    places = []
    for record, own in zip(records, positions, strict=True):
        starts, ends = {start for start, _ in own}, {end for _, end in own}
        wrong = [m for m in record.entities if m.start not in starts or m.end not in ends]
        places += [place_of(record, mention) for mention in wrong]
    return places


def first_of(places: Sequence[str]) -> str:
    """The first of some places, as the end of a message; empty without places."""
    return f" (the first: {'; '.join(places[:SHOWN])})" if places else ""
