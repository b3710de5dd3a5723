"""Types files: what is refused; those of the project fit the data they describe."""

import itertools
import os
from pathlib import Path

import pytest
from conftest import ROOT

from contrastive_ner.data.descriptions import EntityType, check_types, read_types
from contrastive_ner.data.joining import is_ideograph
from contrastive_ner.data.layout import Layout
from contrastive_ner.data.readers import read_records
from contrastive_ner.data.records import entity_types
from contrastive_ner.errors import DataError

TYPES = ROOT / "configs" / "types"
GENIA = "DNA RNA cell_line cell_type protein"
GERMEVAL = [
    name + suffix for name in ("LOC", "ORG", "OTH", "PER") for suffix in ("", "deriv", "part")
]
SHARED = "country location misc organisation person"  # types of all CrossNER domains

LABELS = {
    "ace": "FAC GPE LOC ORG PER VEH WEA",
    "bc2gm": "GENE",
    "bc5_chem": "Chemical",
    "bc5_disease": "Disease",
    "bc5cdr": "Chemical Disease",
    "conll03": "LOC MISC ORG PER",
    "crossner_ai": f"{SHARED} algorithm conference field metrics product programlang researcher "
    "task university",
    "crossner_literature": f"{SHARED} award book event literarygenre magazine poem writer",
    "crossner_music": f"{SHARED} album award band event musicalartist musicalinstrument "
    "musicgenre song",
    "crossner_politics": f"{SHARED} election event politicalparty politician",
    "crossner_science": f"{SHARED} academicjournal astronomicalobject award chemicalcompound "
    "chemicalelement discipline enzyme event protein scientist theory university",
    "genia": GENIA,
    "germeval2014": " ".join(GERMEVAL),
    "jnlpba": GENIA,
    "ncbi_disease": "Disease",
    "resume": "CONT EDU LOC NAME ORG PRO RACE TITLE",
    "samples_zh": "GPE LOC ORG PER PRODUCT TITLE",
    "weibo": " ".join(
        f"{name}.{kind}" for name in ("GPE", "LOC", "ORG", "PER") for kind in ("NAM", "NOM")
    ),
}
# Files of the data sets below NER_DATA; the sample corpus is always available.
FILES = {
    "bc5cdr": "bc5cdr/*.tsv",
    "genia": "genia/genia.*.iob2",
    "germeval2014": "germeval2014/germ.*.iob2",
    "ncbi_disease": "ncbi_disease/*.tsv",
    "resume": "resume/*.bmes",
    "weibo": "weibo/weiboNER_2nd_conll.*",
    **{
        f"crossner_{domain}": f"crossner/{domain}/*.txt"
        for domain in ("ai", "literature", "music", "politics", "science")
    },
}
DATA = {"samples_zh": sorted((ROOT / "samples" / "zh").glob("*.jsonl"))}
if "NER_DATA" in os.environ:
    found = {
        name: sorted(Path(os.environ["NER_DATA"]).glob(pattern)) for name, pattern in FILES.items()
    }
    DATA |= {name: paths for name, paths in found.items() if paths}


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "types.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_an_entry_is_a_mapping_or_the_description_alone(tmp_path: Path) -> None:
    text = """
source: dictionary
types:
  PER.NAM:
    name: named person
    description: >-
      A person called
      by   name.
    source: guideline
  LOC: A named place.
  "NO": No mention.
  ORG: {description: A body.}
"""
    assert read_types(written(tmp_path, text)) == [
        EntityType("PER.NAM", "named person", "A person called by name.", "guideline"),
        EntityType("LOC", "LOC", "A named place.", "dictionary"),
        EntityType("NO", "NO", "No mention.", "dictionary"),
        EntityType("ORG", "ORG", "A body.", "dictionary"),
    ]


def test_a_byte_order_mark_and_crlf_are_no_fault(tmp_path: Path) -> None:
    assert read_types(written(tmp_path, "\ufefftypes:\r\n  LOC: A place.\r\n")) == [
        EntityType("LOC", "LOC", "A place.", "ours")
    ]


@pytest.mark.parametrize(
    ("text", "place", "found", "fix"),
    [
        ("types: [a", ":1: ", "expected ',' or ']'", "quote text"),
        (
            "types:\n  PER: person: by name\n",
            ":2: ",
            "mapping values are not allowed",
            "quote text",
        ),
        ("types:\n\tPER: a\n", ":2: ", "cannot start any token", "indent with spaces"),
        (
            "types:\n  PER: !!python/name:os.system a\n",
            ":2: ",
            "could not determine a constructor",
            "quote",
        ),
        ("types:\n  PER: 2020-13-45\n", ": ", "month must be in 1..12", "quote"),
        ("types:\n  PER: \x07\n", ": ", "special characters are not allowed", "quote"),
        ("", ": ", "found nothing", "write 'types:'"),
        ("- PER\n- LOC\n", ": ", "found list ['PER', 'LOC']", "write 'types:'"),
        ("PER: a person\n", ": ", "found 'PER'", "write 'types:'"),
        ("source: ours\n", ": types: ", "found nothing", "write 'LABEL: description'"),
        ("types: {}\n", ": types: ", "found dict {}", "write 'LABEL: description'"),
        ("types: [PER]\n", ": types: ", "found list ['PER']", "write 'LABEL: description'"),
        (
            "types:\n  PER: a\n  LOC: b\n  PER: c\n",
            ":4: ",
            "found 'PER' as in line 2",
            "remove one",
        ),
        ("types: {PER: a, 'PER': c}\n", ":1: ", "found 'PER' as in line 1", "remove one"),
        (
            "types:\n  PER:\n    description: a\n    description: b\n",
            ":4: ",
            "found 'description' as in line 3",
            "remove one",
        ),
        (
            "types: {PER: a}\nsource: ours\ntypes: {LOC: b}\n",
            ":3: ",
            "found 'types' as in line 1",
            "remove one",
        ),
        ("types:\n  PER:\n", ": types.PER: ", "found nothing", "write a description"),
        ("types:\n  PER: ''\n", ": types.PER.description: ", "found str ''", "write it"),
        (
            "types:\n  PER: {name: person}\n",
            ": types.PER.description: ",
            "found nothing",
            "write it",
        ),
        (
            "types:\n  PER: {description: ' \u3000 '}\n",
            ": types.PER.description: ",
            "found str",
            "write it",
        ),
        (
            "types:\n  PER: {description: yes}\n",
            ": types.PER.description: ",
            "found bool True",
            "in quotes",
        ),
        (
            "types:\n  PER: {description: a, name: 7}\n",
            ": types.PER.name: ",
            "found int 7",
            "in quotes",
        ),
        (
            "types:\n  PER: {description: a, name:}\n",
            ": types.PER.name: ",
            "found nothing",
            "write it",
        ),
        (
            "types:\n  PER: [a, b]\n",
            ": types.PER: ",
            "found list ['a', 'b']",
            "write a description",
        ),
        ("types:\n  PER: 3\n", ": types.PER: ", "found int 3", "write a description"),
        (
            "types:\n  PER: {description: a, desc: b, 1: c}\n",
            ": types.PER: ",
            "found 'desc', 1",
            "write a description",
        ),
        (
            "types:\n  PER: {description: a, source: web}\n",
            ": types.PER: source: ",
            "found str 'web'",
            "state who wrote",
        ),
        (
            "types:\n  PER: {description: a, source: [ours]}\n",
            ": types.PER: source: ",
            "found list ['ours']",
            "state who wrote",
        ),
        (
            "source: Wikipedia\ntypes:\n  PER: a\n",
            ": source: ",
            "found str 'Wikipedia'",
            "state who wrote",
        ),
        ("source:\ntypes:\n  PER: a\n", ": source: ", "found nothing", "state who wrote"),
        ("types:\n  NO: a\n", ": types: ", "found bool False", "quote it"),
        ("types:\n  1: a\n", ": types: ", "found int 1", "quote it"),
        ("types:\n  ~: a\n", ": types: ", "found nothing", "quote it"),
        ("types:\n  ' ': a\n", ": types: ", "found str ' '", "quote it"),
        (
            "types:\n  PER: A person.\n  ORG: b\n  LOC: a  PERSON.\n",
            ": types.LOC: ",
            "found that of 'PER'",
            "describe how the two differ",
        ),
        ('types:\n  "\\ud800": a\n', ": types: ", "found str '\\ud800'", "quote it"),
        ('types:\n  PER: "a\\0"\n', ": types.PER.description: ", "found str 'a\\x00'", "write it"),
        ("types: " + "[" * 3000 + "\n", ": ", "maximum recursion depth", "quote text"),
        ("types: {PER: [" + "a, " * 1000 + "]}\n", ": types.PER: ", "found list ['a', ", "write"),
        ("types: !!set {PER}\n", ": types: ", "found set {'PER'}", "write 'LABEL"),
        ("types: {PER: !!binary aGk=}\n", ": types.PER: ", "found bytes b'hi'", "write a"),
        (
            "types: {PER: &a a, LOC: &b [" + "*a, " * 9 + "], ORG: [*b, *b]}\n",
            ":1: ",
            "found more",
            "write the values out",
        ),
        (b"types:\n  PER: \xff\n", ":2: ", "not UTF-8 at byte 8", "convert"),
    ],
)
def test_a_fault_is_refused_with_file_place_finding_and_fix(
    tmp_path: Path, text: str | bytes, place: str, found: str, fix: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(DataError) as caught:
        read_types(path)
    message = str(caught.value)
    assert message.startswith(f"{path}{place}")
    assert found in message
    assert fix in message.partition(found)[2]
    assert "expected" in message or "not UTF-8" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["none.yaml", ""])
def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no such file; check the path"):
        read_types(tmp_path / name)


def test_labels_without_a_description_are_refused_and_unused_ones_reported() -> None:
    types = [EntityType(label, label, f"About {label}.", "ours") for label in ("PER", "ORG", "LOC")]
    assert check_types(types, ["LOC", "ORG", "PER"], "a.yaml") == []
    assert check_types(types, ["ORG", "ORG"], "a.yaml") == ["PER", "LOC"]
    assert check_types(types, [], "a.yaml") == ["PER", "ORG", "LOC"]
    with pytest.raises(DataError) as caught:
        check_types(types, ["per", "LOC", "GPE"], "a.yaml")
    message = str(caught.value)
    assert message.startswith("a.yaml: types: ")
    assert "found none for 'GPE', 'per' (the file has 'PER', 'ORG', 'LOC')" in message
    assert "add a line 'GPE: description' for each under 'types:'" in message


def test_every_types_file_has_a_label_list_here() -> None:
    assert sorted(path.stem for path in TYPES.glob("*")) == sorted(LABELS)


@pytest.mark.parametrize("name", LABELS)
def test_a_types_file_describes_the_labels_of_its_data_set(name: str) -> None:
    path = TYPES / f"{name}.yaml"
    types = read_types(path)
    assert check_types(types, LABELS[name].split(), path) == []
    assert {item.source for item in types} == {"ours"}
    assert path.read_text("utf-8").startswith("# ")
    for item in types:
        chinese = any(map(is_ideograph, item.description))
        length = len(item.description) if chinese else len(item.description.split())
        assert chinese == (name in ("weibo", "resume", "samples_zh")), item
        assert 20 <= length <= 60 if chinese else 15 <= length <= 45, (item, length)
        assert not item.description.startswith(item.label + " "), item


@pytest.mark.parametrize("name", DATA)
def test_a_types_file_describes_the_labels_in_the_files_of_its_data_set(name: str) -> None:
    layout = Layout(indexed_characters=name == "weibo")
    labels = {label for path in DATA[name] for label in entity_types(read_records(path, layout)[0])}
    assert check_types(read_types(TYPES / f"{name}.yaml"), labels, name) == []


def test_a_label_means_the_same_in_every_domain_of_crossner() -> None:
    described: dict[str, dict[str, set[str]]] = {}
    for path in TYPES.glob("crossner_*.yaml"):
        for item in read_types(path):
            described.setdefault(item.label, {}).setdefault(item.description, set()).add(
                path.stem.removeprefix("crossner_")
            )
    differing = {
        label: sorted(map(sorted, texts.values()))
        for label, texts in described.items()
        if len(texts) > 1
    }
    # Universities have their own type in two domains and are organisations in the others.
    assert differing == {"organisation": [["ai", "science"], ["literature", "music", "politics"]]}


@pytest.mark.parametrize(
    ("one", "other"), [("genia", "jnlpba"), ("bc5cdr", "bc5_chem"), ("bc5cdr", "bc5_disease")]
)
def test_parts_and_versions_of_a_data_set_share_their_descriptions(one: str, other: str) -> None:
    first, second = (
        {item.label: item for item in read_types(TYPES / f"{name}.yaml")} for name in (one, other)
    )
    assert all(first[label] == item for label, item in second.items())


def test_no_two_descriptions_of_a_domain_are_near_copies() -> None:
    for path in TYPES.glob("*.yaml"):
        for a, b in itertools.combinations(read_types(path), 2):
            words = [set(item.description.lower().split()) for item in (a, b)]
            assert len(words[0] & words[1]) < 0.7 * len(words[0] | words[1]), (
                path.stem,
                a.label,
                b.label,
            )
