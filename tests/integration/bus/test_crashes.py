"""Crashes of the server and cuts of the connection: nothing lost, nothing reordered, nothing twice."""

from __future__ import annotations

import asyncio
import resource
import signal
import sys
import time
from typing import Any

import pytest
from regrow_protocol import streams, subjects
from regrow_protocol.bus import Bus, PubAck, Received
from regrow_protocol.errors import RegrowError
from regrow_protocol.server import Durability, NatsServer

SENDERS = 4


class Trade:
    """Senders that publish numbered messages for as long as `running`, and a reader of all of them."""

    def __init__(self, sender: Bus, reader: Bus, stream: str, until: Any) -> None:
        self.sender = sender
        self.until = until
        self.stream = stream
        self.running = True
        self.sent = [0] * SENDERS
        self.acks: dict[tuple[int, int], PubAck | BaseException] = {}
        self.taken: list[Received] = []
        self.reader = reader.read(stream, subjects.inbox_partition("a", 0), 1, self.taken.extend)

    async def run(self) -> None:
        """Bursts of different lengths, as fast as the back-pressure lets them."""
        burst = 1
        while self.running:
            burst = burst * 7 % 97 + 1
            for _ in range(burst):
                for who in range(SENDERS):
                    k = self.sent[who]
                    self.sent[who] += 1
                    self.sender.publish_soon(
                        self.stream,
                        subjects.inbox("a", 0, f"p{who}"),
                        b"%d" % k,
                        f"{who}.{k}",
                        done=lambda outcome, key=(who, k): self.acks.__setitem__(key, outcome),
                    )
            await self.until(lambda: self.sender.backlog(self.stream) < 3000 or not self.running, "room", 60)
            await asyncio.sleep(0)

    async def check(self) -> None:
        """All that was sent is stored once and in order, and was delivered once and in order."""
        await self.sender.drain_publishers(60)
        total = sum(self.sent)
        assert len(self.acks) == total
        assert all(isinstance(outcome, PubAck) for outcome in self.acks.values())
        last = await self.sender.last_seq(self.stream)
        await self.until(lambda: self.reader.applied == last, "the reader's last message", 30)
        for who in range(SENDERS):
            subject = subjects.inbox("a", 0, f"p{who}")
            stored = [int(message.data) for message in await self.sender.history(self.stream, subject)]
            assert stored == list(range(self.sent[who]))
            read = [int(message.data) for message in self.taken if message.subject == subject]
            assert read == stored
        sequences = [message.seq for message in self.taken]
        assert sequences == sorted(set(sequences))
        for (who, k), ack in self.acks.items():
            assert isinstance(ack, PubAck)
            assert self.taken[ack.seq - 1].data == b"%d" % k
            assert self.taken[ack.seq - 1].subject.endswith(f"p{who}")


@pytest.mark.parametrize("durability", ["safe", "fast"])
async def test_a_killed_server_loses_reorders_and_doubles_nothing(
    private_server: NatsServer, connect: Any, until: Any, durability: Durability
) -> None:
    """The server is killed four times (SIGKILL) while both go on, and comes back on the same store."""
    sender, receiver = await connect(private_server.url), await connect(private_server.url)
    trade = Trade(sender, receiver, await streams.ensure_app(sender, "a"), until)
    running = asyncio.create_task(trade.run())
    for _ in range(4):
        before = trade.reader.applied
        await until(lambda before=before: trade.reader.applied > before + 500, "progress")
        await asyncio.to_thread(private_server.kill)
        await asyncio.to_thread(private_server.restart)
    before = trade.reader.applied
    await until(lambda: trade.reader.applied > before + 500, "progress at the end")
    trade.running = False
    await running
    await trade.check()


async def test_a_reader_resumes_within_a_second(private_server: NatsServer, connect: Any, until: Any) -> None:
    """From the moment a killed server accepts connections again, a message takes less than a second to arrive: the
    quickest of three, for a computer may stand still for a moment."""
    sender, bus = await connect(private_server.url), await connect(private_server.url)
    stream = await streams.ensure_app(sender, "a")
    taken: list[Received] = []
    reader = bus.read(stream, subjects.inbox_partition("a", 0), 1, taken.extend)
    await reader.caught_up
    took: list[float] = []
    for k in range(3):
        await asyncio.to_thread(private_server.kill)
        await until(lambda: not sender.connected and not bus.connected, "noticing the loss")
        sender.publish_soon(stream, subjects.inbox("a", 0, "p"), b"%d" % k, f"m{k}")
        await asyncio.to_thread(private_server.restart)
        start = time.monotonic()
        await until(lambda k=k: len(taken) == k + 1, "the message")
        took.append(time.monotonic() - start)
    assert min(took) < 1.0, took
    assert [message.data for message in taken] == [b"0", b"1", b"2"]


async def test_a_cut_connection_loses_nothing(private_server: NatsServer, connect: Any, until: Any) -> None:
    """The clients' sockets are cut again and again while the server lives: acknowledgements are lost, not messages."""
    sender, receiver = await connect(private_server.url), await connect(private_server.url)
    stream = await streams.ensure_app(sender, "a")
    trade = Trade(sender, receiver, stream, until)
    running = asyncio.create_task(trade.run())
    for k in range(60):
        if k >= 10 and any(isinstance(ack, PubAck) and ack.duplicate for ack in trade.acks.values()):
            break  # not every cut hits a flush in flight
        before = trade.reader.applied
        await until(lambda before=before: trade.reader.applied > before + 300, "progress")
        bus = sender if k % 2 else receiver
        cuts = bus.nc.stats["reconnects"]
        bus.nc._transport._io_writer.transport.abort()
        await until(lambda bus=bus, cuts=cuts: bus.nc.stats["reconnects"] > cuts, "reconnecting")
    trade.running = False
    await running
    await trade.check()
    duplicates = [ack for ack in trade.acks.values() if isinstance(ack, PubAck) and ack.duplicate]
    assert duplicates, "no acknowledgement was lost: the cuts did not hit a flush in flight"


async def test_a_server_that_stands_still_is_waited_for(private_server: NatsServer, connect: Any, until: Any) -> None:
    """A server stopped (SIGSTOP) for longer than the publisher's patience gets the flush again and stores it once."""
    bus = await connect(private_server.url)
    stream = await streams.ensure_app(bus, "a")
    taken: list[Received] = []
    reader = bus.read(stream, subjects.inbox_partition("a", 0), 1, taken.extend)
    await reader.caught_up
    private_server.signal(signal.SIGSTOP)
    for k in range(100):
        bus.publish_soon(stream, subjects.inbox("a", 0, "p"), b"%d" % k, f"m{k}")
    await until(lambda: bus._publisher(stream)._attempts > 1, "a second attempt")
    private_server.signal(signal.SIGCONT)
    await bus.drain_publishers()
    await until(lambda: reader.applied >= 100, "the messages")
    assert [int(message.data) for message in taken] == list(range(100))


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")
async def test_a_disk_that_takes_no_more_loses_nothing(private_server: NatsServer, connect: Any, until: Any) -> None:
    """A server that cannot write its files is reported; when it can again, and was restarted, all is stored."""
    problems: list[RegrowError] = []
    bus = await connect(private_server.url, on_problem=lambda _stream, error: problems.append(error))
    stream = await streams.ensure_app(bus, "a")
    assert private_server.pid is not None
    _, most = resource.prlimit(private_server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(private_server.pid, resource.RLIMIT_FSIZE, (1_000_000, most))
    outcomes: list[PubAck | BaseException] = []
    for k in range(30):
        payload = b"%d " % k + bytes(100_000)
        bus.publish_soon(stream, subjects.inbox("a", 0, "p"), payload, f"m{k}", done=outcomes.append)
    await until(lambda: problems, "a report")
    assert bus.backlog(stream) > 0
    assert "restarted" in problems[0].hint
    await asyncio.to_thread(private_server.restart)
    await bus.drain_publishers()
    assert len(outcomes) == 30
    assert all(isinstance(outcome, PubAck) for outcome in outcomes)
    history = await bus.history(stream, subjects.inbox("a", 0, "p"))
    assert [int(message.data.split(b" ")[0]) for message in history] == list(range(30))


async def test_ups_and_downs_are_told(private_server: NatsServer, connect: Any, until: Any) -> None:
    """`on_down` and `on_up` are called for each loss and return, and `connected_since` moves."""
    told: list[str] = []
    bus = await connect(
        private_server.url, on_down=lambda: told.append("down"), on_up=lambda: told.append("up"), name="told"
    )
    since = bus.connected_since
    for k in range(1, 3):
        await asyncio.to_thread(private_server.kill)
        await until(lambda: not bus.connected)
        await asyncio.to_thread(private_server.restart)
        await until(lambda k=k: told.count("up") == k, "coming back")
    assert told == ["down", "up", "down", "up"]
    assert bus.connected_since > since


async def test_buses_close_while_the_server_is_away(private_server: NatsServer, until: Any) -> None:
    """`close` returns promptly at whatever point of reconnecting it comes."""
    loop = asyncio.get_running_loop()

    async def close(bus: Bus, at: float) -> None:
        await until(lambda: loop.time() >= at)
        await asyncio.wait_for(bus.close(), 15)

    for _ in range(5):
        buses = [await Bus.connect(private_server.url, name="test") for _ in range(8)]
        for bus in buses:
            bus.read("S", "s.>", 1, lambda _: None)
        await asyncio.to_thread(private_server.kill)
        start = loop.time()
        await asyncio.gather(*[close(bus, start + 0.05 * number) for number, bus in enumerate(buses)])
        await asyncio.to_thread(private_server.restart)
