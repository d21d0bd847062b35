"""`regrow log`: what an agent was told, said and did."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from .. import settings
from ..settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("log")(log)


def log(
    context: typer.Context,
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="Its id, a unique prefix of it, or its name.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
    owner: Annotated[str, typer.Option("--of", metavar="PID", help="Look only at agents of this process.")] = "",
    app: Annotated[str, typer.Option("--app", help="Look only in this app.")] = "",
) -> None:
    """Print an agent's conversation from the first: messages to it, what it said, tool calls and results, usage.

    \b
    regrow log worker
    regrow log a_01m7 --follow --json | jq .type
    """
    asyncio.run(_log(settings.of(context), agent, follow, as_json, owner, app))


async def _log(chosen: Settings, given: str, follow: bool, as_json: bool, owner: str, app: str) -> None:
    from regrow_protocol import messages as m

    from ..access import connected
    from ..agents import find
    from ..conversation import entries, line

    async with connected(chosen) as bus:
        record = await find(bus, given, app=app, owner=owner)
        async for entry in entries(bus, record, follow=follow):
            print(m.encode(entry).decode() if as_json else line(entry), flush=True)
