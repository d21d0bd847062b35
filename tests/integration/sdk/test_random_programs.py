"""Random programs on a real server: hosts that are killed at random points change no result."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from regrow import ExecutionFailed, testing

sys.path.append(str(Path(__file__).parents[2] / "unit" / "sdk"))

from fold_world import World
from random_programs import Program, calm_programs, interpret


def expected(program: Program) -> Any:
    """The result of a program without races, told by the fold alone."""
    world = World("random_programs")
    pid = world.start(interpret, program)
    world.settle()
    try:
        return world.result(pid)
    except ExecutionFailed as error:
        return [error.reason, error.error]


async def with_deaths(url: str, program: Program, deaths: list[float]) -> Any:
    """The result on a real server, with a host killed after each number of seconds."""
    async with testing.runtime(url=url) as rt:
        process = await rt.start(interpret, program)
        for after in deaths:
            await asyncio.sleep(after)
            await rt.kill_host()
        try:
            return await process.result(60)
        except ExecutionFailed as error:
            return [error.reason, error.error]


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine:RuntimeWarning")
@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
@given(calm_programs, st.lists(st.floats(0, 0.05), min_size=1, max_size=2))
def test_deaths_change_no_result(nats_url: str, program: Program, deaths: list[float]) -> None:
    """Whenever its hosts die, a program without races gives the result that the fold alone gives."""
    assert asyncio.run(with_deaths(nats_url, program, deaths)) == expected(program)
