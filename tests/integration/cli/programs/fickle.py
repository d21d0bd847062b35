"""A body that is no function of its inbox: what it does depends on a file."""

from __future__ import annotations

import asyncio
from pathlib import Path

from regrow import agent_process, done, emit, expose, sleep, step, wait


def one() -> int:
    return 1


def two() -> int:
    return 2


@agent_process
async def main(flag: str) -> int:
    """Another step when the file `flag` is there: nothing that would survive a replay.

    It always has a timer, so a new host folds it at once and not only when somebody calls.
    """
    number = await step(two if Path(flag).exists() else one)
    emit("ready", number)

    @expose
    async def finish() -> None:
        done(number)

    async def tick() -> None:
        while True:
            await sleep(1)

    ticking = asyncio.create_task(tick())
    try:
        return await wait()
    finally:
        ticking.cancel()
