"""Limits per minute that several replicas count together."""

from __future__ import annotations

import asyncio

from regrow_protocol.bus import Bus
from regrow_protocol.ids import new_id
from regrow_service.rates import Rates


async def test_replicas_count_together(bus: Bus) -> None:
    """Of many at once exactly as many pass as may; the others hear when to try again."""
    replicas, key = [Rates(bus) for _ in range(3)], new_id("grant")
    waits = await asyncio.gather(*[replicas[n % 3].take(key, 5) for n in range(20)])
    assert sum(wait == 0 for wait in waits) == 5
    assert all(0 < wait <= 60 for wait in waits if wait)
    assert await replicas[0].take(new_id("grant"), 5) == 0


async def test_rare_and_unlimited(bus: Bus) -> None:
    """Less than one a minute is once in a longer time; 0 is no limit."""
    rates, key = Rates(bus), new_id("grant")
    assert await rates.take(key, 0.5) == 0
    assert 90 < await rates.take(key, 0.5) <= 120  # less what has passed since
    assert [await rates.take(key, 0) for _ in range(3)] == [0, 0, 0]
    await bus.kv("regrow_limits").put(key, b"nonsense")
    assert await rates.take(key, 0.5) == 0
