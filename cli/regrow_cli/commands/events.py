"""`regrow events`: what a process has announced."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from .. import settings
from ..settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("events")(events)


def events(
    context: typer.Context,
    pid: Annotated[str, typer.Argument(metavar="PID|NAME", help="The process; a unique prefix of its pid will do.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
    app: Annotated[str, typer.Option("--app", help="Look only in this app.")] = "",
) -> None:
    """Print the events of a process, from the first.

    \b
    regrow events p_01m7
    regrow events survey --follow --json | jq .type
    """
    asyncio.run(_events(settings.of(context), pid, follow, as_json, app))


async def _events(chosen: Settings, given: str, follow: bool, as_json: bool, app: str) -> None:
    from regrow.client import Client
    from regrow_protocol import messages as m

    from ..access import connected
    from ..live_view import event_line
    from ..resolve import find

    async with connected(chosen) as bus:
        found = await find(bus, given, app=app)
        async for record in Client(bus).records(found.app, found.pid, follow=follow):
            print(m.encode(record).decode() if as_json else event_line(record), flush=True)
