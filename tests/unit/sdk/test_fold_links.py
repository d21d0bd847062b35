"""`monitor` and `link`: hearing of another process's end, and sharing it."""

from __future__ import annotations

from typing import Any

import pytest
from fold_world import World
from regrow import (
    ExecutionFailed,
    ProcessHandle,
    agent_process,
    done,
    emit,
    expose,
    fail,
    link,
    monitor,
    receive,
    sleep,
    spawn,
    unlink,
    wait,
)


@pytest.fixture
def world() -> World:
    return World(__name__)


@agent_process
async def peer(*partners: ProcessHandle) -> str:
    for partner in partners:
        link(partner)

    @expose
    async def crash() -> None:
        fail("crashed")

    @expose
    async def finish() -> None:
        done("fine")

    @expose
    async def part() -> None:
        for partner in partners:
            unlink(partner)

    return await wait()


def pair(world: World, second: Any = peer) -> tuple[str, str]:
    """Two roots, the second one linked to the first."""
    one = world.start(peer)
    two = world.start(second, ProcessHandle(one))
    world.settle(timers=False)
    return one, two


@pytest.mark.parametrize("victim", [0, 1])
def test_a_failure_takes_the_linked_process_with_it(world: World, victim: int) -> None:
    """Whichever side made the link."""
    pids = pair(world)
    world.call(pids[victim], "crash")
    world.settle()
    with pytest.raises(ExecutionFailed, match=f"the linked process {pids[victim]} failed: crashed") as caught:
        world.result(pids[1 - victim])
    assert caught.value.error == "LinkedProcessEnded"
    world.check()


def test_a_cancelled_process_counts_as_failed_for_its_links(world: World) -> None:
    one, two = pair(world)
    world.cancel(one)
    world.settle()
    with pytest.raises(ExecutionFailed, match="cancelled"):
        world.result(two)


def test_a_good_end_ends_nobody_else(world: World) -> None:
    one, two = pair(world)
    world.call(one, "finish")
    world.settle(timers=False)
    assert world.result(one) == "fine"
    assert not world.processes[two].ended
    world.call(two, "crash")
    world.settle()
    world.check()


def test_unlinked_processes_end_alone(world: World) -> None:
    one, two = pair(world)
    world.ask(two, "part")
    world.call(one, "crash")
    world.settle(timers=False)
    assert not world.processes[two].ended
    world.check()


def test_a_link_to_what_has_failed_breaks_at_once(world: World) -> None:
    """As in Erlang, where that is an exit signal too."""
    one = world.start(peer)
    world.settle(timers=False)
    world.call(one, "crash")
    world.settle()
    two = world.start(peer, ProcessHandle(one))
    world.settle()
    with pytest.raises(ExecutionFailed, match="crashed"):
        world.result(two)
    world.check()


@agent_process(trap_exits=True)
async def traps(partner: ProcessHandle) -> dict[str, str]:
    link(partner)
    return await receive("exit")


def test_who_traps_exits_gets_a_signal(world: World) -> None:
    one, two = pair(world, traps)
    world.call(one, "crash")
    world.settle()
    assert world.result(two) == {"pid": one, "status": "failed", "reason": "crashed"}
    world.check()


@agent_process
async def watches() -> list[Any]:
    seen: list[Any] = []
    for how in ("crash", "finish"):
        child = spawn(peer)
        watching = monitor(child)
        await child.call(how, wait=True)
        down = await watching
        seen.append([down.status, down.result, down.failure.reason if down.failure else None])
        assert watching.down
    cancelled = spawn(peer)
    watching = monitor(cancelled.pid)
    cancelled.cancel()
    seen.append((await watching).status)
    return seen


def test_a_monitor_tells_every_kind_of_end(world: World) -> None:
    """And ends nobody."""
    assert world.run(watches) == [["failed", None, "crashed"], ["done", "fine", None], "cancelled"]


@agent_process
async def stops_watching() -> str:
    child = spawn(peer)
    watching = monitor(child)
    await sleep(1)
    watching.demonitor()
    emit("stopped")
    await child.call("finish")
    return await child


def test_a_monitor_may_be_given_up(world: World) -> None:
    assert world.run(stops_watching) == "fine"
