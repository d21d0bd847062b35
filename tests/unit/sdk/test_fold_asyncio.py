"""asyncio in a process body: what works elsewhere works there, in the process's own time, and replays."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fold_world import BEGIN, World
from regrow import (
    agent_process,
    current_process,
    emit,
    is_replaying,
    now,
    random,
    sleep,
    spawn,
    step,
    uuid4,
)

MONTH = 30 * 24 * 3600.0


@pytest.fixture
def world() -> World:
    return World(__name__)


@agent_process
async def double(x: int, after: float = 0.0) -> int:
    await asyncio.sleep(after)
    if x < 0:
        raise ValueError(f"negative: {x}")
    return x * 2


def plus(x: int, y: int) -> int:
    return x + y


async def plus_async(x: int, y: int) -> int:
    await asyncio.sleep(0)
    return x + y


@agent_process
async def gathers() -> list[Any]:
    results = await asyncio.gather(double(1, 3), double(2, 1), step(plus, 3, 4), step(plus_async, 5, 6))
    failing = await asyncio.gather(double(-1), double(5), asyncio.sleep(1, "slept"), return_exceptions=True)
    return [*results, str(failing[0]), *failing[1:]]


def test_gather_keeps_the_order_of_its_arguments(world: World) -> None:
    """Results stand where their awaitables stood, and exceptions are results where that is asked for."""
    assert world.run(gathers) == [2, 4, 7, 11, "negative: -1", 10, "slept"]


@agent_process
async def gather_fails() -> None:
    try:
        await asyncio.gather(double(1, 100), double(-1, 1))
    finally:
        emit("after", now().timestamp() - BEGIN)


def test_gather_raises_at_once(world: World) -> None:
    """The first failure is raised when it happens; the body's end then cancels the others."""
    pid = world.start(gather_fails)
    world.settle()
    world.check()
    with pytest.raises(Exception, match="negative: -1"):
        world.result(pid)
    assert world.events(pid)[1].data == pytest.approx(1, abs=0.1)
    assert [p.status for p in world.of_type("double")] == ["cancelled", "failed"]


@agent_process
async def groups(bad: bool) -> list[int]:
    seen: list[int] = []

    async def work(x: int) -> None:
        seen.append(await double(x, 1))

    try:
        async with asyncio.TaskGroup() as group:
            for x in [1, 2, -3 if bad else 3]:
                group.create_task(work(x))
            group.create_task(asyncio.sleep(MONTH if bad else 2))
    except* ValueError:
        emit("not this")
    except* Exception as errors:  # noqa: BLE001 - children fail as ExecutionFailed
        emit("errors", [str(e) for e in errors.exceptions])
    return seen


def test_task_groups(world: World) -> None:
    """A group waits for all its tasks, or cancels the others when one fails."""
    assert world.run(groups, bad=False) == [2, 4, 6]
    pid = world.start(groups, bad=True)
    world.settle()
    world.check()
    assert world.result(pid) == [2, 4]
    assert [e.data for e in world.events(pid) if e.type == "errors"] == [["negative: -3"]]
    assert world.clock < BEGIN + 60


@agent_process
async def waits() -> dict[str, Any]:
    tasks = [asyncio.create_task(double(x, x), name=f"t{x}") for x in range(1, 6)]
    done, pending = await asyncio.wait(tasks, timeout=2.5)
    first, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    rest, none = await asyncio.wait(pending)
    order = [t.get_name() for t in rest]
    completed = [await f for f in asyncio.as_completed([double(10, 3), double(20, 1), double(30, 2)])]
    late = []
    try:
        for next_ in asyncio.as_completed([double(1, 1), double(2, 50)], timeout=5):
            late.append(await next_)
    except TimeoutError:
        late.append(-1)
    return {
        "done": sorted(t.result() for t in done),
        "first": [t.result() for t in first],
        "none": len(none),
        "order": order,
        "completed": completed,
        "late": late,
    }


def test_wait_and_as_completed(world: World) -> None:
    """Both return what has ended so far, with timeouts that fire in the process's time."""
    result = world.run(waits)
    assert result["done"] == [2, 4]
    assert result["first"] == [6]
    assert result["none"] == 0
    assert sorted(result["order"]) == ["t3", "t4", "t5"]
    assert result["completed"] == [40, 60, 20]
    assert result["late"] == [2, -1]


@agent_process
async def set_order(n: int) -> list[list[str]]:
    async def quick(x: int) -> int:
        return x

    tasks = [asyncio.create_task(quick(x), name=f"task {x}") for x in range(n)]
    done, _ = await asyncio.wait(tasks)
    started: list[str] = []

    async def noted(x: int) -> None:
        started.append(str(x))

    for waiting in asyncio.as_completed([noted(x) for x in range(n)]):
        await waiting
    futures = {asyncio.get_running_loop().create_future(): x for x in range(n)}
    return [[t.get_name() for t in done], started, [str(futures[f]) for f in set(futures)]]


@agent_process
async def lists_tasks() -> list[str]:
    others = [asyncio.create_task(asyncio.sleep(1), name=name) for name in "abcdefgh"]
    await asyncio.sleep(0)
    found = [t.get_name() for t in asyncio.all_tasks()]
    assert set(found) > {t.get_name() for t in others}
    return found


def test_sets_of_tasks_have_one_order(world: World) -> None:
    """What asyncio keeps in sets comes out in the same order in every fold, wherever its objects lie in memory."""
    for type_, args in ((set_order, (50,)), (lists_tasks, ())):
        pid = world.start(type_, *args)
        world.settle()
        garbage = []
        for _ in range(5):
            garbage += [[object() for _ in range(977)], world.refold(pid)]  # other addresses every time
        first = world.result(pid)
        assert all(p.result_raw == world.processes[pid].result_raw for p in garbage[1::2])
        if type_ is set_order:
            assert first[1] == [str(x) for x in range(50)]


@agent_process
async def times_out() -> list[Any]:
    seen: list[Any] = []
    try:
        await asyncio.wait_for(double(1, 10), 3)
    except TimeoutError:
        seen.append("wait_for")
    seen.append(await asyncio.wait_for(double(1, 1), 3))
    try:
        async with asyncio.timeout(5):
            try:
                async with asyncio.timeout(2):
                    await asyncio.sleep(60)
            except TimeoutError:
                seen.append("inner")
            await asyncio.sleep(60)
    except TimeoutError:
        seen.append("outer")
    async with asyncio.timeout(1) as scope:
        scope.reschedule(asyncio.get_running_loop().time() + 50)
        await asyncio.sleep(40)
    async with asyncio.timeout(None):
        await asyncio.sleep(1)
    try:
        async with asyncio.timeout(0):
            await asyncio.sleep(1)
    except TimeoutError:
        seen.append("at once")
    return seen


def test_timeouts_nest(world: World) -> None:
    """wait_for and timeout fire in the process's time, inner ones first, and end what they waited for."""
    assert world.run(times_out) == ["wait_for", 2, "inner", "outer", "at once"]
    assert [p.status for p in world.of_type("double")] == ["cancelled", "done"]
    assert world.clock == pytest.approx(BEGIN + 3 + 1 + 5 + 40 + 1, abs=0.2)


@agent_process
async def synchronises() -> list[str]:
    log: list[str] = []
    lock, event, condition = asyncio.Lock(), asyncio.Event(), asyncio.Condition()
    few = asyncio.Semaphore(2)
    queue: asyncio.Queue[int] = asyncio.Queue(maxsize=2)
    barrier = asyncio.Barrier(3)
    inside = 0
    ready = False

    async def locked(x: int) -> None:
        nonlocal inside
        async with lock:
            inside += 1
            assert inside == 1
            await sleep(1)
            inside -= 1
            log.append(f"locked {x}")

    async def limited(x: int) -> None:
        async with few:
            await sleep(10 - x)
            log.append(f"limited {x}")

    async def produce() -> None:
        for x in range(4):
            await queue.put(x)
            log.append(f"put {x}")

    async def consume() -> None:
        for _ in range(4):
            await sleep(1)
            log.append(f"got {await queue.get()}")
            queue.task_done()

    async def conditional() -> None:
        async with condition:
            await condition.wait_for(lambda: ready)
            log.append("condition")

    async def meets(x: int) -> None:
        await sleep(x)
        await barrier.wait()
        log.append("met")

    await asyncio.gather(*(locked(x) for x in range(3)))
    await asyncio.gather(*(limited(x) for x in range(3)))
    await asyncio.gather(produce(), consume(), queue.join())
    waiter = asyncio.create_task(event.wait())
    asyncio.get_running_loop().call_later(5, event.set)
    await waiter
    conditions = asyncio.create_task(conditional())
    await sleep(1)
    async with condition:
        ready = True
        condition.notify_all()
    await conditions
    await asyncio.gather(*(meets(x) for x in range(3)))
    return log


def test_locks_queues_events_conditions_barriers(world: World) -> None:
    """They keep their order, and fairness, as on any loop."""
    log = world.run(synchronises)
    assert log[:6] == ["locked 0", "locked 1", "locked 2", "limited 1", "limited 0", "limited 2"]
    assert [x for x in log if x.startswith("got")] == ["got 0", "got 1", "got 2", "got 3"]
    assert log.index("put 2") > log.index("got 0")
    assert log[-4:] == ["condition", "met", "met", "met"]


@agent_process
async def generates() -> list[int]:
    async def numbers(n: int) -> AsyncIterator[int]:
        try:
            for x in range(n):
                await sleep(1)
                yield x
        finally:
            emit("closed")

    seen = [x async for x in numbers(3)]
    async with contextlib.aclosing(numbers(10)) as some:
        async for x in some:
            if x == 1:
                break
            seen.append(x)
    return seen


def test_async_generators(world: World) -> None:
    """They run to their end, or are closed where the body says."""
    pid = world.start(generates)
    world.settle()
    world.check()
    assert world.result(pid) == [0, 1, 2, 0]
    assert world.types(pid) == ["started", "closed", "closed", "done"]


who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


@agent_process
async def has_context() -> list[str]:
    seen = [who.get()]
    who.set("body")

    async def inner(name: str) -> str:
        before = who.get()
        who.set(name)
        await sleep(1)
        return f"{before}>{who.get()}"

    seen += await asyncio.gather(inner("a"), inner("b"))
    later = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(1, lambda: later.set_result(who.get()))
    return [*seen, who.get(), await later]


def test_context_variables(world: World) -> None:
    """A body begins with an empty context, whoever folds it; its tasks inherit its own."""
    token = who.set("the host")
    try:
        assert world.run(has_context) == ["nobody", "body>a", "body>b", "body", "body"]
    finally:
        who.reset(token)


@agent_process
async def cancels() -> list[str]:
    log: list[str] = []

    async def stubborn() -> str:
        try:
            await sleep(100)
        except asyncio.CancelledError:
            log.append("cancelled")
            await sleep(5)  # cleaning up takes its time
            return "cleaned up"
        return "slept"

    async def inner() -> None:
        try:
            await sleep(100)
        finally:
            log.append("inner")

    async def outer() -> None:
        try:
            await inner()
        finally:
            log.append("outer")

    first = asyncio.create_task(stubborn())
    second = asyncio.create_task(outer())
    third = asyncio.create_task(asyncio.sleep(3, "protected"))
    shield = asyncio.shield(third)
    await sleep(1)
    for task in (first, second):
        task.cancel()
    shield.cancel()
    log.append(await first)
    for awaited in (second, shield):
        try:
            await awaited
        except asyncio.CancelledError:
            log.append("raised")
    log.append(await third)
    return log


def test_cancellation_of_tasks(world: World) -> None:
    """finally blocks run from the inside out, a task may take its time, a shielded one goes on."""
    assert world.run(cancels) == ["cancelled", "inner", "outer", "cleaned up", "raised", "raised", "protected"]


@agent_process
async def chance() -> list[Any]:
    own = current_process().random
    return [str(uuid4()), random(), own.randint(1, 10**9), own.sample(range(100), 5), str(now())]


def test_chance_and_clock_replay(world: World) -> None:
    """Random numbers, UUIDs and the clock are the same in every fold, and differ between processes."""
    first, second = world.start(chance), world.start(chance)
    world.settle()
    world.refold(first)
    results = [world.result(first), world.result(second)]
    assert all(a != b for a, b in zip(*(r[:4] for r in results), strict=True))
    assert results[0][4].startswith("2023-11-14 22:13:20.001")


@agent_process
async def replays() -> bool:
    return is_replaying()


def test_a_body_can_tell_that_it_is_replayed(world: World) -> None:
    """is_replaying() is what a body must not base a decision on: here its result differs, and the fold shows it."""
    pid = world.start(replays)
    world.settle()
    assert world.result(pid) is False
    with pytest.raises(AssertionError, match="sends something else"):
        world.refold(pid)


@agent_process
async def sleeps_long() -> float:
    begun = now()
    await sleep(MONTH)
    await asyncio.sleep(0)
    await asyncio.sleep(-5)
    return (now() - begun).total_seconds()


def test_a_month_is_one_message(world: World) -> None:
    """A timer costs one input, however long it is; a sleep of nothing costs none."""
    pid = world.start(sleeps_long)
    world.settle()
    assert world.result(pid) == pytest.approx(MONTH)
    assert len(world.histories[pid]) == 2


@agent_process
async def sleeps_forever(how: float) -> None:
    await asyncio.gather(sleep(how), sleep(1))


def test_timers_that_never_fire(world: World) -> None:
    """Infinity, and whatever lies beyond the year 9999, never comes; NaN is no time."""
    for forever in (float(10**12), 1e300):
        pid = world.start(sleeps_forever, forever)
        world.settle()
        world.check()
        assert not world.processes[pid].ended
        assert not world.processes[pid].timers
    pid = world.start(sleeps_nan)
    world.settle()
    with pytest.raises(Exception, match="NaN"):
        world.result(pid)


@agent_process
async def sleeps_nan() -> None:
    handle = asyncio.create_task(sleep(float("inf")))
    await sleep(1)
    handle.cancel()
    await sleep(float("nan"))


@agent_process
async def names_tasks() -> list[str]:
    named = [asyncio.create_task(asyncio.sleep(0)) for _ in range(2)]
    current = asyncio.current_task()
    assert current is not None
    return [current.get_name(), *(t.get_name() for t in named)]


def test_names_of_tasks_are_the_process_s_own(world: World) -> None:
    """asyncio numbers the tasks of all loops together; a body sees its own numbers."""
    assert world.run(names_tasks) == ["Task-1", "Task-2", "Task-3"]
    assert world.run(names_tasks) == ["Task-1", "Task-2", "Task-3"]


@agent_process
async def awaits_handles() -> list[Any]:
    handles = [spawn(double, x, 5 - x) for x in range(3)]
    return [*(await asyncio.gather(*(h.result() for h in handles))), await handles[0], handles[0].status()]


def test_handles_may_be_awaited_often(world: World) -> None:
    """A result is there for all who ask, and for ever."""
    assert world.run(awaits_handles) == [0, 2, 4, 0, "done"]
