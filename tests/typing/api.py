"""The public API as a type checker sees it: this file is checked in strict mode, never run.

A line that must be refused says so with an ignore comment of the very rule; one that is not refused any more is an
error too.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import assert_type
from uuid import UUID

from regrow import (
    Agent,
    AgentEvent,
    AgentLoss,
    CurrentProcess,
    Event,
    Grant,
    ProcessHandle,
    agent,
    agent_process,
    bubble,
    connect,
    current_process,
    current_runtime,
    emit,
    expose,
    fail,
    now,
    random,
    spawn,
    step,
    uuid4,
)


@agent_process
async def plain(x: int, *, name: str = "") -> float:
    return float(x)


@agent_process(timeout=5, resume="restart", name="other", max_restarts=3)
async def configured(names: list[str]) -> dict[str, int]:
    return {}


def measure(text: str) -> int:
    return len(text)


async def fetch(url: str) -> bytes:
    return url.encode()


async def body() -> None:
    assert_type(await plain(1), float)
    assert_type(await plain(1, name="x"), float)
    assert_type(await configured(["a"]), dict[str, int])
    results = await asyncio.gather(plain(1), configured([]))
    assert_type(results, tuple[float, dict[str, int]])
    async with asyncio.TaskGroup() as group:
        task = group.create_task(plain(2))
    assert_type(task.result(), float)

    handle = spawn(plain, 1, name="x")
    assert_type(handle, ProcessHandle)
    assert_type(handle.pid, str)
    assert_type(handle.status(), str)
    assert_type(await handle.events.listen_for("x", lambda e: e.seq > 1, timeout=5, replay=False), Event)
    async for event in handle.events:
        assert_type(event, Event)
        assert_type(event.source, str | None)
    stop = bubble(handle, source="x")
    assert_type(stop(), None)

    assert_type(await step(measure, "x", retries=3, backoff=0.5, timeout=10, name="m"), int)
    assert_type(await step(fetch, "x"), bytes)

    assert_type(now(), datetime)
    assert_type(uuid4(), UUID)
    assert_type(random(), float)
    assert_type(current_process(), CurrentProcess)
    assert_type(current_process().parent, str | None)

    worker = await agent("w", "Be brief.", machine=None, tools=[fetch], restart="transient", stall_after=60)
    assert_type(worker, Agent)
    assert_type(await worker.send("x"), int)
    assert_type((await worker.exec("ls", timeout=5)).stdout, str)
    async for said in worker.events:
        assert_type(said, AgentEvent)

    @worker.on("finish", timeout=5)
    async def finish(x: int) -> str:
        return str(x)

    @worker.on
    async def more(x: int) -> str:
        return str(x)

    @worker.on_lost
    def lost(loss: AgentLoss) -> None:
        del loss

    assert_type(await finish(1), str)
    assert_type(await more(1), str)
    connect(worker, handle.agents["x"], direction="forward")
    assert_type(await handle.attach(worker, only=["a"], prefix="p_", rate=5, expires=9), Grant)
    assert_type(current_runtime().agents, dict[str, Agent])

    @expose
    async def endpoint(x: int) -> str:
        return str(x)

    assert_type(await endpoint(1), str)
    emit("x", {"a": 1})
    fail("why", retryable=False)


async def refused() -> None:
    await plain("x")  # pyright: ignore[reportArgumentType]
    await plain()  # pyright: ignore[reportCallIssue]
    await plain(1, nam="x")  # pyright: ignore[reportCallIssue]
    spawn(plain)  # pyright: ignore[reportCallIssue]
    spawn(plain, "x")  # pyright: ignore[reportArgumentType]
    spawn(plain, 1, nam="x")  # pyright: ignore[reportCallIssue]
    spawn(measure, "x")  # pyright: ignore[reportArgumentType, reportCallIssue]
    await step(measure("x"))  # pyright: ignore[reportArgumentType, reportCallIssue]
    worker = await agent("w", restart="often")  # pyright: ignore[reportArgumentType]
    worker.on("x")(measure)  # pyright: ignore[reportArgumentType]
    await agent("w", tools=[measure])  # pyright: ignore[reportArgumentType]
    expose(measure)  # pyright: ignore[reportArgumentType]
    agent_process(resume="never")  # pyright: ignore[reportArgumentType]
    fail(5)  # pyright: ignore[reportArgumentType]
    emit(5)  # pyright: ignore[reportArgumentType]
