"""`regrow agents`: the agents."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated

import typer

from .. import settings
from ..settings import Settings

if TYPE_CHECKING:
    from ..agents import AgentRow


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("agents")(agents)


def agents(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Those that are gone too.")] = False,
    app: Annotated[str, typer.Option("--app", help="Only of this app.")] = "",
    owner: Annotated[str, typer.Option("--of", metavar="PID", help="Only of this process.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List agents: what they are, where they run, what they have used.

    State: enrolled (the harness has not come yet), running, lost (its harness ended and is not started again), ended.

    \b
    regrow agents
    regrow agents --of p_01m7 --json
    """
    from ..listing import print_json

    rows = asyncio.run(_rows(settings.of(context), everything, app, owner))
    if as_json:
        print_json(rows)
    else:
        show(rows, empty="No agent lives; `regrow agents --all` lists those that are gone too.")


async def _rows(chosen: Settings, everything: bool, app: str, given: str) -> list[AgentRow]:
    from ..access import connected
    from ..agents import ENDS, records, row_of
    from ..resolve import find

    async with connected(chosen) as bus:
        pid = (await find(bus, given, app=app)).pid if given else ""
        return [
            row_of(record)
            for record in await records(bus)
            if app in ("", record.app) and pid in ("", record.owner.pid) and (everything or record.state not in ENDS)
        ]


def show(rows: list[AgentRow], *, empty: str) -> None:
    """A table of agents."""
    from ..listing import duration, print_table

    now = time.time()
    print_table(
        ["ID", "NAME", "STATE", "HARNESS", "AGE", "TOKENS", "COST", "MACHINE", "APP", "OWNER"],
        [
            [
                row.id,
                row.name,
                row.state,
                f"{row.harness} {row.model}".strip(),
                duration(now - row.created),
                str(row.usage.input + row.usage.output + row.usage.cache_read + row.usage.cache_write),
                f"${row.usage.cost:.2f}" if row.usage.cost else "",
                f"{row.machine} ({row.backend})" if row.machine else "",
                row.app,
                row.owner,
            ]
            for row in rows
        ],
        empty=empty,
    )
