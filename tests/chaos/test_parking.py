"""A process that leaves memory is closed in silence: nothing of its `finally:` blocks enters any stream."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from chaoskit import Stack, until
from regrow_protocol import streams

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(120)]

ENDINGS = ("closed", "task-closed", "generator-closed")


async def test_what_is_closed_says_nothing(stack: Stack, tmp_path: Path) -> None:
    """What blocks, tasks and generators do when a process is parked is nowhere; at its real end it is there, once."""
    ledger = tmp_path / "ledger"
    ledger.touch()
    stack.env["REGROW_PARK_AFTER"] = "0.2"
    await stack.supervise()
    await stack.owned_by(await stack.host())
    names = (stack.inbox, streams.EVENTS, streams.REPLIES, streams.DEAD)
    before = [await stack.bus.last_seq(name) for name in names]
    processes = [await stack.start("untidy", ledger=str(ledger)) for _ in range(20)]

    async def stored() -> list[int]:
        return [await stack.bus.last_seq(name) - first for name, first in zip(names, before, strict=True)]

    def closings() -> Counter[str]:
        return Counter(ledger.read_text().split())

    for turn in range(1, 3):
        await asyncio.gather(*(process.call("ping", text="there", wait=True) for process in processes))

        async def all_parked(times: int = turn) -> bool:
            counted = closings()
            return all(counted[process.pid] >= times for process in processes)

        await until(all_parked, "parking")
        good = await stack.start("neighbour")
        assert await good.call("ping", text="after them", wait=True) == "after them"
        # Starts and calls, that they started, and replies: nothing else. A reply is seen before it is stored, so the
        # stream is waited for; what a closing had sent would lie before the neighbour's reply.
        expected = [20 + 20 * turn + 2 * turn, 20 + turn, 20 * turn + turn, 0]

        async def all_stored(least: list[int] = expected) -> bool:
            return all(count >= wanted for count, wanted in zip(await stored(), least, strict=True))

        await until(all_stored, "what was sent to be stored")
        assert await stored() == expected

    await asyncio.gather(*(process.call("finish", result="end", wait=True) for process in processes))
    assert await asyncio.gather(*(process.result(30) for process in processes)) == ["end"] * len(processes)
    log = await stack.log()
    for process in processes:
        types = Counter(records[0].type for (pid, _), records in log.events.items() if pid == process.pid)
        assert types["closed"] == 1
        assert types["started"] == types["done"] == 1
        assert set(types) <= {"started", "done", *ENDINGS}
    assert log.ambiguous() == []
    assert log.repeated_events() == []
