"""Announcing that a host process has died, by whoever launched it and therefore knows at once.

The supervisor takes a host for dead when its key in `regrow_hosts` expires, seconds after its last heartbeat; a key
that was deleted says so at once. Only the launcher may delete it: it has seen the process end.
"""

from __future__ import annotations

import platform

import msgspec
from regrow_protocol.bus import Bus, Entry
from regrow_protocol.errors import WrongRevision
from regrow_protocol.messages import HostRecord

BUCKET = "regrow_hosts"


async def announce_death(bus: Bus, os_pid: int) -> list[str]:
    """Delete the keys of the hosts that ran as process `os_pid` of this machine, which has ended; returns those keys.

    Raises:
        Unreachable: the server cannot be asked; the keys expire by themselves.
    """
    bucket = bus.kv(BUCKET)
    gone: list[str] = []
    async for entry in bucket.items():
        if _was_here(entry, os_pid):
            try:
                await bucket.delete(entry.key, entry.revision)
            except WrongRevision:  # a heartbeat of its last moment arrived meanwhile
                await bucket.delete(entry.key)
            gone.append(entry.key)
    return gone


def _was_here(entry: Entry, os_pid: int) -> bool:
    try:
        record = msgspec.json.decode(entry.value, type=HostRecord)
    except msgspec.MsgspecError:  # of another version of Regrow: not ours to judge
        return False
    return record.os_pid == os_pid and record.node in ("", platform.node())
