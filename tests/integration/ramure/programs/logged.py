"""Reads what its agent does, and connects it to another."""

import asyncio
import sys

from regrow.ramure import agent, agent_process, connect, current_runtime, done, wait


@agent_process(log_dir=sys.argv[1])
async def main() -> None:
    worker, other = await asyncio.gather(agent("worker"), agent("other"))
    assert set(current_runtime().agents) == {"worker", "other"}
    connect(worker, other, direction="forward")
    try:
        await agent("worker")
    except ValueError as error:
        assert "already exists" in str(error)

    @worker.on("finish")
    async def on_finish(summary: str) -> str:
        done(summary)
        return "Recorded."

    await worker.send("Do it.")
    async for event in worker.events:
        if event.type in ("message", "tool_call"):
            print(event.type)
        if event.type == "tool_call":
            break
    await wait()
    print("connected")


if __name__ == "__main__":
    asyncio.run(main())
