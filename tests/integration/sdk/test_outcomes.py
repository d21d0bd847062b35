"""How a process ends: done and fail, the first counts; wait, timeout=, and errors of its body."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
from regrow import (
    ExecutionCancelled,
    ExecutionFailed,
    InvalidArguments,
    agent_process,
    done,
    emit,
    expose,
    fail,
    now,
    sleep,
    spawn,
    wait,
)
from regrow.testing import Runtime

from .looking import event, finals


@agent_process
async def decides(order: list[str]) -> str:
    for what in order:
        if what.startswith("fail"):
            fail(what)
        else:
            done(what)
    return "returned"


@pytest.mark.parametrize(
    ("order", "result"),
    [(["a", "b"], "a"), (["a", "fail b"], "a"), ([], "returned")],
    ids=["done", "done-fail", "none"],
)
async def test_the_first_done_counts(rt: Runtime, order: list[str], result: str) -> None:
    """The first of done and fail decides, over what the body returns later."""
    assert await rt.run(decides, order) == result


async def test_the_first_fail_counts(rt: Runtime) -> None:
    """fail before done fails the process, although its body returns."""
    with pytest.raises(ExecutionFailed, match="fail first"):
        await rt.run(decides, ["fail first", "a"])


@agent_process
async def raises_after_done() -> int:
    done(5)
    raise RuntimeError("too late")


async def test_an_error_after_done_changes_nothing(rt: Runtime) -> None:
    """A body that raises after done() has succeeded all the same."""
    assert await rt.run(raises_after_done) == 5


@agent_process
async def waits_for_done() -> list[Any]:
    async def later() -> None:
        await sleep(3600)
        done(["value"])

    task = asyncio.create_task(later())
    begun = now()
    value = await wait()
    await task
    emit("waited", [value, await wait(), (now() - begun).total_seconds() >= 3600])
    return ["not this"]


async def test_wait_returns_the_result_given_to_done(rt: Runtime) -> None:
    """wait() returns once done() was called anywhere in the process, with its result, and again at once."""
    root = await rt.start(waits_for_done)
    assert await root.result(30) == ["value"]
    assert (await event(root, "waited")).data == [["value"], ["value"], True]


@agent_process
async def waits_for_fail() -> None:
    fail(ValueError("given up"), retryable=False)
    try:
        await wait()
    except ExecutionFailed as error:
        emit("raised", [error.reason, error.error, error.retryable])
        raise


async def test_wait_raises_what_fail_gave(rt: Runtime) -> None:
    """wait() raises ExecutionFailed with the reason, class and retryable of fail(); so does awaiting the process."""
    root = await rt.start(waits_for_fail)
    with pytest.raises(ExecutionFailed) as caught:
        await root.result(30)
    assert [caught.value.reason, caught.value.error, caught.value.retryable] == ["given up", "ValueError", False]
    assert (await event(root, "raised")).data == ["given up", "ValueError", False]


@agent_process
async def done_does_not_fit() -> int:
    done("not a number at all")  # pyright: ignore[reportArgumentType]
    try:
        await wait()
    except InvalidArguments as error:
        emit("unfit", str(error))
    return 0


async def test_a_result_that_does_not_fit_the_annotation_is_told_to_who_waits(rt: Runtime) -> None:
    """wait() raises InvalidArguments when done() got what the process's annotation does not allow."""
    root = await rt.start(done_does_not_fit)
    assert "done_does_not_fit" in (await event(root, "unfit")).data


@agent_process(timeout=3600)
async def too_slow() -> str:
    spawn(sleeper)
    try:
        await sleep(7200)
    finally:
        emit("cleaning")
    return "late"


@agent_process
async def sleeper() -> None:
    await sleep(10**6)


async def test_timeout_fails_the_process_and_ends_its_children(rt: Runtime) -> None:
    """timeout= fails a process after so many seconds of its clock; its `finally` runs and its children end first."""
    root = await rt.start(too_slow)
    with pytest.raises(ExecutionFailed, match="timed out after 3600 s") as caught:
        await root.result(30)
    assert caught.value.error == "TimeoutError"
    assert [e.type async for e in root.events()] == ["started", "cleaning", "failed"]
    assert [type_ for _, type_ in await finals(rt)] == ["cancelled", "failed"]


@agent_process(timeout=3600)
async def fast_enough() -> str:
    await sleep(3599)
    return "in time"


async def test_a_process_in_time_is_not_timed_out(rt: Runtime) -> None:
    """A process that ends within its timeout keeps its result."""
    assert await rt.run(fast_enough) == "in time"


@agent_process
async def ignores_cancellation() -> str:
    emit("ready")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        emit("no")
    return "finished nevertheless"


async def test_a_cancelled_process_ends_as_cancelled_whatever_its_body_returns(rt: Runtime) -> None:
    """The outcome was decided by the cancellation: a body that swallows it and returns does not change that."""
    root = await rt.start(ignores_cancellation)
    await event(root, "ready")
    await root.cancel()
    with pytest.raises(ExecutionCancelled):
        await root.result(30)


@agent_process
async def leaves_the_interpreter() -> None:
    sys.exit(3)


async def test_sys_exit_fails_the_process_only(rt: Runtime) -> None:
    """sys.exit in a body fails that process; the host goes on."""
    with pytest.raises(ExecutionFailed) as caught:
        await rt.run(leaves_the_interpreter)
    assert caught.value.error == "SystemExit"
    assert await rt.run(fast_enough) == "in time"


@agent_process
async def has_background_tasks() -> str:
    async def background() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            emit("background ended")

    task = asyncio.create_task(background())
    await asyncio.sleep(0)
    return "done" if not task.done() else "?"


async def test_tasks_left_running_are_cancelled_before_the_end(rt: Runtime) -> None:
    """Tasks that a body leaves behind are cancelled, and what they do then comes before the end."""
    root = await rt.start(has_background_tasks)
    assert await root.result(30) == "done"
    assert [e.type async for e in root.events()] == ["started", "background ended", "done"]


@agent_process
async def told_to_fail() -> str:
    @expose
    async def end(well: bool) -> None:
        if well:
            done("well")
        else:
            fail("badly")

    return str(await wait())


async def test_the_first_call_that_decides_counts(rt: Runtime) -> None:
    """Of two endpoints' calls that end a process, the first in its inbox decides."""
    root = await rt.start(told_to_fail)
    await asyncio.gather(root.call("end", well=True), root.call("end", well=False), return_exceptions=True)
    assert await root.result(30) == "well"
