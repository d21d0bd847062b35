"""Limits on a real server: exact with two supervisors, fair, changed live, and given back by the dead."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest_asyncio
from fleet import Fleet
from msgspec import Raw
from regrow_protocol import limits, streams, subjects
from regrow_protocol import messages as m
from regrow_protocol.bus import Entry
from regrow_protocol.ids import PROCESS, new_id, partition_of
from regrow_protocol.limits import Acquire, Limit, Permits, Release
from regrow_protocol.messages import Command, Op, Ref

Until = Callable[..., Awaitable[None]]


class Asking:
    """Processes that ask for permits, and what they are answered.

    Attributes:
        given: ids of permits, in the order in which they were answered.
        most: permits that were held at once, by limit.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.given: list[str] = []
        self.most: Counter[str] = Counter()
        self.permits: dict[str, Permits] = {}
        self.waiting: set[str] = set()
        self.withdrawn: set[str] = set()
        self._asked: dict[tuple[str, int], str] = {}

    def take(self, batch: list[Any]) -> None:
        for message in batch:
            result = m.decode_input(message.data)
            if isinstance(result, m.Result):
                id_ = self._asked[subjects.pid_of(message.subject), result.op.n]
                assert id_ not in self.given, "answered twice"
                self.given.append(id_)

    def written(self, entry: Entry) -> None:
        kind, _, name = entry.key.partition(".")
        if kind == "wait" and entry.operation == "put":
            (self.waiting if entry.value else self.withdrawn).add(name.partition(".")[2])
        if kind == "permits" and entry.operation == "put":
            self.permits[name] = m.decode(entry.value, Permits)
            self.most[name] = max(self.most[name], len(self.permits[name].holders))

    async def set(self, name: str, **more: Any) -> None:
        await self.fleet.bus.kv(limits.BUCKET).put(f"limit.{name}", m.encode(Limit(name=name, **more)))

    async def acquire(
        self, name: str, *, pid: str = "", priority: int = 0, parent: str = "", n: int = 1, **who: Any
    ) -> str:
        pid, app = pid or new_id(PROCESS), self.fleet.app
        self._asked[pid, n] = id_ = f"{pid}.0.{n}"
        await self.send("acquire", id_, pid, n, Acquire(name, priority, parent or pid, **who),
                        subjects.inbox(app, partition_of(pid, 16), pid))  # fmt: skip
        return id_

    async def release(self, name: str, permit: str) -> None:
        pid = permit.partition(".")[0]
        await self.send("release", f"{permit}.release", pid, 9, Release(name, permit), "")

    async def ended(self, pid: str) -> int:
        """A process announces its end; the sequence of that."""
        record = m.EventRecord(pid=pid, incarnation=0, n=2, seq=2, type="failed", time=time.time(), final=True)
        subject = subjects.event(self.fleet.app, pid, "failed")
        return (await self.fleet.bus.publish(streams.EVENTS, subject, m.encode(record), f"{pid}.end")).seq

    async def send(self, name: str, id_: str, pid: str, n: int, args: Any, reply: str) -> None:
        op = Op(n, "command", f"admission.{name}", "", "")
        command = Command(
            id=id_, app=self.fleet.app, name=name, args=Raw(m.encode(args)), reply=reply, by=Ref(pid, 0, n), op=op
        )
        subject = limits.admission_subject(self.fleet.app)
        await self.fleet.bus.publish(streams.COMMANDS, subject, m.encode(command), id_)


@pytest_asyncio.fixture
async def asking(fleet: Fleet, until: Until) -> Asking:
    stream = await streams.ensure_app(fleet.bus, fleet.app)
    host = await fleet.host("b1")
    made = Asking(fleet)
    reader = fleet.bus.read(stream, f"regrow.inbox.{subjects.token(fleet.app)}.>", 1, made.take)
    watcher = fleet.bus.kv(limits.BUCKET).watch(">", made.written)
    fleet.stack.push_async_callback(reader.stop)
    fleet.stack.push_async_callback(watcher.stop)
    for _ in range(2):
        await fleet.supervise(grace=1.0)
    await until(lambda: fleet.owned_by(host))
    return made


async def test_no_more_than_the_limit_are_given(asking: Asking, until: Until) -> None:
    """By two supervisors, while permits come back; all get one in the end."""
    await asking.set("llm", concurrency=3)
    ids = [await asking.acquire("llm") for _ in range(30)]
    for n in range(30):
        await until(lambda n=n: len(asking.given) > n)
        await asking.release("llm", asking.given[n])
    assert sorted(asking.given) == sorted(ids)
    assert asking.most["llm"] == 3


async def test_without_a_limit_nobody_waits(asking: Asking, until: Until) -> None:
    ids = [await asking.acquire("free") for _ in range(5)]
    await until(lambda: sorted(asking.given) == sorted(ids))
    assert "free" not in asking.permits


async def test_priority_comes_first_and_parents_take_turns(asking: Asking, until: Until) -> None:
    """Of equal priority, who belongs to the parent with the fewest permits."""
    await asking.set("llm", concurrency=1)
    first = await asking.acquire("llm", parent="busy")
    await until(lambda: asking.given == [first])
    low = [await asking.acquire("llm", parent="busy") for _ in range(2)]
    high = await asking.acquire("llm", priority=5, parent="busy")
    await until(lambda: {*low, high} <= asking.waiting)
    await asking.set("llm", concurrency=2)
    await until(lambda: len(asking.given) == 2)
    assert asking.given[1] == high
    other = await asking.acquire("llm", parent="other")
    await asking.set("llm", concurrency=3)
    await until(lambda: len(asking.given) == 3)
    await asking.set("llm", concurrency=4)
    await until(lambda: len(asking.given) == 4)
    assert asking.given[2:] in ([other, low[0]], [low[0], other])  # the first was perhaps chosen before `other` asked


async def test_a_limit_is_changed_live(asking: Asking, until: Until) -> None:
    """Wider at once, narrower as permits come back, gone: everybody goes on."""
    await asking.set("llm", concurrency=1)
    for _ in range(6):
        await asking.acquire("llm")
    await until(lambda: len(asking.given) == 1)
    await asking.set("llm", concurrency=4)
    await until(lambda: len(asking.given) == 4)
    await asking.set("llm", concurrency=1)
    for permit in asking.given[:3]:
        await asking.release("llm", permit)
    await until(lambda: len(asking.permits["llm"].holders) == 1)
    assert len(asking.given) == 4
    await asking.fleet.bus.kv(limits.BUCKET).purge("limit.llm")
    await until(lambda: len(asking.given) == 6)


async def test_a_limit_per_type_or_tag(asking: Asking, until: Until) -> None:
    """Each is counted by itself, also when that is changed live; permits come back to where they were taken."""
    await asking.set("llm", concurrency=1, per="tag.customer")
    acme = [await asking.acquire("llm", type="worker", tags={"customer": "acme"}) for _ in range(2)]
    other = await asking.acquire("llm", type="worker", tags={"customer": "other"})
    nobodys = await asking.acquire("llm", type="worker")
    await until(lambda: len(asking.given) == 3)
    assert set(asking.given) == {acme[0], other, nobodys}
    await asking.release("llm", acme[0])
    await until(lambda: asking.given[3:] == [acme[1]])
    await asking.set("llm", concurrency=1, per="type")
    crawler, worker = [await asking.acquire("llm", type=type_) for type_ in ("crawler", "worker")]
    await until(lambda: {crawler, worker} <= set(asking.given))
    for permit in (acme[1], other, nobodys, crawler, worker):
        await asking.release("llm", permit)
    await until(lambda: not any(permits.holders for permits in asking.permits.values()))


async def test_a_rate_is_kept(asking: Asking, until: Until) -> None:
    """No more than so many within the period, whatever is released."""
    await asking.set("api", rate=3, period=1.5)
    for _ in range(7):
        await asking.acquire("api")
    await until(lambda: len(asking.given) == 7)
    await until(lambda: len(asking.permits["api"].holders) == 7)
    times = sorted(holder.since for holder in asking.permits["api"].holders.values())
    assert all(later - earlier >= 1.5 for earlier, later in zip(times, times[3:], strict=False))


async def test_permits_of_the_ended_and_the_deserted_come_back(fleet: Fleet, asking: Asking, until: Until) -> None:
    """A process that ended without a word, and an app whose hosts are gone."""
    await asking.set("llm", concurrency=1)
    pid = new_id(PROCESS)
    first = await asking.acquire("llm", pid=pid)
    await until(lambda: asking.given == [first])
    second = await asking.acquire("llm")
    await asking.ended(pid)
    await until(lambda: asking.given == [first, second])
    for host in list(fleet._hosts):
        await host.leave()
    await until(lambda: asking.permits["llm"].holders == {})


async def test_the_news_of_an_end_may_come_before_that_of_the_permit(asking: Asking, until: Until) -> None:
    """Who has handled the end remembers it; the permit is not lost."""
    await asking.set("llm", concurrency=1)
    pid = new_id(PROCESS)
    end = await asking.ended(pid)
    async with asyncio.timeout(20):
        while await handled(asking.fleet) < end:
            await asyncio.sleep(0.01)
    first = await asking.acquire("llm", pid=pid)
    await until(lambda: asking.given == [first])
    last = await asking.acquire("llm")
    await until(lambda: asking.given == [first, last])


async def handled(fleet: Fleet) -> int:
    """The event up to which all ends have been handled."""
    floor = (await fleet.bus.js.consumer_info(streams.EVENTS, "supervisor-admission-ends")).ack_floor
    return floor.stream_seq if floor is not None else 0


async def test_a_release_may_come_before_what_it_releases(asking: Asking, until: Until) -> None:
    """Two supervisors take them at the same time; the permit is not lost."""
    await asking.set("llm", concurrency=1)
    pid = new_id(PROCESS)
    await asking.release("llm", f"{pid}.0.1")
    await until(lambda: f"{pid}.0.1" in asking.withdrawn)
    await asking.acquire("llm", pid=pid)
    last = await asking.acquire("llm")
    await until(lambda: asking.given == [last])


async def test_who_waits_no_more_gets_none(asking: Asking, until: Until) -> None:
    """A cancelled wait is released before it was given."""
    await asking.set("llm", concurrency=1)
    first = await asking.acquire("llm")
    await until(lambda: asking.given == [first])
    gone = await asking.acquire("llm")
    await asking.release("llm", gone)
    last = await asking.acquire("llm")
    await asking.release("llm", first)
    await until(lambda: last in asking.given)
    assert gone not in asking.given or gone not in asking.permits["llm"].holders
