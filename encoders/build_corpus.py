#!/usr/bin/env python3
"""Build the raw-text corpus of zh-char-mini from clones of the repositories in SOURCES.

    python build_corpus.py --clones DIR --exclude FILE [FILE ...] --out corpus

DIR holds the clones, bare or not, as OWNER+NAME, OWNER/NAME or NAME (also with /repo or /.git
behind).  Files are read from the commit in the table.  --exclude takes the files of the annotated
sets whose text must not be learnt (columns, CoNLL-U, or JSON): a chunk that shares a run of 13
characters with them, white space aside, is dropped.  --out gets one text file a source, one chunk
of at most 254 characters a line, and sources.json with the counts.  Needs numpy and git.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import re
import subprocess
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

RUN = 13  # characters shared with annotated text that drop a chunk
LENGTHS = (126, 254)  # longest chunks, of the short and of the long kind
LONG_SHARE = 0.35  # share of documents that are cut into long chunks
SHORTEST = 16
BLOBS = 500  # files asked of git at a time
SENTENCE = re.compile(r"[^。！？!?；;]*[。！？!?；;]+[」』”’）)]*|[^。！？!?；;]+$")
MARKUP = re.compile(
    r"`[^`]*`|<[^<>]{1,200}>|!?\[([^\[\]]*)\]\([^()]*\)|https?://[^\s，。）]+|[*_~]{2,}"
)
CC_BY_SA_4, APACHE, MIT = "CC BY-SA 4.0", "Apache-2.0", "MIT"

Document = list[str]  # paragraphs


# ---------------------------------------------------------------- readers: bytes to documents
def read_markdown(data: bytes) -> Iterator[Document]:
    """A document of the prose lines; code, tables, front matter and link targets are left out."""
    text = re.sub(r"^---\n.*?\n---\n", "", data.decode("utf-8", "ignore"), flags=re.S)
    text = re.sub(r"```.*?```|~~~.*?~~~|\$\$.*?\$\$", "\n", text, flags=re.S)
    lines = (MARKUP.sub(lambda m: m.group(1) or "", x) for x in text.split("\n") if "|" not in x)
    yield [re.sub(r"^[\s>#*+-]+|^\d+\.\s", "", x).strip("*_# \t") for x in lines]


def strings_of(value: object) -> Iterator[str]:
    """Every string of a JSON value, in its order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for x in value.values():
            yield from strings_of(x)
    elif isinstance(value, list):
        for x in value:
            yield from strings_of(x)


def json_values(text: str) -> Iterator[object]:
    """The values that stand one behind the other in a text."""
    decoder, at = json.JSONDecoder(), 0
    while match := re.compile(r"\S").search(text, at):
        value, at = decoder.raw_decode(text, match.start())
        yield value


def read_json(data: bytes) -> Iterator[Document]:
    """The strings of each JSON value of a file as a document."""
    for value in json_values(data.decode("utf-8-sig", "ignore")):
        yield [line for s in strings_of(value) for line in s.split("\n")]


def read_dialogues(data: bytes) -> Iterator[Document]:
    """Utterances (`message` or `content` of a JSON value's messages), a document a dialogue."""
    value = json.loads(data)
    for dialogue in value.values() if isinstance(value, dict) else value:
        turns = dialogue.get("messages", [])
        yield [turn.get("message") or turn.get("content") or "" for turn in turns]


def read_contexts(data: bytes) -> Iterator[Document]:
    """The passages of a reading-comprehension file; its questions and answers are not read."""
    value = json.loads(data)
    for entry in value["data"] if isinstance(value, dict) else value:
        for part in entry.get("paragraphs", [entry]):
            for name in ("context", "context_text"):
                if name in part:
                    yield re.sub(r"\[BLANK\d+\]", "", part[name]).split("\n")


def read_lines(data: bytes) -> Iterator[Document]:
    """A document of the lines."""
    yield data.decode("utf-8", "ignore").split("\n")


def read_last_column(data: bytes) -> Iterator[Document]:
    """The last field of each row, a document each; tabs or commas."""
    text = data.decode("utf-8-sig", "ignore")
    rows = csv.reader(io.StringIO(text), delimiter="\t" if "\t" in text[:300] else ",")
    yield from ([row[-1]] for row in rows if row)


def read_utterances(data: bytes) -> Iterator[Document]:
    """CPED: rows of TV dialogue; a document a dialogue."""
    turns: dict[str, Document] = {}
    for row in csv.DictReader(io.StringIO(data.decode("utf-8-sig", "ignore"))):
        turns.setdefault(row["Dialogue_ID"], []).append(row["Utterance"])
    yield from turns.values()


def zipped(reader: Callable[[bytes], Iterator[Document]]) -> Callable[[bytes], Iterator[Document]]:
    """A reader of every file of an archive."""

    def read(data: bytes) -> Iterator[Document]:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                if not name.endswith("/") and "__MACOSX" not in name:
                    yield from reader(archive.read(name))

    return read


# ---------------------------------------------------------------- sources
@dataclass(frozen=True)
class Source:
    """A repository, the paths that are read in it, and how much is taken."""

    repository: str
    commit: str
    kind: str
    licence: str
    paths: str  # regular expression
    reader: Callable[[bytes], Iterator[Document]]
    cap: float  # million characters

    @property
    def name(self) -> str:
        """A file name."""
        return self.repository.replace("/", "+")


HOT = r"^raw/.*\.json$"
SOURCES = [
    Source("DuckBurnIncense/xin-wen-lian-bo", "ae8d591d", "TV news", MIT,
           r"^news/.*\.md$", read_markdown, 12),
    Source("justjavac/weibo-trending-hot-search", "bbe42d5a", "Weibo topic titles", MIT,
           HOT, read_json, 6),
    Source("justjavac/zhihu-trending-hot-questions", "6fe80c7c", "questions", MIT,
           HOT, read_json, 6),
    Source("justjavac/zhihu-trending-top-search", "0ab77e45", "search titles", MIT,
           HOT, read_json, 2),
    Source("justjavac/zhihu-trending-hot-video", "74f09a2b", "video titles", MIT,
           HOT, read_json, 1),
    Source("NiuTrans/Classical-Modern", "4e746ea9", "histories and classics in modern Chinese",
           MIT, r"target\.txt$", read_lines, 10),
    Source("chinese-poetry/chinese-poetry", "99ebbef7", "classical poems, partly traditional", MIT,
           r"\.json$", read_json, 1),
    Source("thu-coai/KdConv", "653db764", "dialogue", APACHE,
           r"^data/.*/(train|dev|test)\.json$", read_dialogues, 2),
    Source("thu-coai/KdConv", "653db764", "encyclopaedia lines", APACHE,
           r"^data/.*/kb_.*\.json$", read_json, 2),
    Source("thu-coai/CrossWOZ", "df82c9fd", "dialogue", APACHE,
           r"^data/crosswoz/[^/]*\.zip$", zipped(read_dialogues), 2),
    Source("scutcyr/CPED", "1e4b81c2", "TV drama dialogue", APACHE,
           r"^data/CPED/.*\.csv$", read_utterances, 2),
    Source("thu-coai/COLDataset", "a0c55a94", "Weibo and Zhihu comments", APACHE,
           r"\.csv$", read_last_column, 3),
    Source("yongzhuo/nlp_xiaojiang", "729f8ee2", "chat", MIT,
           r"chicken_and_gossip\.txt$", read_lines, 1),
    Source("thunlp/Chinese_NRE", "2cd47e6d", "financial news, essays (sentences of train)", MIT,
           r"train\.txt$", read_last_column, 2),
    Source("ymcui/cmrc2018", "c0eb1b6b", "Wikipedia paragraphs", CC_BY_SA_4,
           r"^squad-style-data/.*\.json$", read_contexts, 2),
    Source("ymcui/cmrc2019", "f3808ee3", "stories", CC_BY_SA_4,
           r"^data/.*\.json$", read_contexts, 2),
    Source("ymcui/Chinese-RC-Dataset", "6528947e", "children's tales", CC_BY_SA_4,
           r"^children_fairy_tale/.*\.zip$", zipped(read_lines), 2),
    Source("DRCKnowledgeTeam/DRCD", "b944790d", "Wikipedia paragraphs, traditional",
           "CC BY-SA 3.0", r"\.json$", read_contexts, 2),
    Source("google-deepmind/xquad", "7d30520c", "Wikipedia paragraphs, translated", CC_BY_SA_4,
           r"^xquad\.zh\.json$", read_contexts, 1),
    Source("OpenLMLab/GAOKAO-Bench", "6dbb24f8", "examination questions", APACHE,
           r"^Data/.*(Chinese|History|Geography|Political|Biology).*\.json$", read_json, 3),
    Source("Anduin2017/HowToCook", "cbeb5367", "recipes", "Unlicense",
           r"\.md$", read_markdown, 1),
    Source("pingcap/docs-cn", "ae9ab0fd", "technical documentation", "CC BY-SA 3.0",
           r"\.md$", read_markdown, 2.5),
    Source("OI-wiki/OI-wiki", "76fa67c1", "computing encyclopaedia", CC_BY_SA_4,
           r"^docs/.*\.md$", read_markdown, 2),
    Source("reactjs/zh-hans.react.dev", "f6cda055", "technical documentation", "CC BY 4.0",
           r"^src/content/.*\.md$", read_markdown, 1),
]  # fmt: skip


def find_clone(clones: Path, repository: str) -> Path:
    """The git directory of a repository below `clones`."""
    for name in (repository.replace("/", "+"), repository, repository.split("/")[1]):
        for inner in ("repo/.git", "repo", ".git", ""):
            if (clones / name / inner / "HEAD").is_file():
                return clones / name / inner
    raise FileNotFoundError(f"{clones}: no clone of {repository} in it")


def read_files(git_dir: Path, commit: str, paths: str, rng: random.Random) -> Iterator[bytes]:
    """The files of a commit whose path matches, in random order, but those the clone lacks."""
    git = ["git", "--git-dir", str(git_dir), "-c", "core.quotepath=off"]
    listing = subprocess.run(
        [*git, "ls-tree", "-r", "-z", commit], check=True, capture_output=True
    ).stdout.decode()
    blobs = []
    for line in listing.split("\0"):
        head, _, path = line.partition("\t")
        if path and re.search(paths, path):
            blobs.append(head.split()[2])
    rng.shuffle(blobs)
    for first in range(0, len(blobs), BLOBS):
        wanted = "\n".join(blobs[first : first + BLOBS]).encode()
        made = subprocess.run([*git, "cat-file", "--batch"], input=wanted, capture_output=True)
        yield from split_batch(made.stdout)


def split_batch(made: bytes) -> Iterator[bytes]:
    """The blobs in the output of `git cat-file --batch`."""
    at = 0
    while at < len(made):
        end = made.index(b"\n", at)
        head = made[at:end].decode().split()
        at = end + 1
        if head[-1] != "missing":
            yield made[at : at + int(head[2])]
            at += int(head[2]) + 1


# ---------------------------------------------------------------- text to chunks
def normalise(text: str) -> str:
    """NFKC; controls and runs of white space to one space; case is kept."""
    text = unicodedata.normalize("NFKC", text)
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f\u200b-\u200f\ufeff\ue000-\uf8ff]+", " ", text).strip()


def is_prose(text: str) -> bool:
    """Whether at least half of the characters are Hanzi."""
    return 2 * sum("\u3400" <= c <= "\u9fff" for c in text) >= max(1, len(text))


def chunks_of(paragraphs: Iterable[str], longest: int) -> Iterator[str]:
    """Whole sentences together up to `longest` characters; a longer sentence is cut."""
    chunk = ""
    for paragraph in paragraphs:
        for sentence in SENTENCE.findall(paragraph):
            for part in (sentence[i : i + longest] for i in range(0, len(sentence), longest)):
                gap = " " if chunk and unicodedata.category(chunk[-1])[0] != "P" else ""
                if len(chunk) + len(gap) + len(part) > longest:
                    yield chunk
                    chunk, gap = "", ""
                chunk += gap + part
    if chunk:
        yield chunk


# ---------------------------------------------------------------- text of annotated sets
def annotated_text(path: Path) -> Iterator[str]:
    """The running texts of an annotated file."""
    text = path.read_text(encoding="utf-8", errors="ignore")
    if path.suffix in (".json", ".jsonl"):
        yield from (line for d in read_json(text.encode()) for line in d)
        return
    column = 1 if path.suffix in (".iob2", ".conllu") else 0
    for block in re.split(r"\n\s*\n", text.replace("\r", "")):
        fields = [x.split("\t") if "\t" in x else x.split(" ") for x in block.split("\n")]
        tokens = [f[column] for f in fields if len(f) > column and f[0] != "#"]
        if path.name.startswith("weibo"):
            tokens = [t[:1] for t in tokens]  # the rest is an index
        yield "".join(tokens)


def run_hashes(text: str) -> np.ndarray:
    """A hash of each run of RUN characters, white space left out."""
    codes = np.frombuffer(re.sub(r"\s+", "", text).encode("utf-32-le"), np.uint32)
    n = len(codes) - RUN + 1
    if n < 1:
        return np.zeros(0, np.uint64)
    total = np.zeros(n, np.uint64)
    for i in range(RUN):
        total = total * np.uint64(1_000_003) + codes[i : i + n].astype(np.uint64)
    return total


def excluded_hashes(paths: Iterable[Path]) -> np.ndarray:
    """The sorted hashes of all runs of the annotated files."""
    texts = [run_hashes(normalise(t)) for p in paths for t in annotated_text(p)]
    return np.unique(np.concatenate([np.zeros(1, np.uint64), *texts]))


def shares_run(text: str, hashes: np.ndarray) -> bool:
    """Whether a run of the text is among the sorted hashes."""
    own = run_hashes(text)
    at = np.searchsorted(hashes, own).clip(max=len(hashes) - 1)
    return bool((hashes[at] == own).any())


# ---------------------------------------------------------------- main
class Builder:
    """Chunks of each source in turn; a paragraph that an earlier one had is not taken again."""

    def __init__(self, hashes: np.ndarray, seed: int) -> None:
        self.hashes, self.rng = hashes, random.Random(seed)
        self.seen: set[int] = set()

    def new_paragraphs(self, document: Document) -> Document:
        """The document's normalised prose that was not there before."""
        kept = []
        for paragraph in map(normalise, document):
            key = hash(paragraph)
            if len(paragraph) >= 2 and is_prose(paragraph) and key not in self.seen:
                self.seen.add(key)
                kept.append(paragraph)
        return kept

    def build(self, source: Source, clones: Path) -> tuple[list[str], int]:
        """The chunks of a source up to its cap, shuffled, and how many were dropped."""
        git_dir = find_clone(clones, source.repository)
        made, size, dropped = [], 0, 0
        short: Document = []  # documents of one or two lines are read one after another
        cap = source.cap * 1e6
        files = read_files(git_dir, source.commit, source.paths, self.rng)
        for data in files:
            if size > cap:
                break
            for document in source.reader(data):
                short += self.new_paragraphs(document)
                if sum(map(len, short)) < LENGTHS[0]:
                    continue
                longest = LENGTHS[self.rng.random() < LONG_SHARE]
                for chunk in chunks_of(short, longest):
                    if len(chunk) < SHORTEST:
                        continue
                    if shares_run(chunk, self.hashes):
                        dropped += 1
                    else:
                        made.append(chunk)
                        size += len(chunk)
                short = []
        self.rng.shuffle(made)
        total = np.cumsum([len(c) for c in made])
        return made[: int(np.searchsorted(total, cap, "right"))], dropped


def main() -> None:
    """Read every source, write its chunks and the table of sources."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clones", required=True, type=Path, help="folder of the clones")
    parser.add_argument("--exclude", nargs="+", type=Path, default=[], help="annotated files")
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    builder = Builder(excluded_hashes(args.exclude), args.seed)
    table = []
    for number, source in enumerate(SOURCES):
        chunks, dropped = builder.build(source, args.clones)
        path = args.out / f"{number:02d}_{source.name}.txt"
        path.write_text("".join(c + "\n" for c in chunks), encoding="utf-8")
        row = {
            "repository": source.repository, "commit": source.commit, "kind": source.kind,
            "licence": source.licence, "characters": sum(map(len, chunks)),
            "chunks": len(chunks), "dropped": dropped,
        }  # fmt: skip
        table.append(row)
        print(*row.values(), sep="\t", flush=True)
        text = json.dumps(table, indent=1, ensure_ascii=False)
        (args.out / "sources.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
