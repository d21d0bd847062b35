"""The pool of ramure's announcement and readme, with its monitor. The seed's main ends where `# then` stands."""

import asyncio

from regrow.ramure import LocalImage, agent, agent_process, bubble, done, emit, expose, fail, spawn, wait


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


@agent_process(image=LocalImage())  # run on local
async def worker_pool() -> None:
    specs: dict[str, str] = {}

    # @expose lets a parent that spawns the worker pool
    # call this function later
    @expose
    async def add_task(spec: str) -> str:
        tid = f"t{len(specs):04d}"
        specs[tid] = spec
        emit("task_added", {"task_id": tid, "spec": spec})
        # bubble forwards the child's events to the parent,
        # tagged with `source` so callers can demux them
        bubble(spawn(start_worker, tid, spec), source=tid)
        return tid

    @expose
    async def tasks() -> dict[str, str]:
        return dict(specs)

    emit("ready", None)
    await wait()


@agent_process
async def main():
    pool = spawn(worker_pool)
    async for event in pool.events:
        if event.type == "ready":
            break

    # call directly
    await pool.call(
        "add_task",
        spec="Check for bugs introduced in PR #17.",
    )

    # or attach an agent — exposed functions become its tools
    monitor = await agent(
        "monitor",
        system_prompt="You run a pool of workers.",
    )
    # the agent can now call the afforded interface
    await pool.attach(monitor, prefix="pool_")

    # then
    await monitor.send("Have something impossible done.")
    ends = {}
    async for event in pool.events:
        if event.type in ("done", "failed"):
            ends[event.source] = event.type
        if len(ends) == 2:
            return [ends, await pool.call("tasks"), sorted(pool.agents)]


if __name__ == "__main__":
    print(asyncio.run(main()))
