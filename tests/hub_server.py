"""A Hub for tests: the part of the protocol that the client uses, backed by a directory.

    with TestHub(tmp_path) as hub:
        subprocess.run(..., env={**os.environ, **hub.environment(cache)})

A repository is a folder of commits, each a JSON file {path: {sha256, lfs}} with a parent. Contents
are stored once, by SHA-256. A commit is written completely or not at all. `hub.faults` makes the
next matching requests fail.
"""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LARGE = re.compile(r"\.(safetensors|bin|pt|zip|onnx)$")  # files in large file storage
DATE = "2026-01-01T00:00:00.000Z"
REPO = r"([^/]+/[^/]+?)"
KIND = "(?:models|spaces)"  # in one space of names


def card_faults(content: str) -> list[str]:
    """Faults in the metadata of a card: the Hub's documented rules for the fields we write."""
    match = re.match(r"---\n(.*?)\n---\n", content, flags=re.S)
    try:
        head = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError:
        head = None
    if not isinstance(head, dict):
        return ["the card has no YAML head"]
    faults = []
    for name in ("license", "library_name", "pipeline_tag"):
        if not re.fullmatch(r"[a-z0-9.-]+", str(head.get(name, "other"))):
            faults.append(f"{name} {head[name]!r} is no identifier")
    languages = head.get("language") or []
    for language in [languages] if isinstance(languages, str) else languages:
        if not re.fullmatch(r"[a-z]{2,3}(-.+)?|multilingual|code", language):
            faults.append(f"language {language!r} is no ISO 639 code")
    if "base_model" in head and not re.fullmatch(r"[\w.-]+/[\w.-]+", str(head["base_model"])):
        faults.append(f"base_model {head['base_model']!r} is no model id")
    for entry in head.get("model-index", []):
        for result in entry["results"]:
            needed = [
                result.get("task", {}).get("type"),
                *(result.get("dataset", {}).get(key) for key in ("type", "name")),
            ]
            metrics = result.get("metrics") or [{}]
            if not all(needed) or any(
                "value" not in metric or not metric.get("type") for metric in metrics
            ):
                faults.append(
                    f"model-index {entry.get('name')!r}: a result needs task.type, dataset.type "
                    "and name, metrics with type and value"
                )
    return faults


class RefusedError(Exception):
    """An error response: status, the Hub's error code, message."""


@dataclass
class Fault:
    """A fault for the next `times` requests whose method and path match.

    It is a status, a closed connection (status 0) or a delay.
    """

    request: str
    status: int | None = None
    seconds: float = 0.0
    times: int = 1


@dataclass
class Repository:
    """Commits, branches and tags of one repository, in a folder."""

    folder: Path
    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    proposals: int = 0

    def commit(self, files: dict[str, dict], branch: str, title: str) -> str:
        """Write a commit and move the branch to it."""
        content = json.dumps(
            {"parent": self.branches.get(branch), "title": title, "files": files}, sort_keys=True
        )
        name = hashlib.sha1(content.encode()).hexdigest()
        (self.folder / name).write_text(content, "utf-8")
        self.branches[branch] = name
        return name

    def resolve(self, revision: str) -> str:
        """The commit of a branch, tag or commit id."""
        commit = self.branches.get(revision) or self.tags.get(revision) or revision
        if not re.fullmatch("[0-9a-f]{40}", commit) or not (self.folder / commit).is_file():
            raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def read(self, commit: str) -> dict[str, Any]:
        return json.loads((self.folder / commit).read_text("utf-8"))

    def history(self, commit: str | None) -> list[str]:
        names = []
        while commit:
            names.append(commit)
            commit = self.read(commit)["parent"]
        return names


class TestHub:
    """The server; `requests` lists all requests, `faults` makes some fail."""

    __test__ = False
    user, token = "tester", "hf_secret_of_the_tester"

    def __init__(self, folder: Path) -> None:
        self.folder, self.repositories = folder, dict[str, Repository]()
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        (folder / "contents").mkdir(parents=True)
        self.server = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self})
        )
        self.server.daemon_threads = True

    def __enter__(self) -> "TestHub":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def environment(self, cache: Path, *, token: bool = True) -> dict[str, str]:
        """Environment of a process that uses this server as the Hub, with an empty cache."""
        own = {
            "HF_ENDPOINT": f"http://127.0.0.1:{self.server.server_port}",
            "HF_HOME": str(cache),
            "HF_HUB_DISABLE_XET": "1",
        }
        return {
            **own,
            "HF_TOKEN": self.token if token else "",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
        }

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Files of a repository and their contents."""
        repository = self.repositories[repo_id]
        files = repository.read(repository.resolve(revision))["files"]
        return {name: self.content(entry["sha256"]) for name, entry in files.items()}

    def commits(self, repo_id: str, revision: str = "main") -> list[str]:
        repository = self.repositories[repo_id]
        return repository.history(repository.resolve(revision))

    def content(self, digest: str) -> bytes:
        return (self.folder / "contents" / digest).read_bytes()

    def keep(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        (self.folder / "contents" / digest).write_bytes(data)
        return digest

    def has(self, digest: str) -> bool:
        return (self.folder / "contents" / digest).is_file()

    def create(self, repo_id: str, private: bool) -> None:
        folder = self.folder / repo_id.replace("/", "--")
        folder.mkdir()
        self.repositories[repo_id] = Repository(folder, private)
        self.repositories[repo_id].commit({}, "main", "initial commit")

    def fault_of(self, request: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and re.search(fault.request, request):
                    fault.times -= 1
                    return fault
        return None


class Handler(BaseHTTPRequestHandler):
    """Handle one request: find its route, answer or refuse."""

    protocol_version = "HTTP/1.1"
    hub: TestHub

    def log_message(self, *_: object) -> None:
        pass

    def answer(
        self,
        value: Any = None,
        *,
        status: int = 200,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        content = json.dumps(value).encode() if body is None else body
        self.send_response(status)
        for name, text in {
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            **(headers or {}),
        }.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def handle_request(self) -> None:
        fault = self.hub.fault_of(f"{self.command} {self.path}")
        self.hub.requests.append(f"{self.command} {self.path}")
        if fault is not None:
            time.sleep(fault.seconds)
            if fault.status == 0:  # in the middle of the upload
                self.rfile.read(min(int(self.headers.get("Content-Length") or 0), 1000))
                self.close_connection = True
                self.connection.close()
                return
        self.data = self.read_body()
        place = urlsplit(self.path)
        self.query = parse_qs(place.query)
        try:
            if fault is not None and fault.status is not None:
                raise RefusedError(fault.status, "ServerError", "the server has a fault")
            self.route(unquote(place.path))
        except RefusedError as refusal:
            status, code, message = refusal.args
            self.answer(
                {"error": message},
                status=status,
                headers={"X-Error-Code": code, "X-Error-Message": message},
            )

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request  # noqa: N815

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def route(self, path: str) -> None:
        for pattern, method in ROUTES:
            if match := re.fullmatch(pattern, path):
                with self.hub.lock:
                    method(self, *match.groups())
                return
        raise RefusedError(404, "NotFound", f"no such route: {self.command} {path}")

    def json(self) -> Any:
        return json.loads(self.data or b"{}")

    # -- permissions
    def is_tester(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def needs_token(self) -> None:
        if not self.is_tester():
            raise RefusedError(401, "Unauthorized", "Invalid username or password.")

    def repository(self, repo_id: str) -> Repository:
        found = self.hub.repositories.get(repo_id)
        if found is None or (found.private and not self.is_tester()):
            raise RefusedError(
                404 if self.is_tester() else 401, "RepoNotFound", "Repository not found"
            )
        return found

    # -- routes
    def whoami(self) -> None:
        self.needs_token()
        self.answer(
            {
                "type": "user",
                "id": "1",
                "name": self.hub.user,
                "orgs": [],
                "auth": {"type": "access_token"},
            }
        )

    def validate_yaml(self) -> None:
        errors = [{"message": fault} for fault in card_faults(self.json()["content"])]
        self.answer({"errors": errors, "warnings": []}, status=400 if errors else 200)

    def create(self) -> None:
        self.needs_token()
        given = self.json()
        repo_id = f"{given.get('organization') or self.hub.user}/{given['name']}"
        url = f"http://{self.headers['Host']}/{repo_id}"
        if repo_id in self.hub.repositories:
            self.answer({"error": "You already created this model repo", "url": url}, status=409)
            return
        self.hub.create(repo_id, bool(given.get("private") or given.get("visibility") == "private"))
        self.answer({"url": url, "name": repo_id, "id": repo_id})

    def preupload(self, repo_id: str, revision: str) -> None:
        self.needs_token()
        self.repository(repo_id).resolve(revision)
        modes = [
            (entry["path"], "lfs" if LARGE.search(entry["path"]) else "regular")
            for entry in self.json()["files"]
        ]
        self.answer(
            {
                "files": [
                    {"path": path, "uploadMode": mode, "shouldIgnore": False}
                    for path, mode in modes
                ]
            }
        )

    def large_batch(self, repo_id: str) -> None:
        self.needs_token()
        base = f"http://{self.headers['Host']}/large"
        objects = []
        for wanted in self.json()["objects"]:
            actions = {
                "upload": {"href": f"{base}/{wanted['oid']}"},
                "verify": {"href": f"{base}/verify"},
            }
            objects.append(
                {**wanted, **({} if self.hub.has(wanted["oid"]) else {"actions": actions})}
            )
        self.answer({"transfer": "basic", "objects": objects})

    def large_verify(self) -> None:
        if not self.hub.has(self.json()["oid"]):
            raise RefusedError(404, "NotFound", "not uploaded")
        self.answer({})

    def large_put(self, digest: str) -> None:
        if hashlib.sha256(self.data).hexdigest() != digest:
            raise RefusedError(400, "BadRequest", "content and SHA-256 differ")
        self.hub.keep(self.data)
        self.answer()

    def commit(self, repo_id: str, revision: str) -> None:
        self.needs_token()
        repository = self.repository(repo_id)
        head = repository.resolve(revision)
        files = dict(repository.read(head)["files"])
        title = ""
        for line in self.data.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, head):
                    raise RefusedError(
                        412,
                        "PreconditionFailed",
                        "A commit has happened since. Please refresh and try again.",
                    )
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
            elif operation["key"] == "file":
                files[value["path"]] = {
                    "sha256": self.hub.keep(base64.b64decode(value["content"])),
                    "lfs": False,
                }
            elif operation["key"] == "lfsFile":
                if not self.hub.has(value["oid"]):
                    raise RefusedError(400, "BadRequest", "a large file is missing")
                files[value["path"]] = {"sha256": value["oid"], "lfs": True}
        proposal = {}
        if self.query.get("create_pr") == ["1"]:
            repository.proposals += 1
            revision = f"refs/pr/{repository.proposals}"
            repository.branches[revision] = head
            page = f"{repo_id}/discussions/{repository.proposals}"
            proposal = {"pullRequestUrl": f"http://{self.headers['Host']}/{page}"}
        commit = repository.commit(files, revision, title)
        url = f"http://{self.headers['Host']}/{repo_id}/commit/{commit}"
        self.answer(
            {"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": "", **proposal}
        )

    def create_branch(self, repo_id: str, name: str) -> None:
        self.needs_token()
        repository = self.repository(repo_id)
        if name in repository.branches:
            self.answer({"error": "Reference already exists"}, status=409)
            return
        repository.branches[name] = repository.resolve(self.json().get("startingPoint") or "main")
        self.answer({})

    def create_tag(self, repo_id: str, revision: str) -> None:
        self.needs_token()
        repository = self.repository(repo_id)
        repository.tags[self.json()["tag"]] = repository.resolve(revision)
        self.answer({})

    def refs(self, repo_id: str) -> None:
        repository = self.repository(repo_id)

        def entries(kind: str, names: dict[str, str]) -> list[dict]:
            return [
                {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit}
                for name, commit in names.items()
            ]

        self.answer(
            {
                "branches": entries("heads", repository.branches),
                "tags": entries("tags", repository.tags),
                "converts": [],
            }
        )

    def info(self, repo_id: str, revision: str | None = None) -> None:
        repository = self.repository(repo_id)
        commit = repository.resolve(revision or "main")
        files = repository.read(commit)["files"]
        value: dict[str, Any] = {
            "_id": repo_id,
            "id": repo_id,
            "modelId": repo_id,
            "sha": commit,
            "lastModified": DATE,
            "createdAt": DATE,
        }
        value |= {
            "private": repository.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
        }
        value["siblings"] = [{"rfilename": name} for name in sorted(files)]
        if "config.json" in files:  # the real Hub also derives the task from it
            config = json.loads(self.hub.content(files["config.json"]["sha256"]))
            value["config"] = {
                key: config[key]
                for key in ("architectures", "auto_map", "model_type")
                if key in config
            }
            value |= {"library_name": "transformers", "pipeline_tag": "token-classification"}
        self.answer(value)

    def tree(self, repo_id: str, revision: str) -> None:
        repository = self.repository(repo_id)
        files = repository.read(repository.resolve(revision))["files"]
        self.answer([self.entry(name, entry) for name, entry in sorted(files.items())])

    def paths_info(self, repo_id: str, revision: str) -> None:
        repository = self.repository(repo_id)
        files = repository.read(repository.resolve(revision))["files"]
        wanted = parse_qs(self.data.decode()).get("paths") or self.json()["paths"]
        self.answer([self.entry(name, files[name]) for name in wanted if name in files])

    def entry(self, name: str, entry: dict[str, Any]) -> dict[str, Any]:
        content = self.hub.content(entry["sha256"])
        large = (
            {"lfs": {"oid": entry["sha256"], "size": len(content), "pointerSize": 134}}
            if entry["lfs"]
            else {}
        )
        return {
            "type": "file",
            "path": name,
            "size": len(content),
            "oid": git_name(content),
            **large,
        }

    def file(self, repo_id: str, revision: str, name: str) -> None:
        repository = self.repository(repo_id)
        commit = repository.resolve(revision)
        entry = repository.read(commit)["files"].get(name)
        if entry is None:
            self.answer(
                {"error": "Entry not found"},
                status=404,
                headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit},
            )
            return
        content = self.hub.content(entry["sha256"])
        headers = {
            "X-Repo-Commit": commit,
            "ETag": f'"{entry["sha256"] if entry["lfs"] else git_name(content)}"',
            "Accept-Ranges": "bytes",
        }
        if entry["lfs"]:
            headers |= {"X-Linked-Etag": f'"{entry["sha256"]}"', "X-Linked-Size": str(len(content))}
        if part := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(part[1]), min(int(part[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            self.answer(body=content[first : last + 1], status=206, headers=headers)
        else:
            self.answer(body=content, headers=headers)


def git_name(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


ROUTES: list[tuple[str, Callable[..., None]]] = [
    ("/api/whoami-v2", Handler.whoami),
    ("/api/validate-yaml", Handler.validate_yaml),
    ("/api/repos/create", Handler.create),
    (f"/(?:spaces/)?{REPO}\\.git/info/lfs/objects/batch", Handler.large_batch),
    ("/large/verify", Handler.large_verify),
    ("/large/([0-9a-f]{64})", Handler.large_put),
    (f"/api/{KIND}/{REPO}/preupload/(.+)", Handler.preupload),
    (f"/api/{KIND}/{REPO}/commit/(.+)", Handler.commit),
    (f"/api/{KIND}/{REPO}/branch/(.+)", Handler.create_branch),
    (f"/api/{KIND}/{REPO}/tag/(.+)", Handler.create_tag),
    (f"/api/{KIND}/{REPO}/refs", Handler.refs),
    (f"/api/{KIND}/{REPO}/tree/([^/]+)", Handler.tree),
    (f"/api/{KIND}/{REPO}/paths-info/([^/]+)", Handler.paths_info),
    (f"/api/{KIND}/{REPO}/revision/(.+)", Handler.info),
    (f"/api/{KIND}/{REPO}", Handler.info),
    (f"/{REPO}/resolve/([^/]+)/(.+)", Handler.file),
]
