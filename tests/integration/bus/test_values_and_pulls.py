"""Large values in the object store, and durable consumption for services."""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import Any

import pytest
from regrow_protocol import streams
from regrow_protocol.bus import Bus, ValueMissing
from regrow_protocol.errors import ValueTooLarge
from regrow_protocol.messages import MAX_VALUE
from regrow_protocol.server import NatsServer


@pytest.mark.parametrize("size", [0, 1, 128 * 1024, 128 * 1024 + 1, 5_000_000])
async def test_a_value_comes_back_as_it_was(bus: Bus, size: int) -> None:
    """Whatever its size, a value is found again by its hash."""
    data = os.urandom(size)
    key = await bus.put_value(data)
    assert key == hashlib.sha256(data).hexdigest()
    assert await bus.get_value(key) == data


async def test_a_value_is_stored_once(bus: Bus, connect: Any) -> None:
    """Storing it again writes nothing, and of several who store it at once the chunks of one remain."""
    data = os.urandom(700_000)
    buses = [await connect() for _ in range(4)]
    before = await bus.subjects("OBJ_regrow_values", "$O.regrow_values.C.>")
    keys = await asyncio.gather(*[one.put_value(data) for one in buses])
    assert len(set(keys)) == 1
    after = await bus.subjects("OBJ_regrow_values", "$O.regrow_values.C.>")
    assert sum(after.values()) - sum(before.values()) == 6
    last = await bus.last_seq("OBJ_regrow_values")
    assert await bus.put_value(data) == keys[0]
    assert await bus.last_seq("OBJ_regrow_values") == last
    assert await bus.get_value(keys[0]) == data


async def test_nats_py_reads_the_same_value(bus: Bus) -> None:
    """The layout is that of NATS object stores: other clients can read it."""
    data = os.urandom(300_000)
    key = await bus.put_value(data)
    store = await bus.js.object_store("regrow_values")
    assert (await store.get(key)).data == data


async def test_missing_damaged_and_oversized_values_are_errors(bus: Bus) -> None:
    """None is silently wrong: each has its own error."""
    with pytest.raises(ValueMissing):
        await bus.get_value("0" * 64)
    with pytest.raises(ValueTooLarge):
        await bus.put_value(bytes(MAX_VALUE + 1))
    before = set(await bus.subjects("OBJ_regrow_values", "$O.regrow_values.C.>"))
    key = await bus.put_value(os.urandom(300_000))
    (chunks,) = set(await bus.subjects("OBJ_regrow_values", "$O.regrow_values.C.>")) - before
    await bus.purge("OBJ_regrow_values", chunks)
    with pytest.raises(ValueMissing, match="not whole"):
        await bus.get_value(key)


async def command(bus: Bus, service: str, count: int, first: int = 0) -> None:
    for k in range(first, first + count):
        bus.publish_soon(streams.COMMANDS, f"regrow.command.{service}.x", b"%d" % k, f"{service}.{k}")
    await bus.drain_publishers()


async def test_what_is_not_acknowledged_comes_again(bus: Bus, app: str) -> None:
    """`nak` brings a message again after its delay; `ack` and `term` do not."""
    await command(bus, app, 5)
    pull = await bus.consumer(streams.COMMANDS, app, f"regrow.command.{app}.>", ack_wait=60.0)
    batch: list[Any] = []
    while len(batch) < 5:  # each fetch takes what is there
        batch += await pull.fetch(5 - len(batch))
    assert [(delivery.message.data, delivery.attempts) for delivery in batch] == [(b"%d" % k, 1) for k in range(5)]
    batch[0].ack()
    batch[1].nak()
    batch[2].term("of the test")
    await batch[3].ack_confirmed()
    again = await pull.fetch(5)
    assert [(delivery.message.data, delivery.attempts) for delivery in again] == [(b"1", 2)]
    again[0].nak(0.3)
    batch[4].nak()
    late = [delivery async for delivery in _take(pull, 2)]
    assert sorted((delivery.message.data, delivery.attempts) for delivery in late) == [(b"1", 3), (b"4", 2)]
    for delivery in late:
        await delivery.ack_confirmed()
    assert await unacknowledged(bus, app) == 0
    assert await pull.fetch(5, timeout=0.3) == []


async def test_the_end_of_the_ack_wait_brings_a_message_again(bus: Bus, app: str) -> None:
    """Until it is acknowledged."""
    await command(bus, app, 1)
    pull = await bus.consumer(streams.COMMANDS, app, f"regrow.command.{app}.>", ack_wait=1.0)
    taken = [delivery async for delivery in _take(pull, 3)]
    assert [(delivery.message.data, delivery.attempts) for delivery in taken] == [(b"0", 1), (b"0", 2), (b"0", 3)]
    await taken[-1].ack_confirmed()
    assert await unacknowledged(bus, app) == 0


async def unacknowledged(bus: Bus, name: str) -> int | None:
    """How many messages of a consumer wait for their acknowledgement."""
    return (await bus.js.consumer_info(streams.COMMANDS, name)).num_ack_pending


async def _take(pull: Any, count: int) -> Any:
    async for delivery in pull:
        yield delivery
        count -= 1
        if not count:
            return


async def test_progress_keeps_a_message(bus: Bus, app: str, until: Any) -> None:
    """As long as `in_progress` is said, the ack wait does not end."""
    await command(bus, app, 1)
    pull = await bus.consumer(streams.COMMANDS, app, f"regrow.command.{app}.>", ack_wait=4.0)
    (delivery,) = await pull.fetch(1)
    loop = asyncio.get_running_loop()
    end = loop.time() + 6.0
    while loop.time() < end:
        delivery.in_progress()
        assert await pull.fetch(1, timeout=0.3) == []
    await delivery.ack_confirmed()
    assert await unacknowledged(bus, app) == 0


async def test_fetch_waits_for_the_first_and_takes_what_is_there(bus: Bus, app: str) -> None:
    """An idle fetch returns [] in time, one that waits is woken by the first message, and one consumer serves on."""
    pull = await bus.consumer(streams.COMMANDS, app, f"regrow.command.{app}.>", ack_wait=60.0)
    assert await pull.fetch(10, timeout=0.2) == []
    waiting = asyncio.create_task(pull.fetch(10, timeout=20))
    await asyncio.sleep(0)
    await command(bus, app, 1)
    (first,) = await waiting
    first.ack()
    await command(bus, app, 30, first=1)
    taken: list[bytes] = []
    while len(taken) < 30:
        for delivery in await pull.fetch(7):
            taken.append(delivery.message.data)
            delivery.ack()
    assert taken == [b"%d" % k for k in range(1, 31)]


async def test_two_of_a_service_share_the_work(bus: Bus, app: str, connect: Any) -> None:
    """Two instances on one durable consumer get each message once between them; one that closes gives its own back."""
    await command(bus, app, 60)
    other = await connect()
    one = await bus.consumer(streams.COMMANDS, app, f"regrow.command.{app}.>", ack_wait=30)
    two = await other.consumer(streams.COMMANDS, app, f"regrow.command.{app}.>", ack_wait=30)
    taken = [delivery.message.data for delivery in await one.fetch(20)]
    for delivery in await two.fetch(20):
        taken.append(delivery.message.data)
        delivery.ack()
    assert len(set(taken)) == len(taken)
    await two.fetch(20)  # of these, what is still in the buffer goes back when it closes
    await two.close()


@pytest.mark.parametrize("ending", ["stop", "kill"])
async def test_consumption_survives_a_restart(private_server: NatsServer, connect: Any, ending: str) -> None:
    """Every message is handled; what was acknowledged for certain does not come again, unless the server was killed."""
    bus = await connect(private_server.url)
    await streams.ensure(bus)
    pull = await bus.consumer(streams.COMMANDS, "svc", "regrow.command.svc.>", ack_wait=1.0)
    await command(bus, "svc", 20)
    certain: set[bytes] = set()
    for delivery in await pull.fetch(20):
        await delivery.ack_confirmed()
        certain.add(delivery.message.data)
    waiting = asyncio.create_task(pull.fetch(20, timeout=20))
    await asyncio.to_thread(private_server.stop if ending == "stop" else private_server.kill)
    await asyncio.to_thread(private_server.restart)
    await command(bus, "svc", 20, first=20)
    handled: set[bytes] = set()
    batch = await waiting
    while len(handled | certain) < 40:
        for delivery in batch:
            handled.add(delivery.message.data)
            delivery.ack()
        batch = await pull.fetch(20)
    assert handled | certain == {b"%d" % k for k in range(40)}
    if ending == "stop":
        assert not handled & certain


async def test_a_consumer_can_be_changed(bus: Bus, app: str) -> None:
    """Ensuring it again with other limits updates it; the place it had reached stays."""
    await command(bus, app, 3)
    pull = await bus.consumer(streams.COMMANDS, app, f"regrow.command.{app}.>")
    (first,) = await pull.fetch(1)
    await first.ack_confirmed()
    await pull.close()
    pull = await bus.consumer(streams.COMMANDS, app, f"regrow.command.{app}.>", ack_wait=5.0, max_ack_pending=7)
    info = await bus.js.consumer_info(streams.COMMANDS, app)
    assert (info.config.ack_wait, info.config.max_ack_pending) == (5.0, 7)
    assert info.ack_floor is not None
    assert info.ack_floor.consumer_seq == 1
