"""Every subject of Regrow, made and taken apart in one place. The table is `docs/reference/wire-protocol.md`.

Names that users choose are encoded by `token` where they become part of a subject; ids are safe as they are.
"""

from __future__ import annotations

import re
from functools import lru_cache

from .errors import InvalidName

_SAFE = re.compile(r"[A-Za-z0-9_-]")
MAX_NAME = 128


@lru_cache(maxsize=4096)
def token(name: str) -> str:
    """Encode a user's name as one subject token: every character but letters, digits, `-` and `_` becomes `=HEX=`."""
    if not name or len(name) > MAX_NAME:
        msg = f"A name must have 1 to {MAX_NAME} characters, not {len(name)}: {name[:40]!r}"
        raise InvalidName(msg)
    return "".join(c if _SAFE.match(c) else f"={ord(c):x}=" for c in name)


def untoken(encoded: str) -> str:
    """The name that `token` encoded."""
    return re.sub(r"=([0-9a-f]+)=", lambda m: chr(int(m[1], 16)), encoded)


def inbox(app: str, part: int, pid: str) -> str:
    """All that one process consumes."""
    return f"regrow.inbox.{token(app)}.{part}.{pid}"


def inbox_partition(app: str, part: int) -> str:
    """Filter: the inboxes of one partition."""
    return f"regrow.inbox.{token(app)}.{part}.*"


def timer(app: str, part: int, pid: str, incarnation: int, n: int) -> str:
    """A scheduled message; its target is the inbox of the same process, in the same stream (ADR 0001)."""
    return f"regrow.timer.{token(app)}.{part}.{pid}.{incarnation}.{n}"


def event(app: str, pid: str, type_: str) -> str:
    """An event that a process announces."""
    return f"regrow.event.{token(app)}.{pid}.{token(type_)}"


def events_of(app: str | None = None, pid: str | None = None, type_: str | None = None) -> str:
    """Filter: the events of an app, process or type; None stands for all."""
    return f"regrow.event.{token(app) if app else '*'}.{pid or '*'}.{token(type_) if type_ else '*'}"


def command(service: str, *rest: str) -> str:
    """A request to a service."""
    return ".".join(["regrow.command", token(service), *map(token, rest)])


def reply(client: str, n: int | str) -> str:
    """The reply to the n-th request of a client that is not a process."""
    return f"regrow.reply.{client}.{n}"


def dead(service: str, *rest: str) -> str:
    """What could not be handled."""
    return ".".join(["regrow.dead", token(service), *map(token, rest)])


def pid_of(subject: str) -> str:
    """The process that an inbox subject belongs to."""
    return subject.rsplit(".", 1)[1]


def event_parts(subject: str) -> tuple[str, str, str]:
    """(app, pid, type) of an event's subject."""
    _, _, app, pid, type_ = subject.split(".")
    return untoken(app), pid, untoken(type_)
