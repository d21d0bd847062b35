"""kill -9 of any part of the stack: what is left goes on or comes back, with the data, at the same address."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from regrow_cli.children import ChildSpec
from regrow_cli.data_dir import DataDir
from regrow_cli.os_process import is_alive
from regrow_cli.stack import ensure_stack, stack_status, stop_stack
from regrow_protocol import streams
from regrow_protocol.bus import Bus

from .conftest import Ensure, child, log_lines, servers

if TYPE_CHECKING:
    from conftest import Until

SUBJECT = "regrow.event.a.p.t"


async def _publish(bus: Bus, number: int) -> None:
    await bus.publish(streams.EVENTS, SUBJECT, str(number).encode(), f"n{number}")


async def _numbers(bus: Bus) -> list[int]:
    return [int(message.data) for message in await bus.history(streams.EVENTS, SUBJECT)]


async def test_nats_server_killed(folder: Path, place: DataDir, ensure: Ensure, until: Until) -> None:
    """A program that is connected goes on after a kill -9 of the server, and nothing acknowledged is gone."""
    info = await ensure()
    async with await Bus.connect(info.url, name="test") as bus:
        await streams.ensure(bus)
        for number in range(3):
            server = child(place, "nats")
            await _publish(bus, number)
            os.kill(server.process.pid, signal.SIGKILL)
            await until(lambda n=number: (r := child(place, "nats")) and r.restarts == n + 1, "the restart")
        await _publish(bus, 3)
        assert await _numbers(bus) == [0, 1, 2, 3]
    assert len(servers(folder)) == 1
    assert (await ensure()).url == info.url
    assert len(log_lines(place, "NATS server ended")) == 3


async def test_service_killed(place: DataDir, ensure: Ensure, service: ChildSpec, until: Until) -> None:
    """A service that dies is started again at once, and the log says so in one line."""
    await ensure(service)
    await until(lambda: child(place, "tiny"), "the service")
    first = child(place, "tiny")
    os.kill(first.process.pid, signal.SIGKILL)
    await until(lambda: (r := child(place, "tiny")) and r.restarts == 1, "the restart")
    second = child(place, "tiny")
    assert second.process != first.process
    assert second.last_exit == "SIGKILL"
    (line,) = log_lines(place, "child ended")
    assert (line["child"], line["os_pid"], line["how"], line["restart_in"]) == ("tiny", first.process.pid, "SIGKILL", 0)


async def test_stack_killed(folder: Path, place: DataDir, ensure: Ensure, service: ChildSpec, until: Until) -> None:
    """After a kill -9 of the stack, programs go on; the next who asks gets a new stack, at the same address."""
    info = await ensure(service)
    await until(lambda: child(place, "tiny"), "the service")
    before = {name: child(place, name).process for name in ("nats", "tiny")}
    async with await Bus.connect(info.url, name="test") as bus:
        await streams.ensure(bus)
        os.kill(info.pid, signal.SIGKILL)
        await until(lambda: not is_alive(info.process), "its end")
        await _publish(bus, 1)
        assert stack_status(folder).state == "orphaned"
        again = await ensure(service)
        assert again.url == info.url
        assert again.process != info.process
        assert not any(map(is_alive, before.values()))
        assert len(servers(folder)) == 1
        await _publish(bus, 2)
        assert await _numbers(bus) == [1, 2]


async def test_orphan_without_a_record(folder: Path, place: DataDir, ensure: Ensure, until: Until) -> None:
    """A server that holds the store is found and ended, even if the killed stack had not written it down."""
    info = await ensure()
    (server,) = servers(folder)
    os.kill(info.pid, signal.SIGKILL)
    await until(lambda: not is_alive(info.process), "its end")
    place.children.unlink()
    assert is_alive(server)
    await ensure()
    assert not is_alive(server)
    assert len(servers(folder)) == 1


async def test_all_killed(place: DataDir, ensure: Ensure, until: Until) -> None:
    """After a kill -9 of everything at once, the next stack has what was acknowledged."""
    info = await ensure()
    async with await Bus.connect(info.url, name="test") as bus:
        await streams.ensure(bus)
        await _publish(bus, 7)
        server = child(place, "nats").process
        os.kill(info.pid, signal.SIGKILL)
        os.kill(server.pid, signal.SIGKILL)
        await until(lambda: not is_alive(info.process) and not is_alive(server), "their end")
        assert stack_status(place.path).state == "stopped"
        await ensure()
        assert await _numbers(bus) == [7]


async def test_foreign_pid_is_left_alone(folder: Path, place: DataDir, ensure: Ensure, until: Until) -> None:
    """A pid in an old record that belongs to another process by now is not touched."""
    info = await ensure()
    os.kill(info.pid, signal.SIGKILL)
    await until(lambda: not is_alive(info.process), "its end")
    old = place.children.read_bytes()
    server = child(place, "nats").process
    forged = old.replace(f'"pid":{server.pid}'.encode(), f'"pid":{os.getpid()}'.encode()).replace(b'"nats"', b'"tiny"')
    place.children.write_bytes(forged)
    await ensure()  # and this test is still alive


async def test_service_that_cannot_start(place: DataDir, ensure: Ensure, until: Until) -> None:
    """A missing program does not keep the stack from being ready; it is tried again more and more slowly."""
    await ensure(ChildSpec("lost", ("/nonexistent/program",)))
    await until(lambda: len(log_lines(place, "child ended")) >= 3, "the third try")
    assert [line["restart_in"] for line in log_lines(place, "child ended")][:3] == [0, 0.2, 0.4]


async def test_supervisor_killed(folder: Path, place: DataDir, until: Until) -> None:
    """The stack as programs get it runs the supervisor, and again after a kill -9; both times it gets to its work."""
    await asyncio.to_thread(ensure_stack, folder)
    log = place.logs / "supervisor.log"
    for times in (1, 2):
        await until(lambda n=times: log.exists() and log.read_text().count('"event":"started"') == n, "the supervisor")
        await until(lambda n=times: (r := child(place, "supervisor")) and r.restarts == n - 1, "its record")
        supervisor = child(place, "supervisor")
        os.kill(supervisor.process.pid, signal.SIGKILL)


async def test_port_taken_between_two_stacks(folder: Path, place: DataDir, ensure: Ensure) -> None:
    """A stack whose port somebody else has taken meanwhile takes another one."""
    first = await ensure()
    stop_stack(folder)
    with socket.create_server(("127.0.0.1", _port(first.url))):
        second = await ensure()
        assert _port(second.url) != _port(first.url)
        async with await Bus.connect(second.url, name="test"):
            assert len(log_lines(place, "port taken, choosing another")) == 1


async def test_port_taken_while_it_runs(
    folder: Path, place: DataDir, ensure: Ensure, service: ChildSpec, until: Until
) -> None:
    """If the port is lost when the server dies, the stack moves, and its services with it."""
    info = await ensure(service)
    told = folder / "service_url"
    await until(told.exists, "the service")
    os.kill(info.pid, signal.SIGSTOP)
    try:
        server = child(place, "nats").process
        os.kill(server.pid, signal.SIGKILL)
        await until(lambda: not is_alive(server), "the server's end")
        squatter = socket.create_server(("127.0.0.1", _port(info.url)))
    finally:
        os.kill(info.pid, signal.SIGCONT)
    with squatter:
        await until(lambda: (now := stack_status(folder).info) and now.url != info.url, "the move")
        moved = await ensure()
        assert moved.pid == info.pid
        await until(lambda: told.read_text().endswith(f":{_port(moved.url)}"), "the service's move")


def _port(url: str) -> int:
    return int(url.rsplit(":", 1)[1])
