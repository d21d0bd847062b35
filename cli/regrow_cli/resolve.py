"""Which process is meant: a pid, a unique prefix of one, or a name."""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import Struct
from regrow.errors import ProcessNotFound
from regrow_protocol import ids, streams, subjects
from regrow_protocol import messages as m
from regrow_protocol.bus import Bus
from regrow_protocol.errors import RegrowError

from .processes import BUCKET, record_of, records

_PID = re.compile(rf"p_[{ids.ALPHABET}]{{26}}")
_PREFIX = re.compile(rf"p_[{ids.ALPHABET}]{{0,26}}|[{ids.ALPHABET}]{{1,26}}")
SHOWN = 8


class AmbiguousProcess(RegrowError):
    """More than one process fits."""

    code = "ambiguous-process"


class Found(Struct):
    """A process that was meant.

    Attributes:
        partitions: of its app.
        record: as it is listed; None when it is not listed yet.
    """

    app: str
    pid: str
    partitions: int
    record: m.ProcessRecord | None = None


async def apps(bus: Bus) -> dict[str, int]:
    """The apps and how many partitions each has."""
    found: dict[str, int] = {}
    async for entry in bus.kv("regrow_partitions").items("app.*"):
        found[subjects.untoken(entry.key.removeprefix("app."))] = m.decode(entry.value, m.AppRecord).partitions
    return found


async def find(bus: Bus, given: str, *, app: str = "") -> Found:
    """The process that `given` means; with `app` only those of that app.

    Raises:
        ProcessNotFound: none.
        AmbiguousProcess: more than one; the message lists them.
    """
    known = {name: count for name, count in (await apps(bus)).items() if app in ("", name)}
    if app and app not in known:
        raise ProcessNotFound(f"There is no app {app}", hint="`regrow ls --all` lists processes with their apps")
    fitting = [(app, given)] if _PID.fullmatch(given) and (app := await _app_of(bus, given, known)) else []
    fitting = fitting or await _named(bus, given, known)
    if not fitting and _PREFIX.fullmatch(given):
        fitting = await _beginning(bus, given, known)
    fitting = fitting or await _once_named(bus, given, known)
    if not fitting:
        raise ProcessNotFound(f"There is no process {given}", hint="`regrow ls --all` lists them")
    if len(fitting) > 1:
        raise await _ambiguous(bus, given, fitting)
    app, pid = fitting[0]
    return Found(app, pid, known[app], await record_of(bus, pid))


async def _app_of(bus: Bus, pid: str, known: dict[str, int]) -> str:
    record = await record_of(bus, pid)
    if record is not None:
        return record.app if record.app in known else ""
    for app, partitions in known.items():
        subject = subjects.inbox(app, ids.partition_of(pid, partitions), pid)
        if await bus.last(streams.inbox_stream(app), subject) is not None:
            return app
    return ""


async def _named(bus: Bus, name: str, known: dict[str, int]) -> list[tuple[str, str]]:
    """Running processes of that name."""
    found: list[tuple[str, str]] = []
    async for entry in bus.kv(BUCKET).items(f"name.*.{subjects.token(name)}"):
        app = subjects.untoken(entry.key.split(".")[1])
        if app in known:
            found.append((app, entry.value.decode()))
    return found


async def _once_named(bus: Bus, name: str, known: dict[str, int]) -> list[tuple[str, str]]:
    """Processes that had that name."""
    return [(r.app, r.pid) async for r in records(bus) if r.name == name and r.app in known]


async def _beginning(bus: Bus, prefix: str, known: dict[str, int]) -> list[tuple[str, str]]:
    """Processes whose pid begins so."""
    prefix = prefix if prefix.startswith("p_") else f"p_{prefix}"
    found: list[tuple[str, str]] = []
    for app in known:
        inboxes = await bus.subjects(streams.inbox_stream(app), f"regrow.inbox.{subjects.token(app)}.*.*")
        found += [(app, pid) for pid in map(subjects.pid_of, inboxes) if pid.startswith(prefix)]
    return sorted(found, key=lambda each: each[1])


async def _ambiguous(bus: Bus, given: str, fitting: Sequence[tuple[str, str]]) -> AmbiguousProcess:
    lines: list[str] = []
    for app, pid in fitting[:SHOWN]:
        record = await record_of(bus, pid)
        lines.append(f"{pid} ({record.type}, {record.status}, app {app})" if record else f"{pid} (app {app})")
    more = [f"and {len(fitting) - SHOWN} more"] if len(fitting) > SHOWN else []
    return AmbiguousProcess(
        "\n".join([f"{given} fits {len(fitting)} processes:", *lines, *more]), hint="give more of the pid"
    )
