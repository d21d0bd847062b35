"""What the chaos tests run: processes whose results tell which recorded outcome of each step was counted."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

from regrow import agent_process, current_process, done, emit, expose, sleep, spawn, step, wait

if limit := os.environ.get("CHAOS_MEMORY"):  # bytes of address space that this host may have
    resource.setrlimit(resource.RLIMIT_AS, (int(limit), int(limit)))


async def effect(i: int, seconds: float, enough: str = "") -> str:
    """A side effect: no two runs of it return the same. It ends in `more` until the file `enough` is there."""
    await asyncio.sleep(seconds)
    more = bool(enough) and not Path(enough).exists()
    return f"{i}:{os.getpid()}:{uuid.uuid4().hex}" + (":more" if more else "")


@agent_process
async def worker(steps: int, seconds: float, enough: str = "") -> list[str]:
    """So many steps one after another, and more until the file `enough` is there; an event for every tenth."""
    values: list[str] = []
    while len(values) < steps or values[-1].endswith(":more"):
        values.append(await step(effect, len(values), seconds, enough))
        if len(values) % 10 == 0:
            emit("ten", len(values))
    return values


@agent_process
async def crowd(children: int, steps: int, seconds: float, enough: str = "") -> dict[str, list[str]]:
    """Several workers at once: by pid, what they returned."""
    handles = [spawn(worker, steps, seconds, enough) for _ in range(children)]
    return {handle.pid: await handle for handle in handles}


async def serve() -> None:
    """Answer `ping` until `finish` is called."""

    @expose
    async def ping(text: str = "") -> str:
        return text

    @expose
    async def finish(result: str) -> None:
        done(result)


@agent_process
async def neighbour() -> str:
    """Answers, beside a process that does not behave."""
    await serve()
    return await wait()


@agent_process
async def hangs(after: int) -> None:
    """Computes for ever, after some steps."""
    for i in range(after):
        await step(effect, i, 0.0)
    while True:
        pass


@agent_process
async def blocks(after: int) -> None:
    """Calls something that does not return for a minute."""
    for i in range(after):
        await step(effect, i, 0.0)
    time.sleep(60)


@agent_process
async def kills_its_host(after: int) -> None:
    """Takes its host down."""
    for i in range(after):
        await step(effect, i, 0.0)
    os.kill(os.getpid(), signal.SIGKILL)


@agent_process
async def exhausts_memory(after: int) -> None:
    """Allocates without bound."""
    for i in range(after):
        await step(effect, i, 0.0)
    taken: list[bytes] = []
    while True:
        taken.append(bytes(1 << 20))


@agent_process
async def diverges(file: str) -> str:
    """Depends on the content of a file."""
    await step(effect, 0, 0.0, name=Path(file).read_text())
    await serve()
    emit("waiting")
    return await wait()


@agent_process
async def rests(month: bool) -> str:
    """Sleeps for a month, or waits for a call; answers either way."""
    await serve()
    if month:
        await sleep(30 * 86400)
    return await wait()


async def noted(i: int, seconds: float, ledger: str, who: str) -> int:
    """A side effect that tells how often it ran."""
    with Path(ledger).open("a") as file:
        file.write(f"{who} {i}\n")
    await asyncio.sleep(seconds)
    return i


@agent_process
async def bookkeeper(steps: int, seconds: float, ledger: str) -> int:
    """Steps whose runs are counted outside."""
    return sum([await step(noted, i, seconds, ledger, current_process().pid) for i in range(steps)])


@agent_process
async def untidy(ledger: str) -> str:
    """Has much to do when it is closed; a line in `ledger` tells that it was."""

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            emit("generator-closed")
            await step(effect, 1, 0.0)

    async def beside() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            emit("task-closed")
            spawn(worker, 1, 0.0)

    kept = numbers()
    await anext(kept)
    task = asyncio.create_task(beside())
    await asyncio.sleep(0)
    await serve()
    try:
        return await wait()
    finally:
        with Path(ledger).open("a") as file:
            file.write(current_process().pid + "\n")
        emit("closed")
        task.cancel()
        await step(effect, 0, 0.0)
