"""What processes and the supervisor say to each other about limits: how many may run, or begin per time, at once.

A process, or a step, that is under a limit asks for a permit with a `messages.Command` `acquire` on
`regrow.command.admission.<app>`; its answer, null, is the permit, and its id the permit's. `release` gives it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from . import subjects
from .messages import Command, encode

SERVICE = "admission"
BUCKET = "regrow_limits"


def admission_subject(app: str) -> str:
    """A command about permits."""
    return f"regrow.command.{SERVICE}.{subjects.token(app)}"


COMMANDS = f"regrow.command.{SERVICE}.*"
"""Filter: commands about permits, of all apps."""


class Acquire(Struct, frozen=True, omit_defaults=True):
    """`acquire` a permit; the answer, null, comes when there is one.

    Attributes:
        limit: its name; where no such limit is set the answer comes at once.
        priority: who has the higher one comes first; a minute of waiting counts as one.
        parent: who counts as asking: of equal ones, it is the turn of who has the fewest permits.
        type, tags: of the process, for limits that count by them.
    """

    limit: str
    priority: int = 0
    parent: str = ""
    type: str = ""
    tags: dict[str, str] = {}

    def compared(self) -> bytes:
        """What a fold compares of it: whose permit it is to be, not what that is counted by."""
        return encode(Acquire(self.limit, self.priority, self.parent))


class Release(Struct, frozen=True):
    """`release` the permit of the command `permit`, or wait for it no more. No answer."""

    limit: str
    permit: str


class Limit(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`regrow_limits`, key `limit.<limit>`: what is allowed; may be changed at any time.

    Attributes:
        concurrency: permits that may be held at once; 0: any number.
        rate: permits given within `period` seconds; 0: any number.
        per: who shares that: all (empty), the processes of each `type`, or those of each value of a tag (`tag.NAME`).
            A change counts from then on: permits that are held do not count in the new division.
    """

    name: str
    concurrency: int = 0
    rate: int = 0
    period: float = 60.0
    per: str = ""

    def pool_of(self, type_: str, tags: Mapping[str, str]) -> str:
        """Which of those that it counts by themselves a process belongs to; empty where all share it."""
        if self.per == "type":
            return type_
        return tags.get(self.per.removeprefix("tag."), "") if self.per else ""


def permits_key(limit: str, pool: str) -> str:
    """Key of the permits of a limit, or of one pool of it."""
    return f"permits.{subjects.token(limit)}" + (f".{subjects.token(pool)}" if pool else "")


def permits_of(key: str) -> tuple[str, str]:
    """Limit and pool that a key of permits names."""
    _, limit, *pool = key.split(".")
    return subjects.untoken(limit), subjects.untoken(pool[0]) if pool else ""


class Holder(Struct, frozen=True, omit_defaults=True):
    """Who holds a permit.

    Attributes:
        app, pid, incarnation: of the process.
        since: when it was given, seconds since 1970.
    """

    app: str
    pid: str
    incarnation: int
    parent: str = ""
    since: float = 0.0


class Permits(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`regrow_limits`, key `permits.<limit>` or `permits.<limit>.<pool>`: who holds permits, by compare-and-set.

    Attributes:
        holders: by the permit's id.
        given: when the last ones were given, within the limit's period, seconds since 1970.
    """

    holders: dict[str, Holder] = {}
    given: list[float] = []


class Waiting(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`regrow_limits`, key `wait.<limit>.<pid>.<incarnation>.<n>`: somebody who waits for a permit.

    The value is empty for a minute once it was released, whichever of the two came first.

    Attributes:
        command: that asked, to be answered.
        type, tags: of the process.
        since: seconds since 1970.
    """

    command: Command
    limit: str
    priority: int = 0
    parent: str = ""
    type: str = ""
    tags: dict[str, str] = {}
    since: float = 0.0


ARGUMENTS: dict[str, type[Struct]] = {"acquire": Acquire, "release": Release}
ANSWERS: dict[str, Any] = {"acquire": None, "release": None}
