"""The page of `demo`: what it makes of a text, and the served page in a real browser."""

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from contrastive_ner.cli import main
from contrastive_ner.serving.demo import MOST_CHARACTERS, Page, described
from contrastive_ner.serving.inference import load_pipeline

TEXT = "张三昨天去了华为。"
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> ${alert(3)} {{value}} `张三`"
BROWSER = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome")


def record_of(html: str) -> dict[str, Any]:
    """The record behind the page's link to JSON."""
    (raw,) = re.findall(r'href="data:application/json;base64,([^"]+)"', html)
    return json.loads(base64.b64decode(raw))


def spans(record: dict[str, Any]) -> list[tuple]:
    return [(m["start"], m["end"], m["label"], round(m["score"], 4)) for m in record["entities"]]


def expected(pipeline: Any, text: str, **options: Any) -> list[tuple]:
    return [
        (m["start"], m["end"], m["entity_group"], round(m["score"], 4))
        for m in pipeline(text, **options)
    ]


# ------------------------------------------------------------------------------ what a text becomes
def test_the_page_shows_what_the_pipeline_finds(saved_tagger):
    pipeline = load_pipeline(saved_tagger)
    page = Page(pipeline)
    record = record_of(page.tag(TEXT))
    assert spans(record) == expected(pipeline, TEXT) != []
    assert record["text"] == TEXT
    assert record["coverage"] == 1.0
    few = record_of(page.tag(TEXT, 0.99))
    assert spans(few) == expected(pipeline, TEXT, min_score=0.99)
    assert len(few["entities"]) < len(record["entities"])
    assert record_of(page.tag(""))["entities"] == []


def test_changed_types_are_encoded_and_the_trained_ones_are_not(saved_binder):
    pipeline = load_pipeline(saved_binder[0])
    page = Page(pipeline)
    lines = "\n".join(f"{label}: {said}" for label, said in page.descriptions.items())
    assert spans(record_of(page.tag(TEXT, 0, lines))) == expected(pipeline, TEXT)
    assert page.encoded.cache_info().misses == 0
    types = {"CITY": "城市：城市的名字", "PER": "人物：人的名字。"}
    for _ in range(2):
        html = page.tag(TEXT, 0, "CITY: 城市：城市的名字\n\n PER :人物：人的名字。 \n")
        assert spans(record_of(html)) == expected(pipeline, TEXT, types=types) != []
    assert page.encoded.cache_info().misses == 1
    assert "<td>CITY</td>" in html


def test_labels_with_colons_come_back_as_they_are():
    types = {"GPE": "land", "GPE: city": "a town: small", "A:B": "text", "A": "a"}
    lines = "\n".join(f"{label}: {said}" for label, said in types.items())
    assert described(lines, types) == types


@pytest.mark.parametrize(
    ("text", "least", "types", "said"),
    [
        (TEXT, 0, "PER", "types: expected TYPE: description, found &#x27;PER&#x27;"),
        (TEXT, 0, "PER: a\nPER: b", "&#x27;PER&#x27; is there twice"),
        (TEXT, 0, " \n", "descriptions is empty"),
        (TEXT, 0, "<b>x: ", "&lt;b&gt;x"),
        (TEXT, 0, "\n".join(f"T{i}: t" for i in range(201)), "types: expected at most 200"),
        (TEXT, 7, "PER: a", "min_score is 7"),
        ("x" * (MOST_CHARACTERS + 1), 0, "PER: a", f"expected at most {MOST_CHARACTERS}"),
    ],
)
def test_what_cannot_be_tagged_is_said_in_the_place_of_mentions(
    saved_binder, text, least, types, said
):
    html = Page(load_pipeline(saved_binder[0])).tag(text, least, types)
    assert said in html
    assert 'class="refused"' in html
    assert "<mark" not in html


@pytest.mark.parametrize("text", [HOSTILE, "a\ud800b", "\0", "𝒳\r\n\u202e张三"])
def test_any_text_is_shown_as_text(saved_tagger, text):
    html = Page(load_pipeline(saved_tagger)).tag(text)
    html.encode("utf-8")
    assert not re.search(r"<(?!/?(div|p|mark|small|table|tr|td|th|a)\b)", html)
    assert not re.search(r"[`$]|[{}]", html)
    assert record_of(html)["text"] == text.replace("\ud800", "\ufffd")


# -------------------------------------------------------------------------------------- the command
def test_gradio_that_is_missing_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", "no-such-model"]) == 2
    said = "error: gradio is not installed: pip install 'contrastive-ner[demo]'\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", "70000"], "port is 70000: expected 0 to 65535"),
        (["--host", "203.0.113.7"], "cannot listen on 203.0.113.7, port 7860"),
        (["--host", "no such host"], "cannot listen on no such host, port 7860"),
        (["--host", "::1"], "cannot listen on ::1, port 7860"),
    ],
)
def test_an_address_that_cannot_be_had_is_one_line(monkeypatch, capsys, options, said):
    monkeypatch.setitem(sys.modules, "gradio", object())  # refused before it is used
    assert main(["demo", "no-such-model", *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_port_in_use_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", object())
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["demo", "no-such-model", "--port", str(port)]) == 2
    assert capsys.readouterr().err == (
        f"error: port {port} of 127.0.0.1 is in use: end the program that uses it, or pass "
        "--port N (0: any that is free)\n"
    )


# ---------------------------------------------------------------------------------- the served page
@contextmanager
def served(*command: object, home: Path, ends_with: int = 0) -> Iterator[str]:
    """The address of a page that a command serves; Ctrl-C ends it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(home / "hf")}
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=home,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        if not line.startswith("http"):
            raise AssertionError(line + process.communicate(timeout=60)[1][-3000:])
        yield line.split()[0]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == ends_with
        assert "Traceback" not in errors
    finally:
        process.kill()


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., Any]:
    """A function that serves the page of a model."""
    pytest.importorskip("gradio", reason="needs the extra demo")

    def start(model: Path, *options: str) -> Any:
        command = ("-m", "contrastive_ner", "demo", model, "--port", "0", *options)
        return served(*command, home=tmp_path)

    return start


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Chromium: of this machine, or the one that a package of npm carries."""
    found = next(filter(None, map(shutil.which, BROWSER)), None)
    if found is not None:
        return Path(found)
    if shutil.which("npm") is None:
        pytest.skip("no Chromium and no npm to get one")
    import brotli

    folder = tmp_path_factory.mktemp("chromium")
    package = "@sparticuz/chromium"
    command = ["npm", "install", "--silent", "--ignore-scripts", f"{package}@147.0.0"]
    got = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if got.returncode:
        pytest.skip(f"npm cannot get a Chromium here: {got.stderr[-200:]}")
    packed = folder / "node_modules" / package / "bin" / "chromium.br"
    browser = folder / "chromium"
    browser.write_bytes(brotli.decompress(packed.read_bytes()))
    browser.chmod(0o755)
    tried = subprocess.run([browser, "--version"], capture_output=True, text=True, timeout=60)
    if "error while loading shared libraries" in tried.stderr:
        pytest.skip(f"Chromium needs packages of the system: {tried.stderr[-200:]}")
    return browser


@pytest.fixture
def browser(chromium: Path) -> Iterator[Any]:
    """A browser that may reach nothing but this machine."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        options = [
            "--no-sandbox",
            "--disable-gpu",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        ]
        opened = driver.chromium.launch(executable_path=str(chromium), args=options)
        yield opened
        opened.close()


def open_page(browser: Any, address: str) -> tuple[Any, list[str]]:
    """A page, and what must not happen on it: dialogs, requests to other places, errors."""
    page, faults = browser.new_page(), []
    page.set_default_timeout(60_000)
    page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith((address, "data:")) else faults.append(request.url)
        ),
    )
    page.goto(address)
    page.wait_for_selector("#text textarea")
    return page, faults


def find(page: Any, text: str | None = None) -> str:
    """Press the button; returns the new result as text."""
    before = page.locator(".mentions a").get_attribute("href") if text is None else ""
    if text is not None:
        page.fill("#text textarea", text)
    page.click("#find")
    page.wait_for_function(
        "old => { const link = document.querySelector('#result .mentions a');"
        "return link && link.getAttribute('href') != old }",
        arg=before,
    )
    return page.inner_text("#result .mentions")


@pytest.mark.slow
def test_a_browser_shows_nested_mentions_and_changed_types(serve, saved_binder, browser, tmp_path):
    folder = saved_binder[0]
    pipeline = load_pipeline(folder)
    with serve(folder) as address:
        assert address.startswith("http://127.0.0.1:")
        page, faults = open_page(browser, address)
        first = find(page, TEXT)
        gold = expected(pipeline, TEXT)
        assert page.locator("#result mark").count() == len(gold) > 5
        assert page.locator("#result mark mark").count() > 0
        assert f"{gold[0][2]} {gold[0][3]:.2f}" in first
        with page.expect_download() as download:
            page.click("#result a")
        file = tmp_path / download.value.suggested_filename
        download.value.save_as(file)
        assert file.name == "mentions.json"
        assert spans(json.loads(file.read_text("utf-8"))) == gold
        assert page.input_value("#types textarea").startswith("PER: 人物：人的名字。\nORG: ")
        page.fill("#types textarea", "CITY: 城市：城市的名字")
        again = find(page)
        assert "CITY" in again
        assert "PER" not in again
        new = expected(pipeline, TEXT, types={"CITY": "城市：城市的名字"})
        assert page.locator("#result tr").count() == len(new) + 1
        page.fill("#types textarea", "CITY")
        page.click("#find")
        page.wait_for_selector("#result .refused")
        assert "expected TYPE: description, found 'CITY'" in page.inner_text("#result")
        assert faults == []


@pytest.mark.slow
def test_a_hostile_text_is_text_in_a_browser(serve, saved_tagger, browser):
    with serve(saved_tagger) as address:
        page, faults = open_page(browser, address)
        shown = find(page, HOSTILE)
        marks = page.locator("#result p").first.evaluate(
            "p => { p.querySelectorAll('small').forEach(s => s.remove()); return p.textContent }"
        )
        assert marks == HOSTILE
        assert "mentions as JSON" in shown
        assert page.locator("#result script, #result img").count() == 0
        assert not page.is_visible("#types")  # a tagger's types are fixed
        assert faults == []


@pytest.mark.slow
def test_two_pages_and_a_busy_model_wait_for_each_other(serve, saved_tagger, browser):
    from gradio_client import Client

    pipeline = load_pipeline(saved_tagger)
    long = TEXT * 2000
    with serve(saved_tagger) as address:
        one, faults = open_page(browser, address)
        two, more_faults = open_page(browser, address)
        client = Client(address, verbose=False)
        jobs = [client.submit(long, 0.99, api_name="/tag") for _ in range(4)]  # keep it busy
        one.fill("#text textarea", TEXT)
        one.click("#find")
        assert len(spans(record_of(client.predict(TEXT, 0, api_name="/tag")))) > 0
        find(two, "李小四在北京大学读书")
        one.wait_for_selector("#result mark")
        for page, text in ((one, TEXT), (two, "李小四在北京大学读书")):
            assert page.locator("#result mark").count() == len(expected(pipeline, text))
        assert all(record_of(job.result(timeout=300))["text"] == long for job in jobs)
        assert [faults, more_faults] == [[], []]


@pytest.mark.slow
def test_only_this_machine_is_let_in_and_nothing_is_uploaded(serve, saved_tagger):
    import httpx

    with serve(saved_tagger) as address:
        port = int(address.rpartition(":")[2])
        listening = [
            line.split()[1]
            for name in ("tcp", "tcp6")
            for line in Path(f"/proc/net/{name}").read_text().splitlines()
            if line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}")
        ]
        assert listening == [f"0100007F:{port:04X}"]
        sent = httpx.post(f"{address}/gradio_api/upload", files={"files": b"x" * 100})
        assert sent.status_code >= 400
        for name in ("/etc/hostname", str(saved_tagger / "config.json")):
            assert httpx.get(f"{address}/gradio_api/file={name}").status_code in (403, 404)


@pytest.mark.slow
def test_code_of_its_own_never_runs(saved_tagger, tmp_path):
    marker = tmp_path / "ran"
    code = saved_tagger / "modeling_nerco.py"
    code.write_text(f"open({str(marker)!r}, 'w')\n" + code.read_text("utf-8"), "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "contrastive_ner", "demo", saved_tagger, "--port", "0"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert "not this project's" in done.stderr
    assert not marker.exists()
