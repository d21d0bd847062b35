"""Events: numbered, replayed to whoever watches, bubbled with their source, taken in order and once."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from fold_world import BEGIN, World
from regrow import (
    EventNotSeen,
    ExecutionFailed,
    NotSendable,
    ProcessHandle,
    agent_process,
    bubble,
    current_process,
    emit,
    expose,
    sleep,
    spawn,
)
from regrow_protocol import messages as m
from regrow_protocol.errors import InvalidName
from regrow_protocol.messages import Ref


@pytest.fixture
def world() -> World:
    return World(__name__)


@agent_process
async def ticker(n: int, every: float = 1.0, fails: bool = False) -> str:
    for x in range(n):
        emit("tick", {"n": x})
        await sleep(every)
    if fails:
        raise ValueError("no more")
    return "ticked"


def test_events_are_numbered(world: World) -> None:
    """seq counts from 1 without a gap, time is the process's clock, only the last one is final."""
    pid = world.start(ticker, 3)
    world.settle()
    events = world.events(pid)
    assert [e.type for e in events] == ["started", "tick", "tick", "tick", "done"]
    assert [e.seq for e in events] == [1, 2, 3, 4, 5]
    assert [e.final for e in events] == [False] * 4 + [True]
    assert [round(e.time - BEGIN) for e in events] == [0, 0, 1, 2, 3]
    assert [e.data for e in events] == [None, {"n": 0}, {"n": 1}, {"n": 2}, "ticked"]
    assert all(e.source is None for e in events)


@agent_process
async def emits_wrongly() -> list[str]:
    seen = []
    for type_, data in [("", 1), ("x" * 129, 1), (5, 1), ("x", object()), ("x", float("nan"))]:
        try:
            emit(type_, data)  # type: ignore[arg-type]
        except (InvalidName, TypeError, NotSendable) as error:
            seen.append(type(error).__name__)
    emit("any name, really: ünï.*>")
    return seen


def test_wrong_events_are_refused_at_the_call(world: World) -> None:
    """A type is a name of 1 to 128 characters, data must be sendable; nothing is numbered for what is refused."""
    pid = world.start(emits_wrongly)
    world.settle()
    assert world.result(pid) == ["InvalidName", "InvalidName", "TypeError", "NotSendable", "NotSendable"]
    assert world.types(pid) == ["started", "any name, really: ünï.*>", "done"]
    assert [n for _, _, n, _ in world.sent(pid)] == [1, 2, 3]


@agent_process
async def watches() -> list[Any]:
    handle = spawn(ticker, 3)
    events = handle.events
    first = [e.type async for e in events]
    again = [e.seq async for e in handle.events]
    found = await events.listen_for("tick", where=lambda e: e.data["n"] == 1)
    some = [e.data async for e in events if e.type == "tick"]
    return [first, again, found.data, some, len(events), handle.status()]


def test_events_of_a_child(world: World) -> None:
    """They come from the first one, as often as one iterates, and end with the child."""
    pid = world.start(watches)
    world.settle()
    world.check()
    types = ["started", "tick", "tick", "tick", "done"]
    assert world.result(pid) == [types, [1, 2, 3, 4, 5], {"n": 1}, [{"n": 0}, {"n": 1}, {"n": 2}], 5, "done"]
    (child,) = world.of_type("ticker")
    assert not any(isinstance(i, m.Watch) for i in world.inputs(child.pid)), "its start says that it is watched"


@agent_process
async def unwatched() -> str:
    return await ticker(50)


def test_nobody_pays_for_events_that_nobody_watches(world: World) -> None:
    """A parent that does not look at its child's events gets none."""
    pid = world.start(unwatched)
    world.settle()
    assert [type(i) for i in world.inputs(pid)] == [m.Start, m.Child]


@agent_process
async def listens(replay: bool) -> list[Any]:
    handle = spawn(ticker, 5, 10.0)
    await sleep(25)
    events = handle.events  # asked for only now
    seen: list[Any] = [(await events.listen_for("tick", replay=replay, timeout=100)).data["n"]]
    try:
        await events.listen_for("nothing", timeout=3, replay=replay)
    except TimeoutError:
        seen.append("timeout")
    try:
        await events.listen_for("tick", where=lambda e: e.data["n"] == 99)
    except EventNotSeen as error:
        seen.append(error.code)
    seen.append((await events.listen_for("done")).data)
    return seen


def test_listen_for(world: World) -> None:
    """It finds past events or only new ones, stops at its timeout, and says when the process ended without."""
    assert world.run(listens, replay=True) == [0, "timeout", "event-not-seen", "ticked"]
    assert world.run(listens, replay=False) == [3, "timeout", "event-not-seen", "ticked"]


@agent_process
async def subscribes() -> dict[str, list[Any]]:
    seen: dict[str, list[Any]] = {"all": [], "late": [], "new": [], "bad": [], "scope": [], "stopped": []}
    handle = spawn(ticker, 4)

    def bad(event: Any) -> None:
        seen["bad"].append(event.seq)
        raise RuntimeError("callback")

    def in_scope(event: Any) -> None:
        emit("saw", event.seq)
        seen["scope"].append(current_process().pid)
        if event.seq == 2:
            spawn(ticker, 0)

    def twice(event: Any) -> None:
        seen["stopped"].append(event.seq)
        if event.seq == 3:
            stop()
            stop()

    handle.events.subscribe(bad)
    handle.events.subscribe(lambda e: seen["all"].append(e.seq))
    handle.events.subscribe(in_scope)
    stop = handle.events.subscribe(twice)
    await sleep(2.5)
    handle.events.subscribe(lambda e: seen["late"].append(e.seq))
    handle.events.subscribe(lambda e: seen["new"].append(e.seq), replay=False)
    await handle
    await sleep(0)
    return seen


def test_subscriptions(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A callback runs in the scope of its process and may use it; one that raises is logged, and harms nobody."""
    pid = world.start(subscribes)
    with caplog.at_level(logging.WARNING):
        world.settle()
    seen = world.result(pid)
    every = [1, 2, 3, 4, 5, 6]
    assert seen["all"] == seen["late"] == seen["bad"] == every
    assert seen["new"] == [5, 6]
    assert seen["stopped"] == [1, 2, 3]
    assert set(seen["scope"]) == {pid}
    assert [e.data for e in world.events(pid) if e.type == "saw"] == every
    assert caplog.text.count("RuntimeError: callback") == 6
    assert len(world.of_type("ticker")) == 2
    world.check()


# Watching others' processes -------------------------------------------------------------------------------------------


@agent_process
async def onlooker(handle: ProcessHandle, wait: float) -> list[Any]:
    await sleep(wait)
    seen = [[e.seq, e.type] async for e in handle.events]
    try:
        result = await handle
    except ExecutionFailed as error:
        result = [error.reason, error.error, error.pid == handle.pid, error.retryable]
    return [seen, result, handle.status()]


@agent_process
async def stage(fails: bool) -> list[Any]:
    handle = spawn(ticker, 2, fails=fails)
    try:
        return await asyncio.gather(*(onlooker(handle, wait) for wait in (0.0, 1.5, 1000.0)))
    finally:
        assert handle.status() in ("done", "failed")


@pytest.mark.parametrize("fails", [False, True])
def test_late_watchers_see_everything(world: World, fails: bool) -> None:
    """Whoever has a handle may watch and await: early, in the middle, or long after the end."""
    results = world.run(stage, fails)
    end = "failed" if fails else "done"
    for seen, result, status in results:
        assert seen == [[1, "started"], [2, "tick"], [3, "tick"], [4, end]]
        assert result == (["no more", "ValueError", True, True] if fails else "ticked")
        assert status == end


def test_a_repeated_watch_is_taken_once(world: World) -> None:
    """The same watcher is not sent everything twice; `after` leaves out what it knows."""
    pid = world.start(ticker, 2)
    world.settle()
    watcher = Ref("p_watcher", 0, 7)
    for k in (0, 0, 0):
        world.send(pid, m.Watch(by=watcher, k=k))
    world.send(pid, m.Watch(by=Ref("p_other", 0, 1), after=3))
    world.settle()
    forwarded = [m.decode_input(b) for _, t, _, b in world.sent(pid) if t == "p_watcher"]
    assert [e.event.seq for e in forwarded if isinstance(e, m.Event)] == [1, 2, 3, 4]
    others = [m.decode_input(b) for _, t, _, b in world.sent(pid) if t == "p_other"]
    assert [e.event.seq for e in others if isinstance(e, m.Event)] == [4]
    world.check()


@agent_process
async def counts() -> list[int]:
    handle = spawn(ticker, 3)
    return [e.seq async for e in handle.events]


def test_events_that_come_twice_or_early(world: World) -> None:
    """A repeat is dropped; one that overtook another is held until that has come."""
    pid = world.start(counts)
    while not any(p.start and p.start.type == "ticker" for p in world.processes.values()):
        world.deliver()
    world.settle()
    inputs = world.histories[pid]
    world.processes[pid].leave()
    del world.processes[pid], world.histories[pid]
    events = [m.decode_input(t.message) for t in inputs if b'"kind":"event"' in t.message]
    start, child = m.decode_input(inputs[0].message), m.decode_input(inputs[-1].message)
    for message in (start, *reversed(events), *events, child, child):
        world.send(pid, message)
    world.settle()
    assert world.result(pid) == [1, 2, 3, 4, 5]


# Bubbling -------------------------------------------------------------------------------------------------------------


@agent_process
async def leaf(name: str) -> str:
    emit("leaf", name)
    await sleep(1)
    emit("leaf", f"{name} again")
    return name


@agent_process
async def middle(name: str) -> str:
    handle = spawn(leaf, name)
    bubble(handle, source=f"leaf {name}")
    emit("own", name)
    return await handle


@agent_process
async def top() -> list[str]:
    handles = [spawn(middle, name) for name in "ab"]
    for handle in handles:
        bubble(handle, source="middle")
    return [await handle for handle in handles]


def test_bubbled_events_keep_their_deepest_source(world: World) -> None:
    """Events rise level by level; the source is set once, by whoever bubbled them first."""
    pid = world.start(top)
    world.settle()
    world.check()
    seen = [(e.type, e.data, e.source) for e in world.events(pid)]
    for name in "ab":
        assert ("leaf", name, f"leaf {name}") in seen
        assert ("leaf", f"{name} again", f"leaf {name}") in seen
        assert ("done", name, f"leaf {name}") in seen
        assert ("own", name, "middle") in seen
        assert ("done", name, "middle") in seen
    assert seen[-1] == ("done", ["a", "b"], None)
    assert [e.final for e in world.events(pid)].count(True) == 1
    assert [e.seq for e in world.events(pid)] == list(range(1, len(seen) + 1))


@agent_process
async def bubbles_for_a_while() -> str:
    handle = spawn(ticker, 5)
    stop = bubble(handle)
    await sleep(2.5)
    stop()
    stop()
    return await handle


def test_bubbling_ends_when_asked(world: World) -> None:
    """bubble returns what ends it; a second call does nothing."""
    pid = world.start(bubbles_for_a_while)
    world.settle()
    world.check()
    assert world.types(pid) == ["started", "started", "tick", "tick", "tick", "done"]


@agent_process
async def bubbles_itself() -> str:
    try:
        bubble(current_process().handle)
    except ValueError as error:
        return str(error)
    return "accepted"


def test_a_process_cannot_bubble_itself(world: World) -> None:
    """It would never end."""
    assert "its own events" in world.run(bubbles_itself)


@agent_process
async def watches_itself() -> list[str]:
    seen: list[str] = []
    current_process().handle.events.subscribe(lambda e: seen.append(e.type))
    emit("one")
    await sleep(1)
    return seen


def test_a_process_may_watch_itself(world: World) -> None:
    """It gets its own events as any other watcher does."""
    assert world.run(watches_itself) == ["started", "one"]


@agent_process
async def cancelled_while_listening() -> list[str]:
    handle = spawn(ticker, 100)

    @expose
    async def wait_for_it() -> str:
        return (await handle.events.listen_for("done")).data

    seen = []
    for _ in range(30):
        try:
            await handle.events.listen_for("nothing", timeout=0.5)
        except TimeoutError:
            seen.append("timeout")
    assert len(handle.events._feed._waiters) < 5
    seen.append(await current_process().handle.call("wait_for_it"))
    return seen[-2:]


def test_many_listeners_come_and_go(world: World) -> None:
    """Listeners that gave up leave nothing behind, and lose nobody's wake-up."""
    assert world.run(cancelled_while_listening) == ["timeout", "ticked"]
