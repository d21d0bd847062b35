"""Whoever launched a host announces its death: the key of that host goes, and no other."""

from __future__ import annotations

import platform

from regrow_cli.hosts import BUCKET, announce_death
from regrow_protocol.bus import Bus
from regrow_protocol.ids import HOST, new_id
from regrow_protocol.messages import HostRecord, encode

PID = 4_194_304 + 17  # above Linux's highest


async def _register(bus: Bus, **fields: object) -> str:
    record = HostRecord(**{"host": new_id(HOST), "app": "a", "build": "b", "types": [], "os_pid": PID, **fields})
    key = f"a.{record.host}"
    await bus.kv(BUCKET).create(key, encode(record))
    return key


async def test_key_of_the_dead_host_goes(bus: Bus) -> None:
    """Hosts of that process on this machine are announced; other processes, machines, and what is no host stay."""
    dead = {await _register(bus), await _register(bus, node=platform.node())}
    stay = {await _register(bus, os_pid=PID + 1), await _register(bus, node="elsewhere")}
    garbage = f"a.{new_id(HOST)}"
    await bus.kv(BUCKET).create(garbage, b"?")
    assert set(await announce_death(bus, PID)) == dead
    assert dead.isdisjoint(await bus.kv(BUCKET).keys())
    assert stay | {garbage} <= set(await bus.kv(BUCKET).keys())
    assert await announce_death(bus, PID) == []
