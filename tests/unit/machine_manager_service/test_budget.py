"""Memory for large answers: in order, bounded, and given back whoever is cancelled."""

from __future__ import annotations

import asyncio

import pytest
from regrow_machine_manager.budget import Budget, Share


async def taking(budget: Budget, size: int) -> asyncio.Task[None]:
    """Somebody who has begun to take."""
    task = asyncio.create_task(budget.take(size))
    await asyncio.sleep(0)
    return task


async def test_who_came_first_is_first() -> None:
    """A small one does not overtake a large one that waits."""
    budget = Budget(10)
    await budget.take(6)
    large, small = await taking(budget, 8), await taking(budget, 1)
    assert not large.done()
    assert not small.done()
    budget.give_back(6)
    await asyncio.gather(large, small)
    assert budget.free == 1


async def test_who_is_cancelled_holds_nothing() -> None:
    """While it waits, and in the moment in which it is its turn; those behind it go on."""
    budget = Budget(10)
    await budget.take(6)
    large, small = await taking(budget, 8), await taking(budget, 4)
    large.cancel()
    await asyncio.wait([large])
    await small
    assert budget.free == 0
    waiting, behind = await taking(budget, 5), await taking(budget, 10)
    budget.give_back(10)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    await behind
    assert budget.free == 0
    waiting, behind = await taking(budget, 5), await taking(budget, 10)
    waiting.cancel()
    budget.give_back(10)
    await asyncio.wait([waiting])
    await behind
    assert budget.free == 0


async def test_a_share_is_given_back_whatever_happens() -> None:
    """At its end, by an error too; a second wish replaces the first, and no wish is larger than all there is."""
    budget = Budget(10)

    async def fail() -> None:
        with Share(budget) as share:
            await share.take(3)
            await share.take(7)
            assert budget.free == 3
            await share.take(11)
            assert budget.free == 0
            raise ValueError("odd")

    with pytest.raises(ValueError, match="odd"):
        await fail()
    assert budget.free == 10
