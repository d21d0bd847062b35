"""How a host behaves."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from ..errors import ProgramError

_VARIABLES = {
    "ttl": "REGROW_HOST_TTL",
    "park_after": "REGROW_PARK_AFTER",
    "schedule_after": "REGROW_SCHEDULE_AFTER",
    "warn_turn": "REGROW_WARN_TURN",
    "turn_limit": "REGROW_TURN_LIMIT",
    "drain": "REGROW_DRAIN",
    "duplicate_window": "REGROW_DUPLICATE_WINDOW",
    "partitions": "REGROW_PARTITIONS",
    "version": "REGROW_APP_VERSION",
    "upgrade": "REGROW_UPGRADE",
}


def _upgrade(text: str) -> str:
    """One of the two ways; raises ValueError."""
    if text not in ("wait", "auto"):
        raise ValueError(text)
    return text


_READ_AS: dict[str, tuple[Callable[[str], Any], str]] = {
    "partitions": (int, "a whole number"),
    "version": (str, "a text"),
    "upgrade": (_upgrade, "`wait` or `auto`"),
}


@dataclass(frozen=True)
class HostOptions:
    """All times in seconds.

    Attributes:
        ttl: after this long without a heartbeat the host counts as dead (1 or more).
        park_after: a process at rest leaves memory after this long, and a distant timer goes into the stream.
        schedule_after: a timer that was set for longer than this is distant.
        cursor_every: how often the cursor is written while something changes.
        warn_turn: a turn longer than this is logged with the line.
        turn_limit: a turn longer than this is ended by force, and its process parked.
        drain: how long running steps may take to finish when their partition moves or the host stops gracefully; what
            moves has moved within 5 s.
        threads: for sync steps.
        duplicate_window: in which the app's stream recognises a message id; None: as `regrow_protocol.streams` has it.
        partitions: of an app that is seen for the first time (1 to 1,024).
        version: of the app, for people.
        upgrade: `auto`: running processes of older builds move to this one at once; `wait`: when theirs has no host.
        hard: the host is a program of its own: C code in a body that never gives the interpreter back is ended by the
            kernel, and the host with it.
        guest: it runs in a program of its user's, for what that program starts: it tells nobody which types it has, so
            no process of another build is moved to it.
        force_replay: in tests, fold each process anew before every input and compare.
    """

    ttl: float = 2.0
    park_after: float = 2.0
    schedule_after: float = 5.0
    cursor_every: float = 0.25
    warn_turn: float = 1.0
    turn_limit: float = 5.0
    drain: float = 4.0
    threads: int = 256
    duplicate_window: float | None = None
    partitions: int = 16
    version: str = ""
    upgrade: str = "wait"
    hard: bool = False
    guest: bool = False
    force_replay: bool = False

    @classmethod
    def from_environment(cls) -> HostOptions:
        """Those of a host program: `REGROW_HOST_TTL`, `REGROW_PARK_AFTER`, … where set; raises ProgramError."""
        found: dict[str, Any] = {"hard": True, "force_replay": forced_replay()}
        for field in fields(cls):
            variable = _VARIABLES.get(field.name, "")
            if not (text := os.environ.get(variable, "")):
                continue
            read, kind = _READ_AS.get(field.name, (float, "a number of seconds"))
            try:
                found[field.name] = read(text)
            except ValueError:
                raise ProgramError(f"{variable}={text!r} is not {kind}", hint=f"give {kind}") from None
        if not 1 <= found.get("partitions", 16) <= 1024:
            raise ProgramError(f"REGROW_PARTITIONS={found['partitions']} is not possible", hint="give 1 to 1024")
        return cls(**found)


def forced_replay() -> bool:
    """Whether `REGROW_TEST_REPLAY` asks to fold every process anew before each of its inputs."""
    return os.environ.get("REGROW_TEST_REPLAY", "") not in ("", "0")
