"""`regrow signal`: send a process, or all that a query finds, a signal."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from .. import settings
from ..settings import Settings

if TYPE_CHECKING:
    from ..processes import Row


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("signal")(signal)


def signal(
    context: typer.Context,
    given: Annotated[
        list[str],
        typer.Argument(
            metavar="[PID|NAME] SIGNAL [NAME=VALUE]...",
            help="The process (not with --where), the signal as in its `receive(SIGNAL)`, and its data.",
        ),
    ],
    where: Annotated[str, typer.Option("--where", metavar="QUERY", help="All that it finds, in place of PID.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --where: do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="With --where: only show what it finds.")] = False,
    app: Annotated[str, typer.Option("--app", help="Look only in this app.")] = "",
) -> None:
    """Send a process a signal. It is kept until the process receives it, also while nobody runs it.

    \b
    regrow signal deploy approve by=ada
    regrow signal --where 'type=worker and tag.customer=acme' reload
    """
    from ..errors import UsageError

    words = given if where else given[1:]
    if not words or "=" in words[0]:
        raise UsageError("The command names no signal", hint="regrow signal PID SIGNAL [NAME=VALUE]...")
    pid = "" if where else given[0]
    asyncio.run(_signal(settings.of(context), pid, where, words[0], words[1:], app, yes=yes, dry_run=dry_run))


async def _signal(
    chosen: Settings, pid: str, where: str, name: str, data: list[str], app: str, *, yes: bool, dry_run: bool
) -> None:
    from regrow.client import Client, RemoteProcess
    from regrow.errors import ProcessEnded

    from ..access import connected
    from ..arguments import parse
    from ..bulk import confirm, each, select
    from ..processes import ENDS, STATUSES
    from ..resolve import find

    values = parse(data)
    async with connected(chosen) as bus:
        client = Client(bus)

        async def send(to_app: str, to_pid: str) -> None:
            await RemoteProcess(client, to_app, to_pid).signal(name, values or None)

        async def one(row: Row) -> str:
            await send(row.app, row.pid)
            return f"was sent {name}"

        try:
            if where:
                living = [status for status in STATUSES if status not in ENDS]
                found = await select(bus, where, app=app, statuses=living)
                if confirm(found, f"Send {name} to", yes=yes, dry_run=dry_run):
                    await each(found, one)
                return
            known = await find(bus, pid, app=app)
            if known.record is not None and known.record.status in ENDS:
                raise ProcessEnded(f"The process {known.pid} is {known.record.status}: nobody would receive it")
            await send(known.app, known.pid)
            print(f"{known.pid} was sent {name}")
        finally:
            await client.close()
