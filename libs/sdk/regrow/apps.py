"""What must be there before the processes of an app can run: its stream, its record, and a record of each build."""

from __future__ import annotations

import time
from collections.abc import Sequence

from msgspec.structs import replace
from regrow_protocol import messages as m
from regrow_protocol import streams
from regrow_protocol.bus import Bus
from regrow_protocol.errors import WrongRevision
from regrow_protocol.subjects import token


async def ensure_app(bus: Bus, app: str, *, partitions: int = 16, duplicate_window: float | None = None) -> int:
    """Create the app's stream and record where they are missing; returns its number of partitions."""
    if duplicate_window is None:
        await streams.ensure_app(bus, app)
    else:
        await streams.ensure_app(bus, app, duplicate_window=duplicate_window)
    bucket = bus.kv("regrow_partitions")
    key = f"app.{token(app)}"
    found = await bucket.get(key)
    if found is None:
        try:
            await bucket.create(key, m.encode(m.AppRecord(partitions)))
        except WrongRevision:
            found = await bucket.get(key)
        else:
            return partitions
    assert found is not None
    record: m.AppRecord = m.decode(found[0], m.AppRecord)
    return record.partitions


async def patches_of_build(bus: Bus, app: str, build: str) -> list[str]:
    """The patches that a build's code has, as far as is known."""
    found = await bus.kv("regrow_partitions").get(f"build.{token(app)}.{build}")
    return m.decode(found[0], m.BuildRecord).patches if found is not None else []


async def ensure_build(bus: Bus, app: str, build: str, patches: Sequence[str] = ()) -> int:
    """Create the build's record where it is missing; returns the sequence that its first input is after.

    Args:
        bus: connected.
        app, build: whose.
        patches: of its code, where known: who starts a process may have made the record without.
    """
    bucket = bus.kv("regrow_partitions")
    key = f"build.{token(app)}.{build}"
    found = await bucket.get(key)
    if found is None:
        since = await bus.last_seq(streams.inbox_stream(app))
        try:
            await bucket.create(key, m.encode(m.BuildRecord(since, time.time(), list(patches))))
        except WrongRevision:
            found = await bucket.get(key)
        else:
            return since
    assert found is not None
    record: m.BuildRecord = m.decode(found[0], m.BuildRecord)
    if patches and not record.patches:
        await bucket.put(key, m.encode(replace(record, patches=list(patches))))
    return record.since
