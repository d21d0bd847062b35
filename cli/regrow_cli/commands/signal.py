"""`regrow signal`: send a process a signal."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from .. import settings
from ..settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("signal")(signal)


def signal(
    context: typer.Context,
    pid: Annotated[str, typer.Argument(metavar="PID|NAME", help="The process; a unique prefix of its pid will do.")],
    name: Annotated[str, typer.Argument(help="The signal, as in its `receive(NAME)`.")],
    data: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Its data.")] = None,
    app: Annotated[str, typer.Option("--app", help="Look only in this app.")] = "",
) -> None:
    """Send a process a signal. It is kept until the process receives it, also while nobody runs it.

    \b
    regrow signal deploy approve by=ada
    regrow signal p_01m7 reload
    """
    asyncio.run(_signal(settings.of(context), pid, name, data or [], app))


async def _signal(chosen: Settings, given: str, name: str, data: list[str], app: str) -> None:
    from regrow.client import Client, RemoteProcess
    from regrow.errors import ProcessEnded

    from ..access import connected
    from ..arguments import parse
    from ..processes import ENDS
    from ..resolve import find

    values = parse(data)
    async with connected(chosen) as bus:
        found = await find(bus, given, app=app)
        if found.record is not None and found.record.status in ENDS:
            raise ProcessEnded(f"The process {found.pid} is {found.record.status}: nobody would receive it")
        client = Client(bus)
        try:
            await RemoteProcess(client, found.app, found.pid).signal(name, values or None)
        finally:
            await client.close()
    print(f"{name} sent to {found.pid}")
