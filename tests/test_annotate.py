"""Dictionary labels against a search of all substrings; dictionary files; both commands."""

import io
import json
import re
import unicodedata
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrastive_ner.cli import main
from contrastive_ner.cli.dictionary import scores_against_given
from contrastive_ner.data.dictionary import (
    Dictionary,
    annotate,
    collect_terms,
    fold,
    read_dictionary,
    words,
)
from contrastive_ner.data.joining import is_ideograph
from contrastive_ner.data.readers import read_records
from contrastive_ner.data.records import Mention, Record
from contrastive_ner.data.writers import write_records
from contrastive_ner.errors import DataError
from contrastive_ner.models.windows_ner import joined

LETTERS = "aAbßσς１Ａ-_ \u3000京北ｶカ😀\ud800"
TERMS = st.lists(
    st.tuples(st.text(LETTERS, min_size=1, max_size=4), st.sampled_from(["X", "Y"])),
    min_size=1,
    max_size=8,
)
OPTIONS = st.fixed_dictionaries(
    {"fold_case": st.booleans(), "fold_width": st.booleans(), "min_length": st.integers(1, 3)}
)


@st.composite
def entries_and_pieces(draw: st.DrawFn) -> tuple[list[tuple[str, str]], list[str]]:
    """Dictionary entries, and pieces of text where they occur, overlap and are parts of words."""
    entries = draw(TERMS)
    return entries, draw(
        st.lists(
            st.one_of(st.sampled_from([term for term, _ in entries]), st.sampled_from(LETTERS)),
            max_size=8,
        )
    )


def in_word(text: str, i: int) -> bool:
    """Whether characters i - 1 and i belong to the same word."""
    return 0 < i < len(text) and all(
        re.match(r"\w", c) and not is_ideograph(c) and c not in "カ" for c in text[i - 1 : i + 1]
    )


def brute_force(
    text: str,
    entries: Sequence[tuple[str, str]],
    starts: set[int],
    ends: set[int],
    *,
    fold_case: bool,
    fold_width: bool,
    min_length: int,
) -> list[tuple[int, int, str]]:
    """At each position from the left, the longest term; its type is that of its first entry.

    Terms match as written or, with symbols or white space in them, by their words.
    """

    def same(string: str) -> str:
        return fold(string, case=fold_case, width=fold_width)

    def own_words(string: str) -> list[str]:
        return [string[start:end] for start, end in words(string)]

    def by_words(term: str, start: int, end: int) -> bool:
        inside = [(a, z) for a, z in words(same(text)) if a < end and z > start]
        free = any(not c.isalnum() for c in same(term)) and bool(inside)
        whole = free and inside[0][0] == start and inside[-1][1] == end
        return whole and own_words(same(term)) == [same(text)[a:z] for a, z in inside]

    found, i = [], 0
    kept = [(term, t) for term, t in entries if len(term) >= min_length]
    while i < len(text):
        lengths = range(len(text) - i, 0, -1)
        hits = [
            (i + n, t)
            for n in lengths
            for t in [
                *(t for term, t in kept if same(term) == same(text[i : i + n])),
                *(t for term, t in kept if by_words(term, i, i + n)),
            ]
        ]
        whole = [(end, label) for end, label in hits if i in starts and end in ends]
        if whole:
            found.append((i, *whole[0]))
        i = whole[0][0] if whole else i + 1
    return found


def labels(
    dictionary: Dictionary, text: str, tokens: list[tuple[int, int]] | None = None
) -> list[tuple[int, int, str]]:
    return [
        tuple(mention[:3])
        for mention in annotate([Record("r", text, [], None, tokens)], dictionary)[0][0].entities
    ]


@settings(deadline=None)  # the first call compiles the pattern of words
@given(entries_and_pieces(), OPTIONS)
def test_labels_equal_those_of_all_substrings(drawn, options):
    entries, text = drawn[0], "".join(drawn[1])
    starts = {i for i, c in enumerate(text) if not c.isspace() and not in_word(text, i)}
    ends = {
        i for i in range(1, len(text) + 1) if not text[i - 1].isspace() and not in_word(text, i)
    }
    assert labels(Dictionary(entries, **options), text) == brute_force(
        text, entries, starts, ends, **options
    )


@settings(deadline=None)
@given(entries_and_pieces(), st.sampled_from(["", " "]), OPTIONS)
def test_labels_on_given_tokens_equal_those_of_all_substrings(drawn, joiner, options):
    entries, (text, tokens) = drawn[0], joined(drawn[1], joiner)
    starts, ends = {start for start, _ in tokens}, {end for _, end in tokens}
    assert labels(Dictionary(entries, **options), text, tokens) == brute_force(
        text, entries, starts, ends, **options
    )


@pytest.mark.parametrize(
    ("term", "text", "found"),
    [
        ("beta - blocker", "a beta-blocker.", "beta-blocker"),
        ("beta-blocker", "a beta - blocker .", "beta - blocker"),
        (
            "( R)-alpha - methylhistamine",
            "an (R)-alpha-methylhistamine",
            "(R)-alpha-methylhistamine",
        ),
        ("(R)-alpha", "x ( R ) - alpha", "( R ) - alpha"),
        ("New York", "New\u3000 York", "New\u3000 York"),
        ("the rapist", "therapist", ""),
        ("北京大学", "北京 大学", ""),
        ("a - b", "a-bc", ""),
    ],
)
def test_white_space_around_symbols_does_not_count(term: str, text: str, found: str) -> None:
    (start, end, _), *_ = labels(Dictionary([(term, "X")]), text) or [(0, 0, "")]
    assert text[start:end] == found


# -------------------------------------------------------------------------------- folding and words
@given(st.text(), st.booleans(), st.booleans())
def test_folding_is_one_code_point_for_one_and_final(text, case, width):
    folded = fold(text, case=case, width=width)
    assert len(folded) == len(text)
    assert folded == "".join(fold(c, case=case, width=width) for c in text)
    assert fold(folded, case=case, width=width) == folded


def test_without_case_only_forms_of_width_change():
    every = "".join(c for c in map(chr, range(0x20000)) if not "\ud800" <= c <= "\udfff")
    changed = [(c, d) for c, d in zip(every, fold(every, case=False), strict=True) if c != d]
    assert ("Ａ", "A") in changed
    assert ("ｶ", "カ") in changed
    assert all(
        unicodedata.normalize("NFKC", c) == unicodedata.normalize("NFKC", d) for c, d in changed
    )
    assert fold(every, case=False, width=False) == every


def test_offsets_are_exact_behind_characters_whose_folding_is_longer():
    text = "Straße in İstanbul 😀 ＡＩＤＳ, aids"
    found = labels(Dictionary([("AIDS", "DIS"), ("straße", "LOC"), ("İSTANBUL", "LOC")]), text)
    assert [text[start:end] for start, end, _ in found] == [
        "Straße",
        "İstanbul",
        "ＡＩＤＳ",
        "aids",
    ]


def test_folding_can_be_switched_off():
    text = "AIDS aids ＡＩＤＳ"
    assert len(labels(Dictionary([("AIDS", "D")], fold_case=False), text)) == 2
    assert len(labels(Dictionary([("AIDS", "D")], fold_width=False), text)) == 2
    assert len(labels(Dictionary([("AIDS", "D")], fold_case=False, fold_width=False), text)) == 1


@settings(deadline=None)
@given(st.text())
def test_words_cover_all_but_white_space(text):
    spans = words(text)
    assert "".join(text[start:end] for start, end in spans) == "".join(
        c for c in text if not c.isspace()
    )
    assert all(start < end for start, end in spans)


# ----------------------------------------------------------------------------------------- matching
def test_longest_match_at_the_leftmost_place_wins():
    dictionary = Dictionary(
        [
            ("New York", "LOC"),
            ("New York Times", "ORG"),
            ("York Times Square Club", "ORG"),
            ("Square", "LOC"),
        ]
    )
    assert labels(dictionary, "New York Times Square Club") == [(0, 14, "ORG"), (15, 21, "LOC")]


def test_match_that_breaks_a_word_hides_no_shorter_one():
    dictionary = Dictionary([("heart", "ORGAN"), ("heart att", "X"), ("attack rate", "Y")])
    assert labels(dictionary, "heart attack rates, sweetheart") == [(0, 5, "ORGAN")]


def test_words_of_scripts_with_spaces_are_not_broken():
    dictionary = Dictionary([("rat", "ANIMAL"), ("2", "NUMBER")])
    assert labels(dictionary, "rats, brat; rat-like, rat2 and 2 rat") == [
        (12, 15, "ANIMAL"),
        (31, 32, "NUMBER"),
        (33, 36, "ANIMAL"),
    ]


def test_chinese_matches_at_any_code_point():
    dictionary = Dictionary(
        [("南京", "GPE"), ("南京市长江大桥", "LOC"), ("长江", "LOC"), ("ai", "FIELD")]
    )
    assert labels(dictionary, "在南京市长江边学ＡＩ，过南京市长江大桥") == [
        (1, 3, "GPE"),
        (4, 6, "LOC"),
        (8, 10, "FIELD"),
        (12, 19, "LOC"),
    ]
    assert labels(dictionary, "南京市长江", [(0, 3), (3, 5)]) == [(3, 5, "LOC")]


def test_lone_surrogate_is_no_obstacle():
    assert labels(Dictionary([("张三", "PER")]), "\ud800张三\udfff") == [(1, 3, "PER")]


def test_first_entry_decides_and_conflicts_are_counted():
    entries = [("Us", "GPE"), ("us", "O-TYPE"), ("US", "GPE"), ("may", "DATE"), ("a", "X")]
    dictionary = Dictionary(entries, min_length=2)
    labelled, report = annotate([Record("1", "US or us in May"), Record("2", "")], dictionary)
    assert [m[:3] for m in labelled[0].entities] == [(0, 2, "GPE"), (6, 8, "GPE"), (12, 15, "DATE")]
    assert (report.texts, report.ambiguous, report.matched) == (2, 2, {"us", "may"})
    assert (dictionary.types, dictionary.repeated, dictionary.short) == (
        {"us": ["GPE", "O-TYPE"], "may": ["DATE"]},
        1,
        1,
    )
    assert str(report).splitlines() == [
        "2 texts, 3 mentions, GPE 2, DATE 1",
        "2 terms, 2 of them found; left out: 1 repeated, 1 too short",
        "1 terms with several types: 2 mentions have the type listed first",
        "  'us' GPE, O-TYPE",
    ]


def test_scores_against_the_given_mentions():
    # Gold without the inner mention: 4; dictionary: 3, of them 2 right.
    first = Record(
        "1",
        "张三在北京大学见李四",
        [Mention(0, 2, "PER"), Mention(3, 7, "ORG"), Mention(3, 5, "GPE"), Mention(8, 10, "PER")],
    )
    second = Record("2", "张三去上海", [Mention(0, 2, "PER")])
    records = [first, second]
    labelled, _ = annotate(records, Dictionary([("张三", "PER"), ("北京大学", "LOC")]))
    assert len(first.entities) == 4
    assert [len(record.entities) for record in labelled] == [2, 1]
    scores, inner = scores_against_given(labelled, records)
    assert inner == 1
    micro, per_type = scores["micro"], scores["per_type"]
    assert (micro["precision"], micro["recall"], micro["f1"]) == (2 / 3, 2 / 4, 4 / 7)
    assert (per_type["PER"]["precision"], per_type["PER"]["recall"], per_type["PER"]["f1"]) == (
        1,
        2 / 3,
        4 / 5,
    )
    assert (per_type["LOC"]["predicted"], per_type["ORG"]["gold"]) == (1, 1)


def test_text_without_mentions_is_not_scored():
    records = [Record("1", "张三")]
    labelled, _ = annotate(records, Dictionary([("张三", "PER")]))
    assert scores_against_given(labelled, records) == (None, 0)


# --------------------------------------------------------------------------------- dictionary files
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "found no entry"),
        ("# a comment\n\n", "found no entry"),
        (
            "张三\tPER\n北京 GPE\n",
            "terms.tsv:2: expected a term, a tab and an entity type, found '北京 GPE'",
        ),
        ("张三\tPER\tx\n", "terms.tsv:1"),
        ("张三\t\n", "terms.tsv:1"),
        (" \tPER\n", "terms.tsv:1"),
    ],
)
def test_bad_dictionary_is_refused(tmp_path, content, message):
    (tmp_path / "terms.tsv").write_text(content, "utf-8")
    with pytest.raises(DataError, match=re.escape(message)):
        read_dictionary(tmp_path / "terms.tsv")


def test_dictionary_that_is_absent_no_utf8_or_too_short_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_dictionary(tmp_path / "terms.tsv")
    (tmp_path / "terms.tsv").write_bytes("张三\tPER\n".encode("gb18030"))
    with pytest.raises(DataError, match=r"terms\.tsv:1: not UTF-8"):
        read_dictionary(tmp_path / "terms.tsv")
    (tmp_path / "terms.tsv").write_text("张三\tPER\n", "utf-8")
    with pytest.raises(DataError, match="at least 3 characters, found none; lower min_length"):
        read_dictionary(tmp_path / "terms.tsv", min_length=3)


def test_comments_blank_lines_and_line_ends_are_no_part_of_a_term(tmp_path):
    (tmp_path / "terms.tsv").write_bytes(
        "\ufeff张三\tPER\r\n\r\n  # note\tx\r\n New York \t LOC \n".encode()
    )
    assert read_dictionary(tmp_path / "terms.tsv").types == {"张三": ["PER"], "new york": ["LOC"]}


def test_terms_have_their_most_frequent_type_and_what_cannot_be_written_is_counted():
    def record(*surfaces: str, label: str = "A") -> Record:
        text, offsets = joined(surfaces, "|")
        return Record("r", text, [Mention(start, end, label) for start, end in offsets])

    records = [
        record("x", "x", "a\tb", "a\nb", "#c", " ", "y"),
        record("x", "y", "z ", label="B"),
        record("w", label="T\t"),
    ]
    entries, report = collect_terms(records)
    assert entries == [("x", "A"), ("y", "A"), ("w", "T"), ("z", "B")]
    assert report.startswith("4 terms from 11 mentions, 2 with several types")
    assert "4 that a line cannot hold" in report
    entries, report = collect_terms(records, min_count=2)
    assert entries == [("x", "A"), ("y", "A")]
    assert "2 rarer than 2" in report
    with pytest.raises(DataError, match="lower min_count"):
        collect_terms(records, min_count=4)


# --------------------------------------------------------------------------------- the command line
@pytest.fixture
def terms(files, tmp_path, capsys):
    """A dictionary of the small corpus's training part."""
    assert (
        main(["dictionary", str(files / "train.jsonl"), "--output", str(tmp_path / "terms.tsv")])
        == 0
    )
    assert "11 terms from 80 mentions, 0 with several types" in capsys.readouterr().err
    return tmp_path / "terms.tsv"


def test_dictionary_of_a_file_labels_that_file_as_it_was(files, terms, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    assert (
        main(
            [
                "annotate",
                str(files / "train.jsonl"),
                "--dictionary",
                str(terms),
                "--output",
                str(out),
            ]
        )
        == 0
    )
    assert out.read_bytes() == (files / "train.jsonl").read_bytes()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "40 texts, 80 mentions, " in captured.err
    assert "11 terms, 11 of them found" in captured.err
    assert re.search(r"micro +100\.0 +100\.0 +100\.0 +80", captured.err)


def test_dictionary_of_several_files_is_read_back(files, tmp_path, capsys):
    (tmp_path / "more.bio").write_text(
        "巴\tB-GPE\n黎\tI-GPE\n#\tB-PER\n好\tO\n伦\tI-GPE\n", "utf-8"
    )
    names = [str(files / "train.jsonl"), str(tmp_path / "more.bio")]
    assert main(["dictionary", *names, "--output", str(tmp_path / "terms.tsv")]) == 0
    assert "1 tags repaired in" in capsys.readouterr().err
    entries, _ = collect_terms(record for name in names for record in read_records(name)[0])
    assert read_dictionary(tmp_path / "terms.tsv").types == {
        term: [label] for term, label in entries
    }
    assert len(entries) == 13


def test_first_term_keeps_a_byte_order_mark(tmp_path):
    write_records([Record("a", "见\ufeff张三", [Mention(1, 4, "PER")])], tmp_path / "a.jsonl")
    assert (
        main(["dictionary", str(tmp_path / "a.jsonl"), "--output", str(tmp_path / "terms.tsv")])
        == 0
    )
    assert read_dictionary(tmp_path / "terms.tsv").types == {"\ufeff张三": ["PER"]}


def test_files_without_mentions_make_no_dictionary(tmp_path, capsys):
    write_records([Record("a", "张三")], tmp_path / "a.jsonl")
    assert (
        main(["dictionary", str(tmp_path / "a.jsonl"), "--output", str(tmp_path / "terms.tsv")])
        == 2
    )
    assert "0 terms from 0 mentions" in capsys.readouterr().err
    assert not (tmp_path / "terms.tsv").exists()


def test_lines_from_standard_input_are_labelled(terms, monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.stdin", io.TextIOWrapper(io.BytesIO("张三去了华为\n\n今天下雨\n".encode()))
    )
    assert main(["annotate", "--dictionary", str(terms)]) == 0
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [[m["label"] for m in row["entities"]] for row in rows] == [["PER", "ORG"], [], []]
    assert "against" not in captured.err


def test_raw_text_can_be_written_as_columns_of_its_words(tmp_path, capsys):
    (tmp_path / "in.txt").write_text("She flew to New York.\n", "utf-8")
    (tmp_path / "terms.tsv").write_text("new york\tLOC\n", "utf-8")
    assert (
        main(
            [
                "annotate",
                str(tmp_path / "in.txt"),
                "--dictionary",
                str(tmp_path / "terms.tsv"),
                "--output_format",
                "columns",
            ]
        )
        == 0
    )
    assert capsys.readouterr().out == "She\tO\nflew\tO\nto\tO\nNew\tB-LOC\nYork\tI-LOC\n.\tO\n\n"


def test_columns_keep_their_tokens_and_scheme_and_lose_their_gold(files, terms, tmp_path, capsys):
    gold = (files / "test.bmes").read_text("utf-8")
    (tmp_path / "in.bmes").write_text(gold.replace("-PER", "-OTHER"), "utf-8")
    options = ["--dictionary", str(terms), "--output_format", "same"]
    assert main(["annotate", str(tmp_path / "in.bmes"), *options]) == 0
    captured = capsys.readouterr()
    assert captured.out == gold
    assert re.search(r"OTHER +0\.0 +0\.0 +0\.0 +12", captured.err)
    assert re.search(r"micro +50\.0 +50\.0 +50\.0 +24", captured.err)


def test_folding_is_an_option_of_the_command(tmp_path, capsys):
    (tmp_path / "in.txt").write_text("AIDS aids ＡＩＤＳ\n", "utf-8")
    (tmp_path / "terms.tsv").write_text("AIDS\tDIS\n", "utf-8")
    command = ["annotate", str(tmp_path / "in.txt"), "--dictionary", str(tmp_path / "terms.tsv")]
    for options, count in (
        ([], 3),
        (["--fold_case", "false"], 2),
        (["--fold_width", "false", "--fold_case", "false"], 1),
    ):
        assert main([*command, *options]) == 0
        assert len(json.loads(capsys.readouterr().out)["entities"]) == count


def test_bad_dictionary_leaves_the_output_alone(files, tmp_path, capsys):
    (tmp_path / "terms.tsv").write_text("张三 PER\n", "utf-8")
    (tmp_path / "out.jsonl").write_text("precious")
    command = [
        "annotate",
        str(files / "test.jsonl"),
        "--dictionary",
        str(tmp_path / "terms.tsv"),
        "--output",
        str(tmp_path / "out.jsonl"),
    ]
    assert main(command) == 2
    assert (
        "terms.tsv:1: expected a term, a tab and an entity type, found '张三 PER'"
        in capsys.readouterr().err
    )
    assert (tmp_path / "out.jsonl").read_text() == "precious"
