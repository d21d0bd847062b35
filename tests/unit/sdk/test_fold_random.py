"""Random programs: every fold of a history sends the same, and dying on the way changes no result."""

from __future__ import annotations

from typing import Any

import pytest
from fold_world import World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_programs import Program, calm_programs, interpret, programs
from regrow import ExecutionFailed

LIMITS = settings(
    max_examples=max(120, settings.default.max_examples),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
pytestmark = [
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
    pytest.mark.timeout(300),  # seconds of a processor that others want, too
]


def outcome(world: World, pid: str) -> Any:
    """How it ended, or where it stands."""
    if not world.processes[pid].ended:
        return "waits"
    try:
        return world.result(pid)
    except ExecutionFailed as error:
        return [error.code, error.reason, error.error]


@LIMITS
@given(programs)
def test_every_process_replays(program: Program) -> None:
    """Whatever a program does, each of its processes sends the same in a second fold, byte for byte."""
    world = World("random_programs")
    world.start(interpret, program)
    world.settle()
    world.check()
    for process in world.processes.values():
        if process.ended:
            assert not process.steps
            assert not process.timers
            assert all(world.processes[child].ended for child in process.relations.children)
            finals = [e.final for e in world.events(process.pid)]
            assert finals == [False] * (len(finals) - 1) + [True]
        assert [e.seq for e in world.events(process.pid)] == list(range(1, len(world.events(process.pid)) + 1))


@LIMITS
@given(programs, st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9), st.integers(0, 3)), max_size=4))
def test_every_process_replays_after_deaths(program: Program, deaths: list[tuple[int, int, int]]) -> None:
    """Hosts die at random inputs, and what was sent last is sent again: the history has one meaning all the same."""
    world = World("random_programs")
    world.start(interpret, program)
    run_with_deaths(world, deaths)
    world.check()


@LIMITS
@given(
    calm_programs, st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=6)
)
def test_deaths_change_no_result(program: Program, deaths: list[tuple[int, int, int]]) -> None:
    """A program without races has one result, however often its hosts die."""
    calm, stormy = World("random_programs"), World("random_programs")
    pid = calm.start(interpret, program)
    assert stormy.start(interpret, program) == pid
    calm.settle()
    run_with_deaths(stormy, deaths)
    assert outcome(stormy, pid) == outcome(calm, pid)
    own = ("started", "restarted", "done", "failed", "cancelled")
    announced = [sorted(str(e.data) for e in w.events(pid) if e.type not in own) for w in (calm, stormy)]
    assert announced[0] == announced[1]
    stormy.check()


def run_with_deaths(world: World, deaths: list[tuple[int, int, int]]) -> None:
    """Each death: after so many messages, of that process, with so many turns whose outputs may not be stored."""
    for after, which, lost in deaths:
        for _ in range(after):
            if not world.deliver():
                break
        pids = list(world.processes)
        world.kill(pids[which % len(pids)], lost=lost)
    world.settle()
