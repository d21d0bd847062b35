"""The events of a process: those of its life, its own, and those it forwards; each with a number and a time."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from msgspec import structs
from regrow import (
    ExecutionCancelled,
    ExecutionFailed,
    RegrowError,
    agent_process,
    bubble,
    current_process,
    emit,
    now,
    sleep,
    spawn,
)
from regrow.testing import Runtime
from regrow_protocol import messages as m
from regrow_protocol import streams, subjects
from regrow_protocol.errors import WrongRevision

from .looking import event, records


@agent_process
async def good() -> dict[str, int]:
    emit("progress", {"percent": 50})
    emit("nothing")
    return {"n": 1}


@agent_process
async def bad(text: str) -> None:
    raise RuntimeError(text)


@agent_process
async def endless() -> None:
    await asyncio.Event().wait()


async def _told(rt: Runtime, pid: str) -> list[tuple[str, Any]]:
    return [(e.type, e.data) async for e in rt.client.events(rt.app, pid)]


async def test_a_process_tells_started_its_own_events_and_done_with_its_result(rt: Runtime) -> None:
    """The events are `started`, what the body emits in its order, and `done` whose data is the result."""
    root = await rt.start(good)
    await root.result(30)
    assert await _told(rt, root.pid) == [
        ("started", None),
        ("progress", {"percent": 50}),
        ("nothing", None),
        ("done", {"n": 1}),
    ]


@pytest.mark.parametrize(("text", "reason"), [("it broke", "it broke"), ("", "RuntimeError")])
async def test_failed_tells_the_reason_or_the_name_of_the_class(rt: Runtime, text: str, reason: str) -> None:
    """`failed` carries the exception's text as its reason, and the class's name when there is none."""
    root = await rt.start(bad, text)
    with pytest.raises(ExecutionFailed):
        await root.result(30)
    (_, _), (type_, data) = await _told(rt, root.pid)
    assert type_ == "failed"
    told = {"reason": reason, "error": "RuntimeError", "code": "exception", "retryable": True}
    assert data.items() >= told.items()


async def test_cancelled_is_the_last_event_of_a_cancelled_process(rt: Runtime) -> None:
    """A cancelled process announces `cancelled` and nothing after it."""
    root = await rt.start(endless)
    await event(root, "started")
    await root.cancel("why not")
    with pytest.raises(ExecutionCancelled):
        await root.result(30)
    assert [type_ for type_, _ in await _told(rt, root.pid)] == ["started", "cancelled"]
    assert await root.status() == "cancelled"


async def test_an_end_is_told_when_it_is_stored(rt: Runtime) -> None:
    """Subscribers hear of an end that the stream refuses, too: it is none."""
    root = await rt.start(endless)
    await event(root, "started")
    telling = asyncio.create_task(root.result())
    await asyncio.sleep(0)
    subject = subjects.event(rt.app, root.pid, "done")
    end = m.encode(m.EventRecord(root.pid, incarnation=0, n=9, seq=2, type="done", time=rt.clock.now(), final=True))
    refused = {"Nats-Expected-Last-Subject-Sequence": "1"}
    with pytest.raises(WrongRevision):
        await rt.bus.publish(streams.EVENTS, subject, end, f"{root.pid}.9", headers=refused)
    for _ in range(3):
        await rt.bus.last_seq(streams.EVENTS)
    assert not telling.done()
    assert await root.status() == "running"
    await rt.bus.publish(streams.EVENTS, subject, end, f"{root.pid}.9.again")
    assert await telling is None
    assert await root.status() == "done"


async def test_who_follows_events_is_cancelled_also_when_one_comes(
    rt: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancellation in the same moment as an event is not forgotten."""
    process = await rt.start(endless)
    arrivals: list[Any] = []
    subscribe = rt.client.bus.nc.raw_subscribe

    def subscribed(subject: str, arrived: Any, *rest: Any) -> Any:
        arrivals.append(arrived)
        return subscribe(subject, arrived, *rest)

    monkeypatch.setattr(rt.client.bus.nc, "raw_subscribe", subscribed)
    heard: list[m.EventRecord] = []

    async def follow() -> None:
        async for record in rt.client.records(rt.app, process.pid):
            heard.append(record)

    following = asyncio.ensure_future(follow())
    async with asyncio.timeout(20):
        while not heard:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0)
    again = structs.replace(heard[0], seq=2, type="again")
    arrivals[0](b"", b"", None, m.encode(again))
    following.cancel()
    await asyncio.wait([following], timeout=20)
    assert following.cancelled()


@agent_process
async def emits_over_time() -> list[float]:
    times: list[float] = []
    for n in range(3):
        times.append(now().timestamp())
        emit("tick", n)
        await sleep(86_400)
    return times


async def test_events_carry_a_number_without_gaps_and_the_time_of_the_process(rt: Runtime) -> None:
    """seq counts from 1 without gaps; time is the clock of the process when it announced the event."""
    root = await rt.start(emits_over_time)
    times = await root.result(30)
    events = [e async for e in root.events()]
    assert [e.seq for e in events] == [1, 2, 3, 4, 5]
    assert [e.time for e in events if e.type == "tick"] == pytest.approx(times, abs=1e-5)
    assert events[-1].time >= times[0] + 3 * 86_400 - 1e-5
    assert [e.final for e in events] == [False] * 4 + [True]


@agent_process
async def leaf(word: str) -> str:
    emit("said", word)
    return word


@agent_process
async def middle() -> str:
    child = spawn(leaf, "deep")
    bubble(child, source="leaf")
    emit("own", "middle")
    await child
    await child.events.listen_for("done")
    return "middle"


@agent_process
async def top() -> str:
    child = spawn(middle)
    bubble(child, source="middle")
    return str(await child)


async def test_bubble_forwards_events_and_keeps_the_deepest_source(rt: Runtime) -> None:
    """An event that climbs two levels keeps the source of the lowest; one of the child itself gets the child's."""
    root = await rt.start(top)
    assert await root.result(30) == "middle"
    climbed = [(e.type, e.data, e.source) async for e in root.events() if e.source]
    assert ("said", "deep", "leaf") in climbed
    assert ("own", "middle", "middle") in climbed
    assert ("started", None, "middle") in climbed
    assert ("started", None, "leaf") in climbed
    assert all(source == "leaf" for type_, _, source in climbed if type_ == "said")


@agent_process
async def bubbles_without_a_source() -> None:
    child = spawn(leaf, "w")
    bubble(child)
    await child
    await child.events.listen_for("done")


async def test_bubble_without_a_source_forwards_without_one(rt: Runtime) -> None:
    """source= may be left out: the events come without a source."""
    root = await rt.start(bubbles_without_a_source)
    await root.result(30)
    said = [(e.data, e.source) async for e in root.events() if e.type == "said"]
    assert said == [("w", None)]


@agent_process
async def speaker() -> None:
    for n in range(4):
        emit("line", n)
        await sleep(10)


@agent_process
async def stops_bubbling() -> None:
    child = spawn(speaker)
    unsubscribe = bubble(child, source="s")
    await child.events.listen_for("line", where=lambda e: e.data == 1)
    await sleep(1)
    unsubscribe()
    unsubscribe()
    await child


async def test_bubbling_ends_when_unsubscribed(rt: Runtime) -> None:
    """The function that bubble returns ends it; calling it again does no harm."""
    root = await rt.start(stops_bubbling)
    await root.result(30)
    assert [e.data async for e in root.events() if e.type == "line"] == [0, 1]


@agent_process
async def bubbles_itself() -> str:
    try:
        bubble(current_process().handle)
    except ValueError as error:
        return str(error)
    return ""


async def test_a_process_cannot_bubble_its_own_events(rt: Runtime) -> None:
    """bubble of the own handle is refused, for it would never end."""
    assert "its own events" in await rt.run(bubbles_itself)


@agent_process
async def emits_badly() -> list[str]:
    found: list[str] = []
    for type_, data in (("ok", object()), ("", 1), (7, 1), ("x" * 129, 1)):
        try:
            emit(type_, data)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        except (RegrowError, TypeError) as error:
            found.append(type(error).__name__)
    return found


async def test_bad_events_are_refused_at_emit(rt: Runtime) -> None:
    """Data that cannot travel and names that are none are refused at once, and no event is announced."""
    root = await rt.start(emits_badly)
    assert await root.result(30) == ["NotSendable", "InvalidName", "TypeError", "InvalidName"]
    assert [r.type for r in await records(rt, root.pid)] == ["started", "done"]


@agent_process
async def a_name_of_any_letters() -> None:
    emit("größe: 3 > 2 *.", str(uuid.UUID(int=0)))


async def test_an_event_may_have_any_name_of_128_characters(rt: Runtime) -> None:
    """The name of an event may hold any letters, also those that subjects cannot."""
    root = await rt.start(a_name_of_any_letters)
    await root.result(30)
    assert [type_ for type_, _ in await _told(rt, root.pid)][1] == "größe: 3 > 2 *."


async def test_events_are_recorded_once_over_a_crash(rt: Runtime) -> None:
    """What was announced before a crash is not announced again by the next host."""
    root = await rt.start(endless)
    child = await rt.start(top)
    await child.result(30)
    await event(root, "started")
    before = await records(rt)
    await rt.kill_host()
    await root.cancel()
    with pytest.raises(ExecutionCancelled):
        await root.result(30)
    after = await records(rt)
    assert after[: len(before)] == before
    assert [r.type for r in after[len(before) :]] == ["cancelled"]
