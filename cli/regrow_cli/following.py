"""Following a root process to its end: its events to the view, its tree counted, what is parked noticed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

import msgspec
from regrow.client import Client, RemoteProcess
from regrow.runtime import Session
from regrow_protocol import ids, streams, subjects
from regrow_protocol import messages as m
from regrow_protocol.bus import Entry
from regrow_protocol.errors import RegrowError

from .errors import ProcessFailed, ProcessStuck
from .listing import print_result
from .live_view import Tree, View, summary

EXPLAINED = 10.0
"""Seconds to wait for the reason of a parked process that names the line."""
LIFE = ("started", "restarted", "done", "failed", "cancelled")


async def follow(
    client: Client,
    process: RemoteProcess,
    view: View,
    *,
    build: str,
    after: int = 0,
    known: Mapping[str, str] | None = None,
    since: int | None = None,
    failed: asyncio.Future[RegrowError] | None = None,
) -> m.EventRecord:
    """Show a process until it ends; its final event.

    Args:
        client: of the processes.
        process: a root.
        view: to show it in.
        build: that folds it.
        after: what its partition's cursor says before this input is done does not count.
        known: status by pid of the processes of its tree that were listed before.
        since: sequence of the last event before that; None: what happened before does not count.
        failed: what is set when its host cannot be kept running.

    Raises:
        ProcessStuck: it is parked.
        RegrowError: what `failed` is set to.
    """
    tree = Tree(process.pid, known)
    parking = _Parking(process.pid, after)
    parked = parking.parked
    bus = client.bus

    def life(_subject: bytes, _reply: bytes, _headers: bytes | None, data: bytes) -> None:
        with suppress(msgspec.MsgspecError):
            if tree.take(m.decode(data, m.EventRecord)):
                view.progress(tree)

    async def to_the_end() -> m.EventRecord:
        async for record in client.records(process.app, process.pid):
            tree.take(record)
            view.event(record)
            view.progress(tree)
            if record.final:
                return record
        raise AssertionError("records() ends with a final event")

    part = ids.partition_of(process.pid, await client.partitions_of(process.app))
    sids = [bus.nc.raw_subscribe(subjects.events_of(process.app, type_=type_), life) for type_ in LIFE]
    cursors = bus.kv("regrow_cursors").watch(f"{subjects.token(process.app)}.{build}.{part}", parking.take)
    ending = asyncio.ensure_future(to_the_end())
    try:
        if since is not None:
            for type_ in LIFE:
                wanted = subjects.events_of(process.app, type_=type_)
                for received in await bus.history(streams.EVENTS, wanted, since + 1):
                    life(b"", b"", None, received.data)
        await asyncio.wait([ending, parked, *([failed] if failed else [])], return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            raise ProcessStuck(process.pid, parked.result()) if parked.done() or failed is None else failed.result()
        record = await ending
        view.note(summary(record, tree))
        return record
    finally:
        parking.stop()
        ending.cancel()
        await asyncio.wait([ending])
        await cursors.stop()
        for sid in sids:
            bus.nc.raw_unsubscribe(sid)


class _Parking:
    """Sets `parked` when cursors say that a process is parked, and why: at once, or when the reason names the line.

    Args:
        pid: of the process.
        after: what a cursor says before this input is done does not count.
    """

    def __init__(self, pid: str, after: int) -> None:
        self._pid = pid
        self._after = after
        self._loop = asyncio.get_running_loop()
        self._late: asyncio.TimerHandle | None = None
        self.parked: asyncio.Future[m.Stuck] = self._loop.create_future()

    def take(self, entry: Entry) -> None:
        """A cursor was written."""
        if not entry.value:
            return
        found: m.Cursor = m.decode(entry.value, m.Cursor)
        stuck = found.stuck.get(self._pid)
        if stuck is None or found.floor < self._after:
            self.stop()
        elif not stuck.vague:
            self._park(stuck)
        elif self._late is None:
            self._late = self._loop.call_later(EXPLAINED, self._park, stuck)

    def stop(self) -> None:
        """Wait for no reason any more."""
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _park(self, stuck: m.Stuck) -> None:
        if not self.parked.done():
            self.parked.set_result(stuck)


async def run_to_the_end(
    session: Session,
    process: RemoteProcess,
    view: View,
    *,
    build: str,
    after: int = 0,
    known: Mapping[str, str] | None = None,
    since: int | None = None,
) -> m.EventRecord:
    """`follow` with the session's host; when it is interrupted the tree is cancelled."""
    try:
        return await follow(
            session.client,
            process,
            view,
            build=build,
            after=after,
            known=known,
            since=since,
            failed=session.host.failed,
        )
    except asyncio.CancelledError:
        view.note(f"cancelling {process.pid} and all below it; Ctrl-C again leaves it to: regrow resume {process.pid}")
        await session.cancel(process)
        raise


def report(record: m.EventRecord) -> None:
    """Print the result; raises ProcessFailed for a process that failed or was cancelled."""
    if record.type != "done":
        raise ProcessFailed.of(record)
    print_result(record.data)
