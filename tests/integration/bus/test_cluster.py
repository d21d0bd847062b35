"""Three servers with three replicas: leaders come and go, and nothing is lost, reordered or stored twice."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest
from regrow_protocol import streams, subjects
from regrow_protocol.bus import Bus, PubAck, Received
from regrow_protocol.ports import free_port
from regrow_protocol.server import NatsServer

pytestmark = pytest.mark.timeout(180)

SENDERS = 3


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[NatsServer]]:
    """Three servers that know each other."""
    ports: set[int] = set()
    while len(ports) < 3:
        ports.add(free_port())
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                NatsServer.start(
                    tmp_path / f"n{number}",
                    durability="fast",
                    extra=f"server_name: n{number}\n"
                    f"cluster {{ name: c, listen: 127.0.0.1:{port}, routes: [{routes}], no_advertise: true }}",
                )
            )
            for number, port in enumerate(ports)
        ]


async def leader_of(bus: Bus, cluster: list[NatsServer], stream: str) -> NatsServer:
    """The server that leads a stream; there may be none at this moment."""
    async with asyncio.timeout(30):
        while (info := (await bus.js.stream_info(stream)).cluster) is None or info.leader is None:
            await asyncio.sleep(0.02)
    return cluster[int(info.leader.removeprefix("n"))]


T = TypeVar("T")


async def insist(ensure: Callable[[], Awaitable[T]]) -> T:
    """Make streams; the cluster may still be electing its leader, or theirs."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await ensure()
            except ExceptionGroup:
                await asyncio.sleep(0.02)


async def ready_stream(bus: Bus) -> str:
    """An app's stream on three replicas."""
    return await insist(lambda: streams.ensure_app(bus, "a", replicas=3))


class Sender:
    """Publishes numbered messages, some waiting at any time, until it is told to stop."""

    def __init__(self, bus: Bus, stream: str, who: int, until: Any) -> None:
        self.bus = bus
        self.stream = stream
        self.subject = subjects.inbox("a", 0, f"p{who}")
        self.who = who
        self.until = until
        self.sent = 0
        self.acks: list[PubAck | BaseException] = []
        self.running = True

    async def run(self) -> None:
        while self.running:
            for _ in range(20):
                payload, msg_id = b"%d" % self.sent, f"{self.who}.{self.sent}"
                self.bus.publish_soon(self.stream, self.subject, payload, msg_id, done=self.acks.append)
                self.sent += 1
            await self.until(lambda: self.bus.backlog(self.stream) <= 40 or not self.running, "room", 60)
        await self.bus.drain_publishers(60)


async def test_a_leader_that_dies_loses_and_reorders_nothing(
    cluster: list[NatsServer], connect: Any, until: Any
) -> None:
    """The stream's leader is killed in the midst of publishing and reading; what it led goes on elsewhere."""
    urls = ",".join(server.url for server in cluster)
    bus = await connect(urls)
    stream = await ready_stream(bus)
    senders = [Sender(await connect(urls, name=f"s{who}"), stream, who, until) for who in range(SENDERS)]
    taken: list[Received] = []
    bus.read(stream, subjects.inbox_partition("a", 0), 1, taken.extend)
    async with asyncio.TaskGroup() as group:
        for sender in senders:
            group.create_task(sender.run())
        await until(lambda: len(taken) > 300, "progress", 40)
        leader = await leader_of(bus, cluster, stream)
        await asyncio.to_thread(leader.kill)
        before = len(taken)
        await until(lambda: len(taken) > before + 300, "going on with a new leader", 40)
        await asyncio.to_thread(leader.restart)
        for sender in senders:
            sender.running = False
    await until(lambda: len(taken) >= sum(sender.sent for sender in senders), "the rest", 40)
    for sender in senders:
        assert len(sender.acks) == sender.sent
        assert all(isinstance(ack, PubAck) for ack in sender.acks)
        numbers = list(range(sender.sent))
        assert [int(message.data) for message in taken if message.subject == sender.subject] == numbers
        last = await bus.last(stream, sender.subject)
        assert last is not None
        history = await bus.history(stream, sender.subject, 1, last.seq)
        assert [int(message.data) for message in history] == numbers


async def test_a_server_that_stands_still_is_left(cluster: list[NatsServer], connect: Any, until: Any) -> None:
    """A client whose own server answers nothing moves to another by itself, within seconds, and loses nothing."""
    stuck = cluster[0]
    bus = await connect(",".join(server.url for server in cluster))
    stream = await ready_stream(bus)
    while bus.nc.connected_url.port != stuck.port:
        bus.nc._server_pool.sort(key=lambda server: server.uri.port != stuck.port)
        bus.nc.options["dont_randomize"] = True
        since = bus.connected_since
        await bus.nc.force_reconnect()
        await until(lambda since=since: bus.connected_since > since, "moving to the first server")
    taken: list[Received] = []
    reader = bus.read(stream, subjects.inbox_partition("a", 0), 1, taken.extend)
    await reader.caught_up
    stuck.signal(signal.SIGSTOP)
    try:
        for k in range(200):
            bus.publish_soon(stream, subjects.inbox("a", 0, "p"), b"%d" % k + bytes(20_000), f"m{k}")
        await bus.drain_publishers(40)
        assert bus.nc.connected_url.port != stuck.port
        await until(lambda: len(taken) >= 200, "the messages", 20)
        assert [int(message.data.rstrip(b"\0")) for message in taken] == list(range(200))
    finally:
        stuck.signal(signal.SIGCONT)


async def test_what_was_acknowledged_is_read_back(cluster: list[NatsServer], connect: Any) -> None:
    """After an acknowledgement `history(up_to)` and `kv.get` give that very write, whichever server is asked."""
    buses = [await connect(server.url) for server in cluster]
    stream = await ready_stream(buses[0])
    await insist(lambda: streams.ensure(buses[0], replicas=3))
    kvs = [bus.kv("regrow_cursors") for bus in buses]
    revision = await kvs[0].create("c", b"0")
    for k in range(1, 100):
        writer, asker = buses[k % 3], buses[(k + 1) % 3]
        ack = await writer.publish(stream, subjects.inbox("a", 0, "p"), b"%d" % k, f"m{k}")
        history = await asker.history(stream, subjects.inbox("a", 0, "p"), 1, ack.seq)
        assert [int(message.data) for message in history] == list(range(1, k + 1))
        revision = await kvs[k % 3].update("c", b"%d" % k, revision)
        assert await kvs[(k + 2) % 3].get("c") == (b"%d" % k, revision)
