"""Two functions of asyncio order what they are given by addresses in memory; in a process body they keep its order.

`install` wraps them, for deterministic loops only.
"""

from __future__ import annotations

import asyncio
import functools
from asyncio import events
from collections.abc import Callable
from typing import Any

from .loop import DeterministicLoop


def _in_order(original: Callable[..., Any]) -> Callable[..., Any]:
    """`as_completed` makes a set of what it is given: coroutines would start in the order of their addresses."""

    @functools.wraps(original)
    def as_completed(fs: Any, **kwargs: Any) -> Any:
        loop = events._get_running_loop()
        if isinstance(loop, DeterministicLoop) and not asyncio.isfuture(fs) and not asyncio.iscoroutine(fs):
            fs = [asyncio.ensure_future(f, loop=loop) for f in dict.fromkeys(fs)]
        return original(fs, **kwargs)

    return as_completed


def _own_tasks(original: Callable[..., Any]) -> Callable[..., Any]:
    """`asyncio.all_tasks` copies a set that all loops share."""

    @functools.wraps(original)
    def all_tasks(loop: asyncio.AbstractEventLoop | None = None) -> set[asyncio.Task[Any]]:
        loop = loop or events._get_running_loop()
        return set(loop.tasks) if isinstance(loop, DeterministicLoop) else original(loop)

    return all_tasks


def install() -> None:
    """Wrap `asyncio.as_completed` and `asyncio.all_tasks`."""
    asyncio.as_completed = asyncio.tasks.as_completed = _in_order(asyncio.as_completed)
    asyncio.all_tasks = asyncio.tasks.all_tasks = _own_tasks(asyncio.all_tasks)
