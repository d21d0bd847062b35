"""Memory of parked processes: half of them asleep for a month, half waiting for a call. It is that of none."""

from __future__ import annotations

import asyncio
import time

import psutil
from figures import Figure, of_rounds, percentile
from harness import PARK_AFTER, Stack
from regrow.client import RemoteProcess

PARKED = 10_000
ASKED = 200
SETTLED = 2 * PARK_AFTER + 1.0


async def run(stack: Stack, quick: bool) -> list[Figure]:
    """Resident memory of the host with 10,000 parked processes, above that before; and how soon they answer."""
    count = 2000 if quick else PARKED
    host = psutil.Process(stack.hosts[0].os_pid)
    await stack.run("fan", n=10)
    await asyncio.sleep(SETTLED)
    before = host.memory_info().rss
    processes: list[RemoteProcess] = []
    for type_ in ("echo", "asleep"):
        processes += await stack.start_many(type_, count // 2)
    await stack.at_rest()
    full = host.memory_info().rss
    await asyncio.sleep(SETTLED)
    after = host.memory_info().rss
    await stack.patience.quiet()
    taken: list[float] = []
    for process in processes[:: count // ASKED]:
        asked = time.perf_counter()
        assert await process.call("ping", v=1) == 2
        taken.append((time.perf_counter() - asked) * 1000)
    return [
        of_rounds(
            f"memory of {count:,} parked",
            "memory",
            [(after - before) / 2**20],
            cost={"MiB while they start": (full - before) / 2**20, "KiB each": (after - before) / 1024 / count},
        ),
        of_rounds("call of a parked process, p50", "latency", [percentile(taken, 0.5)]),
        of_rounds("call of a parked process, p99", "latency", [percentile(taken, 0.99)]),
    ]
