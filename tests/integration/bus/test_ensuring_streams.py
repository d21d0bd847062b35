"""Streams and buckets are created by whoever needs them first, and brought up to date."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from regrow_protocol import streams
from regrow_protocol.bus import ApiError, Bus
from regrow_protocol.server import NatsServer


async def config(bus: Bus, stream: str) -> dict[str, Any]:
    """The configuration as the server has it."""
    return msgspec.json.decode(await bus.request(f"$JS.API.STREAM.INFO.{stream}"))["config"]


async def test_many_may_ensure_at_once(private_server: NatsServer, connect: Any) -> None:
    """Several clients that start on an empty store at the same moment all succeed, and each stream is there once."""
    buses = [await connect(private_server.url) for _ in range(6)]
    await asyncio.gather(*[streams.ensure(bus) for bus in buses], *[streams.ensure_app(bus, "x y") for bus in buses])
    answer = msgspec.json.decode(await buses[0].request("$JS.API.STREAM.NAMES"))
    wanted = [spec.name for spec in streams.STREAMS] + [f"KV_{bucket.name}" for bucket in streams.BUCKETS]
    assert sorted(answer["streams"]) == sorted([*wanted, "OBJ_regrow_values", "REGROW_INBOX_x=20=y"])


async def test_the_server_has_what_the_table_says(bus: Bus, stream: str, app: str) -> None:
    """Every field that was asked for is in force: none is dropped on the way."""
    specs = [*streams.STREAMS, *[bucket.stream() for bucket in streams.BUCKETS], streams.VALUES_STREAM]
    for spec in [*specs, streams.inbox_spec(app)]:
        present = await config(bus, spec.name)
        for name, value in spec.config(1).items():
            assert present.get(name, type(value)()) == value, (spec.name, name)


async def test_a_changed_definition_is_brought_up_to_date(bus: Bus) -> None:
    """What may be updated is, without touching messages; what fits is left alone; what may not change is an error."""
    old = streams.StreamSpec("CHANGES", ("changes.>",))
    await streams.ensure_specs(bus, [old])
    await bus.publish("CHANGES", "changes.a", b"x", "1")
    new = streams.StreamSpec("CHANGES", ("changes.>", "more.>"), max_age=3600, duplicate_window=60)
    await streams.ensure_specs(bus, [new])
    present = await config(bus, "CHANGES")
    assert present["subjects"] == ["changes.>", "more.>"]
    assert present["max_age"] == 3600 * streams.NANO
    assert present["duplicate_window"] == 60 * streams.NANO
    assert await bus.last_seq("CHANGES") == 1
    await streams.ensure_specs(bus, [new])
    with pytest.raises(ExceptionGroup) as caught:
        await streams.ensure_specs(bus, [streams.StreamSpec("CHANGES", ("changes.>",), fields={"storage": "memory"})])
    assert caught.group_contains(ApiError)


async def test_an_app_may_shorten_its_duplicate_window(bus: Bus, app: str) -> None:
    """The window in which an id is recognised is the app's to set."""
    stream = await streams.ensure_app(bus, app, duplicate_window=5)
    assert (await config(bus, stream))["duplicate_window"] == 5 * streams.NANO
