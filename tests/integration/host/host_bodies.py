"""Processes for the tests of hosts."""

from __future__ import annotations

import asyncio

from regrow import agent_process, emit, expose, sleep, spawn, step, wait

RUNS: list[str] = []
"""What ran outside the fold, in this interpreter."""

HOLD: dict[str, asyncio.Event] = {}
"""Steps that wait for the test."""


@agent_process
async def pinged() -> str:
    @expose
    async def ping(text: str) -> str:
        emit("pinged", text)
        return text

    @expose
    async def announce(type_: str) -> None:
        emit(type_)

    @expose
    async def hang() -> None:
        while True:
            pass

    return await wait()


@agent_process
async def stubborn() -> str:
    @expose
    async def ping(text: str) -> str:
        return text

    try:
        return await wait()
    finally:
        while True:
            pass


async def _held(name: str) -> str:
    RUNS.append(name)
    await HOLD[name].wait()
    return name


@agent_process
async def holding(name: str) -> str:
    return await step(_held, name)


@agent_process
async def sleeper(seconds: float) -> str:
    @expose
    async def ping(text: str) -> str:
        return text

    @expose
    async def hang() -> None:
        while True:
            pass

    await sleep(seconds)
    return "awake"


@agent_process
async def brief_wait(seconds: float) -> str:
    async with asyncio.timeout(seconds):
        await asyncio.sleep(0.05)
    return "in time"


@agent_process(resume="restart")
async def body(name: str) -> str:
    RUNS.append(name)
    emit("began")
    await HOLD[name].wait()
    return name


@agent_process(resume="restart")
async def quick_body() -> str:
    return "done"


@agent_process
async def child_of(text: str) -> str:
    return text


@agent_process
async def parent(text: str) -> str:
    return await spawn(child_of, text)
