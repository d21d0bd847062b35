"""Which machine is meant (an id, a unique beginning of one, or a name), and using it."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from regrow.client import Client
from regrow.machines import Machine
from regrow.outside import Outside, acting
from regrow_protocol import ids
from regrow_protocol.bus import Bus
from regrow_protocol.errors import RegrowError
from regrow_protocol.machines import MachineRecord, SnapshotRecord

from .machines import ENDS, record_of, records, snapshots, until_managed

_ID = re.compile(rf"m_[{ids.ALPHABET}]{{26}}")
SHOWN = 8
PATIENCE = 10.0
"""Seconds to wait for a machine-manager: that of a stack that has just been started needs a moment."""


class MachineNotFound(RegrowError):
    """There is no such machine or snapshot."""

    code = "machine-not-found"


class AmbiguousMachine(RegrowError):
    """More than one machine or snapshot fits."""

    code = "ambiguous-machine"


class MachineEnded(RegrowError):
    """The machine that is meant is there no more."""

    code = "machine-lost"


class NoManager(RegrowError):
    """No machine-manager lives that could do it."""

    code = "no-manager"


async def find(bus: Bus, given: str, *, app: str = "") -> MachineRecord:
    """The machine that `given` means, one that has not ended before those that have; with `app` only of that app.

    Raises:
        MachineNotFound: none.
        AmbiguousMachine: more than one; the message lists them.
    """
    if _ID.fullmatch(given):
        record = await record_of(bus, given)
        fitting = [record] if record is not None and app in ("", record.app) else []
    else:
        known = [kept.record for kept in await records(bus) if app in ("", kept.record.app)]
        going = [record for record in known if record.state not in ENDS]
        ended = [record for record in known if record.state in ENDS]
        fitting = _named(going, given) or _beginning(going, given) or _named(ended, given) or _beginning(ended, given)
    if not fitting:
        where = f" in app {app}" if app else ""
        raise MachineNotFound(f"There is no machine {given}{where}", hint="`regrow machines --all` lists them")
    if len(fitting) > 1:
        lines = [f"{each.id} ({each.name + ', ' if each.name else ''}{each.state}, app {each.app})" for each in fitting]
        raise _ambiguous(given, "machines", lines)
    return fitting[0]


async def find_snapshot(bus: Bus, given: str) -> SnapshotRecord:
    """The snapshot that `given` means: an id, a unique beginning of one, or a name.

    Raises:
        MachineNotFound: none.
        AmbiguousMachine: more than one; the message lists them.
    """
    known = await snapshots(bus)
    fitting = [each for each in known if given in (each.id, each.name)]
    fitting = fitting or [each for each in known if _begins(each.id, given, ids.SNAPSHOT)]
    if not fitting:
        raise MachineNotFound(f"There is no snapshot {given}", hint="`regrow snapshots` lists them")
    if len(fitting) > 1:
        raise _ambiguous(given, "snapshots", [f"{each.id} ({each.name or each.machine})" for each in fitting])
    return fitting[0]


def _named(known: Sequence[MachineRecord], name: str) -> list[MachineRecord]:
    """Those of that name; forks have the name of what they were made from, which is meant by it while it is there."""
    fitting = {record.id: record for record in known if record.name == name} if name else {}
    return [record for record in fitting.values() if record.source not in fitting]


def _beginning(known: Sequence[MachineRecord], prefix: str) -> list[MachineRecord]:
    return [record for record in known if _begins(record.id, prefix, ids.MACHINE)]


def _begins(id_: str, prefix: str, kind: str) -> bool:
    return bool(prefix) and id_.startswith(prefix if prefix.startswith(f"{kind}_") else f"{kind}_{prefix}")


def _ambiguous(given: str, what: str, lines: Sequence[str]) -> AmbiguousMachine:
    more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    text = "\n".join([f"{given} fits {len(lines)} {what}:", *lines[:SHOWN], *more])
    return AmbiguousMachine(text, hint="give more of the id")


async def usable(bus: Bus, given: str, *, app: str = "") -> MachineRecord:
    """As `find`, but only a machine that is there, on a node with a machine-manager.

    Raises:
        MachineNotFound, AmbiguousMachine: as `find`.
        MachineEnded: it was stopped, or has failed.
        NoManager: no machine-manager of its node lives.
    """
    record = await find(bus, given, app=app)
    if record.state in ENDS:
        why = record.reason or (record.failure.message if record.failure is not None else "")
        raise MachineEnded(
            f"The machine {record.id} is {record.state}" + (f": {why}" if why else ""),
            hint="`regrow machines` lists those that run",
        )
    if not record.node:
        raise MachineEnded(f"The machine {record.id} waits for room on a node", hint="regrow machines")
    if record.node not in await until_managed(bus, lambda alive: record.node in alive, PATIENCE):
        raise no_manager(record)
    return record


def no_manager(record: MachineRecord | SnapshotRecord) -> NoManager:
    """The error for a machine or snapshot that nobody reaches."""
    where = f"of node {record.node}" if record.node else f"with the backend {record.backend}"
    return NoManager(
        f"No machine-manager {where} runs, so {record.id} cannot be reached",
        hint="start one there: regrow-machine-manager",
    )


def handle(record: MachineRecord) -> Machine:
    """The SDK's handle."""
    return Machine(record.id, record.app, record.node, record.backend)


@asynccontextmanager
async def machines(bus: Bus, app: str) -> AsyncGenerator[Outside]:
    """Use the machines of an app."""
    client = Client(bus)
    try:
        async with acting(client, app) as outside:
            yield outside
    finally:
        await client.close()
