"""Reading without a consumer: batches, paging, and what only the leader can answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from regrow_protocol import streams, subjects
from regrow_protocol.bus import ApiError, Bus, Received, direct
from regrow_protocol.errors import Unreachable


async def fill(bus: Bus, stream: str, app: str, count: int, size: int = 10) -> None:
    for k in range(count):
        bus.publish_soon(stream, subjects.inbox(app, 0, f"p{k % 3}"), b"%d " % k + bytes(size), f"m{k}")
    await bus.drain_publishers()


async def test_a_batch_ends_where_it_is_told_and_says_what_is_left(bus: Bus, stream: str, app: str) -> None:
    """`batch` bounds the messages, the number still to come is exact, and the next page begins after the last."""
    await fill(bus, stream, app, 300)
    subject = subjects.inbox(app, 0, "p1")
    page, left = await bus.get_batch(stream, subject, 1, batch=40)
    assert [message.seq for message in page] == list(range(2, 122, 3))
    assert left == 60
    page, left = await bus.get_batch(stream, subject, page[-1].seq + 1, batch=60)
    assert (len(page), left) == (60, 0)
    assert await bus.get_batch(stream, subject, page[-1].seq + 1) == ([], 0)
    assert await bus.get_batch(stream, subjects.inbox(app, 0, "nobody"), 1) == ([], 0)


async def test_a_batch_is_bounded_by_bytes(bus: Bus, stream: str, app: str) -> None:
    """`max_bytes` ends a batch early; paging goes on from there."""
    await fill(bus, stream, app, 30, size=50_000)
    page, left = await bus.get_batch(stream, subjects.inbox_partition(app, 0), 1, max_bytes=200_000)
    assert 1 <= len(page) <= 5
    assert left == 30 - len(page)


async def test_history_pages_through_everything(bus: Bus, stream: str, app: str) -> None:
    """More messages than fit into one page come whole and in order, from any start."""
    await fill(bus, stream, app, 4000)
    history = await bus.history(stream, subjects.inbox_partition(app, 0))
    assert [message.seq for message in history] == list(range(1, 4001))
    assert [int(message.data.split(b" ")[0]) for message in history] == list(range(4000))
    one = await bus.history(stream, subjects.inbox(app, 0, "p2"), 3000)
    assert [message.seq for message in one] == [k for k in range(3000, 4001) if k % 3 == 0]
    assert {message.subject for message in one} == {subjects.inbox(app, 0, "p2")}


async def test_history_reaches_the_sequence_it_is_told(bus: Bus, stream: str, app: str) -> None:
    """With `up_to` it does not end before that message, and it does end when that message was deleted."""
    await fill(bus, stream, app, 30)
    subject = subjects.inbox(app, 0, "p0")
    last = await bus.last(stream, subject)
    assert last is not None
    history = await bus.history(stream, subject, 1, last.seq)
    assert history[-1].seq == last.seq
    await bus.request(f"$JS.API.STREAM.MSG.DELETE.{stream}", b'{"seq":%d}' % last.seq)
    shorter = await asyncio.wait_for(bus.history(stream, subject, 1, last.seq), 10)
    assert [message.seq for message in shorter] == [message.seq for message in history[:-1]]


async def test_the_leader_is_asked_when_a_follower_stays_behind(
    bus: Bus, stream: str, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If direct gets never reach `up_to`, the rest is read from the leader, message by message."""
    await fill(bus, stream, app, 30)
    subject = subjects.inbox(app, 0, "p0")
    whole = await bus.history(stream, subject)
    real = direct.get_batch

    async def stale(*args: Any, **kwargs: Any) -> tuple[list[Received], int]:
        page, _ = await real(*args, **kwargs)
        return [message for message in page if message.seq <= 15], 0

    monkeypatch.setattr(direct, "get_batch", stale)
    read = await bus.history(stream, subject, 1, whole[-1].seq)
    assert [(m.seq, m.subject, m.data, m.time) for m in read] == [(m.seq, m.subject, m.data, m.time) for m in whole]
    assert [m.header("Nats-Msg-Id") for m in read] == [m.header("Nats-Msg-Id") for m in whole]


async def test_the_last_message_of_a_subject(bus: Bus, stream: str, app: str) -> None:
    """`last` follows wildcards, gives None for nothing, and `last_seq` is the stream's."""
    assert await bus.last(stream, subjects.inbox(app, 0, "p0")) is None
    assert await bus.last_seq(stream) == 0
    await fill(bus, stream, app, 30)
    last = await bus.last(stream, subjects.inbox(app, 0, "p0"))
    assert last is not None
    assert (last.seq, last.data[:3]) == (28, b"27 ")
    assert last.header("Nats-Msg-Id") == "m27"
    anyone = await bus.last(stream, subjects.inbox_partition(app, 0))
    assert anyone is not None
    assert anyone.seq == await bus.last_seq(stream) == 30


async def test_subjects_are_counted(bus: Bus, stream: str, app: str) -> None:
    """`subjects` gives what matches with the number of messages of each."""
    await fill(bus, stream, app, 31)
    expected = {subjects.inbox(app, 0, f"p{k}"): (11 if k == 0 else 10) for k in range(3)}
    assert await bus.subjects(stream, subjects.inbox_partition(app, 0)) == expected
    assert await bus.subjects(stream, "regrow.timer.>") == {}


async def test_what_the_api_refuses_is_an_error_with_its_code(bus: Bus, app: str) -> None:
    """A stream that is not there is `ApiError` 10059 at once; what nobody answers is `Unreachable` in time."""
    with pytest.raises(ApiError) as caught:
        await bus.last_seq(streams.inbox_stream(app))
    assert (caught.value.status, caught.value.err_code) == (404, 10059)
    with pytest.raises(Unreachable):
        await bus.request("nobody.listens.here", timeout=0.5)
    with pytest.raises(Unreachable):
        await bus.get_batch(streams.inbox_stream(app), "a.>", 1, timeout=0.5)
