"""`regrow grants`: endpoints that agents were given."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated

import typer

from .. import settings
from ..settings import Settings

if TYPE_CHECKING:
    from regrow_protocol.endpoints import Grant


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("grants")(grants)


def grants(
    context: typer.Context,
    revoked: Annotated[str, typer.Option("--revoke", metavar="GRANT", help="Revoke this one instead.")] = "",
    app: Annotated[str, typer.Option("--app", help="Only of this app.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List the grants of processes' endpoints to agents (`handle.attach(agent)`) that stand.

    \b
    regrow grants
    regrow grants --revoke g_01m7k2a9b8c7d6e5f4g3h2j1k0
    """
    from ..listing import duration, print_json, print_table

    if revoked:
        asyncio.run(_revoke(settings.of(context), revoked))
        return
    rows = asyncio.run(_grants(settings.of(context), app))
    if as_json:
        print_json(rows)
        return
    now = time.time()
    table = [
        [
            grant.id,
            grant.agent,
            grant.pid,
            "all" if grant.only is None else ", ".join(grant.only),
            grant.prefix,
            f"{grant.rate:g}/min" if grant.rate else "",
            f"in {duration(grant.expires - now)}" if grant.expires else "",
            grant.by,
            grant.app,
        ]
        for grant in rows
    ]
    headers = ["ID", "AGENT", "PROCESS", "ENDPOINTS", "PREFIX", "RATE", "EXPIRES", "BY", "APP"]
    print_table(headers, table, empty="No grant stands.")


async def _grants(chosen: Settings, app: str) -> list[Grant]:
    from ..access import connected
    from ..endpoints import grants

    async with connected(chosen) as bus:
        return await grants(bus, app=app)


async def _revoke(chosen: Settings, id_: str) -> None:
    from ..access import connected
    from ..endpoints import revoke

    async with connected(chosen) as bus:
        await revoke(bus, id_)
