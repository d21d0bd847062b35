"""Reading: in order, nothing lost, nothing twice, whatever the callback does."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest
from regrow_protocol import streams, subjects
from regrow_protocol.bus import Bus, Received
from regrow_protocol.bus.wire import as_json, pub
from regrow_protocol.errors import Unreachable


async def fill(bus: Bus, stream: str, app: str, count: int, *, size: int = 0, part: int = 0, first: int = 0) -> None:
    """Messages numbered from `first` on in the inbox of process p."""
    for k in range(first, first + count):
        bus.publish_soon(stream, subjects.inbox(app, part, "p"), b"%d " % k + bytes(size), f"{part}.{k}")
        if k % 1000 == 0:
            await bus.ready(stream)
    await bus.drain_publishers()


def number(message: Received) -> int:
    return int(message.data.split(b" ")[0])


class Taken:
    """A callback that keeps what it is given."""

    def __init__(self) -> None:
        self.messages: list[Received] = []
        self.calls = 0

    def __call__(self, batch: list[Received]) -> None:
        self.calls += 1
        self.messages += batch

    @property
    def numbers(self) -> list[int]:
        return [number(message) for message in self.messages]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that stands still for some seconds is not taken for gone."""
    monkeypatch.setattr("regrow_protocol.bus.reader.SILENT_TICKS", 80)


@pytest.mark.usefixtures("patient")
async def test_history_comes_first_then_what_is_new(bus: Bus, stream: str, app: str, until: Any) -> None:
    """A reader gives all that was there when it began, says so by `caught_up`, and goes on with what comes then."""
    await fill(bus, stream, app, 3000)
    taken = Taken()
    reader = bus.read(stream, subjects.inbox_partition(app, 0), 1, taken)
    await asyncio.wait_for(reader.caught_up, 30)
    assert taken.numbers == list(range(3000))
    assert reader.applied == 3000
    await fill(bus, stream, app, 100, first=3000)
    await until(lambda: reader.applied == 3100)
    assert taken.numbers == list(range(3100))
    assert [message.seq for message in taken.messages] == list(range(1, 3101))
    assert reader.recreated == 0


async def test_an_empty_stream_is_caught_up_at_once(bus: Bus, stream: str, app: str) -> None:
    """With nothing to deliver `caught_up` comes nonetheless, also when other subjects have messages."""
    taken = Taken()
    reader = bus.read(stream, subjects.inbox_partition(app, 0), 1, taken)
    await asyncio.wait_for(reader.caught_up, 20)
    await reader.stop()
    await fill(bus, stream, app, 10)
    await asyncio.wait_for(bus.read(stream, subjects.inbox_partition(app, 1), 1, taken).caught_up, 20)
    await asyncio.wait_for(bus.read(stream, subjects.inbox_partition(app, 0), 11, taken).caught_up, 20)
    assert taken.messages == []


async def test_reading_starts_where_it_is_told(bus: Bus, stream: str, app: str) -> None:
    """`start_seq` is the first sequence that is delivered, and several filters are delivered in the stream's order."""
    await fill(bus, stream, app, 50, part=0)
    await fill(bus, stream, app, 50, part=1)
    await fill(bus, stream, app, 50, part=2)
    taken = Taken()
    filters = [subjects.inbox_partition(app, 0), subjects.inbox_partition(app, 2)]
    reader = bus.read(stream, filters, 41, taken)
    await asyncio.wait_for(reader.caught_up, 20)
    assert [message.seq for message in taken.messages] == [*range(41, 51), *range(101, 151)]


async def test_the_metadata_are_those_of_nats_py(bus: Bus, stream: str, app: str) -> None:
    """Sequence, time and subject of a message agree with what nats-py reads, and with a direct get."""
    await fill(bus, stream, app, 3)
    taken = Taken()
    await asyncio.wait_for(bus.read(stream, subjects.inbox_partition(app, 0), 1, taken).caught_up, 20)
    subscription = await bus.js.subscribe("", stream=stream, ordered_consumer=True)
    direct = await bus.history(stream, subjects.inbox(app, 0, "p"))
    for mine, direct_one in zip(taken.messages, direct, strict=True):
        theirs = await subscription.next_msg(5)
        assert (mine.subject, mine.data, mine.headers) == (theirs.subject, theirs.data, theirs.headers)
        assert mine.seq == theirs.metadata.sequence.stream == direct_one.seq
        assert mine.time == direct_one.time
        assert abs(mine.time - theirs.metadata.timestamp.timestamp()) < 1e-5
    await subscription.unsubscribe()


async def test_callbacks_run_outside_tasks(bus: Bus, stream: str, app: str) -> None:
    """The callback is called from a plain callback of the loop, so it may run a loop of its own."""
    tasks: list[Any] = []
    await fill(bus, stream, app, 10)
    reader = bus.read(stream, "regrow.inbox.>", 1, lambda _: tasks.append(asyncio.current_task()))
    await asyncio.wait_for(reader.caught_up, 20)
    assert set(tasks) == {None}


async def test_a_callback_that_blocks_loses_nothing(bus: Bus, stream: str, app: str, connect: Any, until: Any) -> None:
    """Blocked for seconds while 60 MB wait, longer than any heartbeat, it gets every message once and in order."""
    sender = await connect(name="sender")
    taken = Taken()
    blocked = 0
    recreated: list[int] = []

    def block(batch: list[Received]) -> None:
        nonlocal blocked
        taken(batch)
        if blocked < 2 and len(taken.messages) > 500 * blocked:
            blocked += 1
            before = reader.recreated
            time.sleep(2.5)
            # sooner than after any silence of the server itself
            asyncio.get_running_loop().call_later(0.9, lambda: recreated.append(reader.recreated - before))

    reader = bus.read(stream, subjects.inbox_partition(app, 0), 1, block)
    await fill(sender, stream, app, 30_000, size=2000)
    await asyncio.wait_for(reader.caught_up, 30)
    await until(lambda: reader.applied == 30_000, "the rest", 30)
    assert blocked == 2
    assert taken.numbers == list(range(30_000))
    await until(lambda: len(recreated) == 2)
    # the wait was the callback's own: it is no reason to take the consumer for dead
    assert recreated == [0, 0]


async def test_a_callback_that_raises_loses_nothing(
    bus: Bus, stream: str, app: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception is logged with the sequences, its batch counts as delivered, and reading goes on."""
    await fill(bus, stream, app, 2500)
    taken = Taken()

    def fail(batch: list[Received]) -> None:
        taken(batch)
        raise ValueError("of the test")

    with caplog.at_level(logging.ERROR):
        reader = bus.read(stream, subjects.inbox_partition(app, 0), 1, fail)
        await asyncio.wait_for(reader.caught_up, 30)
    assert taken.numbers == list(range(2500))
    assert caplog.records
    assert "of the test" in caplog.text


async def test_ready_pauses_without_unbounded_memory(bus: Bus, stream: str, app: str, until: Any) -> None:
    """While `ready` is false nothing is delivered and no more than the server's window is kept; then all comes."""
    await fill(bus, stream, app, 40_000, size=2000)
    taken = Taken()
    is_ready = False
    reader = bus.read(stream, subjects.inbox_partition(app, 0), 1, taken, ready=lambda: is_ready)

    def held() -> int:
        return sum(len(data) for _, _, _, data in reader._buffer)

    # the server has stopped sending when its heartbeats say so
    await until(lambda: any(b"Nats-Consumer-Stalled" in (block or b"") for _, _, block, _ in reader._buffer), "a stall")
    assert taken.messages == []
    assert 0 < held() < 34 * 1024 * 1024
    is_ready = True
    reader.poke()
    await until(lambda: reader.applied == 40_000, "the rest", 30)
    assert taken.numbers == list(range(40_000))


async def test_a_gap_is_seen_and_filled(bus: Bus, stream: str, app: str, until: Any) -> None:
    """If messages disappear on the way, the next one or the next heartbeat shows it, and they are read again."""
    await fill(bus, stream, app, 10)
    taken = Taken()
    reader = bus.read(stream, subjects.inbox_partition(app, 0), 1, taken)
    await asyncio.wait_for(reader.caught_up, 20)
    arrived = reader._arrived
    lost = 0

    def lossy(subject: bytes, reply: bytes, headers: bytes | None, data: bytes) -> None:
        nonlocal lost
        if lost < 3 and data.startswith((b"12 ", b"13 ", b"19 ")):
            lost += 1
            return
        arrived(subject, reply, headers, data)

    bus.nc.raw[str(reader._sid).encode()] = lossy
    await fill(bus, stream, app, 10, first=10)
    await until(lambda: reader.applied == 20)
    assert taken.numbers == list(range(20))
    bus.nc.raw[str(reader._sid).encode()] = lossy
    lost = 0
    await fill(bus, stream, app, 1, first=20)
    dropped: list[bytes] = []
    bus.nc.raw[str(reader._sid).encode()] = lambda _subject, _reply, _headers, data: dropped.append(data)
    recreated = reader.recreated
    await fill(bus, stream, app, 1, first=21)
    await until(lambda: any(data.startswith(b"21 ") for data in dropped) or reader.recreated > recreated)
    bus.nc.raw[str(reader._sid).encode()] = arrived
    await until(lambda: reader.applied == 22, "the last one, seen missing by a heartbeat")
    assert taken.numbers == list(range(22))
    assert reader.recreated >= 2


async def test_a_consumer_that_vanishes_is_made_anew(bus: Bus, stream: str, app: str, until: Any) -> None:
    """When somebody deletes the reader's consumer, reading goes on after the last message applied."""
    await fill(bus, stream, app, 10)
    taken = Taken()
    reader = bus.read(stream, subjects.inbox_partition(app, 0), 1, taken)
    await asyncio.wait_for(reader.caught_up, 20)
    bus.nc.send(pub(f"$JS.API.CONSUMER.DELETE.{stream}.{reader._consumer}", "", b""))
    await fill(bus, stream, app, 10, first=10)
    await until(lambda: reader.applied == 20, "the rest")
    assert taken.numbers == list(range(20))


@pytest.mark.usefixtures("patient")
async def test_what_was_purged_before_it_came_is_not_waited_for(bus: Bus, stream: str, app: str) -> None:
    """Holes in the stream are no gaps: a reader over deleted messages catches up."""
    await fill(bus, stream, app, 100)
    for k in (1, 50, 99, 100):
        await bus.request(f"$JS.API.STREAM.MSG.DELETE.{stream}", as_json({"seq": k}))
    taken = Taken()
    reader = bus.read(stream, subjects.inbox_partition(app, 0), 1, taken)
    await asyncio.wait_for(reader.caught_up, 20)
    assert [message.seq for message in taken.messages] == [k for k in range(1, 101) if k not in (1, 50, 99, 100)]
    assert reader.recreated == 0


async def test_stopping_ends_delivery_and_leaves_no_consumer(bus: Bus, stream: str, app: str, until: Any) -> None:
    """After `stop` nothing is delivered; the server's consumer is gone; who waits for `caught_up` is told."""
    taken = Taken()
    reader = bus.read(stream, subjects.inbox_partition(app, 0), 1, taken)
    await asyncio.wait_for(reader.caught_up, 20)
    late = bus.read(stream, subjects.inbox_partition(app, 0), 1, taken, ready=lambda: False)
    await reader.stop()
    await late.stop()
    with pytest.raises(Unreachable):
        await late.caught_up
    await fill(bus, stream, app, 10)
    assert taken.messages == []
    async with asyncio.timeout(10):
        while (await bus.js.stream_info(stream)).state.consumer_count:
            await bus.nc.flush()


@pytest.mark.usefixtures("patient")
async def test_a_subject_that_is_no_text_stops_nobody(bus: Bus, stream: str, app: str, until: Any) -> None:
    """A subject with bytes that are no UTF-8, which anybody may publish on, is delivered like any other."""
    taken = Taken()
    reader = bus.read(stream, subjects.inbox_partition(app, 0), 1, taken)
    await asyncio.wait_for(reader.caught_up, 20)
    bus.nc.send(b"PUB regrow.inbox.%s.0.\xff\xfe 1\r\n0\r\n" % app.encode())
    await fill(bus, stream, app, 3, first=1)
    await until(lambda: reader.applied == 4)
    assert taken.numbers == [0, 1, 2, 3]
    assert reader.recreated == 0


async def test_a_stream_made_later_is_read_from_its_first_message(bus: Bus, app: str, until: Any) -> None:
    """Reading may begin before the stream exists."""
    taken = Taken()
    reader = bus.read(streams.inbox_stream(app), subjects.inbox_partition(app, 0), 1, taken)
    await streams.ensure_app(bus, app)
    await fill(bus, streams.inbox_stream(app), app, 10)
    await until(lambda: reader.applied == 10)
    assert taken.numbers == list(range(10))


async def test_many_readers_on_one_connection(bus: Bus, stream: str, app: str) -> None:
    """Sixteen partitions read side by side: each gets its own messages, all of them, in order."""
    takens = [Taken() for _ in range(16)]
    for k in range(4000):
        part = k * 7 % 16
        bus.publish_soon(stream, subjects.inbox(app, part, "p"), b"%d" % k, f"m{k}")
    await bus.drain_publishers()
    readers = [bus.read(stream, subjects.inbox_partition(app, part), 1, takens[part]) for part in range(16)]
    await asyncio.wait_for(asyncio.gather(*[reader.caught_up for reader in readers]), 30)
    for part, taken in enumerate(takens):
        assert taken.numbers == [k for k in range(4000) if k * 7 % 16 == part]
