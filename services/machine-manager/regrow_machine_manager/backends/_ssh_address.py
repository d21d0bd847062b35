"""Where an SSH server is and as whom to log in there, checked so that nothing of it can be taken for an option.

An address is one connection's identity: machines with the same one share it. Names come from images, which agents can
write; so hosts and users may not begin with `-` nor hold anything but the characters that names have.
"""

from __future__ import annotations

import getpass
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backend import MachineFailed

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}|[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9_.-]{1,32})?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]{0,63}\$?")
_ENTRY = re.compile(
    r"(?:(?P<user>[^@]+)@)?"
    r"(?:(?:\[(?P<six>[^]]+)\]|(?P<host>[^:@]+))(?::(?P<port>\d{1,5}))?|(?P<bare>[^@:]*:[^@:]*:[^@]*))"
)


class InvalidAddress(MachineFailed):
    """A host, user, port or path of an image that cannot be used."""

    code = "invalid-address"


@dataclass(frozen=True)
class Address:
    """One SSH server and login.

    Attributes:
        host: name or address.
        port: TCP.
        user: to log in as.
        known_hosts: path of the file with the server's key.
        key: path of a private key; empty: the SSH agent and default keys.
        jump: the server to connect through.
    """

    host: str
    port: int
    user: str
    known_hosts: str
    key: str = ""
    jump: Address | None = None

    def __str__(self) -> str:
        through = f" through {self.jump}" if self.jump else ""
        return f"{self.user}@{self.place}{through}"

    @property
    def place(self) -> str:
        """Host and port, as one text."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def as_data(self) -> dict[str, Any]:
        """As JSON, for a machine's record."""
        data: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "known_hosts": self.known_hosts,
            "key": self.key,
        }
        if self.jump:
            data["jump"] = self.jump.as_data()
        return data


def from_data(data: dict[str, Any]) -> Address:
    """What `as_data` gave."""
    jump = data.get("jump")
    return Address(
        host=data["host"],
        port=data["port"],
        user=data["user"],
        known_hosts=data["known_hosts"],
        key=data.get("key", ""),
        jump=from_data(jump) if jump else None,
    )


def parse(
    entry: str,
    *,
    user: str | None = None,
    port: int = 22,
    key: str | None = None,
    known_hosts: str | None = None,
    jump: str | None = None,
) -> Address:
    """The address of an entry `host`, `host:port`, `user@host:port` or `user@[v6]:port`; what it leaves out is given.

    Raises:
        InvalidAddress: it is none, or could be taken for an option.
    """
    found = _ENTRY.fullmatch(entry)
    if found is None:
        raise InvalidAddress(f"{entry[:80]!r} is no host", hint="host, host:port, user@host:port or user@[v6]:port")
    known = _path(known_hosts, "known_hosts") or str(Path("~/.ssh/known_hosts").expanduser())
    host = found["six"] or found["host"] or found["bare"]
    login = found["user"] or user or getpass.getuser()
    number = int(found["port"] or port)
    if not _HOST.fullmatch(host):
        raise InvalidAddress(f"{host[:80]!r} is no host", hint="a name or an address, without options or spaces")
    if not 0 < number < 65536:
        raise InvalidAddress(f"{number} is no port", hint="1 to 65535")
    return Address(
        host=host,
        port=number,
        user=checked_user(login),
        known_hosts=known,
        key=_path(key, "key"),
        jump=parse(jump, user=login, key=key, known_hosts=known_hosts) if jump else None,
    )


def checked_user(user: str) -> str:
    """A user's name that cannot be taken for anything else.

    Raises:
        InvalidAddress: it is none.
    """
    if not _USER.fullmatch(user):
        raise InvalidAddress(f"{user[:80]!r} is no user", hint="letters, digits, and . _ - @ + after the first")
    return user


def _path(value: str | None, what: str) -> str:
    if not value:
        return ""
    if value.startswith("-") or any(ord(c) < 32 or ord(c) == 127 for c in value):
        raise InvalidAddress(f"{value[:80]!r} is no path for {what}", hint="a path of a file on the manager's node")
    return str(Path(value).expanduser())
