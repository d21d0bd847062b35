"""Waiting for the first of several things."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def first(*works: asyncio.Event | Coroutine[Any, Any, Any], timeout: float | None = None) -> bool:
    """Wait until an event is set or a coroutine has ended; the others are cancelled; false after `timeout` seconds."""
    waits = [asyncio.ensure_future(each.wait() if isinstance(each, asyncio.Event) else each) for each in works]
    try:
        done, _ = await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()
    return bool(done)
