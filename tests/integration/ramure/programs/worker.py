"""The first program of ramure's announcement."""

import asyncio

from regrow.ramure import agent, agent_process, done, fail, wait


@agent_process
async def start_worker(task_id: str, spec: str) -> str:
    # initialize an agent (locally or on a remote sandbox)
    worker = await agent(f"worker-{task_id}")

    # register tools the agent can call in-harness
    @worker.on("finish")
    async def on_finish(summary: str) -> str:
        """Call with your result when the task is done."""
        done(summary)
        return "Recorded."

    @worker.on("give_up")
    async def on_give_up(reason: str) -> str:
        """Call if you cannot complete the task."""
        fail(f"gave_up: {reason}")
        return "Recorded."

    await worker.send(
        f"Task {task_id}:\n\n{spec}\n\n"
        "When done, call finish(summary). "
        "If impossible, call give_up(reason)."
    )

    # wait for the done/fail lifecycle from agent events
    return await wait()


if __name__ == "__main__":
    spec = "Check for bugs introduced in PR #17."
    print(asyncio.run(start_worker("t0", spec)))
