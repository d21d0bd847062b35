"""What the tests read of the log, and waiting for a condition."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from regrow import Event
from regrow.client import RemoteProcess
from regrow.testing import Runtime
from regrow_protocol import ids, streams, subjects
from regrow_protocol import messages as m


async def records(rt: Runtime, pid: str = "*") -> list[m.EventRecord]:
    """The recorded events of a process, or of every process of the app, in the order they were stored."""
    found = await rt.bus.history(streams.EVENTS, subjects.events_of(rt.app, pid) if pid != "*" else
                                 f"regrow.event.{subjects.token(rt.app)}.>")  # fmt: skip
    return [m.decode(received.data, m.EventRecord) for received in found]


async def finals(rt: Runtime) -> list[tuple[str, str]]:
    """(pid, how) of every process that has ended, in the order of their ends."""
    return [(record.pid, record.type) for record in await records(rt) if record.final]


async def inputs(rt: Runtime, pid: str, kind: type[m.Message] | None = None) -> list[m.Message]:
    """What stands in the inbox of a process, of one kind."""
    part = ids.partition_of(pid, rt.host.env.partitions)
    found = await rt.bus.history(streams.inbox_stream(rt.app), subjects.inbox(rt.app, part, pid))
    decoded = [m.decode(received.data, m.Input) for received in found]
    return [message for message in decoded if kind is None or isinstance(message, kind)]


async def noted_as_done(rt: Runtime, pid: str) -> bool:
    """Whether the cursor says that all inputs of a process so far are applied and their outputs stored."""
    part = ids.partition_of(pid, rt.host.env.partitions)
    last = await rt.bus.last(streams.inbox_stream(rt.app), subjects.inbox(rt.app, part, pid))
    found = await rt.bus.kv("regrow_cursors").get(f"{subjects.token(rt.app)}.{rt.build}.{part}")
    return bool(last and found and m.decode(found[0], m.Cursor).floor >= last.seq)


async def event(process: RemoteProcess, type_: str, times: int = 1, timeout: float = 40.0) -> Event:
    """Wait for the event `type_` of a process, for the last of so many `times`."""
    seen: list[Event] = []
    async with asyncio.timeout(timeout):
        async for found in process.events():
            seen.append(found)
            if sum(e.type == type_ for e in seen) == times:
                return found
    raise AssertionError(f"{process} ended without {times} times {type_!r}: {seen}")


async def until(condition: Callable[[], Awaitable[object]], what: str, timeout: float = 40.0) -> None:
    """Wait until an async condition holds."""
    try:
        async with asyncio.timeout(timeout):
            while not await condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"{what} did not happen within {timeout} s") from None
