"""`regrow ls`: the processes, as a tree."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated

import typer

from .. import settings
from ..settings import Settings

if TYPE_CHECKING:
    from ..where import Test


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("ls")(ls)


def ls(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Ended ones too.")] = False,
    app: Annotated[str, typer.Option("--app", help="Only of this app.")] = "",
    status: Annotated[
        str,
        typer.Option("--status", help="Only these: running, no-host, stuck, done, …, with commas."),
    ] = "",
    where: Annotated[
        str, typer.Option("--where", metavar="QUERY", help="Only those that fit, as type=worker and tag.x=y.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List processes, children below their parents.

    Status: running; no-host (no host of its build lives: `regrow resume` or `regrow host` goes on with it); stuck
    (parked: `regrow status PID` says why); done, failed, cancelled.

    \b
    regrow ls
    regrow ls --all --app surveys
    regrow ls --status stuck,failed --json
    regrow ls --all --where 'type=worker and tag.customer=acme and (status=failed or took>1h)'
    """
    from ..errors import UsageError
    from ..processes import STATUSES
    from ..where import parse

    fits = parse(where) if where else lambda _: True
    wanted = {each.strip() for each in status.split(",")} if status else set[str]()
    if unknown := wanted.difference(STATUSES):
        raise UsageError(f"There is no status {', '.join(sorted(unknown))}", hint=f"there are: {', '.join(STATUSES)}")
    asyncio.run(_ls(settings.of(context), everything, app, wanted, fits, as_json))


async def _ls(chosen: Settings, everything: bool, app: str, wanted: set[str], fits: Test, as_json: bool) -> None:
    from ..access import connected
    from ..listing import duration, print_json, print_table
    from ..processes import ENDS, in_tree_order, rows

    async with connected(chosen) as bus:
        found = await rows(bus)
    listed = in_tree_order(
        [
            row
            for row in found
            if (not app or row.app == app)
            and fits(row)
            and (row.status in wanted if wanted else everything or row.status not in ENDS)
        ]
    )
    if as_json:
        print_json(listed)
        return
    now = time.time()
    print_table(
        ["PID", "PROCESS", "STATUS", "AGE", "TOOK", "APP", "NAME"],
        [
            [
                row.pid,
                "  " * row.depth + row.type,
                row.status,
                duration(now - row.started),
                duration(row.ended - row.started) if row.ended else "",
                row.app,
                row.name,
            ]
            for row in listed
        ],
        empty="No process runs; `regrow ls --all` lists ended ones too." if not everything else "There is no process.",
    )
