"""Who a container's users are, as its /etc/passwd and /etc/group say; the engine reads the same files."""

from __future__ import annotations

from dataclasses import dataclass

from ..backend import MachineFailed


@dataclass(frozen=True)
class User:
    """A user of a container.

    Attributes:
        name: as the engine takes it: a name or number, and maybe a group after a colon.
    """

    name: str
    uid: int
    gid: int


ROOT = User("0", 0, 0)


def find(wanted: str | None, own: str, passwd: str, group: str) -> User:
    """The user of a machine's ordinary commands.

    Args:
        wanted: by the machine's image; None: `agent` where there is one, else the container image's own.
        own: the container image's, empty for root.

    Raises:
        MachineFailed: there is no such user.
    """
    if wanted is None:
        wanted = "agent" if _entry("agent", passwd) else own
    if not wanted:
        return ROOT
    name, _, its_group = wanted.partition(":")
    entry = _entry(name, passwd)
    if entry is None and not name.isdigit():
        raise MachineFailed(f"The image has no user {name!r}", hint="give a number, or an image with that user")
    uid, gid = (int(entry[2]), int(entry[3])) if entry else (int(name), 0)
    if its_group:
        found = _entry(its_group, group)
        if found is None and not its_group.isdigit():
            raise MachineFailed(f"The image has no group {its_group!r}", hint="give a number, or an image that has it")
        gid = int(found[2]) if found else int(its_group)
    return User(wanted, uid, gid)


def _entry(name: str, table: str) -> list[str] | None:
    """Of a name, or of a number."""
    rows = [line.split(":") for line in table.splitlines()]
    rows = [row for row in rows if len(row) >= 4 and row[2].isdigit()]
    column = 2 if name.isdigit() else 0
    return next((row for row in rows if row[column] == name), None)
