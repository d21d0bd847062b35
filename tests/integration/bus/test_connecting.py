"""Connecting: what is wrong is said clearly, and within seconds."""

from __future__ import annotations

import asyncio
import importlib.util
import time
from pathlib import Path
from typing import Any

import pytest
import uvloop
from regrow_protocol import streams, subjects
from regrow_protocol.bus import Bus
from regrow_protocol.errors import AccessDenied, PublishRejected, Unreachable
from regrow_protocol.ports import free_port
from regrow_protocol.server import NatsServer


async def test_nobody_there_is_unreachable() -> None:
    """A port where nobody listens gives `Unreachable`, with the address and a hint, within the time given."""
    start = time.monotonic()
    port = free_port()
    with pytest.raises(Unreachable, match=f"127.0.0.1:{port}") as caught:
        await Bus.connect(f"nats://127.0.0.1:{port}", name="test", connect_timeout=1)
    assert time.monotonic() - start < 15
    assert caught.value.hint


async def test_someone_silent_is_unreachable() -> None:
    """A listener that never says a word gives `Unreachable` too."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(Unreachable):
            await asyncio.wait_for(Bus.connect(f"nats://127.0.0.1:{port}", name="test", connect_timeout=1), 20)


async def test_someone_else_is_unreachable() -> None:
    """A listener that speaks another protocol gives `Unreachable`."""

    async def http(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(http, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(Unreachable):
            await asyncio.wait_for(Bus.connect(f"nats://127.0.0.1:{port}", name="test", connect_timeout=1), 20)


async def test_wrong_credentials_are_denied_at_once(shared_server: NatsServer) -> None:
    """A wrong password, and none, give `AccessDenied` long before the time runs out."""
    start = time.monotonic()
    for who in ("regrow:wrong@", "", "token@"):
        with pytest.raises(AccessDenied):
            await Bus.connect(f"nats://{who}127.0.0.1:{shared_server.port}", name="test", connect_timeout=60)
    assert time.monotonic() - start < 30


async def test_a_server_that_waited_for_credentials_in_vain_is_asked_again(tmp_path: Path) -> None:
    """One that stood still for a moment, or whose client did, has nothing against them."""
    config = "authorization { user: u, password: p, timeout: 0.2 }"
    taken: list[asyncio.Task[Any] | None] = []

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()
        await writer.wait_closed()

    with NatsServer.start(tmp_path, durability="fast", extra=config) as server:

        async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """What the first client says does not arrive."""
            taken.append(asyncio.current_task())
            there, to_there = await asyncio.open_connection("127.0.0.1", server.port)
            if len(taken) > 1:
                await asyncio.gather(forward(there, writer), forward(reader, to_there))
            else:
                await forward(there, writer)
                to_there.close()
                await to_there.wait_closed()

        async with await asyncio.start_server(between, "127.0.0.1", 0) as listener:
            url = f"nats://u:p@127.0.0.1:{listener.sockets[0].getsockname()[1]}"
            async with await Bus.connect(url, name="test", connect_timeout=30) as bus:
                assert bus.connected
            assert len(taken) > 1
            await asyncio.gather(*(task for task in taken if task), return_exceptions=True)


async def test_credentials_may_contain_anything(tmp_path: Path, connect: Any) -> None:
    """User, password and token with characters that mean something in a URL reach the server as they are."""
    with NatsServer.start(tmp_path / "a", durability="fast", user="u:/@", password='p "%@/$x') as server:
        bus = await connect(server.url)
        assert bus.connected
        assert "p " not in str(bus.nc.connected_url)
    with NatsServer.start(tmp_path / "b", durability="fast", token="t/@:%") as server:
        assert (await connect(server.url)).connected


async def test_the_address_comes_from_the_environment(
    nats_url: str, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a URL `REGROW_NATS_URL` counts; without both there is an error that says so."""
    monkeypatch.setenv("REGROW_NATS_URL", nats_url)
    async with await Bus.connect(name="test") as bus:
        assert bus.connected
    monkeypatch.delenv("REGROW_NATS_URL")
    with pytest.raises(Unreachable, match="No NATS server is given"):
        await Bus.connect(name="test")


@pytest.mark.parametrize("url", ["http://localhost:1", "nats://", "ws://localhost:8080"])
async def test_what_is_no_address_is_said(url: str) -> None:
    """A URL of another kind is refused with what to write instead."""
    with pytest.raises(Unreachable, match="no address"):
        await Bus.connect(url, name="test")


async def test_unreadable_credentials_are_named(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A credentials file that is not there is `AccessDenied` with its name."""
    monkeypatch.setenv("REGROW_NATS_CREDS", "/nowhere/app.creds")
    with pytest.raises(AccessDenied, match=r"/nowhere/app\.creds"):
        await Bus.connect(nats_url, name="test")


@pytest.mark.skipif(importlib.util.find_spec("nkeys") is not None, reason="the package nkeys is installed")
async def test_credentials_that_need_a_package_name_it(
    nats_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seed without the package that signs with it is `AccessDenied` with what to install."""
    (tmp_path / "seed").write_text("SUAOFTHETEST\n")
    monkeypatch.setenv("REGROW_NATS_CREDS", str(tmp_path / "seed"))
    with pytest.raises(AccessDenied, match="pip install nkeys"):
        await Bus.connect(nats_url, name="test")


async def test_a_server_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    """While the time given has not run out, connecting is tried again."""
    port = free_port()
    connecting = asyncio.create_task(Bus.connect(f"nats://127.0.0.1:{port}", name="test", connect_timeout=40))
    await asyncio.sleep(0)
    server = await asyncio.to_thread(NatsServer.start, tmp_path, port=port, durability="fast")
    try:
        bus = await asyncio.wait_for(connecting, 40)
        await bus.close()
    finally:
        server.stop()


async def test_one_of_several_addresses_is_enough(nats_url: str, connect: Any) -> None:
    """Of a list of servers the first that answers is taken."""
    bus = await connect(f"nats://127.0.0.1:{free_port()},{nats_url}")
    assert bus.connected


async def test_missing_permissions_fail_what_needs_them(tmp_path: Path, connect: Any) -> None:
    """Publishing where the user may not is `PublishRejected`, asking is `AccessDenied`; neither hangs, others go on."""
    users = """
    authorization { users: [
      { user: admin, password: a },
      { user: app, password: b, permissions: {
          publish: { allow: ["regrow.inbox.a.>", "$JS.API.STREAM.INFO.>"] }, subscribe: ["_INBOX.>"] } } ] }
    """
    with NatsServer.start(tmp_path, durability="fast", extra=users) as server:
        admin = await connect(f"nats://admin:a@127.0.0.1:{server.port}")
        stream = await streams.ensure_app(admin, "a")
        bus = await connect(f"nats://app:b@127.0.0.1:{server.port}")
        outcomes: dict[int, Any] = {}
        for batch in (False, True):
            bus._publisher(stream).pace.prefers_batch = lambda _count, batch=batch: batch
            outcomes.clear()
            for k in range(20):
                subject = subjects.timer("a", 0, "p", 0, k) if k == 7 else subjects.inbox("a", 0, "p")
                bus.publish_soon(stream, subject, b"x", f"{batch}{k}", done=lambda o, k=k: outcomes.__setitem__(k, o))
            await bus.drain_publishers(30)
            failed = {k: outcome for k, outcome in outcomes.items() if isinstance(outcome, Exception)}
            assert list(failed) == [7]
            assert isinstance(failed[7], PublishRejected)
        assert await bus.last_seq(stream) == 38
        with pytest.raises(AccessDenied):
            await bus.last(stream, subjects.inbox("a", 0, "p"))  # after 10 s without an answer it were `Unreachable`
        with pytest.raises(AccessDenied):
            await bus.get_batch(stream, subjects.inbox("a", 0, "p"), 1)
        assert bus.connected


def test_what_is_sent_on_a_socket_that_has_just_gone(nats_url: str) -> None:
    """Before the client knows that it is cut off nothing is raised (uvloop does); requests are made anew afterwards."""

    async def cut_off() -> int:
        async with await Bus.connect(nats_url, name="test") as bus:
            bus.nc.abort()
            sent = 0
            while bus.nc.up:
                sent += not bus.nc.send(b"PING\r\n")
                await asyncio.sleep(0)
            await bus.request("$JS.API.INFO")
            return sent

    assert uvloop.run(cut_off()) > 0
