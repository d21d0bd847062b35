"""What `regrow run` and `regrow start` can be told about the process that they start."""

from __future__ import annotations

from collections.abc import Sequence

import typer
from msgspec import Struct
from regrow_protocol.messages import Restart

from .errors import UsageError

NAME = typer.Option("--name", help="A name to find the process by while it runs.")
TAG = typer.Option("--tag", metavar="NAME=VALUE", help="A tag to find it by; several are allowed.")
RESTART = typer.Option(
    "--restart", metavar="POLICY", help="Start it again when it ends: permanent (always), or transient (failed)."
)


class RootOptions(Struct, frozen=True):
    """Of a root.

    Attributes:
        name: unique while it runs, or empty.
        tags: on top of its type's.
        restart: goes before its type's; empty: as the type says.
    """

    name: str = ""
    tags: dict[str, str] = {}
    restart: Restart = ""

    @classmethod
    def of(cls, name: str, tags: Sequence[str] | None, restart: str) -> RootOptions:
        """From what the command line says. Raises UsageError."""
        if restart not in ("", "permanent", "transient"):
            raise UsageError(f"--restart is permanent or transient, not {restart}")
        return cls(name, tags_of(tags or []), restart)


def tags_of(given: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE each. Raises UsageError for what is no tag, or there twice."""
    tags: dict[str, str] = {}
    for tag in given:
        name, equals, value = tag.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"{tag!r} is no tag", hint="NAME=VALUE, as --tag customer=acme")
        if name in tags:
            raise UsageError(f"The tag {name} is given twice")
        tags[name] = value
    return tags
