"""What `regrow doctor` says of the kinds of machines: which could be made on this computer, and which nodes make some.

A kind that nobody has set up here is no fault; one that was, and does not answer, is told as one.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import stat
import time
from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from msgspec import Struct
from regrow_protocol.bus import Bus

from .machines import nodes, until_managed

GROUP = "regrow.machines"
KEYS = ("id_ed25519", "id_ecdsa", "id_rsa", "id_ed25519_sk", "id_ecdsa_sk")
_TIMEOUT = 3.0
_AGENT_LISTS_KEYS = b"\x00\x00\x00\x01\x0b"
"""SSH_AGENTC_REQUEST_IDENTITIES of the agent protocol, with its length in front."""


class Finding(Struct, frozen=True):
    """Of one backend.

    Attributes:
        status: as of a check.
        hint: what to do; empty when it is ok.
    """

    status: Literal["ok", "warn"]
    detail: str
    hint: str = ""


def backends() -> dict[str, Finding]:
    """What is found of each backend that is installed; blocks for some seconds at most."""
    own = {"local": local, "docker": docker, "ssh": ssh, "morph": morph}
    points = {point.name: point for point in entry_points(group=GROUP)}
    found = {name: check() for name, check in own.items() if name in points}
    for name in sorted(points.keys() - own.keys()):
        found[name] = Finding("ok", f"installed: {points[name].value}")
    return found


def local() -> Finding:
    """Folders and processes: they need nothing."""
    if os.geteuid() == 0:
        return Finding("ok", "commands run as processes of this computer, as any of its users")
    return Finding("ok", "commands run as processes of this computer, as this user")


def docker() -> Finding:
    """Does the engine answer?"""
    if not importlib.util.find_spec("docker"):
        return Finding("ok", "not installed: pip install 'regrow[docker]'")
    address = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    parts = urlsplit(address)
    if parts.scheme == "unix" and not os.environ.get("DOCKER_HOST") and not _is_socket(Path(parts.path)):
        return Finding("ok", "no engine on this computer")
    try:
        version = _engine_version(parts.path if parts.scheme == "unix" else "")
    except (OSError, LookupError) as error:
        hint = "is it running, and may this user reach it? `docker info` tells more"
        return Finding("warn", f"the engine at {address} does not answer: {str(error)[:200]}", hint)
    return Finding("ok", f"engine {version} at {address}")


def ssh() -> Finding:
    """What would log in somewhere: keys of an agent, or files?"""
    if not importlib.util.find_spec("asyncssh"):
        return Finding("ok", "not installed: pip install 'regrow[ssh]'")
    home = Path("~/.ssh").expanduser()
    files = [name for name in KEYS if (home / name).is_file()]
    detail = f"keys in {home}: {', '.join(files) or 'none'}"
    path = os.environ.get("SSH_AUTH_SOCK", "")
    if not path:
        return Finding("ok", f"no agent; {detail}")
    try:
        count = _agent_keys(path)
    except (OSError, ValueError) as error:
        return Finding(
            "warn", f"the agent does not answer: {error}; {detail}", "unset SSH_AUTH_SOCK, or start it again"
        )
    return Finding("ok", f"agent with {count} keys; {detail}")


def morph() -> Finding:
    """Is there a key? Whether MorphCloud takes it is not asked."""
    if not importlib.util.find_spec("morphcloud"):
        return Finding("ok", "not installed: pip install 'regrow[morph]'")
    if not os.environ.get("MORPH_API_KEY"):
        return Finding("ok", "not set up: MORPH_API_KEY is not set")
    return Finding("ok", "MORPH_API_KEY is set")


async def managers(bus: Bus) -> Finding:
    """Which nodes make machines, and of what kinds?"""
    alive = await until_managed(bus, bool, _TIMEOUT)
    offered = {node.node: node for node in await nodes(bus) if node.node in alive}
    if not offered:
        return Finding(
            "warn", "no machine-manager runs: machine() waits for one", "regrow-machine-manager, or regrow up"
        )
    parts: list[str] = []
    for name, node in offered.items():
        text = f"{name}: {', '.join(node.backends) or 'nothing yet'}"
        parts.append(f"{text} (takes no more: {node.closed})" if node.closed else text)
    full = all(node.closed for node in offered.values())
    return Finding("warn", "; ".join(parts), "free some disk there") if full else Finding("ok", "; ".join(parts))


def _engine_version(path: str) -> str:
    """Version of the Docker engine of the environment; `path` of its socket, where it is one.

    Raises:
        OSError, LookupError: it does not answer.
    """
    if path:  # quicker than the SDK, which leaves its socket open when nobody listens
        with socket.socket(socket.AF_UNIX) as engine:
            engine.settimeout(_TIMEOUT)
            engine.connect(path)
    from docker import APIClient
    from docker.errors import DockerException
    from docker.utils import kwargs_from_env

    try:
        client = APIClient(version="auto", timeout=int(_TIMEOUT), **kwargs_from_env())
        try:
            return str(client.version()["Version"])
        finally:
            client.close()
    except DockerException as error:
        raise LookupError(str(error)) from error


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


def _agent_keys(path: str) -> int:
    """How many keys the agent behind a socket has."""
    with socket.socket(socket.AF_UNIX) as agent:
        agent.settimeout(_TIMEOUT)
        agent.connect(path)
        agent.sendall(_AGENT_LISTS_KEYS)
        answer = b""
        deadline = time.monotonic() + _TIMEOUT
        while len(answer) < 9 and time.monotonic() < deadline:
            part = agent.recv(9 - len(answer))
            if not part:
                break
            answer += part
    if len(answer) < 9 or answer[4] != 12:
        raise ValueError("it says something else")
    return int.from_bytes(answer[5:9], "big")
