"""Processes that count what they are called for, and one that calls them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from regrow import ProcessHandle, agent_process, done, expose, sleep, step, wait


async def stamp(what: str) -> str:
    return what


async def opened(gate: str) -> str:
    """A step that lasts until a file exists; a line in another one tells that it ran."""
    with Path(f"{gate}.runs").open("a") as file:
        file.write("run\n")
    while not Path(gate).exists():
        await asyncio.sleep(0.02)
    return gate


@agent_process
async def till() -> list[str]:
    """Keeps what it is called with, in order, until it is closed."""
    taken: list[str] = []

    @expose
    async def take(what: str) -> str:
        taken.append(what)
        return what

    @expose
    async def stamped(what: str) -> str:
        taken.append(await step(stamp, what))
        return what

    @expose
    async def wait_for(gate: str) -> str:
        return await step(opened, gate)

    @expose
    async def close() -> None:
        done(taken)

    return await wait()


@agent_process
async def customer(name: str, tills: list[str], pause: float) -> list[str]:
    """Calls one after the other until it is told to stop; what it was answered."""
    answers: list[str] = []
    enough = asyncio.Event()

    @expose
    async def stop() -> None:
        enough.set()

    while not enough.is_set():
        handle = ProcessHandle(tills[len(answers) % len(tills)])
        answers.append(await handle.call("take", what=f"{name}-{len(answers)}"))
        await sleep(pause)
    return answers
