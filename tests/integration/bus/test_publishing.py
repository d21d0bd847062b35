"""Publishing: order, grouping, repetition, and who fails when something is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from regrow_protocol import streams, subjects
from regrow_protocol.bus import Bus, PubAck
from regrow_protocol.bus.pace import Pace
from regrow_protocol.errors import InvalidName, PublishRejected, RegrowError, StorageFull, Unreachable, WrongRevision
from regrow_protocol.server import Durability, NatsServer

safe_and_fast = pytest.mark.parametrize("durability", ["safe", "fast"])


class AlwaysBatch(Pace):
    """For tests of what happens to batches, whatever is faster here."""

    def prefers_batch(self, count: int) -> bool:
        return count > 1


def batching(bus: Bus, stream: str) -> None:
    """From now on what waits for `stream` goes as a batch."""
    bus._publisher(stream).pace = AlwaysBatch()


class Collected:
    """Outcomes of messages, in the order they came."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[Any, PubAck | BaseException]] = []

    def expect(self, label: Any) -> Any:
        return lambda outcome: self.outcomes.append((label, outcome))

    def errors(self) -> dict[Any, BaseException]:
        return {label: outcome for label, outcome in self.outcomes if isinstance(outcome, BaseException)}

    def acks(self) -> dict[Any, PubAck]:
        return {label: outcome for label, outcome in self.outcomes if isinstance(outcome, PubAck)}


async def test_order_per_sender_is_kept_under_load(bus: Bus, stream: str, app: str, connect: Any) -> None:
    """Several senders publish thousands of messages each, grouped as it comes; the stream has each one's order."""
    senders = [await connect(name=f"sender {n}") for n in range(3)]
    count = 2000

    async def send(number: int, sender: Bus) -> None:
        for k in range(count):
            sender.publish_soon(stream, subjects.inbox(app, 0, f"p{number}"), b"%d" % k, f"{number}.{k}")
            if k % (37 + number) == 0:
                await asyncio.sleep(0)  # bursts of different lengths: singles and batches alternate
        await sender.drain_publishers()

    await asyncio.gather(*[send(number, sender) for number, sender in enumerate(senders)])
    for number in range(3):
        history = await bus.history(stream, subjects.inbox(app, 0, f"p{number}"))
        assert [int(message.data) for message in history] == list(range(count))


@safe_and_fast
async def test_many_waiting_messages_become_few_batches(
    private_server: NatsServer, connect: Any, durability: Durability
) -> None:
    """Two hundred messages that wait together go in one atomic batch: one commit, each with its own sequence."""
    bus = await connect(private_server.url)
    stream = await streams.ensure_app(bus, "a")
    batching(bus, stream)
    got = Collected()
    for k in range(200):
        bus.publish_soon(stream, subjects.inbox("a", 0, f"p{k % 5}"), b"%d" % k, f"m{k}", done=got.expect(k))
    await bus.drain_publishers()
    messages, _ = await bus.get_batch(stream, "regrow.inbox.>", 1, batch=500)
    assert len({message.header("Nats-Batch-Id") for message in messages}) == 1
    assert [int(message.data) for message in messages] == list(range(200))
    assert {k: ack.seq for k, ack in got.acks().items()} == {k: k + 1 for k in range(200)}


async def test_with_fsync_on_every_write_load_is_grouped_by_itself(connect: Any, tmp_path: Path) -> None:
    """With `safe`, where a single costs a sync, the publisher groups under load without being told."""
    with NatsServer.start(tmp_path, durability="safe") as server:
        bus = await connect(server.url)
        stream = await streams.ensure_app(bus, "a")
        for k in range(3000):
            bus.publish_soon(stream, subjects.inbox("a", 0, "p"), b"", f"m{k}")
        await bus.drain_publishers()
        history = await bus.history(stream, subjects.inbox("a", 0, "p"))
        batched = [message.header("Nats-Batch-Id") for message in history if message.header("Nats-Batch-Id")]
        assert len(history) == 3000
        assert len(batched) > 1500
        assert len(set(batched)) < len(batched) / 20


async def test_one_message_alone_goes_singly(bus: Bus, stream: str, app: str) -> None:
    """Without load there is no batch, whose commit would cost milliseconds."""
    await bus.publish(stream, subjects.inbox(app, 0, "p"), b"x", "1")
    message = await bus.last(stream, subjects.inbox(app, 0, "p"))
    assert message is not None
    assert message.header("Nats-Batch-Id") is None


async def test_an_id_is_stored_once(bus: Bus, stream: str, app: str) -> None:
    """The same id again, later or within the same flush, is acknowledged as a duplicate, with the first's sequence."""
    batching(bus, stream)
    subject = subjects.inbox(app, 0, "p")
    got = Collected()
    for label, msg_id in enumerate(["a", "b", "a", "c", "a"]):
        bus.publish_soon(stream, subject, b"%d" % label, msg_id, done=got.expect(label))
    await bus.drain_publishers()
    acks = got.acks()
    assert [acks[label].duplicate for label in range(5)] == [False, False, True, False, True]
    assert acks[0].seq == acks[2].seq == acks[4].seq
    assert [message.data for message in await bus.history(stream, subject)] == [b"0", b"1", b"3"]


async def test_a_rejected_batch_falls_back_to_singles(bus: Bus, stream: str, app: str) -> None:
    """A batch with an id that is stored already is refused whole; then each message goes by itself, in order."""
    batching(bus, stream)
    subject = subjects.inbox(app, 0, "p")
    first = await bus.publish(stream, subject, b"5", "m5")
    got = Collected()
    for k in range(20):
        bus.publish_soon(stream, subject, b"%d" % k, f"m{k}", done=got.expect(k))
    await bus.drain_publishers()
    assert not got.errors()
    assert got.acks()[5] == PubAck(first.seq, duplicate=True)
    assert not got.acks()[6].duplicate
    stored = [int(message.data) for message in await bus.history(stream, subject)]
    assert stored == [5, *[k for k in range(20) if k != 5]]


@pytest.mark.parametrize("grouping", ["singles", "batch"])
async def test_an_oversized_message_fails_only_itself(bus: Bus, stream: str, app: str, grouping: str) -> None:
    """A message beyond the server's limit gets `PublishRejected`; the connection, and all others, are not disturbed."""
    if grouping == "batch":
        batching(bus, stream)
    subject = subjects.inbox(app, 0, "p")
    got = Collected()
    for k in range(10):
        payload = bytes(1_048_570 if k == 4 else 10)
        bus.publish_soon(stream, subject, payload, f"m{k}", done=got.expect(k))
    await bus.drain_publishers()
    assert list(got.errors()) == [4]
    assert isinstance(got.errors()[4], PublishRejected)
    assert sorted(got.acks()) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert bus.nc.stats["reconnects"] == 0


@pytest.mark.parametrize("grouping", ["singles", "batch"])
async def test_what_the_stream_refuses_fails_only_itself(bus: Bus, stream: str, app: str, grouping: str) -> None:
    """A schedule whose target is in another stream is refused for good; its neighbours are stored."""
    if grouping == "batch":
        batching(bus, stream)
    got = Collected()
    for k in range(10):
        headers = {"Nats-Schedule": "@at 2100-01-01T00:00:00Z", "Nats-Schedule-Target": "regrow.event.x.y.z"}
        where = subjects.timer(app, 0, "p", 0, k) if k == 4 else subjects.inbox(app, 0, "p")
        bus.publish_soon(stream, where, b"x", f"m{k}", headers=headers if k == 4 else None, done=got.expect(k))
    await bus.drain_publishers()
    assert list(got.errors()) == [4]
    assert isinstance(got.errors()[4], PublishRejected)
    assert len(await bus.history(stream, subjects.inbox(app, 0, "p"))) == 9


@pytest.mark.parametrize("grouping", ["singles", "batch"])
async def test_compare_and_set_works_through_the_publisher(bus: Bus, stream: str, app: str, grouping: str) -> None:
    """An expected sequence that does not hold fails that message with `WrongRevision`, alone or in a batch."""
    if grouping == "batch":
        batching(bus, stream)
    present = await bus.publish(stream, subjects.inbox(app, 0, "cas"), b"x", "m")
    got = Collected()
    expect = "Nats-Expected-Last-Subject-Sequence"
    for k, expected in enumerate([None, present.seq + 7, present.seq, None]):
        headers = None if expected is None else {expect: str(expected)}
        where = subjects.inbox(app, 0, "cas" if expected else "other")
        bus.publish_soon(stream, where, b"%d" % k, f"m{k}", headers=headers, done=got.expect(k))
    await bus.drain_publishers()
    assert list(got.errors()) == [1]
    assert isinstance(got.errors()[1], WrongRevision)
    assert [message.data for message in await bus.history(stream, subjects.inbox(app, 0, "cas"))] == [b"x", b"2"]


@pytest.mark.parametrize("grouping", ["singles", "batch"])
async def test_a_repeat_is_no_conflict_with_itself(bus: Bus, stream: str, app: str, grouping: str) -> None:
    """A message that must be its subject's first, sent again under its id, is a duplicate; another one is refused."""
    if grouping == "batch":
        batching(bus, stream)
    first = {"Nats-Expected-Last-Subject-Sequence": "0"}
    subject = subjects.inbox(app, 0, "p")
    stored = await bus.publish(stream, subject, b"start", "m0", headers=first)
    got = Collected()
    for k, msg_id in enumerate(["m0", "other", "m0"]):
        bus.publish_soon(stream, subject, b"start", msg_id, headers=first, done=got.expect(k))
        bus.publish_soon(stream, subjects.inbox(app, 0, f"q{k}"), b"", f"q{k}", headers=first, done=got.expect(f"q{k}"))
    await bus.drain_publishers()
    assert list(got.errors()) == [1]
    assert isinstance(got.errors()[1], WrongRevision)
    assert got.acks()[0] == got.acks()[2] == PubAck(stored.seq, duplicate=True)
    assert len(await bus.history(stream, subject)) == 1


async def test_callbacks_are_called_outside_tasks_and_may_fail(bus: Bus, stream: str, app: str) -> None:
    """`done` runs in a plain callback of the loop; one that raises is logged and disturbs nobody."""
    tasks: list[Any] = []

    def done(_: PubAck | BaseException) -> None:
        tasks.append(asyncio.current_task())
        raise ValueError("of the test")

    for k in range(5):
        bus.publish_soon(stream, subjects.inbox(app, 0, "p"), b"", f"m{k}", done=done)
    bus.publish_soon(stream, subjects.inbox(app, 0, "p"), bytes(2_000_000), "large", done=done)
    await bus.drain_publishers()
    assert tasks == [None] * 6


async def test_nothing_is_published_while_the_gate_is_closed(bus: Bus, stream: str, app: str, connect: Any) -> None:
    """A host whose lease ran out publishes nothing to streams until the gate opens; its buckets stay writable."""
    is_open = False
    bus.gate(lambda: is_open)
    got = Collected()
    for k in range(50):
        bus.publish_soon(stream, subjects.inbox(app, 0, "p"), b"%d" % k, f"m{k}", done=got.expect(k))
    await bus.kv("regrow_hosts").put(f"{app}.h", b"alive")
    witness = await connect()
    assert await witness.last_seq(stream) == 0
    assert bus.backlog(stream) == 50
    is_open = True
    bus.kick()
    await bus.drain_publishers()
    assert len(got.acks()) == 50
    assert bus.backlog(stream) == 0


async def test_a_gate_that_opens_unannounced_is_noticed(bus: Bus, stream: str, app: str) -> None:
    """The gate is asked again a few times a second, so a forgotten `kick` only costs time."""
    is_open = False
    bus.gate(lambda: is_open)
    waiting = asyncio.create_task(bus.publish(stream, subjects.inbox(app, 0, "p"), b"x", "m"))
    await asyncio.sleep(0)
    is_open = True
    assert (await asyncio.wait_for(waiting, 5)).seq == 1


async def test_back_pressure_bounds_what_waits(bus: Bus, stream: str, app: str) -> None:
    """A sender that awaits `ready` never has much more than the high-water mark waiting."""
    most = 0
    for k in range(30_000):
        bus.publish_soon(stream, subjects.inbox(app, 0, "p"), b"x", f"m{k}")
        most = max(most, bus.backlog(stream))
        await bus.ready(stream)
    await bus.drain_publishers()
    assert 10_000 < most <= 10_001
    assert await bus.last_seq(stream) == 30_000


async def test_a_full_store_is_reported_and_loses_nothing(private_server: NatsServer, connect: Any, until: Any) -> None:
    """While the stream is full its publisher says `StorageFull` and keeps trying; with room all is stored in order."""
    problems: list[tuple[str, RegrowError]] = []
    bus = await connect(private_server.url, on_problem=lambda stream, error: problems.append((stream, error)))
    full = streams.StreamSpec("FULL", ("full.>",), fields={"discard": "new", "max_msgs": 5})
    await streams.ensure_specs(bus, [full])
    got = Collected()
    for k in range(12):
        bus.publish_soon("FULL", "full.a", b"%d" % k, f"m{k}", done=got.expect(k))
    await until(lambda: any(isinstance(error, StorageFull) for _, error in problems), "a report")
    await until(lambda: len(got.acks()) == 5, "what has room")
    with pytest.raises(Unreachable):
        await bus.drain_publishers(0.3)
    assert len(got.acks()) == 5
    roomy = streams.StreamSpec("FULL", ("full.>",), fields={"discard": "new", "max_msgs": 100})
    await streams.ensure_specs(bus, [roomy])
    await bus.drain_publishers()
    assert [int(message.data) for message in await bus.history("FULL", "full.a")] == list(range(12))
    assert not got.errors()


async def test_a_disk_limit_is_reported_and_loses_nothing(connect: Any, tmp_path: Path, until: Any) -> None:
    """The same for a server whose store has reached its limit: after a purge everything arrives, once and in order."""
    full: set[str] = set()
    with NatsServer.start(tmp_path, durability="fast", max_store=4_000_000) as server:
        bus = await connect(
            server.url, on_problem=lambda stream, error: full.add(stream) if isinstance(error, StorageFull) else None
        )
        await streams.ensure_specs(bus, [streams.StreamSpec("FILL", ("fill.>",)), streams.StreamSpec("S", ("s.>",))])
        filled = Collected()
        fillers = [filled.expect(k) for k in range(8)]
        for k, done in enumerate(fillers):
            bus.publish_soon("FILL", "fill.a", bytes(900_000), f"f{k}", done=done)
        await until(lambda: "FILL" in full, "a report")
        got = Collected()
        for k in range(20):
            bus.publish_soon("S", "s.a", b"%d" % k + bytes(200_000), f"m{k}", done=got.expect(k))
        await until(lambda: "S" in full, "another one")
        with pytest.raises(Unreachable):
            await bus.drain_publishers(0.3)
        left = bus.backlog("FILL")
        assert bus.withdraw(lambda done: done in fillers) == left > 0
        await bus.purge("FILL", "fill.>")
        await asyncio.wait_for(bus.drain_publishers(), 30)
        history = await bus.history("S", "s.a")
        assert [int(message.data[:2].strip(b"\0")) for message in history] == list(range(len(history)))
        assert len(got.acks()) == 20


async def test_a_withdrawn_message_is_not_sent_later(private_server: NatsServer, connect: Any) -> None:
    """A write that timed out while the server was away, and was taken back, does not turn up when it returns."""
    bus = await connect(private_server.url)
    stream = await streams.ensure_app(bus, "a")
    await asyncio.to_thread(private_server.kill)
    with pytest.raises(Unreachable):
        await bus.publish(stream, subjects.inbox("a", 0, "p"), b"late", "m1", timeout=0.3, withdraw=True)
    await asyncio.to_thread(private_server.restart)
    await bus.publish(stream, subjects.inbox("a", 0, "p"), b"next", "m2")
    assert [message.data for message in await bus.history(stream, subjects.inbox("a", 0, "p"))] == [b"next"]


async def test_what_is_withdrawn_is_silent_and_others_go_on(bus: Bus, stream: str, app: str) -> None:
    """Of what waits behind a closed gate, the messages that `mine` accepts are dropped without a word."""
    is_open = False
    bus.gate(lambda: is_open)
    mine, others = Collected(), Collected()
    dones = [mine.expect(k) for k in range(10)]
    for k in range(10):
        bus.publish_soon(stream, subjects.inbox(app, 0, "mine"), b"", f"m{k}", done=dones[k])
        bus.publish_soon(stream, subjects.inbox(app, 0, "others"), b"%d" % k, f"o{k}", done=others.expect(k))
        bus.publish_soon(stream, subjects.inbox(app, 0, "others"), b"", f"n{k}")
    assert bus.withdraw(lambda done: done in dones) == 10
    assert bus.backlog(stream) == 20
    is_open = True
    bus.kick()
    await bus.drain_publishers()
    assert mine.outcomes == []
    assert len(others.acks()) == 10
    assert await bus.last(stream, subjects.inbox(app, 0, "mine")) is None
    assert await bus.last_seq(stream) == 20


async def test_a_message_without_a_stream_waits_for_it(bus: Bus, app: str, until: Any) -> None:
    """Nobody listens on the subject yet: that is reported and repeated, and it arrives when the stream is made."""
    problems: list[RegrowError] = []
    bus.on_problem = lambda _stream, error: problems.append(error)
    waiting = asyncio.create_task(bus.publish(streams.inbox_stream(app), subjects.inbox(app, 0, "p"), b"x", "m"))
    await until(lambda: problems, "a report")
    await streams.ensure_app(bus, app)
    assert (await asyncio.wait_for(waiting, 10)).seq == 1


async def test_a_subject_that_cannot_be_sent_is_refused_at_once(bus: Bus, stream: str) -> None:
    """White space in a subject, or a line break in an id, raises where the message is handed in."""
    with pytest.raises(InvalidName):
        bus.publish_soon(stream, "a b", b"", "m")
    with pytest.raises(InvalidName):
        bus.publish_soon(stream, "regrow.inbox.a", b"", "m\r\nX: y")
    with pytest.raises(TypeError):
        bus.publish_soon(stream, "regrow.inbox.a", "text", "m")  # type: ignore[arg-type]
    assert bus.backlog(stream) == 0


async def test_closing_fails_what_waits(bus: Bus, stream: str, app: str) -> None:
    """What is not acknowledged when the bus is closed is told so, and later calls are refused."""
    got = Collected()
    bus.gate(lambda: False)
    bus.publish_soon(stream, subjects.inbox(app, 0, "p"), b"", "m", done=got.expect(0))
    await bus.close()
    assert isinstance(got.errors()[0], Unreachable)
    with pytest.raises(Unreachable):
        bus.publish_soon(stream, subjects.inbox(app, 0, "p"), b"", "m")
