"""`regrow endpoints`: what living processes expose."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from .. import settings
from ..settings import Settings

if TYPE_CHECKING:
    from ..endpoints import EndpointRow


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("endpoints")(endpoints)


def endpoints(
    context: typer.Context,
    pid: Annotated[str, typer.Argument(metavar="[PID|NAME]", help="Only of this process.")] = "",
    schema: Annotated[bool, typer.Option("--schema", help="Show what each takes, as JSON Schema.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, schemas included.")] = False,
    app: Annotated[str, typer.Option("--app", help="Only of this app.")] = "",
) -> None:
    """List the endpoints that living processes expose; those with a subject are public.

    \b
    regrow endpoints
    regrow endpoints pool --schema
    nats req regrow.api.pool.add_task '{"spec":"…"}'
    """
    from ..listing import print_json, print_result, print_table

    rows = asyncio.run(_rows(settings.of(context), pid, app))
    if as_json:
        print_json(rows)
    elif schema:
        for row in rows:
            print(f"{row.name or row.pid} {row.endpoint}")
            print_result(row.arguments)
    else:
        table = [
            [
                row.pid,
                row.name,
                row.endpoint,
                _subject(row),
                row.description.partition("\n")[0],
                row.type,
                row.app,
            ]
            for row in rows
        ]
        headers = ["PID", "NAME", "ENDPOINT", "SUBJECT", "DESCRIPTION", "TYPE", "APP"]
        print_table(headers, table, empty="No living process exposes anything.")


def _subject(row: EndpointRow) -> str:
    from regrow_protocol.endpoints import api_subject

    return api_subject(row.name, row.endpoint) if row.public else ""


async def _rows(chosen: Settings, given: str, app: str) -> list[EndpointRow]:
    from ..access import connected
    from ..endpoints import endpoints
    from ..resolve import find

    async with connected(chosen) as bus:
        pid = (await find(bus, given, app=app)).pid if given else ""
        return await endpoints(bus, app=app, pid=pid)
