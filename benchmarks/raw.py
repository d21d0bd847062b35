"""The raw publish: what NATS itself takes, from nats-py as it is, and through the bus's grouping publisher.

All other figures are also given as ratios to these: latencies to one publish alone, rates to pipelined publishes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import nats
from figures import Base, Figure, of_rounds, percentile
from harness import Stack, stream_size
from meter import Meter
from nats.js import JetStreamContext
from regrow_protocol.streams import StreamSpec, ensure_specs

PAYLOAD = b"x" * 200
IN_FLIGHT = 256
STREAM = "BENCH_RAW"


async def run(stack: Stack, rounds: int, quick: bool) -> tuple[list[Figure], Base]:
    """Measure it; the figures, and what ratios refer to."""
    await ensure_specs(stack.bus, [StreamSpec(STREAM, ("bench.raw",))])
    count = 2000 if quick else 6000
    nc = await nats.connect(stack.server.url)
    try:
        js = nc.jetstream(publish_async_max_pending=IN_FLIGHT)
        before = await stream_size(stack.bus, STREAM)
        alone = await stack.rounds(rounds, lambda: _alone(js, count // 6))
        many = await stack.rounds(rounds, lambda: _pipelined(js, count))
        after = await stream_size(stack.bus, STREAM)
    finally:
        await nc.close()
    grouped = await stack.rounds(rounds, lambda: _grouped(stack, 5 * count))
    size = (after[1] - before[1]) / (after[0] - before[0])
    quiet, busy, most = _others(alone), _others(many), _others(grouped)
    found = [
        of_rounds("raw publish, alone, p50", "latency", [percentile(ms, 0.5) for _, ms in alone], others=quiet),
        of_rounds("raw publish, alone, p99", "latency", [percentile(ms, 0.99) for _, ms in alone], others=quiet),
        of_rounds("raw publishes, pipelined", "rate", [count / meter.seconds for meter, _ in many], others=busy),
        of_rounds(
            "publishes through the bus", "rate", [5 * count / meter.seconds for meter, _ in grouped], others=most
        ),
        of_rounds("raw message", "size", [size]),
    ]
    return found, Base(found[0].value, found[2].value, size)


def _others(done: Sequence[tuple[Meter, object]]) -> float:
    return max(meter.others for meter, _ in done)


async def _alone(js: JetStreamContext, count: int) -> list[float]:
    """One publish after the other; the milliseconds of each."""
    taken: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        await js.publish("bench.raw", PAYLOAD)
        taken.append((time.perf_counter() - began) * 1000)
    return taken


async def _pipelined(js: JetStreamContext, count: int) -> None:
    """All at once, as many in flight as `IN_FLIGHT`."""
    for _ in range(count):
        await js.publish_async("bench.raw", PAYLOAD, wait_stall=10)
    await js.publish_async_completed()


async def _grouped(stack: Stack, count: int) -> None:
    """All at once, through the bus."""
    left = count
    finished = asyncio.get_running_loop().create_future()

    def done(_outcome: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            finished.set_result(None)

    for at in range(count):
        if at % 1000 == 0:
            await stack.bus.ready(STREAM)
        stack.bus.publish_soon(STREAM, "bench.raw", PAYLOAD, stack.bus.fresh_id(), done=done)
    await finished
