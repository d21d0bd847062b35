"""Signals: kept by name, in their order, until somebody receives them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from fold_world import World
from regrow import Backoff, ProcessHandle, agent_process, emit, expose, fail, receive, spawn, wait
from regrow.codec import to_raw
from regrow_protocol import messages as m
from regrow_protocol.errors import InvalidName


@pytest.fixture
def world() -> World:
    return World(__name__)


@dataclass
class Approval:
    by: str
    stars: int = 0


def send(world: World, pid: str, name: str, data: Any = None, k: int = 0) -> None:
    world.send(pid, m.Signal(name=name, data=to_raw(data), client="c_2", k=k))
    world.settle(timers=False)


@agent_process
async def listener() -> list[Any]:
    first = await receive("news")
    second = await receive("news")
    approval = await receive("approval", type=Approval)
    return [first, second, approval.by, approval.stars]


def test_signals_wait_for_their_reader_in_order_by_name(world: World) -> None:
    """Those that come early are kept; the data is rebuilt as asked for; a repeat is dropped."""
    pid = world.start(listener)
    send(world, pid, "approval", {"by": "ada", "stars": 5}, k=1)
    send(world, pid, "news", "one", k=2)
    send(world, pid, "news", "one", k=2)
    send(world, pid, "news", ["two"], k=3)
    world.settle()
    assert world.result(pid) == ["one", ["two"], "ada", 5]
    world.check()


@agent_process
async def impatient() -> list[Any]:
    seen: list[Any] = []
    for _ in range(2):
        try:
            seen.append(await receive("go", timeout=5))
        except TimeoutError:
            seen.append("timeout")
    return seen


def test_who_waits_no_more_takes_no_signal(world: World) -> None:
    """A timeout leaves the next signal to the next reader."""
    pid = world.start(impatient)
    world.settle(timers=False)
    world.settle(until=world.clock + 6)
    send(world, pid, "go", 1)
    world.settle()
    assert world.result(pid) == ["timeout", 1]
    world.check()


@agent_process
async def tells() -> Any:
    child = spawn(both)
    child.signal("a", 1)
    child.signal("b", name="x", size=2)
    return await child


@agent_process
async def both() -> list[Any]:
    return list(await asyncio.gather(receive("b"), receive("a")))


def test_processes_signal_each_other(world: World) -> None:
    """In the order of their other messages; fields make an object."""
    assert world.run(tells) == [{"name": "x", "size": 2}, 1]


@agent_process
async def restarted(log: ProcessHandle) -> None:
    del log
    emit("up")

    @expose
    async def crash() -> None:
        fail("crashed")

    reading = asyncio.ensure_future(reads())
    try:
        await wait()
    finally:
        reading.cancel()


async def reads() -> None:
    while True:
        emit("got", await receive("job"))


@agent_process
async def keeps(other: ProcessHandle) -> None:
    await spawn(restarted, other, restart="permanent", backoff=Backoff(initial=1.0, jitter=0.0))


def test_what_nobody_has_read_is_the_next_incarnations(world: World) -> None:
    """Signals for a process that fails, or is down, are received after its restart; read ones are not read again."""
    other = world.start(both)
    world.start(keeps, ProcessHandle(other))
    world.settle(timers=False)
    (child,) = world.of_type("restarted")
    send(world, child.id, "job", 1, k=1)
    send(world, child.id, "later", "x", k=2)
    world.call(child.id, "crash")
    world.settle(timers=False)
    send(world, child.id, "job", 2, k=3)
    world.settle(until=world.clock + 2)
    send(world, child.id, "job", 3, k=4)
    assert child.incarnation == 1
    assert [e.data for e in world.events(child.id) if e.type == "got"] == [1, 2, 3]
    assert [signal.name for signal, _ in child.mailbox.unread] == ["later"]
    world.check()


@pytest.mark.parametrize("name", ["", "x" * 200])
def test_names_of_signals_are_names(name: str) -> None:
    """What is none is refused before anybody waits for it."""
    with pytest.raises(InvalidName):
        asyncio.run(receive(name))
