"""A pool of agents that works off a list of tasks, tries again what was given up, and survives what crashes.

    python examples/worker_pool.py

Each task is a process with one agent. The agent here is this very file (`python worker_pool.py work`, harness
`command`), so no model is needed: it counts the words of its task, gives up the first time on a `hard` one, and crashes
once on a `fragile` one, whereupon it is started again and goes on with the message it was sent. With
`harness="pi"` in place of `harness="command"` and its option, the same program runs models.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from agent_doors import ask, messages
from regrow import ExecutionFailed, agent, agent_process, done, emit, expose, fail, wait

COMMAND = shlex.join([sys.executable, str(Path(__file__).resolve()), "work"])
TASKS = ["count these four words", "a hard nut", "a fragile vase is here"]


@agent_process
async def run_task(spec: str, attempt: int = 1) -> str:
    """One agent on one task."""
    worker = await agent("worker", harness="command", options={"command": COMMAND}, restart="permanent")

    @worker.on("finish")
    async def on_finish(summary: str) -> str:
        """Call with your result when the task is done.

        Args:
            summary: what you have found, in a sentence.
        """
        done(summary)
        return "Recorded."

    @worker.on("give_up")
    async def on_give_up(reason: str) -> str:
        """Call if you cannot complete the task."""
        fail(f"gave_up: {reason}")
        return "Recorded."

    @worker.on_lost
    async def on_lost(_: Any) -> None:
        fail("the agent has died")

    await worker.send(f"Attempt {attempt}: {spec}")
    return str(await wait())


@agent_process
async def worker_pool(specs: list[str], tries: int = 3) -> dict[str, str]:
    """All tasks at once, each up to `tries` times; what came of them."""
    states = dict.fromkeys(specs, "queued")

    @expose
    async def tasks() -> dict[str, str]:
        """How the tasks stand."""
        return states

    async def complete(spec: str) -> None:
        for attempt in range(1, tries + 1):
            states[spec] = f"attempt {attempt}"
            try:
                states[spec] = await run_task(spec, attempt)
            except ExecutionFailed as error:
                states[spec] = f"failed: {error.reason}"
                emit("attempt_failed", {"spec": spec, "attempt": attempt, "reason": error.reason})
            else:
                return

    await asyncio.gather(*(complete(spec) for spec in specs))
    return states


# The agent ------------------------------------------------------------------------------------------------------------


def work() -> None:
    """Take a message, do what it says, call a tool; then wait to be ended."""
    for message in messages():
        attempt, _, spec = message["text"].partition(": ")
        if "hard" in spec and attempt == "Attempt 1":
            ask("/tools/give_up", {"reason": "too hard at first sight"})
        elif "fragile" in spec and os.environ["REGROW_AGENT_RESUME"] == "0":
            sys.exit("it broke")
        else:
            ask("/tools/finish", {"summary": f"{len(spec.split())} words"})


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        work()
    else:
        for spec, result in asyncio.run(worker_pool(TASKS)).items():
            print(f"{spec}: {result}")
