"""What a machine says of commands, and the watcher of those that run."""

from __future__ import annotations

import asyncio

import pytest
from regrow_machine_manager.backend import BackendUnavailable, MachineFailed
from regrow_machine_manager.watching import Status, Watcher, parse, parse_sized


def test_each_state_is_understood() -> None:
    """The lines of the wrapper become what they say; an output that is held open has no total."""
    assert parse("run 10.50 11.25 -\n") == Status("run", start=10.5, now=11.25)
    assert parse("run 10.50 11.25 kill").why == "kill"
    ended = parse("exit 3 10 11 12 5 - timeout")
    assert (ended.code, ended.totals, ended.why, ended.whole) == (3, (5, None), "timeout", False)
    assert parse("exit 0 10 11 12 5 0 -").whole
    assert [parse(word).state for word in ("none", "gone", "starting")] == ["none", "gone", "starting"]
    assert parse("dead 10 4").start == 10
    assert parse_sized("7 - run 1 2 -").sizes == (7, 0)


@pytest.mark.parametrize("line", ["", "run", "exit x 1 2 3 4 5 -", "sh: not found", "exit 0 1 2", "run a b -"])
def test_anything_else_is_told(line: str) -> None:
    """What is no answer of the wrapper is an error that shows it."""
    with pytest.raises(MachineFailed, match="answered"):
        parse(line)


async def test_all_are_looked_at_in_one_call() -> None:
    """Commands that run at a time are asked for together; the watcher ends with the last, and begins again."""
    asked: list[list[str]] = []

    async def look(ids: list[str]) -> list[Status]:
        asked.append(ids)
        return [Status("run", start=1, now=len(asked)) for _ in ids]

    watcher = Watcher(look)
    watches = [watcher.add(f"p.{n}", live=n == 0) for n in range(3)]
    async with asyncio.timeout(5):
        await asyncio.gather(*(watch.next() for watch in watches))
    assert {frozenset(ids) for ids in asked} == {frozenset({"+p.0", "p.1", "p.2"})}
    for watch in watches:
        watcher.remove(watch)
    again = watcher.add("p.9", live=False)
    async with asyncio.timeout(5):
        await again.next()
    assert asked[-1] == ["p.9"]
    await watcher.close()


async def test_an_unreachable_machine_is_looked_at_again_and_a_failing_one_is_told() -> None:
    """`BackendUnavailable` is passing; any other error is every caller's."""
    errors: list[Exception] = [BackendUnavailable("away"), BackendUnavailable("away"), MachineFailed("broken")]

    async def look(ids: list[str]) -> list[Status]:
        raise errors.pop(0)

    watcher = Watcher(look)
    watches = [watcher.add("p.1", live=False), watcher.add("p.2", live=False)]
    async with asyncio.timeout(5):
        for watch in watches:
            with pytest.raises(MachineFailed, match="broken"):
                await watch.next()
            watcher.remove(watch)
    await watcher.close()
