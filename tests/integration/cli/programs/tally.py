"""A program for the tests of the command: children, steps, events, endpoints, and gates that the tests open."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from regrow import ExecutionFailed, agent_process, current_process, done, emit, expose, sleep, spawn, step, wait

print("the program is imported")


@dataclass
class Order:
    """Something with a type of its own."""

    item: str
    count: int = 1


def square(n: int, log: str = "") -> int:
    """A step; notes in `log` that it ran."""
    if log:
        with Path(log).open("a") as file:
            file.write(f"{n}\n")
    return n * n


def wait_for(gate: str) -> str:
    """A step that ends when somebody makes the file `gate`."""
    while not Path(gate).exists():
        time.sleep(0.01)
    return Path(gate).read_text()


@agent_process
async def worker(n: int, log: str = "") -> int:
    """One square."""
    return await step(square, n, log)


@agent_process
async def main(n: int = 3, log: str = "", gate: str = "") -> list[int]:
    """The first squares, each by a worker; waits for `gate` after the second."""
    squares: list[int] = []
    for i in range(n):
        squares.append(await worker(i, log))
        emit("progress", {"done": i + 1})
        if gate and i == 1:
            await step(wait_for, gate)
    return squares


@agent_process
async def echo(text: str, orders: list[Order], factor: float = 1.0) -> dict[str, object]:
    """What it was given."""
    return {"text": text, "orders": [f"{order.item}*{order.count}" for order in orders], "factor": factor}


@agent_process
async def broken(reason: str = "no luck") -> None:
    """Fails."""
    raise ValueError(reason)


@agent_process
async def idle() -> None:
    """A child that sleeps for a day."""
    await sleep(86400)


@agent_process
async def pool(label: str = "") -> list[str]:
    """Collects items until it is told to finish."""
    items: list[str] = []
    spawn(idle)

    @expose
    async def add(item: str, times: int = 1) -> int:
        items.extend([item] * times)
        emit("added", item[:20])
        return len(items)

    @expose
    async def finish() -> None:
        done([label, *items] if label else items)

    return await wait()


@agent_process
async def lonely(log: str, gate: str) -> dict[str, object]:
    """Tells what became of a child and a step that were under way when its history was cut."""
    before = await step(square, 7, log)
    emit("ready", current_process().pid)
    child = spawn(idle)
    gone: list[str] = []
    try:
        await step(wait_for, gate)
    except Exception as error:  # noqa: BLE001 - whatever it is, is the result
        gone.append(f"{type(error).__name__}: {error}")
    try:
        await child
    except ExecutionFailed as error:
        gone.append(f"{error.error}: {error.reason}")
    after = await step(square, 8, log)
    return {"before": before, "gone": gone, "after": after, "pid": current_process().pid}


if __name__ == "__main__":
    print(asyncio.run(main(*map(int, sys.argv[1:2]), *sys.argv[2:4])))
