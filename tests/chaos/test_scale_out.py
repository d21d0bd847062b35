"""Hosts of one app come and go under load: no input is lost or doubled, no caller sees an error."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from chaoskit import LONG, PARTITIONS, Stack, until
from regrow.client import RemoteProcess
from regrow.launcher import HostProcess

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

    async def more(self, count: int = 100) -> None:
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
        for answers in await asyncio.gather(*(customer.result(30) for customer in self._customers)):
            asked += answers
        await asyncio.gather(*(till.call("close") for till in self._tills))
        taken = Counter(itertools.chain(*await asyncio.gather(*(till.result(30) for till in self._tills))))
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
