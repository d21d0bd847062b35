"""A process whose history begins as a copy of another's: who has called that one is answered by that one alone."""

from __future__ import annotations

import asyncio

import pytest
from fold_world import World
from msgspec import Raw
from regrow import agent_process, done, expose, sleep, spawn, wait
from regrow.folding import Recorded
from regrow.history import History, copied
from regrow_protocol import messages as m


@pytest.fixture
def world() -> World:
    return World(__name__)


@agent_process
async def ends_late() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await sleep(60)


@agent_process(restart="permanent")
async def shop() -> str:
    """It goes down when its child has ended, and comes again."""
    spawn(ends_late)
    opened = asyncio.Event()

    @expose
    async def order() -> str:
        await opened.wait()
        return "tea"

    @expose
    async def open_up() -> None:
        opened.set()

        @expose
        async def hello() -> str:
            return "hello"

    @expose
    async def close() -> None:
        done("closed")

    return await wait()


def _fork(world: World, pid: str) -> tuple[World, str]:
    """A copy of all that a process was given so far; nothing of its world is there."""
    inputs = [Recorded(turn.seq, turn.time, Raw(turn.message)) for turn in world.histories[pid]]
    history = History(app="app", pid=pid, type="shop", build="build", partitions=16, inputs=inputs)
    other = World(__name__)
    for message in copied(history, "build"):
        other.send("p_fork", message)
    other.settle(timers=False)
    return other, "p_fork"


@pytest.mark.parametrize(
    ("endpoint", "before", "after"),
    [("order", [], ["open_up", "close"]), ("hello", [], ["open_up", "close"]), ("order", ["close"], [])],
    ids=["under way", "waiting for its endpoint", "kept for the next incarnation"],
)
def test_a_fork_answers_nobody_who_called_its_original(
    world: World, endpoint: str, before: list[str], after: list[str]
) -> None:
    """Neither at once nor in a later incarnation, whatever the call waits for where the history is cut off."""
    pid = world.start(shop)
    asked = world.call(pid, endpoint, wait=True, again=True)
    for each in before:
        world.call(pid, each)
    world.settle(timers=False)
    assert asked not in world.replies

    other, fork = _fork(world, pid)
    for each in after:
        other.call(fork, each, client="c_2")
    other.settle()
    other.send(fork, m.Again(incarnation=1))
    other.settle()
    assert other.processes[fork].incarnation == 1
    other.ask(fork, "open_up", client="c_2")
    assert other.ask(fork, "hello", client="c_2") == "hello"
    assert asked not in other.replies
