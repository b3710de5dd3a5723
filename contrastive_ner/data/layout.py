"""How a source is laid out, and what reading it found."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from contrastive_ner.data.schemes import READ_SCHEMES
from contrastive_ner.errors import DataError, shown

# Formats of annotated text. "jsonl" is JSON of any layout; see `json_rows`.
FORMATS = (
    "columns", "jsonl", "cluener", "csv", "parquet", "datasets", "brat", "pubtator", "spacy",
    "conll2012", "webanno", "inline", "slashed",
)  # fmt: skip
LAYOUT_CHOICES = {
    "tag_scheme": ("auto", *READ_SCHEMES),
    "delimiter": ("auto", "tab", "space", "any", "comma", "semicolon"),
    "joiner": ("auto", "none", "space"),
    "offsets": ("auto", "half_open", "inclusive", "utf16"),
}
FIELDS = ("text", "tokens", "tags", "entities", "start", "end", "label", "surface", "id", "doc")


@dataclass(frozen=True)
class Layout:
    """How a file is laid out. With "auto", a setting is detected from the file.

    Args:
        format: "auto" or one of `FORMATS`.
        encoding: encoding of text files, by Python's names; a byte-order mark comes first.
        tag_scheme: "auto", "IO", "IOB1", "BIO", "BIOES", "BMES", "BILOU" or "BMEWO".
        delimiter: of columns: "auto" (a tab if most rows have one, else a comma or semicolon if
            nearly all rows have as many cells, else spaces), "tab", "space" (runs of spaces), "any"
            (runs of spaces and tabs), "comma" or "semicolon" (CSV).
        token_column: index of the token column. A first column that numbers the tokens of each
            sentence is passed over.
        tag_columns: indices of the tag columns, several for nested mentions. Empty: the last ones
            that hold tags, without chunks.
        indexed_characters: the token is the first character of its column and the rest is an
            index (Weibo's "高0", "兴1"); also detected.
        joiner: what separates tokens in the text: "auto" (see `joining`), "none" or "space".
        offsets: what start and end count: "auto" (what the format says, else "half_open"),
            "inclusive" (the end is the last character) or "utf16" (UTF-16 units, half-open).
        tag_names: names of integer tags, in their order.
        fields: keys of JSON rows or columns of data sets that have other names than ours, as
            "NAME=KEY" with a name of `FIELDS`.
        documents_of: number of consecutive texts that are a document; 0: by the format's marks,
            such as -DOCSTART- or `doc`, if it has any.
    """

    format: str = "auto"
    encoding: str = "utf-8"
    tag_scheme: str = "auto"
    delimiter: str = "auto"
    token_column: int = 0
    tag_columns: tuple[int, ...] = ()
    indexed_characters: bool = False
    joiner: str = "auto"
    offsets: str = "auto"
    tag_names: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    documents_of: int = 0

    def __post_init__(self) -> None:
        for name, known in LAYOUT_CHOICES.items():
            if (given := getattr(self, name)) not in known:
                raise DataError(f"{name}: expected one of {', '.join(known)}, found {shown(given)}")
        for column in (self.token_column, *self.tag_columns):
            if column < 0:
                raise DataError(f"columns are counted from 0: found {shown(column)}")
        if self.documents_of < 0:
            raise DataError(
                f"documents_of: expected a number of texts, or 0, found {shown(self.documents_of)}"
            )
        try:
            text = b"a".decode(self.encoding)
        except (LookupError, ValueError, TypeError):
            text = None
        if not isinstance(text, str):
            raise DataError(
                f"encoding: expected a text encoding such as utf-8, gb18030 or big5, "
                f"found {shown(self.encoding)}"
            )
        for item in self.fields:
            name, equals, key = item.partition("=")
            if name not in FIELDS or not equals or not key:
                raise DataError(
                    f"fields: expected NAME=KEY with a name of {', '.join(FIELDS)}, "
                    f"found {shown(item)}"
                )

    @property
    def keys(self) -> Mapping[str, str]:
        """`fields` as {name: key}."""
        return dict(item.split("=", 1) for item in self.fields)


AUTO = Layout()


@dataclass
class ReadReport:
    """What reading a file found, left out and repaired."""

    path: str = ""
    format: str = ""
    scheme: str | None = None
    joiner: str | None = None  # what stands between tokens; None: the texts are whole
    token_kinds: Counter[str] = field(default_factory=Counter)  # what `joining` decides by
    repaired_tags: int = 0
    # The first ten repairs, as "line 12: I-PER where BIO does not allow it".
    repairs: list[str] = field(default_factory=list)
    # What was guessed or is suspicious, one sentence each.
    notes: list[str] = field(default_factory=list)
    # What the file has and a record cannot hold, such as relations.
    left_out: Counter[str] = field(default_factory=Counter)

    def repair(self, where: str) -> None:
        """Count a repaired tag and keep its description if it is one of the first ten."""
        self.repaired_tags += 1
        if len(self.repairs) < 10:
            self.repairs.append(where)

    def note(self, sentence: str) -> None:
        """Keep a sentence, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def remarks(self) -> list[str]:
        """What a reader of the file should know, a line each."""
        lines = list(self.notes)
        if self.left_out:
            found = ", ".join(f"{count} {what}" for what, count in self.left_out.items())
            lines.append(f"left out: {found}")
        if self.repaired_tags:
            first = f", first {self.repairs[0]}" if self.repairs else ""
            many = "s" if self.repaired_tags > 1 else ""
            lines.append(f"{self.repaired_tags} tag{many} repaired{first}")
        return lines
