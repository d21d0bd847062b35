"""Limits of a process: time, progress, and how much may be asked of it."""

from __future__ import annotations

from typing import Any

import pytest
from fold_world import World
from regrow import (
    Backoff,
    ExecutionFailed,
    Overloaded,
    agent_process,
    emit,
    expose,
    receive,
    sleep,
    spawn,
    step,
    wait,
)
from regrow.codec import to_raw
from regrow_protocol import messages as m


@pytest.fixture
def world() -> World:
    return World(__name__)


@agent_process(timeout=10, deadline=25)
async def never_done() -> None:
    await wait()


@agent_process
async def retries() -> None:
    await spawn(never_done, restart="permanent", backoff=Backoff(initial=1.0, factor=1.0, max=1.0, jitter=0.0))


def test_a_timeout_is_of_one_incarnation_and_a_deadline_of_the_whole_run(world: World) -> None:
    """Timed out twice, it is started again; the deadline ends it for good."""
    pid = world.start(retries)
    world.settle()
    with pytest.raises(ExecutionFailed, match="its deadline of 25 s is over"):
        world.result(pid)
    (child,) = world.of_type("never_done")
    events = world.events(child.id)
    assert [event.type for event in events] == ["started", "restarted", "restarted", "failed"]
    assert [event.data["code"] for event in events[1:]] == ["timeout", "timeout", "deadline"]
    assert events[-1].time - events[0].time == pytest.approx(25, abs=0.1)
    world.check()


def work() -> int:
    return 1


@agent_process(stall_after=60)
async def may_stall() -> str:
    await receive("go")
    await sleep(50)
    await sleep(50)
    await step(work)
    return "done"


def test_a_process_that_makes_no_progress_says_so(world: World) -> None:
    """Each `stall_after` seconds without an input, with what it waits for; progress starts the time anew."""
    world.hold = lambda name: name == "work"
    pid = world.start(may_stall)
    world.settle(timers=False)
    world.settle(until=world.clock + 130)
    stalled = [e.data for e in world.events(pid) if e.type == "stalled"]
    assert [data["pending"] for data in stalled] == [["receive go"]] * 2
    assert stalled[0]["seconds"] == pytest.approx(60, abs=0.01)
    world.send(pid, m.Signal(name="go", data=to_raw(None)))
    world.settle(until=world.clock + 110)
    assert len([e for e in world.events(pid) if e.type == "stalled"]) == 2
    world.settle(until=world.clock + 60)
    assert world.events(pid)[-1].data["pending"] == ["step work"]
    world.answer(pid, next(iter(world.processes[pid].steps)))
    world.settle()
    assert world.result(pid) == "done"
    assert world.types(pid)[-1] == "done"
    world.check()


@agent_process(max_pending_calls=2, max_children=1, max_inbox=2)
async def small() -> list[Any]:
    @expose
    async def slow() -> str:
        await sleep(10)
        return "slept"

    @expose
    async def more() -> str:
        return spawn(sleeper).pid

    return [await receive("end"), await receive("end")]


@agent_process
async def sleeper() -> None:
    await sleep(100)


def test_calls_beyond_a_limit_are_overloaded(world: World) -> None:
    """The caller is told to come again; the process announces it once, until it has had room again."""
    pid = world.start(small)
    world.settle(timers=False)
    slow = [world.call(pid, "slow") for _ in range(4)]
    world.settle(timers=False)
    for refused in slow[2:]:
        with pytest.raises(Overloaded, match="max_pending_calls=2"):
            world.answer_of(refused)
    assert [e.data for e in world.events(pid) if e.type == "overloaded"] == [{"limit": "max_pending_calls", "most": 2}]
    world.settle(until=world.clock + 11)
    assert [world.answer_of(served) for served in slow[:2]] == ["slept", "slept"]
    again = [world.call(pid, "slow") for _ in range(3)]
    world.settle(timers=False)
    with pytest.raises(Overloaded):
        world.answer_of(again[2])
    assert world.types(pid).count("overloaded") == 2
    world.check()


def test_children_beyond_a_limit_are_overloaded(world: World) -> None:
    """`spawn` raises; through an endpoint it is the caller's error."""
    pid = world.start(small)
    world.settle(timers=False)
    assert world.ask(pid, "more").startswith("p_")
    with pytest.raises(Overloaded, match="max_children=1"):
        world.ask(pid, "more")
    assert len(world.of_type("sleeper")) == 1
    world.check()


def test_what_waits_beyond_a_limit_is_refused(world: World) -> None:
    """Calls that wait for their endpoint are answered, signals that nobody reads are dropped."""
    pid = world.start(small)
    world.settle(timers=False)
    world.send(pid, m.Signal(name="later", data=to_raw(1), client="c_2", k=1))
    world.send(pid, m.Signal(name="later", data=to_raw(2), client="c_2", k=2))
    world.send(pid, m.Signal(name="later", data=to_raw(3), client="c_2", k=3))
    waits = world.call(pid, "unknown", wait=True)
    world.settle(timers=False)
    with pytest.raises(Overloaded, match="max_inbox=2"):
        world.answer_of(waits)
    assert len(world.processes[pid].mailbox.unread) == 2
    for k in (4, 5):
        world.send(pid, m.Signal(name="end", data=to_raw(k), client="c_2", k=k))
    world.settle()
    assert world.result(pid) == [4, 5]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"timeout": 0}, "timeout must be positive"),
        ({"deadline": -1}, "deadline must be positive"),
        ({"stall_after": 0}, "stall_after must be positive"),
        ({"max_children": -1}, "max_children must not be negative"),
        ({"resume": "never"}, "resume must be"),
        ({"patience": 3}, "has no option 'patience'"),
    ],
)
def test_options_are_checked_where_they_are_written(options: dict[str, Any], error: str) -> None:
    """With the name of the option and what it may be."""

    async def body() -> None:
        emit("never")

    body.__qualname__ = "body"
    with pytest.raises((ValueError, TypeError), match=error):
        agent_process(**options)(body)
