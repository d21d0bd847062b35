"""Work that may be interrupted at any moment."""

from __future__ import annotations

import asyncio

import pytest
from regrow_service.service import until


async def test_it_is_interrupted_when_the_service_stops() -> None:
    """And has cleaned up when `until` returns."""
    stopping, begun = asyncio.Event(), asyncio.Event()
    cleaned = False

    async def work() -> None:
        nonlocal cleaned
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned = True

    task = asyncio.create_task(until(stopping, work()))
    await begun.wait()
    stopping.set()
    await asyncio.wait_for(task, 20)
    assert cleaned


async def test_its_failure_is_not_swallowed() -> None:
    """Neither before the stop nor in the clean-up."""

    async def fail() -> None:
        raise ValueError("broken")

    async def fail_late() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("broken late")

    with pytest.raises(ValueError, match="broken"):
        await until(asyncio.Event(), fail())
    stopping = asyncio.Event()
    task = asyncio.create_task(until(stopping, fail_late()))
    asyncio.get_running_loop().call_soon(lambda: asyncio.get_running_loop().call_soon(stopping.set))
    with pytest.raises(ValueError, match="broken late"):
        await task


async def test_cancelling_it_cancels_the_work() -> None:
    """The work never outlives who waits for it."""
    ended, begun = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(until(asyncio.Event(), work()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
