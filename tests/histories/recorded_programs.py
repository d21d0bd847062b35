"""The programs whose histories are kept in this folder. Never change one: its recorded runs would not fit it any more.

To cover something new write another program, name it in `PROGRAMS`, and run `record.py NAME`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from regrow import (
    Agent,
    AgentLoss,
    ProcessHandle,
    ProcessType,
    agent,
    agent_process,
    bubble,
    connect,
    current_process,
    current_runtime,
    done,
    emit,
    expose,
    fail,
    now,
    random,
    sleep,
    spawn,
    step,
    uuid4,
    wait,
)
from regrow.client import RemoteProcess


@dataclass
class Job:
    """An argument."""

    name: str
    due: datetime | None = None
    size: float = 1.0


def measure(job: Job) -> float:
    if job.size < 0:
        raise ValueError("negative size")
    return job.size * 2


@agent_process
async def history_steps(jobs: list[Job]) -> list[Any]:
    seen: list[Any] = []
    for job in jobs:
        try:
            seen.append(await step(measure, job, retries=1, backoff=0.01))
        except ValueError as error:
            seen.append(str(error))
    seen += await asyncio.gather(*(step(measure, job, name="again") for job in jobs), return_exceptions=True)
    return [str(s) for s in seen]


@agent_process
async def history_child(x: int) -> int:
    emit("begun", {"x": x})
    await sleep(x)
    if x == 3:
        raise KeyError("three")
    return x * 10


@agent_process
async def history_tree(n: int) -> list[Any]:
    handles = [spawn(history_child, x) for x in range(n)]
    for handle in handles:
        bubble(handle, f"child {handles.index(handle)}")
    seen: list[Any] = []
    for handle in handles:
        try:
            seen.append(await handle)
        except Exception as error:  # noqa: BLE001 - recorded
            seen.append(type(error).__name__)
    seen.append([e.type async for e in handles[1].events])
    return seen


@agent_process
async def history_time() -> list[Any]:
    begun = now()
    seen: list[Any] = []
    await sleep(30 * 86_400)
    try:
        async with asyncio.timeout(5):
            await history_child(60)
    except TimeoutError:
        seen.append("timeout")
    fast, slow = asyncio.create_task(sleep(1)), asyncio.create_task(sleep(100))
    finished, pending = await asyncio.wait([fast, slow], timeout=10)
    slow.cancel()
    seen += [len(finished), len(pending), round((now() - begun).total_seconds())]
    return seen


@agent_process
async def history_pool(size: int) -> list[int]:
    queue: asyncio.Queue[tuple[int, asyncio.Future[int]]] = asyncio.Queue()
    results: list[int] = []

    @expose
    async def submit(x: int) -> int:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        await queue.put((x, future))
        return await future

    @expose
    async def close() -> int:
        done(results)
        return len(results)

    async def work() -> None:
        while True:
            x, future = await queue.get()
            await sleep(0.5)
            results.append(x * x)
            future.set_result(x * x)

    for _ in range(size):
        asyncio.get_running_loop().create_task(work())
    return await wait()


@agent_process
async def history_partner(other: ProcessHandle | None, n: int) -> int:
    @expose
    async def echo(x: int) -> int:
        await sleep(1)
        return x + n

    if other is None:
        return await wait()
    total = 0
    for x in range(3):
        total += await other.call("echo", x=x)
    return total


@agent_process
async def history_talk() -> list[Any]:
    first = spawn(history_partner, None, 1)
    second = spawn(history_partner, first, 2)
    seen: list[Any] = [await second]
    try:
        await first.call("nothing")
    except ValueError as error:
        seen.append(type(error).__name__)
    first.cancel("enough")
    try:
        await first
    except Exception as error:  # noqa: BLE001 - recorded
        seen.append(str(error))
    return seen


@agent_process
async def history_ends(how: str) -> str:
    async def background() -> None:
        try:
            await sleep(1000)
        finally:
            emit("background ended", str(uuid4()))

    task = asyncio.create_task(background())
    spawn(history_child, 500)
    await sleep(1)
    emit("chance", random() < 2)
    if how == "fail":
        fail("told to", retryable=False)
        return await wait()
    if how == "raise":
        raise RuntimeError(f"raised in {type(task).__mro__[1].__name__}")
    await asyncio.Event().wait()
    return current_process().pid


@agent_process
async def history_order(n: int) -> list[list[str]]:
    async def quick(x: int) -> int:
        await sleep(x % 3)
        return x

    tasks = [asyncio.create_task(quick(x), name=str(x)) for x in range(n)]
    finished, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    names = [[t.get_name() for t in finished], [t.get_name() for t in rest]]
    ordered = [str(await each) for each in asyncio.as_completed([quick(x) for x in range(n)])]
    async with asyncio.TaskGroup() as group:
        for x in range(n):
            group.create_task(history_child(x % 3))
    return [*names, ordered]


@agent_process
async def history_reviewer(author: Agent) -> int:
    return await author.send("more tests, please")


@agent_process
async def history_agents(names: list[str]) -> Any:
    async def one(name: str) -> Agent:
        worker = await agent(name, f"You are {name}.", tools=[history_note], restarts=1, env={"A": name})

        @worker.on_lost
        async def lost(loss: AgentLoss) -> None:
            emit("mourned", [loss.agent.name, loss.exit_code, loss.session])

        return worker

    author, reviewer = await asyncio.gather(*(one(name) for name in names))
    guest = await agent("guest", harness="none", machine=None, stall_after=60)
    connect(author, reviewer)
    pool = spawn(history_pool, 1)
    grant = await pool.attach(guest, only=["submit"], prefix="pool_", rate=3)
    starting = asyncio.create_task(agent("never", start_timeout=30))

    @author.on("finish", timeout=30)
    async def finish(summary: str, review: Job | None = None) -> str:
        done([summary, review, sorted(current_runtime().agents)])
        return "recorded"

    @author.on("cut")
    async def cut() -> list[str]:
        starting.cancel()
        await asyncio.wait([starting])
        return [event.type async for event in guest.events]

    emit("sent", [await author.send("begin"), await history_reviewer(author)])
    await grant.revoke()
    await reviewer.stop()
    emit("usage", (await author.usage()).cost)
    pool.cancel()
    return await wait()


async def history_note(text: str) -> int:
    emit("note", text)
    return len(text)


Drive = Callable[[RemoteProcess], Awaitable[None]]


async def _use_pool(process: RemoteProcess) -> None:
    squares = await asyncio.gather(*(process.call("submit", x=x, wait=True) for x in range(6)))
    assert squares == [x * x for x in range(6)]
    await process.call("close")


async def _cancel(process: RemoteProcess) -> None:
    async for event in process.events():
        if event.type == "chance":
            break
    await process.cancel("by hand")


JOBS = [Job("a"), Job("b", size=-1.0), Job("c", datetime(2026, 1, 1), 2.5)]
PROGRAMS: dict[str, tuple[ProcessType[..., Any], tuple[Any, ...], Drive | None]] = {
    "steps": (history_steps, (JOBS,), None),
    "tree": (history_tree, (5,), None),
    "time": (history_time, (), None),
    "pool": (history_pool, (2,), _use_pool),
    "talk": (history_talk, (), None),
    "fails": (history_ends, ("fail",), None),
    "raises": (history_ends, ("raise",), None),
    "cancelled": (history_ends, ("",), _cancel),
    "order": (history_order, (12,), None),
    "agents": (history_agents, (["author", "reviewer"],), None),
}
