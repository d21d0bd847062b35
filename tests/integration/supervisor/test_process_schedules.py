"""Schedules on a real server: each run that is due starts once, whoever supervises."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from fleet import FakeHost, Fleet
from msgspec import Raw
from regrow_cli import schedules as commands
from regrow_protocol import messages as m
from regrow_protocol import schedules, streams, subjects
from regrow_protocol.bus import Entry
from regrow_protocol.schedules import Schedule

Until = Callable[..., Awaitable[None]]


class Runs:
    """What came into the inboxes of an app.

    Attributes:
        starts: pid → its starts.
        record: of the schedule, as it stands.
    """

    def __init__(self, fleet: Fleet, host: FakeHost) -> None:
        self.fleet, self.host = fleet, host
        self.starts: dict[str, list[m.Start]] = {}
        self.cancelled: list[str] = []
        self.record = Schedule(name="", app="", when="", type="")

    def take(self, batch: list[Any]) -> None:
        for message in batch:
            pid, input_ = subjects.pid_of(message.subject), m.decode_input(message.data)
            if isinstance(input_, m.Start):
                self.starts.setdefault(pid, []).append(input_)
            elif isinstance(input_, m.Cancel):
                self.cancelled.append(pid)

    async def end(self, pid: str, how: str = "done") -> None:
        """The process announces its end, as a host would publish it."""
        record = m.EventRecord(pid=pid, incarnation=0, n=2, seq=2, type=how, time=time.time(), final=True)
        subject = subjects.event(self.fleet.app, pid, how)
        await self.fleet.bus.publish(streams.EVENTS, subject, m.encode(record), f"{pid}.end")

    async def schedule(self, **more: Any) -> Schedule:
        made = Schedule(**{"name": "tick", "app": self.fleet.app, "type": "main", "created": time.time(),
                           "when": "@every 1s", "args": Raw(b'{"n":1}')} | more)  # fmt: skip
        await commands.add(self.fleet.bus, made, replaces=False)
        return made

    def written(self, entry: Entry) -> None:
        if entry.operation == "put":
            self.record = m.decode(entry.value, Schedule)


@pytest_asyncio.fixture
async def runs(fleet: Fleet, until: Until) -> Runs:
    stream = await streams.ensure_app(fleet.bus, fleet.app)
    host = await fleet.host("b1")
    made = Runs(fleet, host)
    reader = fleet.bus.read(stream, f"regrow.inbox.{subjects.token(fleet.app)}.>", 1, made.take)
    fleet.stack.push_async_callback(reader.stop)
    watcher = fleet.bus.kv(schedules.BUCKET).watch(">", made.written)
    fleet.stack.push_async_callback(watcher.stop)
    for _ in range(2):
        await fleet.supervise()
    await until(lambda: fleet.owned_by(host))
    return made


async def test_each_run_starts_once(runs: Runs, until: Until) -> None:
    """Two supervisors take turns; the process has the arguments, and a tag that tells the schedule."""
    await runs.schedule(overlap="allow")
    await until(lambda: len(runs.starts) >= 3)
    await commands.remove(runs.fleet.bus, runs.record)
    assert all(len(starts) == 1 for starts in runs.starts.values())
    start = next(iter(runs.starts.values()))[0]
    assert (start.type, start.build, start.tags) == ("main", "b1", {"schedule": "tick"})
    assert bytes(start.args) == b'{"n":1}'


async def test_a_run_is_skipped_while_the_last_one_goes_on(runs: Runs, until: Until) -> None:
    """That is counted; after its end the next one starts."""
    await runs.schedule(overlap="skip")
    await until(lambda: len(runs.starts) == 1)

    await until(lambda: runs.record.skipped >= 2)
    assert len(runs.starts) == 1
    (first,) = runs.starts
    await runs.end(first)
    await until(lambda: len(runs.starts) == 2)
    await until(lambda: runs.record.last in set(runs.starts) - {first})


@pytest.mark.parametrize("overlap", ["queue", "cancel"])
async def test_a_run_waits_for_the_end_of_the_last_one(runs: Runs, until: Until, overlap: str) -> None:
    """With `cancel` that is told to end."""
    await runs.schedule(overlap=overlap)
    await until(lambda: len(runs.starts) == 1)
    (first,) = runs.starts
    if overlap == "cancel":
        await until(lambda: first in runs.cancelled)  # by each run that is due until it has ended
        assert set(runs.cancelled) == {first}
    assert len(runs.starts) == 1
    await runs.end(first, "cancelled")
    await until(lambda: len(runs.starts) == 2)


async def test_what_is_due_waits_for_a_host_and_is_dropped_when_it_is_too_late(
    fleet: Fleet, runs: Runs, until: Until
) -> None:
    """The catch-up window says for how long."""
    await runs.host.leave()
    await runs.schedule(when="@every 2s", overlap="allow", catch_up=1.0)

    await until(lambda: runs.record.skipped >= 1)
    assert runs.starts == {}
    await fleet.host("b2")
    await until(lambda: len(runs.starts) >= 1)


async def test_a_paused_schedule_starts_nothing(runs: Runs, until: Until) -> None:
    """And goes on when it is resumed; one that is removed is due no more."""
    made = await runs.schedule(overlap="allow")
    await commands.pause(runs.fleet.bus, made, paused=True)
    before = len(runs.starts)

    await until(lambda: runs.record.skipped >= 2)
    assert len(runs.starts) - before <= 1  # one may have been under way
    known = len(runs.starts)
    await commands.pause(runs.fleet.bus, made, paused=False)
    await until(lambda: len(runs.starts) > known)
    await commands.remove(runs.fleet.bus, made)
    assert await runs.fleet.bus.last(schedules.STREAM, schedules.schedule_subject(made.app, made.name)) is None


async def test_cron_in_a_time_zone(runs: Runs, until: Until) -> None:
    """Six fields and an IANA name, as NATS takes them."""
    await runs.schedule(when="* * * * * *", zone="Europe/Berlin", overlap="allow")
    await until(lambda: len(runs.starts) >= 2)
