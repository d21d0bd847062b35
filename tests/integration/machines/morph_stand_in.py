"""A stand-in for MorphCloud: NOT the service, only as much of its documented HTTP API and gateway as Regrow speaks to.

The real SDK talks to it. An instance is a system user whose home is its disk; the gateway is a real sshd where each
instance is the user of that name, with a key of its own, as MorphCloud's gateway has it. A snapshot is a copy of the
home: no memory, so what runs does not go on in copies. Stopping an instance kills its processes and removes the user.
Only root can have it.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from ssh_server import Login, SSHServer, keygen, kill_all, need_sshd

KEY = "morph-key-of-the-tests"
SPEC = {"vcpus": 1, "memory": 1024, "disk_size": 8192}


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Morph:
    """The stand-in.

    Attributes:
        url: of its API.
        gateway: its sshd.
        instances, snapshots: what there is, as the API shows it.
        calls: `METHOD path` of what was asked.
        fail: status to answer with, once, by `METHOD path-prefix`.
        pending: instances start as pending and are ready when they were asked for.
        meeting: who asks for all instances is answered when so many have asked, once.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.instances: dict[str, dict[str, Any]] = {}
        self.snapshots: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.fail: dict[str, int] = {}
        self.pending = False
        self.meeting: threading.Barrier | None = None
        self._lock = threading.RLock()
        (folder / "keys").mkdir(mode=0o755)
        (folder / "disks").mkdir(mode=0o711)
        login = Login("morph", folder, folder, folder / "none", own=True)
        self.gateway = SSHServer(login, keys=[f"{folder}/keys/%u.pub"])
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), name="morph")

    def start(self) -> None:
        self.gateway.start()
        self._thread.start()

    def stop(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
        for instance in list(self.instances):
            self.end(instance)
        self.gateway.stop()

    def environment(self) -> dict[str, str]:
        """What the SDK and the backend read."""
        return {
            "MORPH_API_KEY": KEY,
            "MORPH_BASE_URL": self.url,
            "MORPH_SSH_HOSTNAME": "127.0.0.1",
            "MORPH_SSH_PORT": str(self.gateway.port),
            "MORPH_CONFIG_PATH": str(self.folder / "no-config.toml"),
            "REGROW_MORPH_KNOWN_HOSTS": str(self.gateway.known_hosts),
        }

    # What the API does ------------------------------------------------------------------------------------------------

    def answer(self, method: str, path: str, query: dict[str, str], body: dict[str, Any]) -> Any:
        """One call."""
        parts = path.strip("/").split("/")
        with self._lock:
            self.calls.append(f"{method} {path}")
            for prefix, status in list(self.fail.items()):
                if f"{method} {path}".startswith(prefix):
                    del self.fail[prefix]
                    raise Refused(status, "as the test wants it")
            match method, parts:
                case "GET", ["snapshot" | "instance" as kind]:
                    return {"data": [found for found in self._kind(kind).values() if _matches(found, query)]}
                case "GET", ["snapshot" | "instance" as kind, name]:
                    found = self._get(kind, name)
                    now, found["status"] = {**found}, "ready"
                    return {**now, "status": "ready"} if now["status"] == "pending" else now
                case "POST", ["snapshot"]:
                    return self._base(body)
                case "DELETE", ["snapshot", name]:
                    self._get("snapshot", name)
                    del self.snapshots[name]
                    shutil.rmtree(self.folder / "disks" / name)
                    return {}
                case "POST", ["instance"]:
                    return self._begin(query["snapshot_id"], body)
                case "POST", ["snapshot", name, "boot"]:
                    return self._begin(name, body)
                case "DELETE", ["instance", name]:
                    self._get("instance", name)
                    self.end(name)
                    return {}
                case "POST", ["instance", name, "snapshot"]:
                    return self._save(self._get("instance", name), query.get("digest"), body)
                case "GET", ["instance", name, "ssh", "key"]:
                    self._get("instance", name)
                    private = (self.folder / "keys" / name).read_text()
                    return {"private_key": private, "public_key": "", "password": ""}
                case "POST", ["instance", name, "http"]:
                    found = self._get("instance", name)
                    url = f"https://{body['name']}-{name.replace('_', '-')}.http.stand-in.example"
                    found["networking"]["http_services"].append({**body, "url": url})
                    return {}
                case _:
                    raise Refused(405, f"{method} {path} is no call that the stand-in knows")

    def end(self, name: str) -> None:
        """Stop an instance."""
        kill_all(pwd.getpwnam(name).pw_uid)
        subprocess.run(["userdel", "-f", name], check=False, capture_output=True)
        subprocess.run(["groupdel", name], check=False, capture_output=True)
        (self.folder / "keys" / f"{name}.pub").unlink(missing_ok=True)
        shutil.rmtree(self.folder / "disks" / name, ignore_errors=True)
        self.instances.pop(name, None)

    def _kind(self, kind: str) -> dict[str, dict[str, Any]]:
        return self.snapshots if kind == "snapshot" else self.instances

    def _get(self, kind: str, name: str) -> dict[str, Any]:
        if name not in self._kind(kind):
            raise Refused(404, f"no {kind} {name}")
        return self._kind(kind)[name]

    def _snapshot(self, image: str, spec: dict[str, int], digest: str | None, body: dict[str, Any]) -> dict[str, Any]:
        made = {
            "id": f"snapshot_{secrets.token_hex(4)}",
            "object": "snapshot",
            "created": int(time.time()),
            "status": "ready",
            "spec": spec,
            "refs": {"image_id": image},
            "digest": digest,
            "metadata": body.get("metadata") or {},
            "ttl": {"ttl_seconds": body.get("ttl_seconds")},
        }
        return self.snapshots.setdefault(str(made["id"]), made)

    def _base(self, body: dict[str, Any]) -> dict[str, Any]:
        for found in self.snapshots.values():
            if body.get("digest") and found["digest"] == body["digest"]:
                return found
        made = self._snapshot(body["image_id"], {k: body[k] for k in SPEC}, body.get("digest"), body)
        (self.folder / "disks" / made["id"]).mkdir(mode=0o755)
        return made

    def _save(self, instance: dict[str, Any], digest: str | None, body: dict[str, Any]) -> dict[str, Any]:
        made = self._snapshot(instance["refs"]["image_id"], instance["spec"], digest, body)
        self._copy(instance["id"], made["id"])
        return made

    def _begin(self, snapshot: str, body: dict[str, Any]) -> dict[str, Any]:
        origin = self._get("snapshot", snapshot)
        name = f"morphvm_{secrets.token_hex(4)}"
        home = self.folder / "disks" / name
        self._copy(snapshot, name)
        subprocess.run(["useradd", "--no-create-home", "-d", str(home), "-s", "/bin/sh", name], check=True)
        subprocess.run(["usermod", "-p", "*", name], check=True)
        subprocess.run(["chown", "-R", f"{name}:{name}", str(home)], check=True)
        keygen(self.folder / "keys" / name)
        self.instances[name] = {
            "id": name,
            "object": "instance",
            "created": int(time.time()),
            "status": "pending" if self.pending else "ready",
            "spec": {what: body.get(what) or origin["spec"][what] for what in SPEC},
            "refs": {"snapshot_id": snapshot, "image_id": origin["refs"]["image_id"]},
            "networking": {"internal_ip": "127.0.0.1", "http_services": []},
            "metadata": body.get("metadata") or {},
            "ttl": {"ttl_seconds": body.get("ttl_seconds"), "ttl_action": body.get("ttl_action") or "stop"},
        }
        return self.instances[name]

    def _copy(self, source: str, target: str) -> None:
        disks = self.folder / "disks"
        subprocess.run(["cp", "-a", str(disks / source), str(disks / target)], check=True)


def _matches(found: dict[str, Any], query: dict[str, str]) -> bool:
    digest = query.get("digest")
    if digest is not None and found["digest"] != digest:
        return False
    wanted = {k.removeprefix("metadata[").removesuffix("]"): v for k, v in query.items() if k.startswith("metadata[")}
    return all(found["metadata"].get(name) == value for name, value in wanted.items())


def _handler(morph: Morph) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            try:
                if self.headers.get("Authorization") != f"Bearer {KEY}":
                    raise Refused(401, "no such key")
                status, answer = 200, morph.answer(self.command, parts.path, dict(parse_qsl(parts.query)), body)
            except Refused as refused:
                status, answer = refused.status, {"detail": str(refused)}
            if (meeting := morph.meeting) and (self.command, parts.path.strip("/")) == ("GET", "instance"):
                meeting.wait(30)
                morph.meeting = None
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = _serve

        def log_message(self, *_: object) -> None:
            """It is silent."""

    return Handler


@contextlib.contextmanager
def make_morph() -> Iterator[Morph]:
    """A stand-in that is removed with all that it made."""
    need_sshd()
    if os.geteuid() != 0 or not shutil.which("useradd"):
        pytest.skip("the stand-in for MorphCloud makes users: it needs root and useradd")
    folder = Path(tempfile.mkdtemp(prefix="regrow-morph-"))
    folder.chmod(0o711)
    morph = Morph(folder)
    try:
        morph.start()
        yield morph
    finally:
        morph.stop()
        shutil.rmtree(folder, ignore_errors=True)
