"""What stands between the tokens of a text: nothing, or a space.

One decision holds for all files of a run, and is saved with the model.  Nothing is put between
tokens that are single characters, and between words of a script that is written without spaces.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice

SAMPLE = 20_000  # tokens of a file that are looked at
MOSTLY = 0.75  # share of tokens of one character in files of characters; English text has a fifth
# Scripts written without spaces, as ranges of code points: Thai, Lao, Tibetan, Myanmar, Khmer,
# kana, bopomofo, ideographs.
UNSPACED = (
    ("\u0e00", "\u0fff"), ("\u1000", "\u109f"), ("\u1780", "\u17ff"), ("\u3040", "\u312f"),
    ("\u31a0", "\u31ff"), ("\u3400", "\u9fff"), ("\ua9e0", "\uaa7f"), ("\uf900", "\ufaff"),
    ("\U0001b000", "\U0001b16f"), ("\U00020000", "\U0003fffd"),
)  # fmt: skip


def is_chinese(texts: Iterable[str]) -> bool:
    """Whether at least a quarter of the characters in 500 texts, drawn evenly, are ideographs.

    >>> is_chinese(["张三去了北京"]), is_chinese(["Anna left"])
    (True, False)
    """
    every = list(texts)
    count = min(len(every), 500)
    drawn = [every[number * len(every) // count] for number in range(count)]
    return 4 * sum(map(is_ideograph, "".join(drawn))) >= sum(map(len, drawn))


def is_ideograph(character: str) -> bool:
    """Whether a character is a CJK ideograph."""
    return "\u3400" <= character <= "\u9fff" or "\U00020000" <= character <= "\U0003fffd"


def is_unspaced(character: str) -> bool:
    """Whether a character is of a script that is written without spaces."""
    return character > "\u0dff" and any(low <= character <= high for low, high in UNSPACED)


def token_kinds(tokens: Iterable[str]) -> Counter[str]:
    """Numbers of the first tokens: all, "character" (one, with its marks), and "unspaced" (mostly).

    >>> dict(token_kinds(["小", "米", "Fold", "北京"]))
    {'all': 4, 'character': 2, 'unspaced': 3}
    """
    kinds: Counter[str] = Counter()
    for token, count in Counter(islice(tokens, SAMPLE)).items():
        marks = sum(unicodedata.category(c)[0] == "M" or c in "\u200c\u200d" for c in token[1:])
        kinds["all"] += count
        kinds["character"] += count * (len(token) == 1 + marks)
        kinds["unspaced"] += count * (2 * sum(map(is_unspaced, token)) > len(token))
    return kinds


def joiner_of(kinds: Mapping[str, int], setting: str = "auto") -> str:
    """The string between tokens of the given kinds; `setting` is a layout's joiner."""
    if setting != "auto":
        return "" if setting == "none" else " "
    total, characters, unspaced = (kinds.get(k, 0) for k in ("all", "character", "unspaced"))
    return "" if total and (characters >= MOSTLY * total or 2 * unspaced > total) else " "
