"""A server on loopback that behaves like the Hugging Face hub where a model is pushed to it."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from huggingface_hub import constants

TOKEN = "hf_SecretOfTheTests123"


@dataclass
class HubServer:
    """The repositories that were pushed: files by name, and whether they are private.

    `refuse` gives the status with which requests are answered whose path contains a word. `asked` lists the requests, and
    `tokens` the authorizations that came with them; uploads to storage have none."""

    url: str = ""
    user: str = "someone"
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    refuse: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    storage: dict[str, bytes] = field(default_factory=dict)

    @contextmanager
    def running(self) -> Iterator[HubServer]:
        handler = type("Handler", (_Handler,), {"hub": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Return the status and the body that the hub answers with."""
        path, _, _ = path.partition("?")
        self.asked.append(f"{method} {path}")
        for word, status in self.refuse.items():
            if word in path:
                return status, {"error": f"refused with {TOKEN}"}
        if path.startswith("/storage/"):
            self.storage[path.rpartition("/")[2]] = body
            return 200, {}
        given = json.loads(body) if body.startswith(b"{") and not path.endswith("/commit/main") else {}
        if path == "/api/whoami-v2":
            return 200, {"name": self.user, "type": "user", "orgs": []}
        if path == "/api/validate-yaml":
            assert given["content"].startswith("---\n")
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            name = f"{given['organization'] or self.user}/{given['name']}"
            if name in self.files:
                return 409, {"error": "You already created this model repo", "url": f"{self.url}/{name}"}
            self.files[name] = {".gitattributes": b""}
            self.private[name] = given.get("visibility") == "private"
            return 200, {"url": f"{self.url}/{name}"}
        return self._answer_about(path, given, body)

    def _answer_about(self, path: str, given: Any, body: bytes) -> tuple[int, Any]:
        """Answer a request about one repository."""
        parts = path.removeprefix("/api/models").strip("/").split("/")
        name = "/".join(parts[:2]).removesuffix(".git")
        if name not in self.files:
            return 404, {"error": "Repository not found"}
        files, rest = self.files[name], "/".join(parts[2:])
        if rest in ("", "revision/main"):
            siblings = [{"rfilename": file} for file in files]
            private = self.private.get(name, False)
            return 200, {"id": name, "sha": "0" * 40, "private": private, "siblings": siblings}
        if rest == "tree/main":
            tree = [{"type": "file", "path": file, "size": len(data), "oid": "0"} for file, data in files.items()]
            return 200, tree
        if rest == "preupload/main":
            asked = given["files"]
            modes = {file["path"]: "lfs" if file["path"].endswith(".safetensors") else "regular" for file in asked}
            answers = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
            return 200, {"files": answers}
        if rest == "info/lfs/objects/batch":
            objects = []
            for wanted in given["objects"]:
                upload = {"href": f"{self.url}/storage/{wanted['oid']}"}
                objects.append({**wanted, "actions": {"upload": upload}})
            return 200, {"transfer": "basic", "objects": objects}
        assert rest == "commit/main", path
        self._commit(files, [json.loads(line) for line in body.splitlines()])
        return 200, {"commitUrl": f"{self.url}/{name}/commit/0", "commitOid": "0" * 40}

    def _commit(self, files: dict[str, bytes], operations: list[Any]) -> None:
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "header":
                self.messages.append(value["summary"])
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
            elif operation["key"] == "lfsFile":
                data = self.storage[value["oid"]]
                assert (hashlib.sha256(data).hexdigest(), len(data)) == (value["oid"], value["size"])
                files[value["path"]] = data
            else:
                files[value["path"]] = base64.b64decode(value["content"])


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        token = self.headers.get("Authorization")
        if self.path.startswith("/storage/"):
            assert token is None
        elif token is not None:
            self.hub.tokens.add(token)
        status, answer = self.hub.answer(self.command, self.path, body)
        data = json.dumps(answer).encode()
        self.send_response(status)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_HEAD = _handle

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def use_hub(patched: pytest.MonkeyPatch, url: str, token: str = TOKEN) -> None:
    """Let the library talk to this server, as HF_ENDPOINT does, and with this token."""
    patched.setattr(constants, "ENDPOINT", url)
    patched.setattr(constants, "HF_HUB_OFFLINE", False)
    patched.setattr(constants, "HF_HUB_DISABLE_XET", True)  # a protocol of another server
    patched.setattr(constants, "HF_TOKEN_PATH", "/nowhere/token")
    patched.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    patched.setenv("HF_TOKEN", token)
