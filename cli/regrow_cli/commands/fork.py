"""`regrow fork`: a new process whose history begins as another's."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from .. import settings
from ..settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("fork")(fork)


def fork(
    context: typer.Context,
    pid: Annotated[str, typer.Argument(metavar="PID|NAME", help="The process; a unique prefix of its pid will do.")],
    at: Annotated[int, typer.Option("--at", metavar="SEQ", help="The last input that it has in common with it.")],
    app: Annotated[str, typer.Option("--app", help="Look only in this app.")] = "",
) -> None:
    """Start a process that has the beginning of another one's history; print its pid.

    It has seen and done all that the other had up to that input, and goes on by itself from there. Nothing is done
    twice: steps, calls and children that were under way there fail in it with `Forked`; timers go on.
    `regrow export PID` shows the inputs.

    \b
    regrow fork p_01m7 --at 57
    """
    print(asyncio.run(_fork(settings.of(context), pid, at, app)))


async def _fork(chosen: Settings, given: str, at: int, app: str) -> str:
    from regrow import history as histories

    from ..access import connected
    from ..copies import create
    from ..resolve import find

    async with connected(chosen) as bus:
        found = await find(bus, given, app=app)
        history = await histories.read(bus, found.app, found.pid, found.partitions)
        return await create(bus, history, found.app, at=at)
