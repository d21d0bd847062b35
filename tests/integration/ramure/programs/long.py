"""Waits for a file: to be interrupted, killed, and resumed meanwhile."""

import asyncio
import sys
from pathlib import Path

from regrow.ramure import LocalImage, agent_process, machine, spawn


@agent_process
async def child(number: int, go: str) -> int:
    print(f"child {number} runs", flush=True)
    while not Path(go).exists():
        await asyncio.sleep(0.02)
    return number


@agent_process
async def main(folder: str) -> tuple[int, int]:
    box = await machine(LocalImage(folder))
    print((await box.exec("pwd")).stdout.strip(), flush=True)
    return await asyncio.gather(child(1, f"{folder}/go"), child(2, f"{folder}/go"))


async def outer() -> str:
    @agent_process
    async def nested() -> str:
        print("nested runs", flush=True)
        await asyncio.Event().wait()
        return "never"

    return await nested()


@agent_process
async def kept(queue: object) -> list[object]:
    print("kept runs", flush=True)
    await asyncio.Event().wait()
    return [queue]


@agent_process
async def gives_an_object() -> list[object]:
    handle = spawn(kept, asyncio.Queue())
    return [event.type async for event in handle.events]


if __name__ == "__main__":
    which = sys.argv[1]
    print(asyncio.run(outer() if which == "nested" else kept(object()) if which == "kept" else main(sys.argv[2])))
