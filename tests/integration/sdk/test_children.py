"""A process awaits others: as calls, in groups, with limits of time; their failures reach whoever waits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from regrow import (
    ExecutionCancelled,
    ExecutionFailed,
    ProcessHandle,
    agent_process,
    emit,
    fail,
    sleep,
    spawn,
    wait,
)
from regrow.testing import Runtime

from .looking import finals, records, until


@agent_process
async def doubled(x: int) -> int:
    return 2 * x


@agent_process
async def slow_double(x: int, seconds: float) -> int:
    await sleep(seconds)
    return 2 * x


@agent_process
async def breaks(text: str) -> None:
    raise LookupError(text)


@agent_process
async def gives_up() -> None:
    fail("not today", retryable=False)
    await wait()


@agent_process
async def sleeps_for_ever() -> None:
    await asyncio.Event().wait()


@agent_process
async def asks_for_quadruple(x: int) -> int:
    return await doubled(await doubled(x))


async def test_awaiting_a_process_inside_another_returns_its_result(rt: Runtime) -> None:
    """A process called in a body runs as a child, and its result is that of the call."""
    assert await rt.run(asks_for_quadruple, 10) == 40


@agent_process
async def gathers(numbers: list[int]) -> list[int]:
    return list(await asyncio.gather(*(slow_double(n, 10.0 - n) for n in numbers)))


async def test_gather_returns_the_results_in_the_order_of_its_arguments(rt: Runtime) -> None:
    """asyncio.gather runs children side by side and keeps the order, whichever ends first."""
    assert await rt.run(gathers, [1, 2, 3, 4]) == [2, 4, 6, 8]


@agent_process
async def gathers_errors() -> list[str]:
    results = await asyncio.gather(doubled(1), breaks("no"), doubled(2), return_exceptions=True)
    return [f"{type(r).__name__}: {r}" if isinstance(r, BaseException) else str(r) for r in results]


async def test_gather_with_return_exceptions_gives_failures_as_values(rt: Runtime) -> None:
    """A child's failure stands at its place in the results of gather(return_exceptions=True)."""
    assert await rt.run(gathers_errors) == ["2", "ExecutionFailed: no", "4"]


@agent_process
async def groups() -> list[int]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(doubled(n)) for n in range(3)]
    return [task.result() for task in tasks]


async def test_a_task_group_runs_children(rt: Runtime) -> None:
    """Children may be tasks of an asyncio.TaskGroup."""
    assert await rt.run(groups) == [0, 2, 4]


@agent_process
async def group_with_a_failure() -> list[str]:
    handle = spawn(sleeps_for_ever)
    found: list[str] = []
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(sleeps_for_ever())
            group.create_task(handle.result())
            group.create_task(breaks("one bad"))
    except* ExecutionFailed as errors:
        found = [str(error) for error in errors.exceptions]
    return found


async def test_a_failing_child_ends_its_task_group(rt: Runtime) -> None:
    """The failure of one child cancels the other tasks of its group and is raised by the group."""
    assert await rt.run(group_with_a_failure) == ["one bad"]


@agent_process
async def waits_for_the_first() -> list[int]:
    tasks = [asyncio.create_task(slow_double(n, n * 3600.0)) for n in (1, 2, 3)]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    counts = [len(done), len(pending)]
    rest, none = await asyncio.wait(pending, return_when=asyncio.ALL_COMPLETED)
    return [*counts, len(rest), len(none), *sorted(task.result() for task in tasks)]


async def test_wait_tells_the_first_and_then_all(rt: Runtime) -> None:
    """asyncio.wait returns with the first child that ends, and with all of them when asked."""
    assert await rt.run(waits_for_the_first) == [1, 2, 2, 0, 2, 4, 6]


@agent_process
async def takes_them_as_they_come() -> list[int]:
    return [await result for result in asyncio.as_completed([slow_double(n, 100.0 - n) for n in (1, 2, 3)])]


async def test_as_completed_gives_children_in_the_order_they_end(rt: Runtime) -> None:
    """asyncio.as_completed yields the child that ends first first."""
    assert await rt.run(takes_them_as_they_come) == [6, 4, 2]


@agent_process
async def waits_for_a_while() -> list[str]:
    lines: list[str] = [str(await asyncio.wait_for(slow_double(4, 5), 60))]
    try:
        await asyncio.wait_for(sleeps_for_ever(), 60)
    except TimeoutError:
        lines.append("wait_for")
    try:
        async with asyncio.timeout(60):
            await sleeps_for_ever()
    except TimeoutError:
        lines.append("timeout")
    return lines


async def test_wait_for_and_timeout_limit_a_child(rt: Runtime) -> None:
    """asyncio.wait_for and asyncio.timeout let a child in time pass and end the wait for one that is late."""
    assert await rt.run(waits_for_a_while) == ["8", "wait_for", "timeout"]


@agent_process
async def reports_the_cancelled_child() -> str:
    try:
        await asyncio.wait_for(announces_its_cancellation(), 1)
    except TimeoutError:
        emit("timed out")
    return "over"


@agent_process
async def announces_its_cancellation() -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        emit("told to stop")
        raise


async def test_a_call_that_times_out_cancels_its_child(rt: Runtime) -> None:
    """A child that was called, not spawned, is cancelled with the task that called it, before its parent ends."""
    root = await rt.start(reports_the_cancelled_child)
    assert await root.result() == "over"
    assert [(r.pid == root.pid, r.type) for r in await records(rt) if r.type != "started"] == [
        (True, "timed out"),
        (False, "told to stop"),
        (False, "cancelled"),
        (True, "done"),
    ]


@agent_process
async def describes_failures() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for handle in (spawn(breaks, "no such thing"), spawn(breaks, ""), spawn(gives_up)):
        try:
            await handle
        except ExecutionFailed as error:
            found.append(
                {
                    "reason": error.reason,
                    "error": error.error,
                    "own pid": error.pid == handle.pid,
                    "retryable": error.retryable,
                    "status": handle.status(),
                }
            )
    return found


async def test_a_failed_child_raises_execution_failed_with_reason_error_and_pid(rt: Runtime) -> None:
    """Awaiting a failed child raises ExecutionFailed that tells the text (or else the class's name), class and pid."""
    assert await rt.run(describes_failures) == [
        {"reason": "no such thing", "error": "LookupError", "own pid": True, "retryable": True, "status": "failed"},
        {"reason": "LookupError", "error": "LookupError", "own pid": True, "retryable": True, "status": "failed"},
        {
            "reason": "not today",
            "error": "ExecutionFailed",
            "own pid": True,
            "retryable": False,
            "status": "failed",
        },
    ]


@agent_process
async def lets_a_failure_pass() -> None:
    await breaks("deep down")


async def test_a_failure_that_nobody_handles_climbs_to_the_root(rt: Runtime) -> None:
    """A child's failure that its parent does not handle fails the parent with the same reason."""
    with pytest.raises(ExecutionFailed, match="deep down") as caught:
        await rt.run(lets_a_failure_pass)
    assert caught.value.reason == "deep down"


@agent_process
async def cancels_a_child() -> list[str]:
    handle = spawn(sleeps_for_ever)
    handle.cancel("enough")
    try:
        await handle
    except ExecutionCancelled as error:
        return [error.reason, str(error.pid == handle.pid), handle.status()]
    return []


async def test_a_cancelled_child_raises_execution_cancelled_to_its_parent(rt: Runtime) -> None:
    """Awaiting a child that was cancelled raises ExecutionCancelled, an ExecutionFailed, with the reason given."""
    assert issubclass(ExecutionCancelled, ExecutionFailed)
    assert await rt.run(cancels_a_child) == ["enough", "True", "cancelled"]


@agent_process
async def grandparent() -> None:
    await parent_of_one()


@agent_process
async def parent_of_one() -> None:
    emit("child", spawn(sleeps_for_ever))
    await asyncio.Event().wait()


async def test_cancelling_a_root_ends_its_tree_children_first(rt: Runtime) -> None:
    """Cancelling a root cancels all below it, and each process ends only after its children."""
    root = await rt.start(grandparent)

    async def started() -> bool:
        return sum(record.type == "started" for record in await records(rt)) == 3

    await until(started, "the start of all three")
    await root.cancel("stop all")
    with pytest.raises(ExecutionCancelled):
        await root.result(30)
    ends = await finals(rt)
    assert [type_ for _, type_ in ends] == ["cancelled"] * 3
    assert ends[-1][0] == root.pid, "the root is the last to end"


@agent_process
async def leaves_children_behind() -> str:
    spawn(sleeps_for_ever)
    spawn(sleeps_for_ever)
    return "left"


async def test_children_that_nobody_awaits_end_with_their_parent(rt: Runtime) -> None:
    """A process that ends takes the children it left behind with it, before its own end is announced."""
    root = await rt.start(leaves_children_behind)
    assert await root.result(30) == "left"
    ends = await finals(rt)
    assert [type_ for _, type_ in ends] == ["cancelled", "cancelled", "done"]
    assert ends[-1][0] == root.pid


@agent_process
async def cleans_up_with_a_child() -> int:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        emit("cleaned", await doubled(21))
        raise
    return 0


async def test_a_cancelled_body_may_still_run_children_to_clean_up(rt: Runtime) -> None:
    """A body that handles its cancellation may await a new child before it ends."""
    root = await rt.start(cleans_up_with_a_child)
    async for event in root.events():
        if event.type == "started":
            await root.cancel()
    events = {event.type: event.data async for event in root.events()}
    assert events["cleaned"] == 42
    assert "cancelled" in events


@agent_process
async def uses_primitives() -> list[str]:
    lock, queue, ready, turns = asyncio.Lock(), asyncio.Queue[int](maxsize=1), asyncio.Event(), asyncio.Semaphore(2)
    order: list[str] = []

    async def produce() -> None:
        for n in range(3):
            await queue.put(await doubled(n))
        ready.set()

    async def locked(name: str, seconds: float) -> None:
        async with lock:
            order.append(f"{name} in")
            await sleep(seconds)
            order.append(f"{name} out")

    async def limited(n: int) -> int:
        async with turns:
            return await slow_double(n, 1)

    producer = asyncio.create_task(produce())
    taken = [await queue.get() for _ in range(3)]
    await ready.wait()
    await producer
    await asyncio.gather(locked("a", 5), locked("b", 1))
    doubles = await asyncio.gather(*(limited(n) for n in range(5)))
    return [*order, str(taken), str(doubles)]


async def test_locks_queues_events_and_semaphores_of_asyncio_work(rt: Runtime) -> None:
    """asyncio's own primitives work between the tasks of a body, with children and timers inside them."""
    assert await rt.run(uses_primitives) == ["a in", "a out", "b in", "b out", "[0, 2, 4]", "[0, 2, 4, 6, 8]"]


@agent_process
async def holds_many(n: int) -> int:
    handles: list[ProcessHandle] = [spawn(doubled, i) for i in range(n)]
    return sum([await handle for handle in handles])


async def test_many_children_at_once(rt: Runtime) -> None:
    """A hundred children started in one turn all end, each with its own result."""
    assert await rt.run(holds_many, 100) == 9900
