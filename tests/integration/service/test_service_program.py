"""Whole service programs: killed, stopped, started before NATS, run twice at once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest_asyncio
from regrow_protocol import streams, subjects
from regrow_protocol.bus import Bus
from regrow_protocol.ids import new_id
from regrow_protocol.server import NatsServer
from regrow_protocol.streams import COMMANDS
from regrow_service import dead

PROGRAM = Path(__file__).with_name("a_service.py")


class Program:
    """A running `a_service.py`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(json.loads(line))

    def logged(self, event: str) -> dict[str, Any] | None:
        return next((line for line in self.lines if line["event"] == event), None)

    async def until_logged(self, event: str) -> dict[str, Any]:
        async with asyncio.timeout(20):
            while (line := self.logged(event)) is None:
                assert self.process.returncode is None, self.lines
                await asyncio.sleep(0.01)
        return line

    async def end(self, number: int) -> int:
        """Send a signal and wait; the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.exit_code()

    async def exit_code(self) -> int:
        async with asyncio.timeout(20):
            code = await self.process.wait()
            await self._reading
        return code


Launch = Callable[..., Any]


@pytest_asyncio.fixture
async def launch(nats_url: str) -> AsyncIterator[Launch]:
    """Starts programs: `await launch(name, **environment)`; what still runs at the end is killed."""
    programs: list[Program] = []

    async def start(name: str, *, ready: bool = True, **environment: str) -> Program:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(PROGRAM),
            name,
            env={**os.environ, "REGROW_NATS_URL": nats_url, "REGROW_LOG_FORMAT": "json", **environment},
            stderr=asyncio.subprocess.PIPE,
        )
        program = Program(process)
        programs.append(program)
        if ready:
            await program.until_logged("started")
        return program

    yield start
    for program in programs:
        await program.end(signal.SIGKILL)


class Orders:
    """Sends orders and sees what came of them."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.name = new_id("service")
        self.kv = bus.kv("regrow_limits")

    async def order(self, **fields: Any) -> str:
        id_ = new_id("x")
        await self.send(id_, **fields)
        return id_

    async def send(self, id_: str, **fields: Any) -> None:
        body = json.dumps({"id": id_, **fields}).encode()
        await self.bus.publish(COMMANDS, subjects.command(self.name, "do"), body, self.bus.fresh_id())

    async def reach(self, key: str) -> bytes:
        async with asyncio.timeout(20):
            while (found := await self.kv.get(key)) is None:
                await asyncio.sleep(0.01)
        return found[0]

    async def reply(self, id_: str) -> dict[str, Any]:
        async with asyncio.timeout(20):
            while (found := await self.bus.last(streams.REPLIES, subjects.reply(id_, 1))) is None:
                await asyncio.sleep(0.01)
        return json.loads(found.data)

    async def begun(self, id_: str) -> list[str]:
        return [key.rsplit(".", 1)[1] for key in await self.kv.keys(f"{id_}.begun.*")]


@pytest_asyncio.fixture
async def orders(bus: Bus) -> Orders:
    return Orders(bus)


async def test_a_killed_service_is_continued_by_the_next(orders: Orders, launch: Launch) -> None:
    """kill -9 in the middle of a handler: redelivered, the recorded step is not done again, the rest is; a repeat
    changes
    nothing."""
    first = await launch(orders.name)
    id_ = await orders.order(wait=True)
    made = await orders.reach(f"{id_}.made")
    await first.end(signal.SIGKILL)
    second = await launch(orders.name)
    await orders.kv.put(f"{id_}.go", b"")
    reply = await orders.reply(id_)
    assert reply == {"made": f"made by {first.process.pid}", "by": second.process.pid}
    assert made.decode() == reply["made"]
    assert await orders.begun(id_) == [str(first.process.pid)]
    await orders.send(id_, wait=True)
    other = await orders.order()
    await orders.reply(other)
    assert await orders.reply(id_) == reply
    assert await second.end(signal.SIGTERM) == 0


async def test_sigterm_finishes_what_is_in_hand(orders: Orders, launch: Launch) -> None:
    """Nothing more is taken, the message in hand is answered, then the program exits with 0."""
    program = await launch(orders.name)
    id_ = await orders.order(wait=True)
    await orders.reach(f"{id_}.made")
    program.process.send_signal(signal.SIGTERM)
    await program.until_logged("stopping")
    late = await orders.order()
    await orders.kv.put(f"{id_}.go", b"")
    assert await program.exit_code() == 0
    assert (await orders.reply(id_))["by"] == program.process.pid
    assert program.lines[-1]["event"] == "stopped"
    assert await orders.kv.get(f"{late}.made") is None
    next_one = await launch(orders.name)
    assert (await orders.reply(late))["by"] == next_one.process.pid


async def test_what_does_not_finish_in_time_is_given_back(orders: Orders, launch: Launch) -> None:
    """After the deadline the program exits with 0 all the same, and another one does the rest at once."""
    program = await launch(orders.name, REGROW_STOP_DEADLINE="0.2")
    id_ = await orders.order(wait=True)
    await orders.reach(f"{id_}.made")
    other = await launch(orders.name)
    assert await program.end(signal.SIGINT) == 0
    assert program.logged("not finished in time: cancelled")
    await orders.kv.put(f"{id_}.go", b"")
    assert await orders.reply(id_) == {"made": f"made by {program.process.pid}", "by": other.process.pid}


async def test_a_message_that_kills_its_service_becomes_a_dead_letter(orders: Orders, launch: Launch) -> None:
    """It takes down as many programs as it has attempts, not one more."""
    await orders.order(crash=True)
    for _ in range(2):
        assert await (await launch(orders.name, ready=False, A_SERVICE_ATTEMPTS="2")).exit_code() == 9
    id_ = await orders.order()
    last = await launch(orders.name, A_SERVICE_ATTEMPTS="2")
    await orders.reply(id_)
    async with asyncio.timeout(20):
        while not (letters := [letter async for letter in dead.letters(orders.bus, orders.name)]):
            await asyncio.sleep(0.01)
    assert letters[0].letter.reason == "delivered 3 times and never finished"
    assert last.process.returncode is None


async def test_two_replicas_share_and_one_is_killed(orders: Orders, launch: Launch) -> None:
    """Every command is answered once, whoever had it."""
    one, two = await asyncio.gather(launch(orders.name), launch(orders.name))
    ids = [await orders.order() for _ in range(60)]
    one.process.send_signal(signal.SIGKILL)
    ids += [await orders.order() for _ in range(60)]
    replies = await asyncio.gather(*[orders.reply(id_) for id_ in ids])
    assert {reply["by"] for reply in replies} <= {one.process.pid, two.process.pid}
    assert two.process.pid in {reply["by"] for reply in replies}
    begun = await asyncio.gather(*[orders.begun(id_) for id_ in ids])
    assert all(reply["made"].removeprefix("made by ") in by for reply, by in zip(replies, begun, strict=True))
    assert [letter async for letter in dead.letters(orders.bus, orders.name)] == []


async def test_a_service_waits_for_nats_and_says_so(orders: Orders, launch: Launch, private_server: NatsServer) -> None:
    """Started before the server: alive, not ready; when the server comes it works; when it goes it is not ready."""
    await asyncio.to_thread(private_server.stop)
    program = await launch(orders.name, ready=False, REGROW_NATS_URL=private_server.url)
    await program.until_logged("waiting for NATS")
    health = (await program.until_logged("starting"))["health"]
    assert await status(health, "/healthz") == 200
    assert await status(health, "/readyz") == 503
    await asyncio.to_thread(private_server.restart)
    await program.until_logged("started")
    assert await status(health, "/readyz") == 200
    await asyncio.to_thread(private_server.kill)
    async with asyncio.timeout(20):
        while await status(health, "/readyz") != 503:
            await asyncio.sleep(0.02)
    await asyncio.to_thread(private_server.restart)
    async with asyncio.timeout(20):
        while await status(health, "/readyz") != 200:
            await asyncio.sleep(0.02)
    async with await Bus.connect(private_server.url, name="test") as bus:
        theirs = Orders(bus)
        theirs.name = orders.name
        assert (await theirs.reply(await theirs.order()))["by"] == program.process.pid
    assert await program.end(signal.SIGTERM) == 0


async def test_it_stops_while_it_waits_for_nats(orders: Orders, launch: Launch) -> None:
    """SIGTERM before the connection stands."""
    program = await launch(orders.name, ready=False, REGROW_NATS_URL="nats://127.0.0.1:9")
    await program.until_logged("waiting for NATS")
    assert await program.end(signal.SIGTERM) == 0


async def test_wrong_settings_and_credentials_end_it_with_a_reason(
    orders: Orders, launch: Launch, nats_url: str
) -> None:
    """One line, no traceback, and an exit code of its own."""
    program = await launch(orders.name, ready=False, REGROW_HEALTH_PORT="none")
    assert await program.exit_code() == 2
    assert "REGROW_HEALTH_PORT='none'" in program.lines[-1]["error"]
    program = await launch(orders.name, ready=False, REGROW_NATS_URL=nats_url.replace("secret", "wrong"))
    assert await program.exit_code() == 1
    assert program.lines[-1]["code"] == "nats-access-denied"
    assert not any("exception" in line for line in program.lines)


async def status(base: str, path: str) -> int:
    """The HTTP status of a GET."""
    host, port = base.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
    line = await reader.readline()
    writer.close()
    return int(line.split()[1])
