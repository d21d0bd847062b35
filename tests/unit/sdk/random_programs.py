"""Programs at random: a small language that a process body interprets, and strategies that write in it.

A program is a list of operations, each a list of a name and arguments; they are JSON, so a program is an argument of a
process. `programs` do anything that a body may do, races included; `calm_programs` have one result in any timing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from hypothesis import strategies as st
from regrow import (
    ProcessHandle,
    agent_process,
    bubble,
    current_process,
    done,
    emit,
    expose,
    fail,
    is_replaying,
    now,
    random,
    sleep,
    spawn,
    step,
    wait,
)

Program: TypeAlias = list[Any]


@dataclass
class Scope:
    """What the operations of one process share."""

    parent: ProcessHandle | None
    log: list[Any] = field(default_factory=list)
    handles: list[ProcessHandle] = field(default_factory=list)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    queue: asyncio.Queue[int] = field(default_factory=lambda: asyncio.Queue(maxsize=1))

    def handle(self, i: int) -> ProcessHandle:
        if not self.handles:
            raise LookupError("no handle")
        return self.handles[i % len(self.handles)]


@agent_process
async def interpret(program: Program, parent: ProcessHandle | None = None) -> list[Any]:
    """Run a program; its log."""
    scope = Scope(parent)

    @expose
    async def note(x: int) -> int:
        if x % 4 == 3:
            await sleep(x % 5)
        if x % 7 == 6:
            raise ValueError(f"note {x}")
        return x + 1

    @expose
    async def race(x: int) -> int:
        scope.log.append(["raced", x])
        return len(scope.log)

    assert is_replaying() in (True, False)
    await run(scope, program)
    return scope.log


@agent_process
async def serve() -> None:
    """Answer until cancelled."""

    @expose
    async def double(x: int) -> int:
        return await step(work, x)

    await wait()


async def run(scope: Scope, program: Program) -> None:
    for name, *args in program:
        await OPERATIONS[name](scope, *args)


def work(x: int) -> int:
    """A step."""
    if x % 5 == 4:
        raise KeyError(f"work {x}")
    return x * 2


async def attempt(scope: Scope, what: str, awaitable: Awaitable[Any]) -> None:
    """Log what comes of it."""
    try:
        scope.log.append([what, await awaitable])
    except Exception as error:  # noqa: BLE001 - logged
        scope.log.append([what, type(error).__name__, str(error)])


async def branch(scope: Scope, program: Program) -> int:
    inner = Scope(scope.parent, [], scope.handles, scope.lock, scope.queue)
    try:
        await run(inner, program)
    finally:
        scope.log.extend(inner.log)
    return len(inner.log)


async def quiet_branch(scope: Scope, program: Program) -> list[Any]:
    """As `branch`, but what it logs is its result."""
    inner = Scope(scope.parent, [], [], scope.lock, scope.queue)
    await run(inner, program)
    return inner.log


async def op_emit(scope: Scope, x: int) -> None:
    emit("mark" if x % 3 == 0 else f"event {x}", x)


async def op_sleep(scope: Scope, seconds: float) -> None:
    await sleep(seconds)


async def op_step(scope: Scope, x: int) -> None:
    await attempt(scope, "step", step(work, x))


async def op_spawn(scope: Scope, program: Program) -> None:
    scope.handles.append(spawn(interpret, program, current_process().handle))


async def op_child(scope: Scope, program: Program) -> None:
    await attempt(scope, "child", interpret(program))


async def op_await(scope: Scope, i: int) -> None:
    if scope.handles:
        await attempt(scope, "await", scope.handle(i).result())


async def op_call(scope: Scope, i: int, x: int) -> None:
    if scope.handles:
        await attempt(scope, "call", scope.handle(i).call("note", x=x))


async def op_serve(scope: Scope, x: int) -> None:
    server = spawn(serve)
    for y in (x, x + 3):
        await attempt(scope, "served", server.call("double", x=y))
    server.cancel()


async def op_race(scope: Scope, x: int) -> None:
    target = scope.parent or current_process().handle
    await attempt(scope, "race", target.call("race", x=x))


async def op_gather(scope: Scope, programs: list[Program]) -> None:
    results = await asyncio.gather(*(quiet_branch(scope, p) for p in programs), return_exceptions=True)
    scope.log.append([str(r) if isinstance(r, BaseException) else r for r in results])


async def op_gather_raw(scope: Scope, programs: list[Program]) -> None:
    await attempt(scope, "gather", asyncio.gather(*(branch(scope, p) for p in programs)))


async def op_group(scope: Scope, programs: list[Program]) -> None:
    async def group() -> list[int]:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(branch(scope, p)) for p in programs]
        return [t.result() for t in running]

    await attempt(scope, "group", group())


async def op_timeout(scope: Scope, seconds: float, program: Program) -> None:
    async def limited() -> int:
        async with asyncio.timeout(seconds):
            return await branch(scope, program)

    await attempt(scope, "timeout", limited())


async def op_first(scope: Scope, programs: list[Program]) -> None:
    tasks = {asyncio.create_task(branch(scope, p)) for p in programs}
    done_, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=7)
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending)
    scope.log.append(["first", len(done_), [str(t.exception()) if not t.cancelled() else "-" for t in tasks]])


async def op_completed(scope: Scope, programs: list[Program]) -> None:
    for each in asyncio.as_completed([branch(scope, p) for p in programs]):
        await attempt(scope, "completed", each)


async def op_lock(scope: Scope, program: Program) -> None:
    if scope.lock.locked() and len(scope.log) % 2:
        return
    async with asyncio.timeout(20), scope.lock:
        await branch(Scope(scope.parent, scope.log, scope.handles), program)


async def op_put(scope: Scope, x: int) -> None:
    await attempt(scope, "put", asyncio.wait_for(scope.queue.put(x), 3))


async def op_get(scope: Scope, seconds: float) -> None:
    await attempt(scope, "get", asyncio.wait_for(scope.queue.get(), seconds))


async def op_raise(scope: Scope, x: int) -> None:
    raise ValueError(f"raised {x}")


async def op_done(scope: Scope, x: int) -> None:
    done([x])


async def op_fail(scope: Scope, x: int) -> None:
    fail(f"failed {x}")


async def op_cancel(scope: Scope, i: int) -> None:
    if scope.handles:
        scope.handle(i).cancel()


async def op_listen(scope: Scope, i: int, seconds: float) -> None:
    if scope.handles:
        event = scope.handle(i).events.listen_for("mark", timeout=seconds, replay=i % 2 == 0)
        await attempt(scope, "listen", _data(event))


async def _data(event: Awaitable[Any]) -> Any:
    return (await event).data


async def op_subscribe(scope: Scope, i: int) -> None:
    if scope.handles:
        scope.handle(i).events.subscribe(lambda e: emit("saw", [e.seq, e.type]), replay=i % 2 == 0)


async def op_bubble(scope: Scope, i: int) -> None:
    if scope.handles:
        bubble(scope.handle(i), f"handle {i}")


async def op_iterate(scope: Scope, i: int) -> None:
    if scope.handles:
        scope.log.append([e.type async for e in scope.handle(i).events])


async def op_finally(scope: Scope, program: Program, last: Program) -> None:
    try:
        await run(scope, program)
    finally:
        await run(scope, last)


async def op_suppress(scope: Scope, program: Program) -> None:
    try:
        await run(scope, program)
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - a rude body
        scope.log.append(["suppressed", type(error).__name__])


async def op_shield(scope: Scope, program: Program) -> None:
    await attempt(scope, "shield", asyncio.shield(asyncio.create_task(branch(scope, program))))


async def op_generate(scope: Scope, n: int) -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            for x in range(n):
                await sleep(1)
                yield x
        finally:
            emit("generator ended")

    async for x in numbers():
        scope.log.append(x)
        if x == 1:
            break


async def op_background(scope: Scope, program: Program) -> None:
    asyncio.create_task(branch(scope, program), name=f"background {len(scope.log)}")  # noqa: RUF006 - the loop keeps it


async def op_chance(scope: Scope) -> None:
    scope.log.append([random(), now().timestamp()])


OPERATIONS: dict[str, Callable[..., Awaitable[None]]] = {
    name.removeprefix("op_"): function for name, function in list(globals().items()) if name.startswith("op_")
}

numbers = st.integers(0, 9)
seconds = st.sampled_from([0, 0.5, 1, 2, 5, 11])


def _op(name: str, *args: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.tuples(*args).map(lambda given: [name, *given])


_calm_leaves = st.one_of(
    _op("emit", numbers),
    _op("sleep", seconds),
    _op("step", numbers),
    _op("await", numbers),
    _op("serve", numbers),
    _op("raise", numbers),
)
_leaves = st.one_of(
    _calm_leaves,
    _op("race", numbers),
    _op("call", numbers, numbers),
    _op("put", numbers),
    _op("get", seconds),
    _op("done", numbers),
    _op("fail", numbers),
    _op("cancel", numbers),
    _op("listen", numbers, seconds),
    _op("subscribe", numbers),
    _op("bubble", numbers),
    _op("iterate", numbers),
    _op("generate", st.integers(0, 4)),
    _op("chance"),
)


def _calm(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    program = st.lists(inner, max_size=4)
    return st.one_of(
        _op("spawn", program),
        _op("child", program),
        _op("gather", st.lists(program, max_size=3)),
        _op("finally", program, program),
        _op("suppress", program),
    )


def _wild(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    program = st.lists(inner, max_size=4)
    several = st.lists(program, min_size=1, max_size=4)
    return st.one_of(
        _calm(inner),
        _op("gather_raw", several),
        _op("group", several),
        _op("timeout", seconds, program),
        _op("first", several),
        _op("completed", several),
        _op("lock", program),
        _op("shield", program),
        _op("background", program),
    )


programs = st.lists(st.recursive(_leaves, _wild, max_leaves=25), min_size=1, max_size=8)
calm_programs = st.lists(st.recursive(_calm_leaves, _calm, max_leaves=15), min_size=1, max_size=6)
