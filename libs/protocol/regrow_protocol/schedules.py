"""Schedules: roots that start at set times, on NATS's own message scheduler (ADR-51).

A schedule is a message on `regrow.schedule.set.<app>.<name>`, out of which the server makes one on
`regrow.schedule.due.<app>.<name>` whenever it is due; a supervisor takes that and starts the process that the record
tells. Who changes a schedule writes the record before the message.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Raw, Struct

from . import subjects
from .messages import Program

BUCKET = "regrow_schedules"
STREAM = "REGROW_SCHEDULES"
DUE = "regrow.schedule.due.*.*"
"""Filter: whatever is due."""
KEEP = 7 * 86_400
"""Seconds that a message about what was due stays."""

Overlap: TypeAlias = Literal["skip", "queue", "allow", "cancel"]


def schedule_key(app: str, name: str) -> str:
    """Key of a schedule's record."""
    return f"{subjects.token(app)}.{subjects.token(name)}"


def schedule_subject(app: str, name: str) -> str:
    """The message that is a schedule."""
    return f"regrow.schedule.set.{schedule_key(app, name)}"


def due_subject(app: str, name: str) -> str:
    """What the server makes of it when it is due."""
    return f"regrow.schedule.due.{schedule_key(app, name)}"


class Schedule(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`regrow_schedules`, key `<app>.<schedule>`.

    Attributes:
        name: of the schedule.
        when: as NATS has it: `@at 2026-12-24T18:00:00Z`, `@every 10m`, or six fields of cron, seconds first.
        zone: of a cron schedule, an IANA name; empty: UTC.
        type, args, tags: of the process.
        program: where its code is.
        overlap: what becomes of a run that is due while the last one still runs: `skip`, `queue` (it starts after it),
            `allow` (both run), `cancel` (the running one is cancelled first).
        catch_up: seconds after which a run that could not start is dropped.
        paused: nothing is started.
        created: seconds since 1970.
        last: pid of the last run.
        last_at: when it was due, seconds since 1970.
        runs, skipped: how many were started and dropped.
    """

    name: str
    app: str
    when: str
    type: str
    args: Raw = Raw(b"{}")
    zone: str = ""
    program: Program | None = None
    tags: dict[str, str] = {}
    overlap: Overlap = "skip"
    catch_up: float = 3600.0
    paused: bool = False
    created: float = 0.0
    last: str = ""
    last_at: float = 0.0
    runs: int = 0
    skipped: int = 0


class Due(Struct, frozen=True, omit_defaults=True):
    """The body of a schedule's message, and of what the server makes of it.

    Attributes:
        created: of the record that it belongs to; one of another record is none of its runs.
    """

    created: float = 0.0


def schedule_headers(schedule: Schedule) -> dict[str, str]:
    """Headers of the message that is this schedule."""
    headers = {
        "Nats-Schedule": schedule.when,
        "Nats-Schedule-Target": due_subject(schedule.app, schedule.name),
        "Nats-Schedule-TTL": f"{KEEP}s",
    }
    if schedule.zone:
        headers["Nats-Schedule-Time-Zone"] = schedule.zone
    return headers
