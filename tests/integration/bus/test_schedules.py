"""Scheduled messages: a timer's target is the process inbox in the same stream."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from regrow_protocol import streams, subjects
from regrow_protocol.bus import Bus, Received, schedule_headers
from regrow_protocol.errors import PublishRejected
from regrow_protocol.server import NatsServer


async def test_a_schedule_fires_into_the_inbox_of_its_stream(bus: Bus, stream: str, app: str, until: Any) -> None:
    """At its time the body arrives on the target with the sender's own headers, and the schedule is gone."""
    taken: list[Received] = []
    await bus.read(stream, subjects.inbox_partition(app, 0), 1, taken.extend).caught_up
    due = time.time() + 1.0
    timer = subjects.timer(app, 0, "p", 0, 1)
    headers = {**schedule_headers(due, subjects.inbox(app, 0, "p")), "traceparent": "00-ab-cd-01"}
    await bus.publish(stream, timer, b'{"kind":"timer"}', "t1", headers=headers)
    await until(lambda: taken, "firing")
    assert (taken[0].subject, taken[0].data) == (subjects.inbox(app, 0, "p"), b'{"kind":"timer"}')
    assert due <= taken[0].time
    assert taken[0].headers == {"traceparent": "00-ab-cd-01", "Nats-Scheduler": timer, "Nats-Schedule-Next": "purge"}
    assert await bus.subjects(stream, "regrow.timer.>") == {}


async def test_what_is_past_due_fires_at_once(bus: Bus, stream: str, app: str, until: Any) -> None:
    """A schedule of the past fires within the server's tick."""
    taken: list[Received] = []
    await bus.read(stream, subjects.inbox_partition(app, 0), 1, taken.extend).caught_up
    await bus.schedule(
        stream, subjects.timer(app, 0, "p", 0, 1), time.time() - 3600, subjects.inbox(app, 0, "p"), b"old", "t1"
    )
    await until(lambda: taken, "firing")
    assert taken[0].data == b"old"


async def test_cancelling_is_certain(bus: Bus, stream: str, app: str, until: Any) -> None:
    """A cancelled schedule does not fire; cancelling again, or one that has fired, says that there was none."""
    taken: list[Received] = []
    await bus.read(stream, subjects.inbox_partition(app, 0), 1, taken.extend).caught_up
    inbox = subjects.inbox(app, 0, "p")
    soon = time.time() + 4.0
    for n in (1, 2, 3):
        await bus.schedule(stream, subjects.timer(app, 0, "p", 0, n), soon, inbox, b"%d" % n, f"t{n}")
    assert await bus.cancel_schedule(stream, subjects.timer(app, 0, "p", 0, 2)) is True
    assert await bus.cancel_schedule(stream, subjects.timer(app, 0, "p", 0, 2)) is False
    await until(lambda: len(taken) == 2, "firing of the others")
    assert sorted(message.data for message in taken) == [b"1", b"3"]
    assert await bus.cancel_schedule(stream, subjects.timer(app, 0, "p", 0, 1)) is False


async def test_a_schedule_can_be_moved(bus: Bus, stream: str, app: str, until: Any) -> None:
    """Publishing on the subject of a schedule again replaces it."""
    taken: list[Received] = []
    await bus.read(stream, subjects.inbox_partition(app, 0), 1, taken.extend).caught_up
    timer, inbox = subjects.timer(app, 0, "p", 0, 1), subjects.inbox(app, 0, "p")
    await bus.schedule(stream, timer, time.time() + 3600, inbox, b"first", "t1")
    assert await bus.subjects(stream, "regrow.timer.>") == {timer: 1}
    await bus.schedule(stream, timer, time.time(), inbox, b"second", "t2")
    await until(lambda: taken, "firing")
    assert [message.data for message in taken] == [b"second"]
    assert await bus.subjects(stream, "regrow.timer.>") == {}


async def test_schedules_in_a_batch_fire_all(bus: Bus, stream: str, app: str, until: Any) -> None:
    """Hundreds of schedules published under load, due at one moment, fire each once."""
    taken: list[Received] = []
    await bus.read(stream, subjects.inbox_partition(app, 0), 1, taken.extend).caught_up
    due = time.time() + 0.3
    for n in range(500):
        headers = schedule_headers(due, subjects.inbox(app, 0, f"p{n % 9}"))
        bus.publish_soon(stream, subjects.timer(app, 0, f"p{n % 9}", 0, n), b"%d" % n, f"t{n}", headers=headers)
    await bus.drain_publishers()
    await until(lambda: len(taken) >= 500, "firing", 30)
    assert sorted(int(message.data) for message in taken) == list(range(500))


async def test_what_falls_due_while_the_server_is_away_fires_after(
    private_server: NatsServer, connect: Any, until: Any
) -> None:
    """A schedule survives a killed server and fires once when it is back."""
    bus = await connect(private_server.url)
    stream = await streams.ensure_app(bus, "a")
    taken: list[Received] = []
    await bus.read(stream, subjects.inbox_partition("a", 0), 1, taken.extend).caught_up
    due = time.time() + 0.3
    await bus.schedule(stream, subjects.timer("a", 0, "p", 0, 1), due, subjects.inbox("a", 0, "p"), b"x", "t1")
    await asyncio.to_thread(private_server.kill)
    await until(lambda: time.time() > due + 0.2)
    await asyncio.to_thread(private_server.restart)
    await until(lambda: taken, "firing")
    assert [message.data for message in taken] == [b"x"]


@pytest.mark.parametrize("target", ["regrow.event.a.p.x", "regrow.inbox.{app}.0.*", "nobody.listens"])
async def test_a_target_outside_the_stream_is_refused(bus: Bus, stream: str, app: str, target: str) -> None:
    """A schedule cannot reach another app's stream, nor many subjects."""
    with pytest.raises(PublishRejected):
        await bus.schedule(
            stream, subjects.timer(app, 0, "p", 0, 1), time.time(), target.replace("{app}", app), b"", "t1"
        )
