"""Calls, steps and children: what processes do all day. Each also in CPU time and bytes of stream per operation."""

from __future__ import annotations

import asyncio
import time

from figures import Figure, median, of_rounds, percentile
from harness import Meter, Stack
from regrow.client import RemoteProcess

CALLERS = (16, 64, 256)


def _costs(meters: list[Meter], operations: int) -> dict[str, float]:
    """The median of the rounds' costs per operation."""
    each = [meter.cost(operations) for meter in meters]
    return {name: median([cost[name] for cost in each]) for name in each[0]}


async def calls(stack: Stack, rounds: int, quick: bool) -> list[Figure]:
    """Calls of one endpoint: one caller, who waits for each answer; then many at once."""
    process = await stack.start("echo")
    alone = 500 if quick else 2000
    await _call(process, 300)
    middle: list[float] = []
    tail: list[float] = []
    meters: list[Meter] = []
    for _ in range(rounds):
        async with stack.meter() as meter:
            taken = await _call(process, alone)
        middle.append(percentile(taken, 0.5))
        tail.append(percentile(taken, 0.99))
        meters.append(meter)
    cost = _costs(meters, alone)
    found = [
        of_rounds("call, alone, p50", "latency", middle, **cost),
        of_rounds("call, alone, p99", "latency", tail),
        of_rounds("call: bytes of stream", "size", [cost["bytes"]]),
    ]
    for callers in CALLERS:
        each = max(1, (4000 if quick else 12_800) // callers)
        rates: list[float] = []
        meters = []
        await asyncio.gather(*(_call(process, 10) for _ in range(callers)))
        for _ in range(rounds):
            async with stack.meter() as meter:
                await asyncio.gather(*(_call(process, each) for _ in range(callers)))
            rates.append(callers * each / meter.seconds)
            meters.append(meter)
        found.append(of_rounds(f"calls, {callers} callers", "rate", rates, **_costs(meters, callers * each)))
    return found


async def _call(process: RemoteProcess, count: int) -> list[float]:
    """Call `count` times, one after the other; the milliseconds of each."""
    taken: list[float] = []
    for value in range(count):
        began = time.perf_counter()
        answer = await process.call("ping", v=value)
        taken.append((time.perf_counter() - began) * 1000)
        assert answer == value + 1
    return taken


async def steps(stack: Stack, rounds: int, quick: bool) -> list[Figure]:
    """Steps of one process, one after the other."""
    count = 1000 if quick else 4000
    await stack.run("steps", n=200)
    return await _runs(stack, "steps", count, rounds, "steps, one after the other", "step")


async def children(stack: Stack, rounds: int, quick: bool) -> list[Figure]:
    """Trivial children: 1,000 at once, and one after the other."""
    await stack.run("fan", n=100)
    many = await _runs(stack, "fan", 1000, rounds, "children, 1,000 at once", "child")
    one = await _runs(stack, "chain", 200 if quick else 500, rounds, "children, one after the other", "")
    return [*many, *one]


async def _runs(stack: Stack, type_: str, count: int, rounds: int, name: str, unit: str) -> list[Figure]:
    """Run a process that does something `count` times."""
    rates: list[float] = []
    meters: list[Meter] = []
    for _ in range(rounds):
        async with stack.meter() as meter:
            await stack.run(type_, n=count)
        rates.append(count / meter.seconds)
        meters.append(meter)
    cost = _costs(meters, count)
    figure = of_rounds(name, "rate", rates, **cost)
    return [figure, of_rounds(f"{unit}: bytes of stream", "size", [cost["bytes"]])] if unit else [figure]
