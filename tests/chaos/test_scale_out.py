"""Hosts of one app come and go under load: no input is lost or doubled, no caller sees an error."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from chaoskit import LONG, PARTITIONS, Stack, until
from regrow.client import RemoteProcess
from regrow.launcher import HostProcess
from regrow_protocol import messages as m
from regrow_protocol.ids import PROCESS, new_id, partition_of

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600 if LONG else 120)]

PROGRAM = Path(__file__).with_name("programs_calls.py")
TILLS, CUSTOMERS = 24, 5
RATE, EACH = 150.0, 10.0
"""Calls per second: of the client, and of each process that calls."""


class Traffic:
    """Calls, at their rate whether or not earlier ones have been answered.

    Attributes:
        answered: how many.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._numbers = itertools.count()
        self._asked: list[str] = []
        self._calls: set[asyncio.Task[None]] = set()
        self._failed: list[BaseException] = []
        self.answered = 0

    async def open(self) -> None:
        self._tills = [await self._stack.start("till") for _ in range(TILLS)]
        pids = [till.pid for till in self._tills]
        self._customers = [
            await self._stack.start("customer", name=f"c{i}", tills=pids[i:] + pids[:i], pause=1 / EACH)
            for i in range(CUSTOMERS)
        ]
        self._calling = asyncio.create_task(self._call_for_ever())

    async def more(self, count: int = 60) -> None:
        """Wait for so many more answers."""
        before = self.answered

        async def enough() -> bool:
            self._raise()
            return self.answered >= before + count

        await until(enough, "answers")

    async def check(self) -> None:
        """End it: every call was answered, and was carried out once."""
        self._calling.cancel()
        await asyncio.gather(self._calling, *self._calls, return_exceptions=True)
        self._raise()
        await asyncio.gather(*(customer.call("stop") for customer in self._customers))
        asked = [*self._asked]
        for answers in await asyncio.gather(*(customer.result(60) for customer in self._customers)):
            asked += answers
        await asyncio.gather(*(till.call("close") for till in self._tills))
        taken = Counter(itertools.chain(*await asyncio.gather(*(till.result(60) for till in self._tills))))
        assert len(set(asked)) == len(asked)
        assert taken == Counter(asked)
        assert await self._stack.stuck() == {}
        log = await self._stack.log()
        assert (log.ambiguous(), log.repeated_events()) == ([], [])

    def _raise(self) -> None:
        if self._failed:
            raise self._failed[0]

    async def _call_for_ever(self) -> None:
        began = time.monotonic()
        for n in self._numbers:
            task = asyncio.create_task(self._call(self._tills[n % TILLS], f"call-{n}", stamped=n % 7 == 0))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
            await asyncio.sleep(max(0.0, began + (n + 1) / RATE - time.monotonic()))

    async def _call(self, till: RemoteProcess, what: str, *, stamped: bool) -> None:
        self._asked.append(what)
        try:
            assert await till.call("stamped" if stamped else "take", what=what, wait=True) == what
        except Exception as error:  # noqa: BLE001 - whatever a caller sees fails the test
            self._failed.append(error)
        self.answered += 1


@asynccontextmanager
async def traffic(stack: Stack) -> AsyncIterator[Traffic]:
    calls = Traffic(stack)
    await calls.open()
    await calls.more()
    yield calls
    await calls.check()


async def shared(stack: Stack, *hosts: HostProcess) -> None:
    """Wait until these hosts, and no other, own the partitions in equal shares."""
    shares = {host.ready.host: 0 for host in hosts if host.ready is not None}
    fair = {PARTITIONS // len(shares), -(-PARTITIONS // len(shares))}

    async def so() -> bool:
        found = Counter(owner.host for owner in (await stack.owners()).values())
        return (
            sum(found.values()) == PARTITIONS
            and {**shares, **found}.keys() == shares.keys()
            and all(found[host] in fair for host in shares)
        )

    await until(so, "equal shares")


async def test_three_hosts_are_replaced_one_after_the_other(stack: Stack) -> None:
    """A rolling replacement under 200 calls/s, then one more host, and one that is killed without a word."""
    await stack.supervise()
    hosts = [await stack.host(PROGRAM, announced=False) for _ in range(3)]
    await shared(stack, *hosts)
    async with traffic(stack) as calls:
        for _ in range(10 if LONG else 1):
            for _ in range(3):
                hosts.append(await stack.host(PROGRAM, announced=False))
                await shared(stack, *hosts)
                await calls.more()
                await hosts.pop(0).stop()
                await shared(stack, *hosts)
                await calls.more()
            hosts.append(await stack.host(PROGRAM, announced=False))
            await shared(stack, *hosts)
            await calls.more()
            await stack.kill(hosts.pop(0))
            await shared(stack, *hosts)
            await calls.more()


async def test_a_new_build_replaces_another(stack: Stack, tmp_path: Path) -> None:
    """Three hosts of new code come at once, processes move to them, and the three of the old code go at once."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.read_text())
    stack.env["REGROW_UPGRADE"] = "auto"
    await stack.supervise()
    old = [await stack.host(program) for _ in range(3)]
    await shared(stack, *old)
    async with traffic(stack) as calls:
        program.write_text(PROGRAM.read_text() + "\n\nNEW = True\n")
        new = await asyncio.gather(*(stack.host(program) for _ in range(3)))
        assert new[0].ready is not None
        assert {host.ready.build for host in old if host.ready is not None} != {new[0].ready.build}
        await shared(stack, *new)
        await calls.more()
        await asyncio.gather(*(host.stop() for host in old))
        await calls.more()


async def test_a_long_step_holds_up_nothing_but_its_partition(stack: Stack, tmp_path: Path) -> None:
    """SIGTERM, twice, in a step: all other partitions are handed over meanwhile; the step ends where it was begun."""
    stack.env["REGROW_DRAIN"] = "60"
    stack.env["REGROW_HOST_TTL"] = "20"  # whoever stands still for longer is dead, and another one does its step
    gate = tmp_path / "gate"
    await stack.supervise()
    leaving, staying = await stack.host(PROGRAM), await stack.host(PROGRAM)
    await shared(stack, leaving, staying)
    assert leaving.ready is not None
    theirs = [part for part, owner in (await stack.owners()).items() if owner.host == leaving.ready.host]
    tills = await in_partitions(stack, theirs)
    slow = asyncio.create_task(tills.pop().call("wait_for", gate=str(gate), wait=True))

    async def begun() -> bool:
        return (tmp_path / "gate.runs").exists()

    await until(begun, "the step")
    os.kill(leaving.os_pid, signal.SIGTERM)
    os.kill(leaving.os_pid, signal.SIGTERM)
    await shared(stack, staying)
    answers = await asyncio.gather(*(till.call("stamped", what=till.pid, wait=True) for till in tills))
    assert answers == [till.pid for till in tills]
    hosts = [m.decode(entry.value, m.HostRecord) async for entry in stack.bus.kv("regrow_hosts").items()]
    assert {host.host for host in hosts if host.draining} == {leaving.ready.host}
    assert not slow.done()
    gate.touch()
    assert await slow == str(gate)
    await leaving.stop()
    assert leaving.deaths <= 1
    assert (tmp_path / "gate.runs").read_text() == "run\n"


async def in_partitions(stack: Stack, parts: list[int]) -> list[RemoteProcess]:
    """A till in each."""
    found: dict[int, str] = {}
    while len(found) < len(parts):
        pid = new_id(PROCESS)
        if (part := partition_of(pid, PARTITIONS)) in parts:
            found[part] = pid
    start = stack.client.start
    return [await start(stack.app, stack.build, "till", pid=pid) for pid in found.values()]


async def test_whatever_happens(stack: Stack) -> None:
    """Hosts are added, told to end, killed then or without that; the supervisor and the server are killed, all at once
    and in any order: no call is lost, none is carried out twice, no caller sees an error."""
    upheaval = Upheaval(stack)
    await upheaval.open()
    async with traffic(stack) as calls:
        for _ in range(60 if LONG else 3):
            await upheaval.round()
            await calls.more()


class Upheaval:
    """What may happen to hosts, supervisor and server."""

    def __init__(self, stack: Stack) -> None:
        self.seed = int(time.time())
        self._dice = random.Random(self.seed)
        self._stack = stack
        self._hosts: list[HostProcess] = []

    async def open(self) -> None:
        self._supervisor = await self._stack.supervise()
        for _ in range(3):
            await self._add()
        await shared(self._stack, *self._hosts)

    async def round(self) -> None:
        """Some things, each at some moment within a second; then wait until all is in order."""
        ways = self._dice.sample(
            [self._add, self._end, self._end_and_kill, self._kill, self._supervise, self._outage], 3
        )
        await asyncio.gather(*(self._at_some_moment(way) for way in ways))
        try:
            await shared(self._stack, *self._hosts)
        except AssertionError as error:
            raise AssertionError(f"seed {self.seed}, after {[way.__name__ for way in ways]}: {error}") from error

    async def _at_some_moment(self, way: Callable[[], Awaitable[None]]) -> None:
        await asyncio.sleep(self._dice.random() * 0.8)
        await way()

    async def _add(self) -> None:
        if len(self._hosts) < 5:
            self._hosts.append(await self._stack.host(PROGRAM, announced=self._dice.random() < 0.5))

    async def _end(self) -> None:
        if len(self._hosts) > 1:
            await self._one().stop()

    async def _end_and_kill(self) -> None:
        if len(self._hosts) > 1:
            host = self._one()
            os.kill(host.os_pid, signal.SIGTERM)
            await asyncio.sleep(self._dice.random() * 0.03)  # somewhere in its hand-over, if that is not over
            host.kill()

            async def gone() -> bool:
                return host.deaths > 0

            await until(gone, "the end of a host")

    async def _kill(self) -> None:
        if len(self._hosts) > 1:
            await self._stack.kill(self._one())

    async def _supervise(self) -> None:
        await self._stack.end(self._supervisor)
        self._supervisor = await self._stack.supervise()

    async def _outage(self) -> None:
        await self._stack.outage(self._dice.random() * 0.5)

    def _one(self) -> HostProcess:
        return self._hosts.pop(self._dice.randrange(len(self._hosts)))
