"""Failures as data: what a failed process leaves to whoever tries again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from fold_world import World
from regrow import (
    Backoff,
    ExecutionFailed,
    ProcessFailure,
    ProcessHandle,
    ProcessNotFound,
    agent_process,
    fail,
    sleep,
    spawn,
    step,
    wait,
)


@pytest.fixture
def world() -> World:
    return World(__name__)


@dataclass
class Spec:
    name: str
    size: int = 1


def slow(x: int) -> int:
    return x


@agent_process
async def idle() -> None:
    await wait()


def deep(text: str) -> None:
    raise LookupError(text)


@agent_process
async def fragile(spec: Spec, text: str = "broken", *more: int, fine: bool = False) -> str:
    if fine:
        return f"{spec.name} {spec.size} {sum(more)}"
    spawn(idle)
    task = asyncio.ensure_future(step(slow, 1))
    await sleep(2)
    del task
    deep(text)
    return ""


@agent_process
async def asks_why() -> dict[str, Any]:
    child = spawn(fragile, Spec("s", 2), "gone", 3, 4)
    try:
        await child
    except ExecutionFailed as error:
        failure = error.failure
        assert failure == child.failure
        again = await child.respawn(fine=True)
        other = await child.respawn(fine=True, spec=Spec("other"), restart="transient")
        return {"failure": failure, "again": again, "other": other}
    raise AssertionError("it did not fail")


def test_a_failure_carries_what_a_retry_needs(world: World) -> None:
    """Reason, spec, time, traceback of the program, and what was under way; respawn() starts it anew from that."""
    world.hold = lambda name: name == "slow"
    found = world.run(asks_why)
    failure = found["failure"]
    assert (failure["reason"], failure["error"], failure["code"]) == ("gone", "LookupError", "exception")
    assert failure["type"] == "fragile"
    assert failure["args"] == {"spec": {"name": "s", "size": 2}, "text": "gone", "more": [3, 4]}
    assert failure["ran_for"] == pytest.approx(2, abs=0.1)
    assert failure["pending"] == ["step slow"]
    assert failure["children"] == [world.of_type("idle")[0].id]
    assert [line.split(":")[0] for line in failure["traceback"]] == ["test_fold_failures.py"] * 2
    assert failure["traceback"][-1].endswith("in deep")
    assert (found["again"], found["other"]) == ("s 2 7", "other 1 7")


def test_the_failed_event_tells_the_same(world: World) -> None:
    """So anybody who watches, or reads the log, can try again."""
    world.hold = lambda name: name == "slow"
    world.run(asks_why)
    (event,) = [e for p in world.of_type("fragile") for e in world.events(p.id) if e.type == "failed"]
    assert event.data["args"]["text"] == "gone"
    assert event.data["traceback"][-1].endswith("in deep")
    assert event.data["pending"] == ["step slow"]


@agent_process
async def parent_of_one_with_nothing() -> Any:
    child = spawn(with_nothing, None)
    try:
        await child
    except ExecutionFailed as error:
        return error.failure.args if error.failure is not None else None


@agent_process
async def with_nothing(value: str | None) -> None:
    raise LookupError(value)


def test_what_fails_may_have_been_given_none(world: World) -> None:
    """Its arguments stand in its `failed` event as they are."""
    assert world.run(parent_of_one_with_nothing) == {"value": None}
    assert world.events(world.of_type("with_nothing")[0].id)[-1].data["args"] == {"value": None}


@agent_process
async def gives_up() -> None:
    fail("no use", retryable=False)
    await wait()


@agent_process
async def looks_at_fail() -> list[Any]:
    child = spawn(gives_up)
    assert child.failure is None
    async for _ in child.events:
        pass
    failure = child.failure
    assert failure is not None
    return [failure.reason, failure.retryable, failure.traceback]


def test_fail_tells_the_line_that_gave_up(world: World) -> None:
    """There is no exception then, but a place in the program."""
    reason, retryable, lines = world.run(looks_at_fail)
    assert (reason, retryable) == ("no use", False)
    assert len(lines) == 1
    assert lines[0].startswith("test_fold_failures.py:")


@agent_process
async def fails_twice(log: ProcessHandle) -> str:
    del log
    raise ConnectionError("refused")


@agent_process
async def sees_restarts() -> list[Any]:
    me = spawn(idle)
    child = spawn(fails_twice, me, restart="permanent", backoff=Backoff(initial=1.0, jitter=0.0))
    seen: list[ProcessFailure | None] = []
    async for event in child.events:
        if event.type == "restarted":
            seen.append(child.failure)
            if len(seen) == 2:
                break
    return [[each.reason, each.incarnation, each.type] for each in seen if each is not None]


def test_a_restart_tells_what_was_wrong_before(world: World) -> None:
    """`handle.failure` is that of the last incarnation that failed."""
    assert world.run(sees_restarts) == [["refused", 0, "fails_twice"], ["refused", 1, "fails_twice"]]


@agent_process
async def respawns_the_living() -> str:
    child = spawn(idle)
    try:
        child.respawn()
    except ProcessNotFound as error:
        return error.message
    return ""


def test_only_what_failed_is_respawned(world: World) -> None:
    """Otherwise nobody here knows how it was started."""
    assert "not known here" in world.run(respawns_the_living)
