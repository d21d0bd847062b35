"""A supervisor that gives a worker which gave up, or took too long, another try where the last one stopped.

    python examples/second_try.py

Each failure tells what the worker was started with and keeps the state of its machine. The supervisor starts another
one from both: the same spec with a longer time or a hint, on a copy of the machine as it was left. The agent is this
very file (`harness="command"`), so no model is needed: it counts up in a file, is too slow the first time, and gives up
the second.
"""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from pathlib import Path

from agent_doors import ask, messages
from regrow import ExecutionFailed, agent, agent_process, done, emit, fail, from_snapshot, spawn, wait

COMMAND = shlex.join([sys.executable, str(Path(__file__).resolve()), "work"])


@agent_process(snapshot_on_failure=True)
async def worker(goal: int, patience: float, hint: str = "") -> str:
    """One agent that counts to `goal` on its machine; at most `patience` seconds."""
    counter = await agent("counter", harness="command", options={"command": COMMAND})

    @counter.on("finish")
    async def on_finish(report: str) -> str:
        """Call when you have counted to the goal."""
        done(report)
        return "Recorded."

    @counter.on("give_up")
    async def on_give_up(reason: str) -> str:
        """Call if you cannot go on."""
        fail(f"gave up: {reason}")
        return "Recorded."

    await counter.send(f"{goal} {hint}")
    async with asyncio.timeout(patience):
        return str(await wait())


@agent_process
async def supervisor(goal: int, tries: int = 4) -> str:
    """What the worker reports in the end."""
    child = spawn(worker, goal, patience=8.0)
    for _ in range(tries):
        try:
            return await child
        except ExecutionFailed as error:
            failure = error.failure
            (kept,) = error.snapshots.values()
            emit("failed_once", {"reason": failure.reason, "snapshot": kept})
            longer = {"patience": 60.0, "hint": "take larger steps" if "gave up" in failure.reason else ""}
            child = child.respawn(**longer, machine=from_snapshot(kept))
    return await child


# The agent ------------------------------------------------------------------------------------------------------------


def work() -> None:
    """Count on from what stands in the file."""
    record = Path("count.txt")
    for message in messages():
        goal, _, hint = message["text"].partition(" ")
        began = count = int(record.read_text()) if record.exists() else 0
        while count < int(goal):
            if count == int(goal) // 2 and not hint:
                if began == count:
                    ask("/tools/give_up", {"reason": f"the steps from {count} on are too small for me"})
                time.sleep(600)  # it hangs: its time runs out
            count += 1
            record.write_text(str(count))
        ask("/tools/finish", {"report": f"counted from {began} to {count}"})


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        work()
    else:
        print(asyncio.run(supervisor(10)))
