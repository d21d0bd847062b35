"""What the doctor finds of the kinds of machines, with real agents and sockets."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from regrow_cli import backend_checks
from regrow_cli.backend_checks import backends, docker, morph, ssh


def test_every_own_backend_is_looked_at() -> None:
    """Those that Regrow brings, in this order, whatever of them is set up."""
    assert list(backends())[:4] == ["local", "docker", "ssh", "morph"]


def test_an_engine_that_was_named_and_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DOCKER_HOST without an engine is told, with its address; without DOCKER_HOST and a socket nobody wants one."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    found = docker()
    assert found.status == "warn"
    assert str(tmp_path) in found.detail
    assert found.hint
    monkeypatch.delenv("DOCKER_HOST")
    monkeypatch.setattr(backend_checks, "_is_socket", lambda path: False)
    assert docker().status == "ok"


def test_an_agent_with_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real agent is asked how many keys it has."""
    if shutil.which("ssh-agent") is None:
        pytest.skip("openssh-client is not installed")
    path = tmp_path / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert agent.stdout is not None
        assert re.search("SSH_AUTH_SOCK", agent.stdout.readline())
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        assert ssh().detail.startswith("agent with 0 keys")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
        subprocess.run(["ssh-add", "-q", str(tmp_path / "key")], check=True)
        assert ssh().detail.startswith("agent with 1 keys")
    finally:
        agent.kill()
        agent.communicate()


def test_an_agent_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that is not there, and one that hangs up, are told."""
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "nothing"))
    assert ssh().status == "warn"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "mute"))
        server.listen()
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "mute"))
        monkeypatch.setattr(backend_checks, "_TIMEOUT", 0.2)
        assert ssh().status == "warn"
    monkeypatch.delenv("SSH_AUTH_SOCK")
    assert ssh().status == "ok"


def test_the_key_of_morph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its value is not shown."""
    monkeypatch.delenv("MORPH_API_KEY", raising=False)
    assert "not set up" in morph().detail
    monkeypatch.setenv("MORPH_API_KEY", "hunter2")
    found = morph()
    assert (found.status, "hunter2" in found.detail) == ("ok", False)
