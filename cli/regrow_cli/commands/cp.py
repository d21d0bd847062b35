"""`regrow cp`: copy files and folders to and from a machine."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from .. import settings
from ..settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("cp")(cp)


def cp(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SRC", help="A path, or MACHINE:PATH.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="A path, or MACHINE:PATH.")],
    user: Annotated[str, typer.Option("--user", "-u", help="On the machine: who reads, or owns it then.")] = "agent",
    app: Annotated[str, typer.Option("--app", help="Look only in this app.")] = "",
) -> None:
    """Copy a file or folder between this computer and a machine, as `cp -r` does.

    On the machine paths are relative to its workdir. A path of this computer with a colon in it is written ./a:b.

    \b
    regrow cp src box:
    regrow cp m_01m7:report.html .
    regrow cp box:out/. results
    """
    asyncio.run(_cp(settings.of(context), source, target, user, app))


async def _cp(chosen: Settings, source: str, target: str, user: str, app: str) -> None:
    from ..access import connected
    from ..copying import get, put, sides
    from ..using_machines import handle, machines, usable

    from_, to = sides(source, target)
    async with connected(chosen) as bus:
        record = await usable(bus, from_.machine or to.machine, app=app)
        async with machines(bus, record.app):
            if from_.machine:
                await get(handle(record), from_.path, to.path, user)
            else:
                await put(handle(record), from_.path, to.path, user)
