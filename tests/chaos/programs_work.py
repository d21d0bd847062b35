"""Processes whose steps and `restart` bodies end their host, beside others that work."""

from __future__ import annotations

import asyncio
import os
import sys
import time

from regrow import agent_process, emit, expose, step, wait
from regrow.errors import StepFailed


def _die() -> None:
    os._exit(9)


def _leave() -> None:
    sys.exit(3)


def _stop() -> None:
    next(iter(()))


def _work(i: int) -> int:
    time.sleep(0.3)
    return i


async def _never_heard_of() -> None:
    other = asyncio.get_running_loop().create_future()
    other.cancel()
    await other


@agent_process
async def step_kills() -> str:
    await step(_die)
    return "alive"


@agent_process(resume="restart")
async def body_kills() -> str:
    emit("begun")
    await asyncio.sleep(0.05)
    os._exit(9)


@agent_process
async def works(steps: int) -> list[int]:
    @expose
    async def ping(text: str) -> str:
        return text

    return [await step(_work, i) for i in range(steps)]


@agent_process(resume="restart")
async def serves() -> str:
    @expose
    async def ping(text: str) -> str:
        return text

    return await wait()


@agent_process
async def odd_steps() -> list[str]:
    names = []
    for function in (_leave, _stop, _never_heard_of):
        try:
            await step(function)
        except StepFailed as error:
            names.append(error.error)
    return names
