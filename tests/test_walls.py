"""`verify --run` with hostile code that the user has trusted: what it reaches, and its limits."""

import ctypes
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from contrastive_ner.cli import main
from contrastive_ner.errors import RepositoryError
from contrastive_ner.hub import clean_process, walls
from contrastive_ner.hub.repository import package, write_manifest
from contrastive_ner.serving.inference import load_pipeline

TEXT = "张三昨天去了华为。"
# Code at the end of a modeling file, which reports what it reached as its error.
HOSTILE = """
import ctypes, os, pwd, socket, sys
def _attempts():
    yield "environment", lambda: [n for n, v in os.environ.items() if "secret" in v] or 1 / 0
    yield "parent", lambda: "secret" in open(f"/proc/{PARENT}/environ").read() or 1 / 0
    yield "loopback", lambda: socket.create_connection(("127.0.0.1", PORT), 2)
    yield "outside", lambda: open("MARKER", "w").write("x")
    yield "beside", lambda: open(os.path.join("FOLDER", "new.py"), "w")
    yield "home", lambda: open(os.path.expanduser("~/.cache/huggingface/token")).read()
    home = pwd.getpwuid(os.getuid()).pw_dir
    yield "real home", lambda: os.listdir(os.path.join(home, ".cache", "huggingface"))[0]
    yield "secret file", lambda: open("SECRET").read()
    yield "input", lambda: sys.stdin.read(1) or 1 / 0
    libc = ctypes.CDLL(None, use_errno=True)
    yield "unmount", lambda: libc.umount2(os.path.dirname("SECRET").encode(), 2) == 0 or 1 / 0
    yield "remount", lambda: libc.mount(None, b"/", None, 0x1020, None) == 0 or 1 / 0
    yield "kill", lambda: os.kill(PARENT, 0)
def _reached():
    for name, attempt in _attempts():
        try:
            attempt()
            yield name
        except Exception:
            pass
raise RuntimeError("reached: " + ", ".join(_reached()))
"""


def has_walls() -> bool:
    """Whether this system lets a process build them."""
    code = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x10000000 | 0x20000) != 0)"
    return sys.platform == "linux" and not subprocess.run([sys.executable, "-c", code]).returncode


@pytest.fixture
def repository(saved_tagger: Path, tmp_path: Path) -> Path:
    """A packaged tagger, with the predictions that it makes."""
    (saved_tagger / "README.md").write_text("---\nlicense: mit\n---\n# Model\n", "utf-8")
    (saved_tagger / "metrics.json").write_text("{}", "utf-8")
    examples = [{"text": TEXT, "mentions": load_pipeline(saved_tagger)(TEXT)}]
    (saved_tagger / "examples.json").write_text(json.dumps(examples), "utf-8")
    return package(saved_tagger, tmp_path / "repository")


def add_code(folder: Path, code: str) -> None:
    """Append code to the model's own."""
    with (folder / "modeling_nerco.py").open("a") as file:
        file.write(code)
    write_manifest(folder)


@pytest.mark.slow
@pytest.mark.parametrize("walled", [True, False])
def test_what_trusted_code_reaches(repository, tmp_path, monkeypatch, walled):
    if walled and not has_walls():
        walled = False  # the same promises as on other systems
    elif not walled:
        source = Path(walls.__file__).read_text("utf-8")
        without = source.replace("check(libc.unshare(", "check(-1 * abs(")
        assert without != source
        (tmp_path / "walls.py").write_text(without, "utf-8")
        monkeypatch.setattr(walls, "__file__", str(tmp_path / "walls.py"))
    secret = tmp_path / "private" / "token"
    secret.parent.mkdir()
    secret.write_text("secret", "utf-8")
    home = tmp_path / "home" / ".cache" / "huggingface"
    home.mkdir(parents=True)
    (home / "token").write_text("secret", "utf-8")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("HF_TOKEN", "secret")
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = HOSTILE.replace("PORT", str(server.server_port)).replace("PARENT", str(os.getpid()))
    code = code.replace("MARKER", str(tmp_path / "marker")).replace("SECRET", str(secret))
    add_code(repository, code.replace("FOLDER", str(repository)))
    with pytest.raises(RepositoryError, match="reached:") as raised:
        clean_process.check_loads(repository, trust_remote_code=True)
    server.shutdown()
    reached = set(str(raised.value).partition("reached:")[2].strip().split(", ")) - {""}
    assert not reached & {"environment", "home", "input"}
    if walled:
        assert reached == set()
        assert not (tmp_path / "marker").exists()
    else:
        assert {"loopback", "secret file", "outside"} <= reached


@pytest.mark.slow
def test_verify_says_what_it_kept_out(repository, capsys):
    assert main(["verify", str(repository), "--run"]) == 0
    said = capsys.readouterr().out
    assert ("without network" in said) == has_walls()
    assert "repeats its stored predictions" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "value", "code", "said"),
    [
        ("SECONDS", 3, "import time; time.sleep(60)", "limit of 3 seconds"),
        ("MEMORY", 2**30, "x = b'x' * 3 * 2**29; import time; time.sleep(9)", "1.0 GiB of memory"),
        ("SECONDS", 99, "print('[' * 10**6); import os; os._exit(0)", "prints no predictions"),
    ],
)
def test_loading_is_limited_and_the_limit_is_named(
    repository, monkeypatch, limit, value, code, said
):
    monkeypatch.setattr(clean_process, limit, value)
    add_code(repository, f"\n{code}\n")
    with pytest.raises(RepositoryError, match=said):
        clean_process.check_loads(repository, trust_remote_code=True)


def test_what_python_needs_stays_visible_in_a_hidden_folder(tmp_path):
    (tmp_path / "a" / "python").mkdir(parents=True)
    (tmp_path / "a" / "other").mkdir()
    (tmp_path / "a" / "file").touch()
    hidden = []

    class Library:
        def mount(self, source: bytes, target: bytes, *_: object) -> int:
            hidden.append(Path(os.fsdecode(target)).name)
            return 0

    walls.hide(Library(), tmp_path, [tmp_path / "a" / "python"])
    assert sorted(hidden) == ["file", "other"]
    walls.hide(Library(), tmp_path / "a" / "python" / "lib", [tmp_path / "a" / "python"])
    assert len(hidden) == 2
    ctypes.set_errno(1)
    with pytest.raises(OSError, match="not permitted"):
        walls.check(-1)
