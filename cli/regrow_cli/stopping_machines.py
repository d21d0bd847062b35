"""Stopping machines and dropping snapshots, on whichever node can."""

from __future__ import annotations

from typing import Any

from regrow.machines import MachineError
from regrow.outside import Outside
from regrow_protocol.bus import Bus
from regrow_protocol.machines import MachineRecord, Nothing, SnapshotRecord, machine_subject

from .machines import nodes, until_managed
from .using_machines import PATIENCE, machines, no_manager


async def stop(bus: Bus, record: MachineRecord, *, patience: float = PATIENCE) -> bool:
    """Have a machine stopped, and wait for that; false when that has to wait for a machine-manager of its node.

    Any manager may write down that it is to be stopped. One of another node can only do it where the machine is reached
    from anywhere, so without one of its own node nobody waits for more than that.

    Raises:
        NoManager: there is none at all to take the order of stopping a machine that no node has taken yet.
        MachineError: it could not be stopped (yet).
    """
    alive = await until_managed(bus, lambda alive: record.node in alive or (not record.node and bool(alive)), patience)
    if not record.node and not alive:
        raise no_manager(record)
    async with machines(bus, record.app) as outside:
        if not record.node or record.node in alive:
            await _ask(outside, "stop", record.node or min(alive), record)
            return True
        outside.tell("machine.stop", machine_subject(record.app, min(alive, default=record.node), record.id), Nothing())
        await bus.drain_publishers()
        return False


async def drop(bus: Bus, record: SnapshotRecord, *, patience: float = PATIENCE) -> None:
    """Remove a snapshot.

    Raises:
        NoManager: no machine-manager lives that could.
        MachineError: it could not be removed.
    """
    able = {record.node} if record.node else {node.node for node in await nodes(bus) if record.backend in node.backends}
    alive = await until_managed(bus, lambda alive: bool(alive & able), patience)
    if not alive & able:
        raise no_manager(record)
    async with machines(bus, record.app) as outside:
        await _ask(outside, "drop", min(alive & able), record)


async def _ask(outside: Outside, name: str, node: str, record: MachineRecord | SnapshotRecord) -> Any:
    subject = machine_subject(record.app, node, record.id)
    return await outside.command(f"machine.{name}", subject, Nothing(), None, MachineError).future
