"""`regrow hosts`: the hosts that live, and who owns what."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from typing import Annotated

import typer
from msgspec import Struct

from .. import settings
from ..settings import Settings


class HostRow(Struct):
    """A host in the list.

    Attributes:
        partitions: how many it owns, `of` so many that the app has.
        owns: their numbers.
        target: its program.
        started: seconds since 1970.
        draining: it is about to end, and hands over what it owns.
    """

    host: str
    app: str
    build: str
    partitions: int
    of: int
    owns: list[int]
    types: list[str]
    node: str
    os_pid: int
    started: float
    target: str
    draining: bool
    version: str
    upgrade: str


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("hosts")(hosts)


def hosts(
    context: typer.Context,
    app: Annotated[str, typer.Option("--app", help="Only of this app.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List the hosts: their apps and builds, and which of the app's partitions each owns.

    Hosts of one build share the app's partitions evenly. One that is `leaving` hands over what it has.

    \b
    regrow hosts
    regrow hosts --app surveys --json
    """
    asyncio.run(_hosts(settings.of(context), app, as_json))


async def _hosts(chosen: Settings, app: str, as_json: bool) -> None:
    from ..access import connected
    from ..listing import duration, print_json, print_table, ranges
    from ..live import owners
    from ..processes import hosts as living
    from ..resolve import apps

    async with connected(chosen) as bus:
        found = [host for host in await living(bus) if app in ("", host.app)]
        owned: dict[tuple[str, str, str], list[int]] = defaultdict(list)
        for (of_app, build, part), owner in (await owners(bus)).items():
            owned[owner, of_app, build].append(part)
        partitions = await apps(bus)
    listed = [
        HostRow(
            host=host.host, app=host.app, build=host.build, partitions=len(owns), of=partitions.get(host.app, 0),
            owns=owns, types=host.types, node=host.node, os_pid=host.os_pid, started=host.started,
            target=host.target, draining=host.draining, version=host.version, upgrade=host.upgrade,
        )
        for host in found
        for owns in [sorted(owned[host.host, host.app, host.build])]
    ]  # fmt: skip
    if as_json:
        print_json(listed)
        return
    print_table(
        ["HOST", "APP", "BUILD", "PARTITIONS", "OWNS", "AGE", "NODE", "OS PID", "PROGRAM"],
        [
            [
                row.host,
                row.app,
                row.build,
                f"{row.partitions}/{row.of}" + (" (leaving)" if row.draining else ""),
                ranges(row.owns) or "-",
                duration(time.time() - row.started),
                row.node,
                str(row.os_pid),
                row.target,
            ]
            for row in listed
        ],
        empty="No host runs; `regrow run` and `regrow host` start some.",
    )
