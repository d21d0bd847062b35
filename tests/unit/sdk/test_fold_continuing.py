"""`continue_as_new`: a process that lives for long begins a fresh history under its pid."""

from __future__ import annotations

from typing import Any

import pytest
from fold_world import World
from regrow import (
    ExecutionFailed,
    ProcessHandle,
    agent_process,
    continue_as_new,
    emit,
    expose,
    history_length,
    process,
    receive,
    spawn,
    wait,
)
from regrow.codec import to_raw
from regrow_protocol import messages as m


@pytest.fixture
def world() -> World:
    return World(__name__)


@agent_process
async def counter(total: int = 0, rounds: int = 0) -> dict[str, int]:
    @expose
    async def show() -> int:
        return total

    emit("round", {"rounds": rounds, "length": history_length()})
    for _ in range(3):
        add = await receive("add")
        if add == 0:
            break
        total += add
    else:
        continue_as_new(total, rounds=rounds + 1)
    return {"total": total, "rounds": rounds}


@agent_process
async def parent() -> Any:
    child = spawn(counter)
    emit("child", child)
    return await child


def test_a_process_goes_on_with_a_fresh_history(world: World) -> None:
    """Under its pid: its parent and callers notice nothing, signals that came meanwhile are the next one's."""
    pid = world.start(parent)
    world.settle(timers=False)
    (child,) = world.of_type("counter")
    for k in range(1, 11):
        world.send(child.id, m.Signal(name="add", data=to_raw(k if k < 10 else 0), client="c_2", k=k))
    world.settle(timers=False)
    assert world.result(pid) == {"total": 45, "rounds": 3}
    assert world.types(child.id) == ["started", "round", *["restarted", "round"] * 3, "done"]
    assert world.events(child.id)[2].data == {"continued": True}
    assert all(e.data["length"] == 1 for e in world.events(child.id) if e.type == "round")
    world.check()


def test_calls_go_on_to_the_next_incarnation(world: World) -> None:
    pid = world.start(counter, 5)
    world.settle(timers=False)
    assert world.ask(pid, "show") == 5
    for k in range(1, 4):
        world.send(pid, m.Signal(name="add", data=to_raw(1), client="c_2", k=k))
    world.settle(timers=False)
    assert world.processes[pid].incarnation == 1
    assert world.ask(pid, "show") == 8
    world.kill(pid, lost=2)
    assert world.ask(pid, "show") == 8
    world.check()


@agent_process
async def wrong(n: int = 0) -> None:
    del n
    continue_as_new(1, 2, 3)


def test_arguments_that_do_not_fit_fail_the_process(world: World) -> None:
    """Where they are given, not in the next incarnation."""
    with pytest.raises(ExecutionFailed, match="too many positional arguments"):
        world.run(wrong)


@agent_process
async def with_child(n: int = 0) -> None:
    emit("child", spawn(idle))
    await receive("go")
    if n == 0:
        continue_as_new(1)


@agent_process
async def idle() -> None:
    await wait()


def test_children_end_with_the_incarnation_that_has_them(world: World) -> None:
    """Before the next one begins."""
    pid = world.start(with_child)
    world.settle(timers=False)
    world.send(pid, m.Signal(name="go", client="c_2", k=1))
    world.settle(timers=False)
    first, second = world.of_type("idle")
    assert (first.status, second.status, world.processes[pid].incarnation) == ("cancelled", "running", 1)
    world.check()


@agent_process
async def hears(log: ProcessHandle | None = None) -> None:
    del log
    while True:
        await receive("x")


def test_a_long_history_is_announced(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, at ten thousand inputs; five here."""
    monkeypatch.setattr(process, "LONG_HISTORY", 5)
    pid = world.start(hears)
    for k in range(1, 9):
        world.send(pid, m.Signal(name="x", client="c_2", k=k))
    world.settle(timers=False)
    assert [e.data for e in world.events(pid) if e.type == "long-history"] == [{"inputs": 5}]
    world.check()
