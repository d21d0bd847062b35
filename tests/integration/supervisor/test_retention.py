"""Retention on a real server: whole trees that ended long ago go, with all that they left; nothing else does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest_asyncio
from fleet import Fleet
from regrow_protocol import agents, streams, subjects
from regrow_protocol import messages as m
from regrow_protocol.ids import AGENT, PROCESS, new_id, partition_of
from regrow_supervisor import main, retention
from regrow_supervisor.settings import SupervisorSettings

Until = Callable[..., Awaitable[None]]
DAY = 86_400.0


class Past:
    """Processes that have ended, with what they left."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.bus, self.app = fleet, fleet.bus, fleet.app

    async def add(self, ended: float, *, root: str = "", status: str = "done") -> str:
        """One that ended so many seconds ago; 0: it runs."""
        pid, app = new_id(PROCESS), self.app
        now = time.time()
        record = m.ProcessRecord(
            pid=pid, app=app, type="main", build="b1", status=status, seq=1, root=root or pid, started=now - ended - 1,
            ended=now - ended if ended else 0.0,
        )  # fmt: skip
        await self.bus.kv("regrow_processes").create(pid, m.encode(record))
        inbox = subjects.inbox(app, partition_of(pid, 16), pid)
        await self.bus.publish(streams.inbox_stream(app), inbox, m.encode(m.Cancel()), f"{pid}.1")
        await self.bus.publish(streams.EVENTS, subjects.event(app, pid, "done"), b"{}", f"{pid}.2")
        agent = agents.AgentRecord(
            id=new_id(AGENT), app=app, command=f"{pid}.0.1", name="a", owner=m.Ref(pid, 0, 1), harness="none"
        )
        await self.bus.kv(agents.BUCKET).create(f"agent.{agent.id}", m.encode(agent))
        subject = agents.entry_subject(app, agent.id, "message", "1")
        await self.bus.publish(streams.AGENTS, subject, b"{}", f"{pid}.3")
        return pid

    async def left(self, pid: str) -> list[str]:
        """What there is of it."""
        inbox = subjects.inbox(self.app, partition_of(pid, 16), pid)
        found = {
            "record": await self.bus.kv("regrow_processes").get(pid),
            "inbox": await self.bus.last(streams.inbox_stream(self.app), inbox),
            "events": await self.bus.last(streams.EVENTS, subjects.events_of(self.app, pid)),
            "agents": (await retention.agents_of(self.bus)).get(pid),
        }
        return [name for name, value in found.items() if value]


@pytest_asyncio.fixture
async def past(fleet: Fleet) -> Past:
    await streams.ensure_app(fleet.bus, fleet.app)
    await fleet.bus.kv("regrow_partitions").create(f"app.{fleet.app}", m.encode(m.AppRecord()))
    return Past(fleet)


async def test_only_trees_that_ended_long_ago_have_expired(past: Past) -> None:
    """Not what runs, nor a child of a root that does; oldest first."""
    root = await past.add(0, status="running")
    await past.add(40 * DAY, root=root)
    await past.add(1 * DAY)
    newer, older = await past.add(31 * DAY), await past.add(60 * DAY, status="failed")
    orphan = await past.add(50 * DAY, root="p_gone")
    found = await retention.expired(past.bus, time.time() - 30 * DAY)
    assert [record.pid for record in found] == [older, orphan, newer]
    assert await retention.expired(past.bus, time.time() - 30 * DAY, app="another") == []


async def test_all_that_a_process_left_is_removed(past: Past) -> None:
    """Inbox, events, agents with their conversations; others keep theirs."""
    old, other = await past.add(40 * DAY), await past.add(40 * DAY)
    assert await past.left(old) == ["record", "inbox", "events", "agents"]
    (record, _) = sorted(await retention.expired(past.bus, time.time()), key=lambda each: each.pid != old)
    owned = await retention.agents_of(past.bus)
    assert await retention.purge(past.bus, record, owned[old]) == 3
    assert await past.left(old) == []
    assert await past.left(other) == ["record", "inbox", "events", "agents"]
    assert await retention.purge(past.bus, record, owned[old]) == 0  # again is no error


async def test_supervisors_purge_by_themselves(past: Past, until: Until) -> None:
    """After `REGROW_KEEP` seconds, one here."""
    old = await past.add(40.0)
    await until(lambda: old in past.fleet.processes)
    stopping = asyncio.Event()
    running = asyncio.create_task(main.serve(SupervisorSettings(nats_url=past.fleet.url, keep=1.0), stopping))
    await until(lambda: old not in past.fleet.processes)
    stopping.set()
    await asyncio.wait_for(running, 20)
    assert await past.left(old) == []
