"""Calls, steps and children: what processes do all day. Each also in CPU time and bytes of stream per operation."""

from __future__ import annotations

import asyncio
import time

from figures import Figure, median, of_rounds, percentile
from harness import Stack
from meter import Meter
from regrow.client import RemoteProcess

CALLERS = (16, 64, 256)


def _costs(meters: list[Meter], operations: int) -> dict[str, float]:
    """The median of the rounds' costs per operation."""
    each = [meter.cost(operations) for meter in meters]
    return {name: median([one[name] for one in each]) for name in each[0]}


def _others(meters: list[Meter]) -> float:
    return max(meter.others for meter in meters)


async def calls(stack: Stack, rounds: int, quick: bool) -> list[Figure]:
    """Calls of one endpoint: one caller, who waits for each answer; then many at once."""
    process = await stack.start("echo")
    alone = 500 if quick else 2000
    await _call(process, 300)
    done = await stack.rounds(rounds, lambda: _call(process, alone))
    meters = [meter for meter, _ in done]
    cost, others = _costs(meters, alone), _others(meters)
    found = [
        of_rounds("call, alone, p50", "latency", [percentile(ms, 0.5) for _, ms in done], others=others, cost=cost),
        of_rounds("call, alone, p99", "latency", [percentile(ms, 0.99) for _, ms in done], others=others),
        of_rounds("call: bytes of stream", "size", [cost["bytes"]]),
    ]
    for callers in CALLERS:
        found.append(await _many(stack, process, callers, rounds, 4000 if quick else 12_800))
    return found


async def _many(stack: Stack, process: RemoteProcess, callers: int, rounds: int, total: int) -> Figure:
    each = total // callers
    count = callers * each
    await asyncio.gather(*(_call(process, 10) for _ in range(callers)))
    done = await stack.rounds(rounds, lambda: asyncio.gather(*(_call(process, each) for _ in range(callers))))
    meters = [meter for meter, _ in done]
    rates = [count / meter.seconds for meter in meters]
    return of_rounds(f"calls, {callers} callers", "rate", rates, others=_others(meters), cost=_costs(meters, count))


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
    done = await stack.rounds(rounds, lambda: stack.run(type_, n=count))
    meters = [meter for meter, _ in done]
    cost = _costs(meters, count)
    rates = [count / meter.seconds for meter in meters]
    figure = of_rounds(name, "rate", rates, others=_others(meters), cost=cost)
    return [figure, of_rounds(f"{unit}: bytes of stream", "size", [cost["bytes"]])] if unit else [figure]
