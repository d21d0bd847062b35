"""Processes that fail again and again, and who keeps them."""

from __future__ import annotations

from typing import Any

from regrow import (
    Backoff,
    ExecutionFailed,
    RestartIntensityExceeded,
    agent_process,
    current_process,
    done,
    emit,
    expose,
    spawn,
    supervise,
    wait,
)


@agent_process
async def stubborn(failures: int) -> int:
    """Fails so many times; negative: always."""
    run = current_process().incarnation
    if failures < 0 or run < failures:
        raise ConnectionError(f"attempt {run}")
    return run


@agent_process
async def bystander() -> None:
    await wait()


async def _over(outcome: Any) -> None:
    """Tell how it went; then answer on until told to end."""
    emit("over", outcome)
    await wait()


def _answer() -> None:
    @expose
    async def ping(text: str) -> str:
        return text

    @expose
    async def finish() -> None:
        done()


@agent_process
async def storm(children: int, failures: int) -> None:
    """Keeps many that fail at once."""
    _answer()
    backoff = Backoff(initial=0.02, factor=2.0, max=0.2, jitter=0.5)
    handles = [spawn(stubborn, failures, restart="transient", backoff=backoff) for _ in range(children)]
    await _over(sum([await handle for handle in handles]))


@agent_process
async def patient(failures: int, max_restarts: int) -> None:
    """A group with a child that fails at once, whenever it is started, beside one that does not."""
    _answer()
    try:
        async with supervise(max_restarts=max_restarts, within=10_000.0) as group:
            group.start(bystander, id="bystander", restart="temporary")
            result = await group.start(stubborn, failures, id="stubborn", restart="transient")
            await group.stop()
    except RestartIntensityExceeded as error:
        result = -len(error.failures)
    await _over(result)


@agent_process
async def level(depth: int, max_restarts: int, strategy: str) -> None:
    """A group in a group in a group, with somebody that always fails at the bottom."""
    async with supervise(strategy=strategy, max_restarts=max_restarts, within=10_000.0) as group:  # type: ignore[arg-type]
        group.start(bystander, id="bystander")
        if depth:
            group.start(level, depth - 1, max_restarts, strategy, id="level", kind="supervisor")
        else:
            group.start(stubborn, -1, id="stubborn")


@agent_process
async def outermost(depth: int, max_restarts: int, strategy: str) -> None:
    """Outlives it all."""
    _answer()
    try:
        await level(depth, max_restarts, strategy)
    except ExecutionFailed as error:
        await _over(error.error)
