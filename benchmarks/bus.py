"""What the bus client does: publishing alone and under load, and reading, beside nats-py as it is, in one run.

    python benchmarks/bus.py [--quick]

Both durability settings, on private servers in temporary folders; under half a minute. The ratio's base is nats-py's
own figure of the same run: faster is above 1 for rates, below 1 for latencies.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable, Coroutine
from typing import Any

import nats
import uvloop
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig
from regrow_protocol.bus import Bus, PubAck, Received
from regrow_protocol.server import Durability, NatsServer
from regrow_protocol.streams import StreamSpec, ensure_specs

STREAM, PAYLOAD = "BENCH", b"x" * 250
DEADLINE = 60.0

Start = Callable[[int, Callable[[], None]], None]
"""Publishes message number n; calls back when it is acknowledged."""


def subject(number: int) -> str:
    return f"bench.{number % 4}.p{number % 50}"


class Numbers:
    """Message numbers, each used once in a run: an id is taken once only."""

    def __init__(self) -> None:
        self.next = 0

    def take(self) -> int:
        self.next += 1
        return self.next


async def latencies(start: Start, numbers: Numbers, waiting: int, seconds: float) -> tuple[float, float, float]:
    """Keep `waiting` messages under way for `seconds`: (p50 ms, p99 ms, messages/s)."""
    taken: list[float] = []
    end = time.perf_counter() + seconds
    done = asyncio.Event()
    under_way = 0

    def one() -> None:
        nonlocal under_way
        under_way += 1
        began = time.perf_counter()

        def acknowledged() -> None:
            nonlocal under_way
            now = time.perf_counter()
            under_way -= 1
            taken.append((now - began) * 1000)
            if now < end:
                one()
            elif not under_way:
                done.set()

        start(numbers.take(), acknowledged)

    began = time.perf_counter()
    for _ in range(waiting):
        one()
    await asyncio.wait_for(done.wait(), DEADLINE)
    rate = len(taken) / (time.perf_counter() - began)
    taken.sort()
    return taken[len(taken) // 2], taken[int(len(taken) * 0.99)], rate


def through_bus(bus: Bus) -> Start:
    def start(number: int, acknowledged: Callable[[], None]) -> None:
        def done(outcome: PubAck | BaseException) -> None:
            if isinstance(outcome, BaseException):
                raise outcome
            acknowledged()

        bus.publish_soon(STREAM, subject(number), PAYLOAD, f"m{number}", done=done)

    return start


def through_nats_py(js: JetStreamContext) -> Start:
    tasks: set[asyncio.Task[Any]] = set()

    def start(number: int, acknowledged: Callable[[], None]) -> None:
        async def publish() -> None:
            await js.publish(subject(number), PAYLOAD, headers={"Nats-Msg-Id": f"m{number}"}, timeout=DEADLINE)
            acknowledged()

        task = asyncio.get_running_loop().create_task(publish())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    return start


async def reading(bus: Bus, count: int) -> tuple[float, float]:
    """`count` messages through a reader: (messages/s, microseconds of CPU for each)."""
    seen = 0
    done = asyncio.Event()

    def take(batch: list[Received]) -> None:
        nonlocal seen
        seen += len(batch)
        if seen >= count:
            done.set()

    cpu, began = time.process_time(), time.perf_counter()
    reader = bus.read(STREAM, "bench.>", 1, take)
    await asyncio.wait_for(done.wait(), DEADLINE)
    result = count / (time.perf_counter() - began), (time.process_time() - cpu) / count * 1e6
    await reader.stop()
    return result


async def reading_nats_py(js: JetStreamContext, count: int) -> tuple[float, float]:
    """The same through nats-py's ordered consumer."""
    seen = 0
    done = asyncio.Event()

    async def take(message: Any) -> None:
        nonlocal seen
        seen += 1 if message.metadata.sequence.stream else 0
        if seen >= count:
            done.set()

    cpu, began = time.process_time(), time.perf_counter()
    config = ConsumerConfig(flow_control=True)
    subscription = await js.subscribe("bench.>", stream=STREAM, ordered_consumer=True, cb=take, config=config)
    await asyncio.wait_for(done.wait(), DEADLINE)
    result = count / (time.perf_counter() - began), (time.process_time() - cpu) / count * 1e6
    await subscription.unsubscribe()
    return result


async def delivery(bus: Bus, sender: Bus, rounds: int) -> tuple[float, float]:
    """From a publish to the reader's callback, and the same over core NATS: p50 in ms."""
    stored: list[float] = []
    core: list[float] = []
    arrival: asyncio.Future[float] = bus.link.loop.create_future()

    def arrived(*_: object) -> None:
        if not arrival.done():
            arrival.set_result(time.perf_counter())

    last = await bus.last_seq(STREAM)
    reader = bus.read(STREAM, "bench.one", last + 1, arrived)
    await reader.caught_up
    sid = bus.nc.raw_subscribe("core.one", arrived)
    await bus.nc.flush()
    for number in range(rounds):
        arrival = bus.link.loop.create_future()
        began = time.perf_counter()
        sender.publish_soon(STREAM, "bench.one", PAYLOAD, f"one{number}")
        stored.append(await asyncio.wait_for(arrival, DEADLINE) - began)
        await sender.drain_publishers()
        arrival = bus.link.loop.create_future()
        began = time.perf_counter()
        await sender.nc.publish("core.one", PAYLOAD)
        core.append(await asyncio.wait_for(arrival, DEADLINE) - began)
    bus.nc.raw_unsubscribe(sid)
    await reader.stop()
    return sorted(stored)[rounds // 2] * 1000, sorted(core)[rounds // 2] * 1000


async def measure(durability: Durability, seconds: float, count: int) -> list[tuple[str, str, float, float]]:
    """Rows of (figure, unit, ours, nats-py's)."""
    rows: list[tuple[str, str, float, float]] = []
    folder = tempfile.mkdtemp(prefix="regrow-bench-")
    server = await asyncio.to_thread(NatsServer.start, folder, durability=durability)
    try:
        async with (
            await Bus.connect(server.url, name="bench") as bus,
            await Bus.connect(server.url, name="s") as sender,
        ):
            raw = await nats.connect(server.url)
            js = raw.jetstream()
            await ensure_specs(bus, [StreamSpec(STREAM, ("bench.>",))])
            numbers = Numbers()
            await latencies(through_bus(bus), numbers, 64, seconds / 4)  # warm up
            for waiting in (1, 16, 64, 256):
                ours = await latencies(through_bus(bus), numbers, waiting, seconds)
                theirs = await latencies(through_nats_py(js), numbers, waiting, seconds)
                if waiting == 1:
                    rows.append(("publish alone, p50", "ms", ours[0], theirs[0]))
                    rows.append(("publish alone, p99", "ms", ours[1], theirs[1]))
                else:
                    rows.append((f"publish, {waiting} waiting", "/s", ours[2], theirs[2]))
                    rows.append((f"publish, {waiting} waiting, p50", "ms", ours[0], theirs[0]))
            stored, core = await delivery(bus, sender, 200)
            rows.append(("publish to reader, p50 (base: core NATS)", "ms", stored, core))
            while await bus.last_seq(STREAM) < count:
                for _ in range(5000):
                    number = numbers.take()
                    bus.publish_soon(STREAM, subject(number), PAYLOAD, f"m{number}")
                await bus.drain_publishers(DEADLINE)
            rate, cpu = await reading(bus, count)
            raw_rate, raw_cpu = await reading_nats_py(js, count)
            rows.append(("reading", "/s", rate, raw_rate))
            rows.append(("reading, CPU of the client per message", "us", cpu, raw_cpu))
            await raw.close()
    finally:
        await asyncio.to_thread(server.stop)
        shutil.rmtree(folder, ignore_errors=True)
    return rows


def main() -> None:
    """Measure both settings and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a third of the time, and less exact")
    quick = parser.parse_args().quick

    async def both() -> None:
        print(f"{'':6}{'':44}{'bus':>12}{'base':>12}{'':5}{'ratio':>7}")
        settings: tuple[Durability, ...] = ("safe", "fast")
        for durability in settings:
            for name, unit, ours, theirs in await measure(
                durability, 0.3 if quick else 1.0, 20_000 if quick else 60_000
            ):
                shown = [f"{value:,.0f}" if value >= 1000 else f"{value:.3f}" for value in (ours, theirs)]
                print(f"{durability:6}{name:44}{shown[0]:>12}{shown[1]:>12} {unit:4}{ours / theirs:>7.2f}", flush=True)

    run: Callable[[Coroutine[Any, Any, None]], None] = uvloop.run
    run(both())


if __name__ == "__main__":
    main()
