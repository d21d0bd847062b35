"""Waiting for a condition in the tests of machines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


async def until(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    """Wait for a condition while the loop goes on; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not in {seconds} s"
        await asyncio.sleep(0.005)
