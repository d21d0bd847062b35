"""How long nobody answers when a host is gone, what parked processes cost, and what a graceful stop leaves undone."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from chaoskit import LONG, Stack, until
from regrow.client import RemoteProcess

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900 if LONG else 120)]

MIB = 1 << 20


async def ask(process: RemoteProcess, text: str) -> None:
    assert await process.call("ping", text=text, wait=True) == text


async def take_over(stack: Stack, *, announced: bool) -> float:
    """Kill one of two hosts; how long until every process answers, seconds."""
    await stack.supervise()
    first, second = await stack.host(announced=announced), await stack.host(announced=announced)
    await stack.owned_by(first, second)
    processes = [await stack.start("neighbour") for _ in range(32)]
    await asyncio.gather(*(ask(process, "before") for process in processes))
    at = time.monotonic()
    first.kill()
    await asyncio.gather(*(ask(process, "after") for process in processes))
    return time.monotonic() - at


async def test_nobody_tells_of_a_dead_host(stack: Stack) -> None:
    """With the default TTL of 2 s another host answers for all processes of a killed one within 5 s."""
    stack.env["REGROW_HOST_TTL"] = "2"
    assert await take_over(stack, announced=False) < 5


async def test_a_launcher_tells_of_a_dead_host(stack: Stack) -> None:
    """Where the launcher tells of a death nobody waits for the TTL."""
    stack.env["REGROW_HOST_TTL"] = "20"
    assert await take_over(stack, announced=True) < 5


async def test_parked_processes_cost_no_memory(stack: Stack) -> None:
    """A host with many processes at rest is within 100 MiB of an empty one, and each answers a call within a second."""
    count = 10_000 if LONG else 300
    stack.env["REGROW_PARK_AFTER"] = "0.2"
    await stack.supervise()
    host = await stack.host()
    await stack.owned_by(host)
    await ask(await stack.start("neighbour"), "warm")
    system = psutil.Process(host.os_pid)
    empty = system.memory_info().rss

    def grown() -> float:
        return (system.memory_info().rss - empty) / MIB

    processes: list[RemoteProcess] = []
    for begin in range(0, count, 100):
        started = (stack.start("rests", month=bool(i % 2)) for i in range(begin, begin + 100))
        processes += await asyncio.gather(*started)
    for process in processes[-2:]:
        await ask(process, "started")

    async def small() -> bool:
        return grown() < 100

    try:
        await until(small, "parking", 60)
    except AssertionError as error:
        raise AssertionError(f"{count} parked processes cost {grown():.0f} MiB") from error
    for process in processes[:: count // 50]:
        at = time.monotonic()
        await ask(process, "awake")
        assert time.monotonic() - at < 1
    assert grown() < 100


async def test_a_graceful_stop_finishes_the_steps_in_hand(stack: Stack, tmp_path: Path) -> None:
    """SIGTERM lets a host's running steps end and be recorded, without waiting for more: no step runs twice."""
    ledger = tmp_path / "ledger"
    ledger.touch()
    await stack.supervise()
    leaves = 4 if LONG else 2
    hosts = [await stack.host() for _ in range(leaves + 1)]
    await stack.owned_by(*hosts)
    steps, count = 8 + 4 * leaves, 16
    processes = [await stack.start("bookkeeper", steps=steps, seconds=0.3, ledger=str(ledger)) for _ in range(count)]
    for leaving in hosts[:-1]:
        lines = len(ledger.read_text().splitlines())

        async def more(before: int = lines) -> bool:
            return len(ledger.read_text().splitlines()) > before + count

        await until(more, "steps")
        at = time.monotonic()
        await leaving.stop()
        assert time.monotonic() - at < 4
    assert await asyncio.gather(*(process.result(60) for process in processes)) == [sum(range(steps))] * count
    runs = Counter(ledger.read_text().splitlines())
    assert len(runs) == steps * count
    assert {what: n for what, n in runs.items() if n > 1} == {}
    assert (await stack.log()).repeated_results() == []
