"""Roots that are started again by their own policy: the fold goes down and says when it wants to come back."""

from __future__ import annotations

import pytest
from fold_world import World
from regrow import Backoff, ExecutionFailed, agent_process, done, expose, fail, wait
from regrow.options import Options
from regrow_protocol import messages as m


@pytest.fixture
def world() -> World:
    return World(__name__)


def _controls() -> None:
    @expose
    async def crash(retryable: bool = True) -> None:
        fail("crashed", retryable=retryable)

    @expose
    async def finish() -> None:
        done("finished")

    @expose
    async def hello() -> str:
        return "hello"


@agent_process(restart="permanent", backoff=Backoff(initial=1.0, factor=3.0, max=5.0, jitter=0.0))
async def always() -> str:
    _controls()
    return await wait()


@agent_process(restart="transient", backoff=Backoff(initial=1.0, jitter=0.0, steady=0.0005))
async def when_it_failed() -> str:
    _controls()
    return await wait()


@agent_process
async def plain() -> str:
    _controls()
    return await wait()


@agent_process
async def parent() -> str:
    return await always()


def _start(world: World, type_: object, restart: str = "") -> str:
    pid = world.start(type_)  # type: ignore[arg-type]
    world.settle()
    if restart:
        start = m.Start(type="plain", args=m.Raw(b"{}"), build="build", fold=m.FOLD, restart=restart)  # type: ignore[arg-type]
        pid = "p_given"
        world.send(pid, start)
        world.settle()
    return pid


def _downs(world: World, pid: str) -> list[tuple[str, float]]:
    """Status and seconds of back-off of each `down`."""
    found = [event for event in world.events(pid) if event.type == "down"]
    return [(event.data["status"], round(event.data["again_at"] - event.time, 3)) for event in found]


def _again(world: World, pid: str, incarnation: int) -> None:
    world.send(pid, m.Again(incarnation=incarnation))
    world.settle()


def _ended(world: World, pid: str) -> list[str]:
    return [event.type for event in world.events(pid) if event.type in ("done", "failed", "cancelled")]


def test_a_permanent_root_is_always_started_again(world: World) -> None:
    """Each end in a row waits longer; handles and endpoints go on; `again` counts once."""
    pid = _start(world, always)
    for incarnation, endpoint in enumerate(["crash", "finish", "crash"], 1):
        world.call(pid, endpoint)
        world.settle()
        _again(world, pid, incarnation)
        _again(world, pid, incarnation)
    assert _downs(world, pid) == [("failed", 1.0), ("done", 3.0), ("failed", 5.0)]
    assert world.ask(pid, "hello") == "hello"
    assert world.processes[pid].incarnation == 3
    assert next(event.data for event in world.events(pid) if event.type == "down")["failure"]["reason"] == "crashed"
    assert _ended(world, pid) == []
    world.check()


def test_a_transient_root_is_started_again_when_it_failed(world: World) -> None:
    """After it ran steadily the back-off begins anew; a good end is its last."""
    pid = _start(world, when_it_failed)
    for incarnation in (1, 2):
        world.call(pid, "crash")
        world.settle()
        _again(world, pid, incarnation)
    assert _downs(world, pid) == [("failed", 1.0), ("failed", 1.0)]
    world.call(pid, "finish")
    world.settle()
    assert world.result(pid) == "finished"
    world.check()


def test_who_starts_it_may_say_so_too(world: World) -> None:
    """The policy of the start goes before its type's."""
    pid = _start(world, plain, "permanent")
    world.call(pid, "finish")
    world.settle()
    assert _downs(world, pid) == [("done", pytest.approx(0.1, rel=0.11))]


def test_what_is_of_no_use_is_not_tried_again(world: World) -> None:
    """`fail(…, retryable=False)` is the end of a permanent root."""
    pid = _start(world, always)
    world.call(pid, "crash", retryable=False)
    world.settle()
    with pytest.raises(ExecutionFailed, match="crashed"):
        world.result(pid)


@pytest.mark.parametrize("while_down", [False, True])
def test_a_cancelled_root_ends(world: World, while_down: bool) -> None:
    """As cancelled, or, where it is down, as it went down; `again` brings it back no more."""
    pid = _start(world, always)
    if while_down:
        world.call(pid, "crash")
        world.settle()
    world.send(pid, m.Cancel(reason="enough"))
    world.settle()
    _again(world, pid, 1)
    assert _ended(world, pid) == ["failed" if while_down else "cancelled"]
    world.check()


def test_calls_wait_while_it_is_down(world: World) -> None:
    """They are answered by the next incarnation."""
    pid = _start(world, always)
    world.call(pid, "crash")
    world.settle()
    reply = world.call(pid, "hello")
    world.settle()
    assert reply not in world.replies
    _again(world, pid, 1)
    assert world.answer_of(reply) == "hello"


def test_of_a_child_its_parent_decides(world: World) -> None:
    """The option is for roots."""
    pid = _start(world, parent)
    (child,) = [p.id for p in world.of_type("always")]
    world.call(child, "finish")
    world.settle()
    assert world.result(pid) == "finished"


def test_policies_that_there_are_not() -> None:
    """Are refused where the type is defined."""
    with pytest.raises(ValueError, match="restart must be one of"):
        Options(restart="sometimes")  # type: ignore[arg-type]
