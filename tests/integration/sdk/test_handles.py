"""What a handle offers: it is there at once, tells the pid, the events and the outcome, cancels, and travels."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from regrow import (
    Event,
    EventNotSeen,
    ExecutionFailed,
    ProcessHandle,
    ProcessNotFound,
    agent_process,
    current_process,
    emit,
    expose,
    link,
    monitor,
    now,
    sleep,
    spawn,
    wait,
)
from regrow.testing import Runtime
from regrow_protocol import ids


@agent_process
async def counts(up_to: int) -> int:
    for n in range(1, up_to + 1):
        emit("count", n)
        await sleep(1)
    return up_to


@agent_process
async def fails_after(seconds: float) -> None:
    await sleep(seconds)
    raise RuntimeError("as expected")


@agent_process
async def never_ends() -> None:
    await asyncio.Event().wait()


@agent_process
async def spawns_at_once() -> list[Any]:
    before = now()
    handles = [spawn(counts, 1000) for _ in range(3)]
    return [
        now() == before,
        len({h.pid for h in handles}),
        [h.status() for h in handles],
        isinstance(handles[0].pid, str),
    ]


async def test_spawn_returns_at_once_with_a_pid_of_its_own(rt: Runtime) -> None:
    """spawn does not wait for the child: each handle has its own pid and the child counts as running."""
    assert await rt.run(spawns_at_once) == [True, 3, ["running"] * 3, True]


@agent_process
async def compares_pids() -> bool:
    handle = spawn(tells_its_pid)
    return (await handle) == handle.pid


@agent_process
async def tells_its_pid() -> str:
    return current_process().pid


async def test_the_pid_of_a_handle_is_the_childs_own(rt: Runtime) -> None:
    """handle.pid is what current_process().pid says inside the child."""
    assert await rt.run(compares_pids)


@agent_process
async def lists_events(late: bool) -> list[list[Any]]:
    handle = spawn(counts, 3)
    if late:
        await handle
    found = [[e.seq, e.type, e.data] async for e in handle.events]
    again = [[e.seq, e.type, e.data] async for e in handle.events]
    assert found == again, "a second iteration gives the same"
    return found


COUNTED = [[1, "started", None], [2, "count", 1], [3, "count", 2], [4, "count", 3], [5, "done", 3]]


async def test_events_iterate_from_the_first_and_end_with_the_process(rt: Runtime) -> None:
    """handle.events yields every event in order and ends after the last, as often as it is iterated."""
    assert await rt.run(lists_events, late=False) == COUNTED


async def test_events_of_a_process_that_has_ended_replay_from_the_first(rt: Runtime) -> None:
    """handle.events asked for after the child's end still begins with `started`."""
    assert await rt.run(lists_events, late=True) == COUNTED


@agent_process
async def listens() -> list[Any]:
    handle = spawn(counts, 4)
    found: list[Any] = [(await handle.events.listen_for("count")).data]
    found.append((await handle.events.listen_for("count", where=lambda e: e.data >= 3)).data)
    found.append((await handle.events.listen_for("count", replay=False)).data)
    found.append((await handle.events.listen_for("count")).data)
    try:
        await handle.events.listen_for("count", where=lambda e: e.data == 1, replay=False)
    except EventNotSeen as error:
        found.append(type(error).__name__)
    return found


async def test_listen_for_looks_for_a_type_with_a_condition_in_the_past_or_not(rt: Runtime) -> None:
    """listen_for gives the first event that fits `where`, past ones with replay, and fails at the end without one."""
    assert await rt.run(listens) == [1, 3, 4, 1, "EventNotSeen"]


@agent_process
async def listens_in_vain() -> list[Any]:
    handle = spawn(never_ends)
    before = now()
    try:
        await handle.events.listen_for("news", timeout=3600)
    except TimeoutError:
        return ["TimeoutError", (now() - before).total_seconds() >= 3600]
    return []


async def test_listen_for_ends_with_timeout_error_after_its_timeout(rt: Runtime) -> None:
    """listen_for(timeout=) raises TimeoutError when so many seconds passed without the event."""
    assert await rt.run(listens_in_vain) == ["TimeoutError", True]


@agent_process
async def subscribes() -> list[list[Any]]:
    handle = spawn(counts, 4)
    everything: list[Any] = []
    first_two: list[Any] = []
    from_now: list[Any] = []

    def take_two(event: Event) -> None:
        first_two.append(event.type)
        if len(first_two) == 2:
            unsubscribe()

    handle.events.subscribe(lambda event: everything.append(event.seq))
    unsubscribe = handle.events.subscribe(take_two)
    await handle.events.listen_for("count", where=lambda e: e.data == 2)
    handle.events.subscribe(lambda event: from_now.append(event.data), replay=False)
    await handle
    await handle.events.listen_for("done")
    await asyncio.sleep(0)
    return [everything, first_two, from_now]


async def test_subscribe_calls_back_for_every_event_until_unsubscribed(rt: Runtime) -> None:
    """A subscription gets all events in order, with replay=False the later ones only, and none after unsubscribing."""
    everything, first_two, from_now = await rt.run(subscribes)
    assert everything == [1, 2, 3, 4, 5, 6]
    assert first_two == ["started", "count"]
    assert from_now[-3:] == [3, 4, 4]
    assert 1 not in from_now


@agent_process
async def emits_in_a_callback() -> str:
    handle = spawn(counts, 2)
    handle.events.subscribe(lambda event: emit("heard", event.type))
    await handle
    return current_process().pid


async def test_a_callback_runs_in_the_scope_of_who_subscribed(rt: Runtime) -> None:
    """What a subscription's callback emits is an event of the process that subscribed."""
    root = await rt.start(emits_in_a_callback)
    assert await root.result(30) == root.pid
    heard = [e.data async for e in root.events() if e.type == "heard"]
    assert heard[:3] == ["started", "count", "count"]


@agent_process
async def results_twice() -> list[Any]:
    handle = spawn(counts, 2)
    good = [await handle.result(), await handle, await asyncio.gather(handle.result(), handle.result())]
    bad = spawn(fails_after, 5)
    for _ in range(2):
        try:
            await bad.result()
        except ExecutionFailed as error:
            good.append(error.reason)
    return good


async def test_result_and_await_may_be_asked_for_again_and_again(rt: Runtime) -> None:
    """await handle and handle.result() give the same result, or failure, each time and side by side."""
    assert await rt.run(results_twice) == [2, 2, [2, 2], "as expected", "as expected"]


@agent_process
async def watches_statuses() -> list[str]:
    good, bad, stopped = spawn(counts, 1), spawn(fails_after, 1), spawn(never_ends)
    before = [good.status(), bad.status(), stopped.status()]
    stopped.cancel()
    await asyncio.gather(good, bad, stopped, return_exceptions=True)
    return [*before, good.status(), bad.status(), stopped.status()]


async def test_status_is_running_then_done_failed_or_cancelled(rt: Runtime) -> None:
    """handle.status() says running until the end, then how it ended."""
    assert await rt.run(watches_statuses) == ["running"] * 3 + ["done", "failed", "cancelled"]


@agent_process
async def abandons_a_wait() -> int:
    handle = spawn(counts, 10)
    try:
        await asyncio.wait_for(handle.result(), 2)
    except TimeoutError:
        return await handle
    return -1


async def test_giving_up_waiting_for_a_handle_leaves_the_process_alone(rt: Runtime) -> None:
    """A timeout while awaiting a spawned process does not cancel it: it can be awaited later."""
    assert await rt.run(abandons_a_wait) == 10


@agent_process
async def awaits_another(handle: ProcessHandle) -> list[Any]:
    events = [event.type async for event in handle.events]
    try:
        result = await handle
    except ExecutionFailed as error:
        result = f"{error.reason} {error.pid == handle.pid}"
    return [result, handle.status(), events]


@agent_process
async def passes_handles() -> list[Any]:
    running, bad, ended = spawn(counts, 2), spawn(fails_after, 9), spawn(counts, 1)
    await ended
    return list(await asyncio.gather(awaits_another(running), awaits_another(bad), awaits_another(ended)))


async def test_a_handle_passed_to_another_process_can_be_awaited_and_watched_there(rt: Runtime) -> None:
    """A process that got a handle as an argument sees events, result, failure and status of that process."""
    assert await rt.run(passes_handles) == [
        [2, "done", ["started", "count", "count", "done"]],
        ["as expected True", "failed", ["started", "failed"]],
        [1, "done", ["started", "count", "done"]],
    ]


@agent_process
async def ping_pong_owner() -> str:
    @expose
    async def greet(name: str) -> str:
        return f"hello {name}"

    await wait()
    return "never"


@agent_process
async def uses_another(handle: ProcessHandle) -> str:
    answer = await handle.call("greet", name="sibling")
    handle.cancel("done with it")
    return str(answer)


@agent_process
async def lends_a_handle() -> list[str]:
    handle = spawn(ping_pong_owner)
    answer = await uses_another(handle)
    try:
        await handle
    except ExecutionFailed as error:
        return [answer, error.reason, handle.status()]
    return []


async def test_a_handle_passed_to_another_process_can_be_called_and_cancelled_there(rt: Runtime) -> None:
    """Who holds a handle may call and cancel the process, not only its parent."""
    assert await rt.run(lends_a_handle) == ["hello sibling", "done with it", "cancelled"]


@agent_process
async def uses_sets_of_handles() -> list[int]:
    handles = {spawn(counts, n): n for n in (1, 2)}
    same = ProcessHandle(next(iter(handles)).pid)
    return [len(handles), handles[same], len({same, *handles})]


async def test_handles_of_the_same_process_are_equal(rt: Runtime) -> None:
    """Handles compare and hash by pid."""
    assert await rt.run(uses_sets_of_handles) == [2, 1, 2]


@agent_process
async def asks_for(pid: str) -> list[Any]:
    down = await monitor(pid)
    reason: Any = None
    try:
        await ProcessHandle(pid).call("anything", wait=True)
    except ProcessNotFound as error:
        reason = error.code
    return [down.status, down.failure.error if down.failure else "", down.failure and down.failure.retryable, reason]


@agent_process
async def linked_to(pid: str) -> None:
    link(ProcessHandle(pid))
    await wait()


async def test_a_process_that_never_was(rt: Runtime) -> None:
    """A monitor of it, a link to it, and whoever calls it hear so at once, as in Erlang (`noproc`)."""
    nobody = ids.new_id(ids.PROCESS)
    told = await rt.run(asks_for, nobody)
    assert told == ["failed", "ProcessNotFound", False, "process-not-found"]
    with pytest.raises(ExecutionFailed, match=f"{nobody} failed: There is no process {nobody}"):
        await rt.run(linked_to, nobody)
    with pytest.raises(ProcessNotFound):
        await rt.client.call(rt.app, nobody, "anything", {})
    await rt.kill_host()
    assert await rt.run(asks_for, nobody) == told
