"""tokenizer.json: what a model does not survive, found before the tokenizer is built.

The library that reads it builds what it says: a few lines of it can make a text grow a million
times, or a regular expression never end.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from contrastive_ner.models.checks_ner import size_fault

GROWTH = 64  # how much longer a normaliser may make a text
LONGEST_WORD = 10_000  # characters; what WordPiece does with a word grows with its square
LARGEST_PATTERN = 20_000  # characters of a regular expression
REPEATED = re.compile(r"[*+]|\{\d*,\d*\}|\{\d\d+\}")


def file_faults(folder: Path) -> list[str]:
    """Files of a model folder that are too large to be read, and what is wrong with its tokenizer.

    Files that are damaged are not looked at: loading them fails.
    """
    paths = sorted(p for p in folder.iterdir() if p.suffix in (".json", ".txt") and p.is_file())
    faults = [fault for path in paths if (fault := size_fault(path))]
    if faults or not (folder / "tokenizer.json").is_file():
        return faults
    try:
        config = json.loads((folder / "config.json").read_bytes())
        content = json.loads((folder / "tokenizer.json").read_bytes())
        encoders = [config.get(name) for name in ("encoder_config", "type_encoder_config")]
    except (OSError, ValueError, RecursionError, AttributeError):
        return []
    sizes = [own.get("vocab_size") for own in encoders if isinstance(own, Mapping)]
    return tokenizer_faults(content, min((n for n in sizes if type(n) is int), default=None))


def tokenizer_faults(content: Any, rows: int | None) -> list[str]:
    """What is wrong with the content of a tokenizer.json.

    Args:
        rows: tokens that the encoder has a vector for; None if unknown.
    """
    if not isinstance(content, Mapping):
        return ["tokenizer.json holds no object"]
    growth = growth_of(content.get("normalizer"))
    faults = []
    if growth > GROWTH:
        faults.append(f"tokenizer.json: its normaliser can make a text {growth:.3g} times longer")
    for pattern in patterns_of(content):
        if len(pattern) > LARGEST_PATTERN or repeats_twice(pattern):
            faults.append(
                f"tokenizer.json: the regular expression {pattern!r:.80} may never end: it repeats "
                "a group that repeats or chooses"
            )
    model = content.get("model")
    longest = model.get("max_input_chars_per_word") if isinstance(model, Mapping) else None
    if isinstance(longest, int) and longest > LONGEST_WORD:
        faults.append(f"tokenizer.json: max_input_chars_per_word is {longest}, far too large")
    largest = largest_id(content)
    if rows is not None and largest >= rows:
        faults.append(
            f"tokenizer.json has token ids up to {largest}, but the encoder has vectors for {rows} "
            "tokens"
        )
    return faults


def parts_of(value: Any) -> Iterator[Mapping[str, Any]]:
    """The dictionaries of a JSON value, at any depth; vocabularies are not entered."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            yield part
            waiting += [own for key, own in part.items() if key not in ("vocab", "merges")]
        elif isinstance(part, list):
            waiting += part


def growth_of(normalizer: Any) -> float:
    """How many times longer the replacements of a normaliser can make a text, at most.

    Each can apply to what the one before it wrote.

    >>> tenfold = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
    >>> growth_of({"type": "Sequence", "normalizers": [tenfold] * 3})
    1000.0
    """
    growth = 1.0
    for part in parts_of(normalizer):
        written = part.get("content", part.get("prepend"))
        if isinstance(written, str):
            pattern = part.get("pattern")
            found = pattern.get("String") if isinstance(pattern, Mapping) else None
            read = len(found) if isinstance(found, str) and found else 1
            # An empty match writes beside the character.
            beside = isinstance(pattern, Mapping) and "Regex" in pattern and len(written) > 1
            growth *= min(max(len(written) / read + beside, 1.0), 1e9)
    return growth


def patterns_of(content: Mapping[str, Any]) -> Iterator[str]:
    """Regular expressions of a tokenizer."""
    for part in parts_of(content):
        if isinstance(pattern := part.get("Regex"), str):
            yield pattern


def repeats_twice(pattern: str) -> bool:
    r"""Whether a regular expression repeats a group that itself repeats or has alternatives.

    Matching one can take time that grows exponentially with the text. Also whether it refers back
    to a group, or repeats four times in a row.

    >>> [repeats_twice(pattern) for pattern in (r"(a+)+b", r"(a|a)*", r"\s+(?!\S)|\p{L}+")]
    [True, True, False]
    """
    plain = re.sub(r"\\[1-9k]", "(|)*", pattern)
    plain = re.sub(r"\\(p\{[^}]*\}|P\{[^}]*\}|.)", "x", plain, flags=re.DOTALL)
    while re.search(r"\[[^\[\]]+\]", plain):  # classes may hold classes
        plain = re.sub(r"\[[^\[\]]+\]", "x", plain)
    if re.search(r"([^()|*+?{}][*+][+?]?){4}|(\.[*+][+?]?){3}", plain):
        return True
    opened: list[bool] = []  # for each open group, whether it repeats or chooses
    at = 0
    while at < len(plain):
        repeat = REPEATED.match(plain, at)
        if plain[at] == "(":
            opened.append(False)
            at += 2 if plain[at + 1 : at + 2] == "?" else 0
        elif plain[at] == ")" and opened:
            inner = opened.pop()
            if inner and REPEATED.match(plain, at + 1):
                return True
            if opened:
                opened[-1] |= inner
        elif (repeat or plain[at] in "|?") and opened:
            opened[-1] = True
        at += len(repeat[0]) if repeat else 1
    return False


def largest_id(content: Mapping[str, Any]) -> int:
    """The largest token id in a tokenizer.json; -1 if there is none."""
    model = content.get("model")
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    ids: list[Any] = []
    if isinstance(vocabulary, Mapping):
        ids = list(vocabulary.values())
    elif isinstance(vocabulary, list):
        ids = [len(vocabulary) - 1]
    added = content.get("added_tokens")
    ids += [t.get("id") for t in added if isinstance(t, Mapping)] if isinstance(added, list) else []
    return max((number for number in ids if type(number) is int), default=-1)
