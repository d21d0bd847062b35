"""Permits in the fold: asked for before the body begins or a step runs, given back whatever happens."""

from __future__ import annotations

from typing import Any

import pytest
from fold_world import World
from msgspec import Raw
from regrow import ExecutionFailed, agent_process, emit, limited, sleep, step
from regrow_protocol import limits as wire
from regrow_protocol import messages as m


@pytest.fixture
def world() -> World:
    return World(__name__)


class Permits:
    """Answers what processes ask for, one at a time, as the supervisor does."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.seen = 0

    def asked(self) -> list[tuple[str, Any]]:
        """(command, arguments) since the last call."""
        new, self.seen = self.world.commands[self.seen :], len(self.world.commands)
        self.last = [command for _, command in new]
        assert all(subject == wire.admission_subject("app") for subject, _ in new)
        return [(command.name, m.decode(command.args, wire.ARGUMENTS[command.name])) for command in self.last]

    def give(self) -> None:
        """Answer the last command."""
        command = self.last[-1]
        assert command.by is not None
        assert command.op is not None
        self.world.send(command.by.pid, m.Result(incarnation=command.by.incarnation, op=command.op, value=Raw(b"null")))
        self.world.settle(timers=False)


@agent_process(limits=["llm", "disk"], priority=3, timeout=10, deadline=60, tags={"of": "acme"})
async def busy(end: str = "done") -> str:
    emit("begun")
    if end == "hang":
        await sleep(1000)
    if end == "fail":
        raise LookupError(end)
    return end


@pytest.mark.parametrize("end", ["done", "fail"])
def test_a_body_begins_when_it_has_all_its_permits(world: World, end: str) -> None:
    """Asked for in the order of their names, given back at the end, however that comes."""
    pid, permits = world.start(busy, end), Permits(world)
    world.settle(timers=False)
    assert permits.asked() == [("acquire", wire.Acquire("disk", 3, pid, "busy", {"of": "acme"}))]
    disk = permits.last[0].id
    permits.give()
    assert permits.asked() == [("acquire", wire.Acquire("llm", 3, pid, "busy", {"of": "acme"}))]
    llm = permits.last[0].id
    assert world.types(pid) == ["started"]
    permits.give()
    assert world.types(pid)[:2] == ["started", "begun"]
    assert permits.asked() == [("release", wire.Release("disk", disk)), ("release", wire.Release("llm", llm))]
    world.check()


def test_who_is_cancelled_while_it_waits_gives_its_permits_back(world: World) -> None:
    """Those that it has and the one that it waits for; its body never begins."""
    pid, permits = world.start(busy), Permits(world)
    world.settle(timers=False)
    permits.asked()
    permits.give()
    permits.asked()
    world.cancel(pid)
    world.settle(timers=False)
    assert world.types(pid) == ["started", "cancelled"]
    assert [(name, args.limit) for name, args in permits.asked()] == [("release", "disk"), ("release", "llm")]
    world.check()


def test_the_timeout_runs_from_the_permits_and_the_deadline_from_the_start(world: World) -> None:
    pid, permits = world.start(busy, "hang"), Permits(world)
    world.settle(timers=False)
    world.clock += 30
    permits.asked()
    permits.give()
    permits.asked()
    permits.give()
    began = world.clock
    world.settle(until=began + 9)
    assert not world.processes[pid].ended
    world.settle(until=began + 11)
    with pytest.raises(ExecutionFailed, match="timed out after 10 s"):
        world.result(pid)
    late = world.start(busy, "hang")
    world.settle(until=world.clock + 61)
    with pytest.raises(ExecutionFailed, match="deadline of 60 s"):
        world.result(late)


def once() -> str:
    return "ran"


@agent_process
async def limits_a_step() -> list[str]:
    async with limited("db", priority=2):
        first = "inside"
    return [first, await step(once, limit="llm")]


def test_a_step_under_a_limit(world: World) -> None:
    """Its permit is asked for, the step runs, the permit is given back."""
    pid, permits = world.start(limits_a_step), Permits(world)
    world.settle(timers=False)
    assert permits.asked() == [("acquire", wire.Acquire("db", 2, pid, "limits_a_step"))]
    permits.give()
    assert [name for name, _ in permits.asked()] == ["release", "acquire"]
    assert world.steps_run == 0
    permits.give()
    assert world.result(pid) == ["inside", "ran"]
    assert [(name, args.limit) for name, args in permits.asked()] == [("release", "llm")]
    world.check()
