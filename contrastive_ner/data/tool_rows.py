"""Rows of JSON as one tool or benchmark writes them: one function a layout."""

from collections.abc import Mapping
from typing import Any

from contrastive_ner.data.mentions import Raw, raw_mentions, to_mention
from contrastive_ner.data.records import Record, is_list_of_two, token_offsets
from contrastive_ner.data.row_parts import (
    TEXT_KEYS,
    Item,
    Reading,
    Row,
    identity,
    with_spans,
    word_span,
    words_of,
)
from contrastive_ner.data.sentences import Sentence
from contrastive_ner.errors import DataError, shown


def read_cluener(row: Row, line: int, reading: Reading) -> list[Item]:
    """CLUENER: {"text", "label": {type: {surface: [[first, last]]}}}, inclusive."""
    text, labels = row.get("text"), row.get("label", {})
    if not isinstance(text, str) or not isinstance(labels, dict):
        raise DataError(
            "expected CLUENER's 'text' and 'label' (type -> surface -> [[first, last]])"
        )
    mentions = []
    for label, surfaces in labels.items():
        if not isinstance(surfaces, dict):
            raise DataError(
                f"expected surface -> [[first, last]] under {label!r}, found {shown(surfaces)}"
            )
        for surface, places in surfaces.items():
            for place in places if isinstance(places, list) else [places]:
                if not is_list_of_two(place):
                    raise DataError(
                        f"expected surface -> [[first, last]] under {label!r}, found {shown(place)}"
                    )
                raw = Raw(place[0], place[1], label, surface, convention="inclusive")
                mentions.append(to_mention(text, raw, reading.layout.offsets))
    identifier, doc = identity(row, line, reading)
    reading.has_mentions_key = True
    return [Record(identifier, text, sorted(mentions), doc)]


def is_task(row: Row) -> bool:
    """Whether a row is a task of Label Studio, perhaps with predictions alone."""
    parts = {"annotations", "completions", "predictions"}
    return isinstance(row.get("data"), dict) and bool(parts & row.keys())


def read_label_studio(row: Row, line: int, reading: Reading) -> list[Item]:
    """Label Studio's JSON: a task with data and annotations."""
    data = row["data"]
    key = reading.layout.keys.get("text") or next(
        (key for key in (*TEXT_KEYS, *data) if isinstance(data.get(key), str)), None
    )
    if key is None or not isinstance(data.get(key), str):
        raise DataError(f"expected a text in 'data', found the keys {sorted(data)}")
    given = row.get("annotations", row.get("completions")) or []
    done = [own for own in given if isinstance(own, dict) and not own.get("was_cancelled")]
    if not done:
        reading.report.left_out["tasks without an annotation"] += 1
        reading.has_mentions_key = True
        return []
    best = next((own for own in done if own.get("ground_truth")), done[0])
    reading.report.left_out.update(
        {"further annotations of a task": len(done) - 1} if len(done) > 1 else {}
    )
    mentions = []
    for result in best.get("result") or []:
        value = result.get("value")
        if not isinstance(value, dict) or "start" not in value or "labels" not in value:
            reading.report.left_out["results that are no labelled spans"] += 1
            continue
        mentions += [
            to_mention(data[key], raw, reading.layout.offsets)
            for raw in raw_mentions({**value, "score": result.get("score")}, {})
        ]
    reading.has_mentions_key = True
    identifier, doc = identity({"id": row.get("id"), **data}, line, reading)
    return [Record(identifier, data[key], sorted(set(mentions)), doc)]


def read_binder(row: Row, line: int, reading: Reading) -> list[Item]:
    """The release of BINDER: parallel lists of types and character offsets, half-open."""
    lists = [row[key] for key in ("entity_start_chars", "entity_end_chars", "entity_types")]
    if not all(isinstance(own, list) and len(own) == len(lists[0]) for own in lists):
        raise DataError("expected entity_types, entity_start_chars and entity_end_chars alike long")
    text = row.get("text")
    if not isinstance(text, str):
        raise DataError(f"expected a string in 'text', found the keys {sorted(row)}")
    mentions = [
        to_mention(text, Raw(*raw), reading.layout.offsets) for raw in zip(*lists, strict=True)
    ]
    starts, ends = row.get("word_start_chars"), row.get("word_end_chars")
    tokens = None
    if isinstance(starts, list) and isinstance(ends, list):
        tokens = token_offsets([list(pair) for pair in zip(starts, ends, strict=False)], text)
    reading.has_mentions_key = True
    identifier, doc = identity(row, line, reading)
    return [Record(identifier, text, sorted(set(mentions)), doc, tokens)]


def read_gliner(row: Row, line: int, reading: Reading) -> list[Item]:
    """GLiNER: words, and [first, last, label] over them, inclusive."""
    words = words_of(row["tokenized_text"])
    if words is None or not isinstance(row["ner"], list):
        raise DataError("expected words in 'tokenized_text' and [first, last, label] in 'ner'")
    raws = [raw for item in row["ner"] for raw in raw_mentions(item, {})]
    reading.has_mentions_key = True
    inclusive = reading.layout.offsets != "half_open"
    return [with_spans(row, line, reading, words, raws, inclusive=inclusive)]


def read_w2ner(row: Row, line: int, reading: Reading) -> list[Item]:
    """W2NER: words in "sentence", and {index: [words], type}; discontinuous ones are left out."""
    words = words_of(row["sentence"])
    raws = []
    for item in row["ner"]:
        index = item.get("index") if isinstance(item, dict) else None
        if not isinstance(index, list) or not index or not all(type(i) is int for i in index):
            raise DataError(f"expected word numbers in 'index', found {shown(item)}")
        if index != list(range(index[0], index[0] + len(index))):
            reading.report.left_out["discontinuous mentions"] += 1
            continue
        raws.append(Raw(index[0], index[-1], item.get("type")))
    reading.has_mentions_key = True
    return [with_spans(row, line, reading, words or [], raws, inclusive=True)]


def read_dygie(row: Row, line: int, reading: Reading) -> list[Item]:
    """DyGIE++ and SciERC: the sentences of a document; [first, last, label] count its tokens."""
    sentences, mentions = row["sentences"], row.get("ner", [])
    if not isinstance(mentions, list) or len(mentions) not in (0, len(sentences)):
        raise DataError("expected as many lists in 'ner' as in 'sentences'")
    doc = str(row.get("doc_key", row.get("doc_id", line)))
    reading.has_mentions_key |= "ner" in row
    items: list[Item] = []
    first = 0
    for number, words in enumerate(sentences):
        if words_of(words) is None and words != []:
            raise DataError(f"expected a list of words in 'sentences', found {shown(words)}")
        spans = []
        for item in mentions[number] if mentions else []:
            (raw,) = raw_mentions(item, {})
            if not is_list_of_two([raw.start, raw.end]):
                raise DataError(f"expected integer offsets and a label, found {shown(item)}")
            raw = raw._replace(start=raw.start - first, end=raw.end - first)
            spans.append(word_span(words, raw, inclusive=True))
        items.append(Sentence(reading.place(line), f"{doc}-{number}", words, spans=spans, doc=doc))
        first += len(words)
    return items


def is_mrc(row: Any) -> bool:
    """Whether a row asks for the mentions of one type, as data for reading comprehension do."""
    return isinstance(row, Mapping) and isinstance(row.get("context"), str) and {
        "start_position", "end_position", "entity_label",
    } <= row.keys()  # fmt: skip


def read_mrc(row: Row, line: int, reading: Reading) -> list[Item]:
    """A text of words between spaces and the mentions of one type, [first] and [last] words.

    The rows of a text, one a type, are one sentence, wherever they are: those with equal words and,
    where `qas_id` is TEXT.TYPE, the same TEXT. A type that the sentence has begins another one.
    """
    starts, ends = row["start_position"], row["end_position"]
    if not isinstance(starts, list) or not isinstance(ends, list) or len(starts) != len(ends):
        raise DataError("expected lists of the same length in 'start_position' and 'end_position'")
    words = row["context"].split()
    label = row["entity_label"]
    raws = [Raw(start, end, label) for start, end in zip(starts, ends, strict=True)]
    text, dot, _ = str(row.get("qas_id", "")).rpartition(".")
    name = text if dot else str(line)
    found = with_spans({"id": name}, line, reading, words, raws, inclusive=True)
    reading.has_mentions_key = True
    key = (text if dot else "", *words)
    before, labels = reading.sentences.get(key, (None, set()))
    if before is not None and label not in labels:
        before.spans += found.spans
        labels.add(label)
        return []
    reading.sentences[key] = found, {label}
    return [found]


def is_w2ner(row: Row) -> bool:
    """Whether a row is of W2NER: a list of words in "sentence" and objects in "ner"."""
    entries = row.get("ner")
    return (
        isinstance(entries, list)
        and words_of(row.get("sentence")) is not None
        and all(isinstance(entry, dict) for entry in entries)
    )
