"""What the chaos tests run: processes whose results tell which recorded outcome of each step was counted."""

from __future__ import annotations

import asyncio
import os
import resource
import uuid

from regrow import agent_process, emit, spawn, step

if limit := os.environ.get("CHAOS_MEMORY"):  # bytes of address space that this host may have
    resource.setrlimit(resource.RLIMIT_AS, (int(limit), int(limit)))


async def effect(i: int, seconds: float) -> str:
    """A side effect: no two runs of it return the same."""
    await asyncio.sleep(seconds)
    return f"{i}:{os.getpid()}:{uuid.uuid4().hex}"


@agent_process
async def worker(steps: int, seconds: float) -> list[str]:
    """Steps one after another; an event for every tenth."""
    values: list[str] = []
    for i in range(steps):
        values.append(await step(effect, i, seconds))
        if i % 10 == 9:
            emit("ten", i + 1)
    return values


@agent_process
async def crowd(children: int, steps: int, seconds: float) -> dict[str, list[str]]:
    """Several workers at once: by pid, what they returned."""
    handles = [spawn(worker, steps, seconds) for _ in range(children)]
    return {handle.pid: await handle for handle in handles}
