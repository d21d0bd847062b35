"""The raw publish: what NATS itself takes, from nats-py as it is, and through the bus's grouping publisher.

All other figures are also given as ratios to these: latencies to one publish alone, rates to pipelined publishes.
"""

from __future__ import annotations

import asyncio
import time

import nats
from figures import Base, Figure, of_rounds, percentile
from harness import Stack, stream_size
from regrow_protocol.streams import StreamSpec, ensure_specs

PAYLOAD = b"x" * 200
IN_FLIGHT = 256
STREAM = "BENCH_RAW"


async def run(stack: Stack, rounds: int, quick: bool) -> tuple[list[Figure], Base]:
    """Measure it; the figures, and what ratios refer to."""
    await ensure_specs(stack.bus, [StreamSpec(STREAM, ("bench.raw",))])
    count = 2000 if quick else 6000
    alone: list[float] = []
    tail: list[float] = []
    pipelined: list[float] = []
    grouped: list[float] = []
    nc = await nats.connect(stack.server.url)
    try:
        js = nc.jetstream(publish_async_max_pending=IN_FLIGHT)
        before = await stream_size(stack.bus, STREAM)
        for _ in range(rounds):
            taken: list[float] = []
            for _ in range(count // 6):
                began = time.perf_counter()
                await js.publish("bench.raw", PAYLOAD)
                taken.append((time.perf_counter() - began) * 1000)
            alone.append(percentile(taken, 0.5))
            tail.append(percentile(taken, 0.99))
            began = time.perf_counter()
            for _ in range(count):
                await js.publish_async("bench.raw", PAYLOAD, wait_stall=10)
            await js.publish_async_completed()
            pipelined.append(count / (time.perf_counter() - began))
        after = await stream_size(stack.bus, STREAM)
    finally:
        await nc.close()
    for _ in range(rounds):
        grouped.append(await _grouped(stack, 5 * count))
    size = (after[1] - before[1]) / (after[0] - before[0])
    found = [
        of_rounds("raw publish, alone, p50", "latency", alone),
        of_rounds("raw publish, alone, p99", "latency", tail),
        of_rounds("raw publishes, pipelined", "rate", pipelined),
        of_rounds("publishes through the bus", "rate", grouped),
        of_rounds("raw message", "size", [size]),
    ]
    return found, Base(found[0].value, found[2].value, size)


async def _grouped(stack: Stack, count: int) -> float:
    """Messages/s through the bus, all at once."""
    left = count
    finished = asyncio.get_running_loop().create_future()

    def done(_outcome: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            finished.set_result(None)

    began = time.perf_counter()
    for at in range(count):
        if at % 1000 == 0:
            await stack.bus.ready(STREAM)
        stack.bus.publish_soon(STREAM, "bench.raw", PAYLOAD, stack.bus.fresh_id(), done=done)
    await finished
    return count / (time.perf_counter() - began)
