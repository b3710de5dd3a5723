"""Fetching data sets from a local server: files arrive complete and correct, or not at all."""

import hashlib
import os
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from conftest import ROOT

from benchmarks import fetch_data
from benchmarks.fetch_data import ELSEWHERE, SETS, DataSet, FetchError, Source, fetch, main

DATA = Path(os.environ.get("NER_DATA", ROOT / "data"))
CONTENT = {
    "train.txt": "张\tB-PER\n三\tE-PER\n".encode(),
    "part/dev.txt": b"a\tO\n",
    "empty.txt": b"",
}
FOLDER = "some data"  # a URL must quote this name


class Server(ThreadingHTTPServer):
    """Serve `files` by path and record requests; if `broken`, send less than announced."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {
            f"/owner/repository/c0ffee/some%20data/{name}": content
            for name, content in CONTENT.items()
        }
        self.asked: list[str] = []
        self.broken = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        content = self.server.files.get(self.path)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"") + 100 * self.server.broken))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def data_set(monkeypatch: pytest.MonkeyPatch) -> DataSet:
    """The script's only data set: three files in a folder of a repository."""
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
    data_set = DataSet(
        "mine", "CC0", "nobody", [Source("owner/repository", "c0ffee", FOLDER, checksums)]
    )
    monkeypatch.setattr(fetch_data, "SETS", {"mine": data_set})
    return data_set


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_files_arrive_under_their_names(server, data_set, tmp_path, capsys):
    assert main(["mine", "--folder", str(tmp_path), "--base_url", server.url]) == 0
    assert files(tmp_path) == {f"mine/{name}": content for name, content in CONTENT.items()}
    output = capsys.readouterr().out
    assert "3 files fetched, 0 already there" in output
    assert "licence: CC0" in output
    assert "cite: nobody" in output


def test_fetched_files_can_be_read_by_others(server, data_set, tmp_path):
    fetch(data_set, tmp_path, server.url)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()} == {
        0o644
    }


def test_second_run_fetches_only_what_is_missing(server, data_set, tmp_path):
    assert fetch(data_set, tmp_path, server.url) == (3, 0)
    (tmp_path / "train.txt").unlink()
    server.asked.clear()
    assert fetch(data_set, tmp_path, server.url) == (1, 2)
    assert [path.rpartition("/")[2] for path in server.asked] == ["train.txt"]
    assert fetch(data_set, tmp_path, server.url) == (0, 3)
    assert len(server.asked) == 1


def test_wrong_content_leaves_nothing(server, data_set, tmp_path):
    server.files = dict.fromkeys(server.files, b"something else")
    found, expected = (
        hashlib.sha256(content).hexdigest() for content in (b"something else", CONTENT["train.txt"])
    )
    with pytest.raises(FetchError, match=rf"train\.txt: SHA-256 is {found}, expected {expected}"):
        fetch(data_set, tmp_path, server.url)
    assert files(tmp_path) == {}


def test_broken_off_transfer_leaves_nothing(server, data_set, tmp_path):
    server.broken = True
    with pytest.raises(
        FetchError, match=r"train\.txt: the transfer broke off .* run the command again"
    ):
        fetch(data_set, tmp_path, server.url)
    assert files(tmp_path) == {}


def test_write_error_leaves_nothing(server, data_set, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(fetch_data.os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        fetch(data_set, tmp_path, server.url)
    assert files(tmp_path) == {}


def test_missing_file_is_named_with_its_status(server, data_set, tmp_path, capsys):
    server.files.clear()
    assert main(["--folder", str(tmp_path), "--base_url", server.url]) == 1
    error = capsys.readouterr().err
    assert (
        f"mine: {server.url}/owner/repository/c0ffee/some%20data/train.txt: HTTP status 404"
        in error
    )
    assert files(tmp_path) == {}


def test_absent_network_is_said(server, data_set, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(FetchError, match=r"not reachable .* is there a network"):
        fetch(data_set, tmp_path, server.url)


def test_file_of_one_s_own_is_not_overwritten(server, data_set, tmp_path):
    (tmp_path / "train.txt").write_text("mine", "utf-8")
    with pytest.raises(FetchError, match=r"train\.txt is there and differs .* move it away"):
        fetch(data_set, tmp_path, server.url)
    assert files(tmp_path) == {"train.txt": b"mine"}


def test_one_set_that_fails_does_not_keep_the_others(
    server, data_set, tmp_path, monkeypatch, capsys
):
    absent = DataSet(
        "absent", "CC0", "nobody", [Source("owner/absent", "c0ffee", "", {"a.txt": "0" * 64})]
    )
    monkeypatch.setattr(fetch_data, "SETS", {"absent": absent, "mine": data_set})
    assert main(["--folder", str(tmp_path), "--base_url", server.url]) == 1
    assert set(files(tmp_path)) == {f"mine/{name}" for name in CONTENT}
    assert "owner/absent/c0ffee/a.txt: HTTP status 404" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"), [("weibi", "expected weibo, resume"), ("ontonotes4", "LDC2011T03")]
)
def test_name_that_cannot_be_fetched_is_explained(tmp_path, capsys, name, message):
    assert main([name, "--folder", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert files(tmp_path) == {}


def test_list_names_every_set_and_where_the_others_are(capsys):
    assert main(["--list"]) == 0
    output = capsys.readouterr().out
    for name in (*SETS, *ELSEWHERE):
        assert f"{name}: " in output


def test_every_file_has_a_place_a_commit_and_a_checksum():
    for data_set in SETS.values():
        names = [name for source in data_set.sources for name in source.files]
        assert len(set(names)) == len(names)
        for source in data_set.sources:
            assert re.fullmatch(r"[0-9a-f]{40}|master", source.ref)
            assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in source.files.values())


@pytest.mark.parametrize("name", SETS)
def test_checksums_are_those_of_the_benchmark_data(name):
    checksums = {
        DATA / name / file: sha256
        for source in SETS[name].sources
        for file, sha256 in source.files.items()
    }
    there = {path: sha256 for path, sha256 in checksums.items() if path.is_file()}
    if not there:
        pytest.skip(f"no {DATA / name}")
    assert {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in there} == there
