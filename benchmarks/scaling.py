"""Hosts and how many there are: children started and awaited, restarts, and how soon partitions are where they belong.

Spawns: several parents at once, with one host and with two; the children are spread over all partitions. Restart: a
permanent child fails, its next incarnation answers; beside it a new child's first answer. Rebalance: a host is added
to two, one of three is told to end or killed, under calls at a steady rate; the time runs until every partition has
been taken up by the host that owns it, in equal shares. `longest call` is the longest that any caller waited meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial

from figures import Figure, of_rounds, percentile
from harness import Stack, running
from meter import Patience
from regrow.client import RemoteProcess
from regrow_protocol.server import Durability

PARENTS = 8
RATE = 200.0
"""Calls per second while hosts come and go."""
CALLED = 64


async def run(
    durability: Durability, rounds: int, quick: bool, patience: Patience, say: Callable[[str], None]
) -> list[Figure]:
    """All of it, on one stack for each number of hosts."""
    async with running(durability, patience=patience) as stack:
        say("spawns, 1 host")
        one = await _spawns(stack, rounds, quick, "spawns, 1 host")
        await stack.add_host()
        say("spawns, 2 hosts")
        two = await _spawns(stack, rounds, quick, "spawns, 2 hosts")
    times = of_rounds("spawns, 2 hosts to 1", "factor", [two.value / one.value], others=max(one.others, two.others))
    async with running(durability, patience=patience) as stack:
        say("restarts")
        restarts = await _restarts(stack, rounds, quick)
    say("rebalance")
    async with running(durability, hosts=2, patience=patience) as stack:
        return [one, two, times, *restarts, *await _rebalance(stack, rounds)]


async def _spawns(stack: Stack, rounds: int, quick: bool, name: str) -> Figure:
    each = 250 if quick else 1000
    count = PARENTS * each
    await asyncio.gather(*(stack.run("fan", n=50) for _ in range(PARENTS)))
    done = await stack.rounds(rounds, lambda: asyncio.gather(*(stack.run("fan", n=each) for _ in range(PARENTS))))
    meters = [meter for meter, _ in done]
    others = max(meter.others for meter in meters)
    return of_rounds(
        name, "rate", [count / meter.seconds for meter in meters], others=others, cost=meters[0].cost(count)
    )


async def _restarts(stack: Stack, rounds: int, quick: bool) -> list[Figure]:
    """Of one process alone, in turns with new children."""
    count = 100 if quick else 400
    await stack.run("keeper", n=20)
    done = await stack.rounds(rounds, lambda: stack.run("keeper", n=count))
    others = max(meter.others for meter, _ in done)
    found: list[Figure] = []
    for share, percent in ((0.5, "p50"), (0.99, "p99")):
        spawns = [percentile(new, share) for _, (new, _) in done]
        restarts = [percentile(again, share) for _, (_, again) in done]
        spawn = of_rounds(f"spawn until it answers, {percent}", "latency", spawns, others=others)
        restart = of_rounds(f"restart until it answers, {percent}", "latency", restarts, others=others)
        restart.base = spawn.value
        found += [spawn, restart]
    return found


async def _rebalance(stack: Stack, rounds: int) -> list[Figure]:
    calls = _Calls(await stack.start_many("echo", CALLED))
    await calls.answered()
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    calling = asyncio.create_task(calls.make())
    for _ in range(rounds):
        for way, change in WAYS.items():
            await stack.patience.quiet()
            taken[way].append(await calls.longest(change(stack)))
    calling.cancel()
    await asyncio.wait([calling])
    return [
        of_rounds(
            f"rebalance, {way}", "time", [t for t, _ in each], cost={"longest call ms": max(ms for _, ms in each)}
        )
        for way, each in taken.items()
    ]


async def _add(stack: Stack) -> float:
    """Seconds from when the third host is ready."""
    await stack.start_host()
    began = time.perf_counter()
    await stack.settled(stack.hosts)
    return time.perf_counter() - began


async def _end(stack: Stack) -> float:
    """Seconds from the signal to one of three."""
    host = stack.hosts.pop(0)
    began = time.perf_counter()
    ending = asyncio.create_task(host.stop())
    await stack.settled(stack.hosts)
    taken = time.perf_counter() - began
    await ending
    return taken


async def _kill(stack: Stack, *, announced: bool) -> float:
    """Seconds from the SIGKILL of one of three."""
    host = await stack.add_host(announced=announced)
    stack.hosts.remove(host)
    began = time.perf_counter()
    host.kill()
    await stack.settled(stack.hosts)
    return time.perf_counter() - began


WAYS: dict[str, Callable[[Stack], Awaitable[float]]] = {
    "host added": _add,
    "SIGTERM": _end,
    "kill -9, announced": partial(_kill, announced=True),
    "kill -9, by TTL": partial(_kill, announced=False),
}
"""From two hosts to two: the third one that is added is there for the second way."""


class _Calls:
    """Calls at a steady rate, whether or not earlier ones have been answered."""

    def __init__(self, processes: list[RemoteProcess]) -> None:
        self._processes = processes
        self._longest = 0.0

    async def make(self) -> None:
        """For ever."""
        began = time.perf_counter()
        n = 0
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._call(n))
                n += 1
                await asyncio.sleep(max(0.0, began + n / RATE - time.perf_counter()))

    async def answered(self) -> None:
        """Wait until each process has answered."""
        await asyncio.gather(*(process.call("ping", v=0) for process in self._processes))

    async def longest(self, change: Awaitable[float]) -> tuple[float, float]:
        """What `change` gives, and the milliseconds that any call waited from before it until all answer again."""
        self._longest = 0.0
        seconds = await change
        await self.answered()
        return seconds, self._longest * 1000

    async def _call(self, n: int) -> None:
        began = time.perf_counter()
        assert await self._processes[n % CALLED].call("ping", v=n) == n + 1
        self._longest = max(self._longest, time.perf_counter() - began)
