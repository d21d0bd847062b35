"""Commands handled once: the record, its steps and its reply, against a real bucket."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from regrow_protocol.bus import Bucket, Bus
from regrow_protocol.ids import new_id
from regrow_service.idempotent import AlreadyTaken, Command, handle


@pytest.fixture
def kv(bus: Bus) -> Bucket:
    return bus.kv("regrow_limits")


class Machine:
    """Work of three steps that fails after as many as it is told; counts what it did."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.stop_after = 99

    async def __call__(self, command: Command) -> list[str]:
        out: list[str] = []
        for name in ("create", "boot", "enrol"):
            if len(self.done) >= self.stop_after:
                raise ConnectionError("lost")

            async def do(name: str = name) -> str:
                self.done.append(name)
                return command.derived(name)

            out.append(await command.step(name, do, str))
        return out


async def test_a_repeat_gets_the_recorded_reply(kv: Bucket) -> None:
    """And nothing is done again."""
    machine, id_ = Machine(), new_id("x")
    reply = await handle(kv, id_, machine, list[str])
    assert reply == [f"{id_}.create", f"{id_}.boot", f"{id_}.enrol"]
    assert await handle(kv, id_, machine, list[str]) == reply
    assert machine.done == ["create", "boot", "enrol"]


@pytest.mark.parametrize("after", [0, 1, 2])
async def test_after_a_failure_only_the_remaining_steps_are_done(kv: Bucket, after: int) -> None:
    """The record exists with my id: go on."""
    machine, id_ = Machine(), new_id("x")
    machine.stop_after = after
    with pytest.raises(ConnectionError):
        await handle(kv, id_, machine, list[str])
    machine.stop_after = 99
    await handle(kv, id_, machine, list[str])
    assert machine.done == ["create", "boot", "enrol"]


async def test_two_commands_for_one_name(kv: Bucket) -> None:
    """The first gets it, also in a repeat; the other learns who was first, also when it asks again."""
    name, first, second = new_id("name"), new_id("x"), new_id("x")
    reply = await handle(kv, first, Machine(), list[str], key=name)
    for _ in range(2):
        with pytest.raises(AlreadyTaken) as caught:
            await handle(kv, second, Machine(), list[str], key=name)
        assert caught.value.by == first
    assert await handle(kv, first, Machine(), list[str], key=name) == reply


async def test_handlers_of_one_command_at_once_agree(kv: Bucket) -> None:
    """A redelivery while the first handler is still at work: both return the same, the first recorded result."""
    id_ = new_id("x")
    meeting = asyncio.Barrier(5)

    async def attempt(n: int) -> Any:
        async def do() -> int:
            await meeting.wait()
            return n

        async def work(command: Command) -> dict[str, int]:
            first = await command.step("first", do, int)
            return {"first": first, "second": await command.step("second", do, int), "by": n}

        return await handle(kv, id_, work, dict[str, int])

    replies = await asyncio.gather(*[attempt(n) for n in range(5)])
    assert all(reply == replies[0] for reply in replies)
