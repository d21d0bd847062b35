"""Waiting for what nothing announces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

POLL = 0.01


async def until(condition: Callable[[], object], deadline: float | None = None, *, every: float = POLL) -> None:
    """Return when `condition()` is true, or at `deadline` (event loop's time); looked at `every` so many seconds."""
    loop = asyncio.get_running_loop()
    while not condition() and (deadline is None or loop.time() < deadline):  # noqa: ASYNC110 - nobody sets an event
        await asyncio.sleep(every)
