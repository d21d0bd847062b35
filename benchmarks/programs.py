"""The processes that the benchmarks run; their bodies do as little as possible, so what is measured is the runtime."""

from __future__ import annotations

import asyncio
import time

from regrow import Backoff, Machine, agent, agent_process, expose, fail, sleep, spawn, step, wait

MONTH = 30 * 24 * 3600.0


async def add(a: int, b: int) -> int:
    """The work of a step: none."""
    return a + b


@agent_process
async def echo() -> None:
    """Answers `ping` for ever."""

    @expose
    async def ping(v: int) -> int:
        return v + 1

    await wait()


@agent_process
async def asleep() -> None:
    """Sleeps for a month, and answers `ping` meanwhile."""

    @expose
    async def ping(v: int) -> int:
        return v + 1

    await sleep(MONTH)


@agent_process
async def steps(n: int) -> int:
    """`n` steps, one after the other."""
    total = 0
    for _ in range(n):
        total = await step(add, total, 1)
    return total


@agent_process
async def steps_then_echo(n: int) -> None:
    """A process with a long inbox that still answers."""
    total = 0
    for _ in range(n):
        total = await step(add, total, 1)

    @expose
    async def ping(v: int) -> int:
        return total + v

    await wait()


@agent_process
async def trivial(x: int) -> int:
    """A child that ends at once."""
    return x


@agent_process
async def fan(n: int) -> int:
    """`n` children at once."""
    return sum(await asyncio.gather(*(trivial(i) for i in range(n))))


@agent_process
async def chain(n: int) -> int:
    """`n` children, one after the other."""
    total = 0
    for i in range(n):
        total += await trivial(i)
    return total


@agent_process
async def execs(box: Machine, n: int) -> list[float]:
    """`n` commands, one after the other: the milliseconds of each, by a clock that a replay would not give again."""
    taken: list[float] = []
    for _ in range(n):
        began = time.perf_counter()
        result = await box.exec("true")
        taken.append((time.perf_counter() - began) * 1000)
        assert result.ok
    return taken


@agent_process
async def owner() -> None:
    """Has an agent that comes by itself, with a tool that does nothing."""

    async def echo(v: int) -> int:
        return v

    worker = await agent("worker", harness="none", tools=[echo])

    @expose
    async def doors() -> list[str]:
        return [worker.url, worker.token]

    @expose
    async def say() -> None:
        await worker.send(str(time.monotonic()))  # a clock that other programs of the computer share

    await wait()


@agent_process
async def starts(box: Machine, command: str, n: int) -> list[float]:
    """Starts `n` agents, one after the other: the milliseconds until each has come."""
    taken: list[float] = []
    for at in range(n):
        began = time.perf_counter()
        worker = await agent(f"worker {at}", harness="command", machine=box, options={"command": command})
        taken.append((time.perf_counter() - began) * 1000)
        await worker.stop()
    return taken


@agent_process
async def fragile() -> None:
    """Answers `ping`, and fails when it is told to."""

    @expose
    async def ping(v: int) -> int:
        return v + 1

    @expose
    async def crash() -> None:
        fail("as asked")

    await wait()


@agent_process
async def keeper(n: int) -> tuple[list[float], list[float]]:
    """Milliseconds until a new child answers, and until one that failed answers again; `n` times each, in turns."""
    kept = spawn(fragile, restart="permanent", backoff=Backoff(initial=0.0, max=0.0))
    await kept.call("ping", v=0, wait=True)
    spawned: list[float] = []
    restarted: list[float] = []
    for v in range(n):
        began = time.perf_counter()  # a clock that a replay would not give again
        fresh = spawn(fragile)
        await fresh.call("ping", v=v, wait=True)
        spawned.append((time.perf_counter() - began) * 1000)
        fresh.cancel()
        began = time.perf_counter()
        await kept.call("crash")
        await kept.call("ping", v=v, wait=True)
        restarted.append((time.perf_counter() - began) * 1000)
    return spawned, restarted
