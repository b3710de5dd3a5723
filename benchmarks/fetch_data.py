"""Fetch public NER data sets from their authors' repositories and verify their SHA-256.

python -m benchmarks.fetch_data --list           list data sets, licences and sources of other sets
python -m benchmarks.fetch_data weibo resume     fetch these two into $NER_DATA (default: data)
python -m benchmarks.fetch_data                  fetch all

A file appears under its name only when it is complete and verified. Verified files are not fetched
again. Only the standard library is needed.
"""

import argparse
import hashlib
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import urlopen

BASE_URL = "https://raw.githubusercontent.com"
TIMEOUT = 60  # seconds without data


class FetchError(OSError):
    """A file could not be fetched; the message says which, why and what to do."""


@dataclass(frozen=True)
class Source:
    """Files in one folder of a GitHub repository.

    Attributes:
        repository: OWNER/NAME.
        ref: commit or branch.
        folder: path in the repository.
        files: {path below the folder: SHA-256}.
    """

    repository: str
    ref: str
    folder: str
    files: dict[str, str]


@dataclass(frozen=True)
class DataSet:
    """A data set; its files go to a folder of its name."""

    name: str
    licence: str
    citation: str
    sources: list[Source]


def checksums(text: str) -> dict[str, str]:
    """Parse lines of sha256sum: {path: SHA-256}."""
    return {name: sha256 for sha256, name in map(str.split, text.strip().splitlines())}


WEIBO = """
4e8954c54ab33b0afc9a8abb85715c47422645cc6d1b49fdb24540f4a427e997  weiboNER_2nd_conll.train
e72730d83aac680505280b6301c879b3ba470d29ac308979d48cdc58ee4907cc  weiboNER_2nd_conll.dev
faaf6c0ebde5348b935cfd5c89f0f22c9e0779d60667d8b5efbc647b6707d50e  weiboNER_2nd_conll.test
"""
RESUME = """
93b9bb0be5dd4730121587f9dc1378de3fbbe55cba1c575edec271f822c27be7  train.char.bmes
1b0d67153e6e8543e9444936ed1b107bd843078c282533898085e1a9aa293952  dev.char.bmes
c4a9f42622819a4b59f66e184d446ebfa89b2f1dbba06e11d70675e59fe7e79b  test.char.bmes
"""
GENIA = """
b8565cf774e8fceb38af62bbab0b84981640accc63fc5680223b97007da35903  genia.dev.iob2
607cfab2744aff2d8af5c5613320c8138605aca64a987c8ab2d98e5dfe067691  genia.test.iob2
"""
GENIA_LICENCE = """
ec7ff63a1f9a81e2ee19d543098f99b0251ac0afbd4d54f8d6b04dcb5e84e902  LICENSE
"""
NCBI_DISEASE = """
58379baf4614b8d757d93dd7a21b202849ca99f9b9d71b49185523ff5443300c  train.tsv
b4e1e7efcc2a35047bf2f3d281648357470e674f555d4a26a0049ac37d59cc61  devel.tsv
8f088ce45dc4746592188f9e69de3d89d87f3bb8f0ed8c4a287d018123fa148d  test.tsv
"""
BC5CDR = """
b731361c0ed73afd04cc5fdad39afcdfd8f325d6e46c282339185a91d1af4c14  train.tsv
b909de65c4f7e3c23bb09ad52d654cdc92e96db941abe1a5dcf6f6010c03cff5  devel.tsv
e41a2843a5fff0cd8d1a88cb147968d61ae29336ca70cddc3d7fb8ff21dfa1e8  test.tsv
"""
CROSSNER_LICENCE = """
9291793d0b49d69642edcd47e730136693722e3a1d398d1412e8d47e2443b71f  LICENSE
"""
# CrossNER takes its files from two commits.
CROSSNER_1 = """
484217a660f52927bd5157507c22fc103b36306364329f62f80fc8acb897b187  ai/train.txt
0647e403a85040742c2f4041cf002146a81aa2e13adda19d0e82a8bcd493c18b  literature/train.txt
77267f8b3e8afe993865c64cfc605f65671f6a0ac9cba65de970f12180fed20e  literature/test.txt
3774c38e0ebbeb4b98dbfae137071e4911e8764cdb7f247599009841f68d9fb5  music/train.txt
1d8be31abb58463349496fe21b13d70114cf015294a9ff9cce77af9b83e8aa84  politics/train.txt
4f1f30eb832f4c5fe474f67ca45e875d863bddf0bbe432262d272ef13639fa8f  politics/dev.txt
"""
CROSSNER_2 = """
b47ffda6de5901a454a873feac1bebe782e54ce7edf9deb729cab3d769212eee  ai/dev.txt
7595ad386e0a98067100fe47f86811b38867a236011fee97cfaa90f778c37bcf  ai/test.txt
99281a51943cf7e3c2a58b3dc45c0e5ab6d329624ebf2ba6b4801c428396162f  literature/dev.txt
e256f1949df52a61a3bb60095a0f41c1060843f1014b0f3d22d8371611b72e78  music/dev.txt
c66e345f959ac65593f76c6b1bd8c6d75f2a6f0bc197389b2e6700d101fd094c  music/test.txt
05cadc5e129d394f7f92b4a052cf4b6ea4c60878d32a833e500cf046c297455f  politics/test.txt
87ec141c7b41b3b52ec861737c4030d65c6e53954ed3d8106baca8603bbf8f24  science/dev.txt
3616d59d4d2b9dbf4c1126f8d8ba47ff97886223c95f93649bfd527343e64ced  science/test.txt
8f6a26096cc7be6790b5790bf5f5b5c8928d8b73d4632e7d45dc8bffad0504ac  science/train.txt
"""

CRICHTON = "Crichton et al., BMC Bioinformatics 2017"
# Weibo and Resume are fetched from a branch, since no full commit is known; checksums pin them.
SETS = {
    each.name: each
    for each in (
        DataSet(
            "weibo",
            "annotations CC BY-SA 3.0; the messages are under Weibo's terms of service",
            "Peng and Dredze, EMNLP 2015; these revised annotations: He and Sun, EACL 2017",
            [
                Source("hltcoe/golden-horse", "master", "data", checksums(WEIBO)),
            ],
        ),
        DataSet(
            "resume",
            "not stated by the authors",
            "Zhang and Yang, Chinese NER Using Lattice LSTM, ACL 2018",
            [
                Source("jiesutd/LatticeLSTM", "master", "ResumeNER", checksums(RESUME)),
            ],
        ),
        DataSet(
            "genia",
            "annotations CC BY 3.0, (c) GENIA Project; "
            "the abstracts are under the terms of PubMed, see LICENSE",
            "Kim et al., GENIA corpus, Bioinformatics 2003; these splits (train is missing): "
            "Zheng et al., EMNLP 2019",
            [
                Source(
                    "thecharm/boundary-aware-nested-ner",
                    "56e7deef7550bd33cc4d789c067c568596658a2b",
                    "Our_boundary-aware_model/data/genia",
                    checksums(GENIA),
                ),
                Source(
                    "cambridgeltl/MTL-Bioinformatics-2016",
                    "b74e2ad0a36442b48d78297a7b7ac6604462f028",
                    "data/JNLPBA/original-data/train",
                    checksums(GENIA_LICENCE),
                ),
            ],
        ),
        DataSet(
            "ncbi_disease",
            "CC BY 4.0",
            "Doğan, Leaman and Lu, NCBI disease corpus, J. Biomed. Inform. 2014; "
            f"this format: {CRICHTON}",
            [
                Source(
                    "cambridgeltl/MTL-Bioinformatics-2016",
                    "954a98f80c443ea96cc4af742eb0f6a7c89c40a2",
                    "data/NCBI-disease-IOB",
                    checksums(NCBI_DISEASE),
                ),
            ],
        ),
        DataSet(
            "bc5cdr",
            "CC BY 4.0",
            f"Li et al., BioCreative V CDR task corpus, Database 2016; this format: {CRICHTON}",
            [
                Source(
                    "cambridgeltl/MTL-Bioinformatics-2016",
                    "d62961c5750439aec6396f5703f3a1c03d97ebd3",
                    "data/BC5CDR-IOB",
                    checksums(BC5CDR),
                ),
            ],
        ),
        DataSet(
            "crossner",
            "MIT",
            "Liu et al., CrossNER: Evaluating Cross-Domain Named Entity Recognition, AAAI 2021",
            [
                Source(
                    "zliucr/CrossNER",
                    "957c094db263ed1fd6381d474c8a3601d6720d27",
                    "",
                    checksums(CROSSNER_LICENCE),
                ),
                Source(
                    "zliucr/CrossNER",
                    "99ad4c4cb7e462d97c6ecf1205ae474917994195",
                    "ner_data",
                    checksums(CROSSNER_1),
                ),
                Source(
                    "zliucr/CrossNER",
                    "5b393ecd2329b1ebad4f379dff65c80b4771896c",
                    "ner_data",
                    checksums(CROSSNER_2),
                ),
            ],
        ),
    )
}
ELSEWHERE = {
    "germeval2014": "https://sites.google.com/site/germeval2014ner/; "
    "GermEval2014.zip in github.com/thecharm/boundary-aware-nested-ner",
    "msra": "SIGHAN 2006 bake-off (Levow 2006), http://sighan.cs.uchicago.edu/bakeoff2006/",
    "ontonotes4": "OntoNotes 4.0, LDC2011T03, needs an LDC licence: "
    "https://catalog.ldc.upenn.edu/LDC2011T03",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch the data sets named on the command line; return 1 on failure, 2 for unknown names."""
    arguments = build_parser().parse_args(argv)
    if arguments.list:
        print(listing())
        return 0
    unknown = [name for name in arguments.names if name not in SETS]
    for name in unknown:
        place = ELSEWHERE.get(name)
        reason = (
            f"not fetched by this script; {place}"
            if place
            else f"no such data set (expected {', '.join(SETS)})"
        )
        print(f"{name}: {reason}", file=sys.stderr)
    if unknown:
        return 2
    failed = False
    for name in arguments.names or SETS:
        try:
            fetched, there = fetch(SETS[name], Path(arguments.folder) / name, arguments.base_url)
        except OSError as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = True
        else:
            print(f"{name}: {fetched} files fetched, {there} already there\n{notes(SETS[name])}")
    return int(failed)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fetch_data",
        description="Fetch public NER data sets from their authors' repositories.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"data sets among {', '.join(SETS)} [all]"
    )
    parser.add_argument(
        "--list",
        action="store_true",
        help="list the data sets, also those available elsewhere, and fetch nothing",
    )
    parser.add_argument(
        "--folder",
        default=os.environ.get("NER_DATA", "data"),
        help="parent folder; each data set gets a folder of its name [NER_DATA, else data]",
    )
    parser.add_argument(
        "--base_url",
        default=BASE_URL,
        help="base URL of a mirror with paths OWNER/REPOSITORY/COMMIT/PATH [%(default)s]",
    )
    return parser


def listing() -> str:
    """A readable list of all data sets."""
    lines = []
    for each in SETS.values():
        repositories = ", ".join(
            dict.fromkeys(f"github.com/{source.repository}" for source in each.sources)
        )
        number = sum(len(source.files) for source in each.sources)
        lines += [f"{each.name}: {number} files from {repositories}", notes(each)]
    return "\n".join(
        [
            *lines,
            "",
            "not fetched by this script:",
            *(f"{name}: {place}" for name, place in ELSEWHERE.items()),
        ]
    )


def notes(data_set: DataSet) -> str:
    """Licence and citation of a data set."""
    return f"  licence: {data_set.licence}\n  cite: {data_set.citation}"


def fetch(data_set: DataSet, folder: Path, base_url: str = BASE_URL) -> tuple[int, int]:
    """Fetch the files of a data set into a folder.

    Returns:
        Numbers of files fetched and of files already there.

    Raises:
        FetchError: a file could not be fetched, or a different file has its name. Files fetched
            before it are kept.
    """
    fetched = there = 0
    for source in data_set.sources:
        for name, sha256 in source.files.items():
            target = folder / name
            if target.exists():
                found = hashlib.sha256(target.read_bytes()).hexdigest()
                if found != sha256:
                    raise FetchError(
                        f"{target} is there and differs (SHA-256 {found}, expected {sha256}); "
                        "move it away to fetch the original"
                    )
                there += 1
                continue
            path = "/".join(
                part for part in (source.repository, source.ref, source.folder, name) if part
            )
            download(f"{base_url.rstrip('/')}/{quote(path)}", target, sha256)
            fetched += 1
    return fetched, there


def download(url: str, target: Path, sha256: str) -> None:
    """Download a file, verify its SHA-256 and move it to `target`.

    Raises:
        FetchError: no answer, a status other than 200, an interrupted transfer or different
            content; nothing is kept.
    """
    content = read_url(url)
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise FetchError(
            f"{url}: SHA-256 is {found}, expected {sha256}: not the file that this project knows; "
            "nothing was kept"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)


def read_url(url: str) -> bytes:
    """The content of a URL, a few megabytes at most.

    Raises:
        FetchError: the content could not be read completely.
    """
    try:
        with urlopen(url, timeout=TIMEOUT) as response:
            return response.read()
    except HTTPError as error:
        raise FetchError(
            f"{url}: HTTP status {error.code} ({error.reason}); has the file moved?"
        ) from error
    except URLError as error:
        raise FetchError(
            f"{url}: not reachable ({error.reason}); is there a network, and does it need a proxy "
            "(https_proxy)?"
        ) from error
    except (HTTPException, OSError) as error:
        raise FetchError(
            f"{url}: the transfer broke off ({error}); run the command again"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
