"""`regrow resume`: go on with a process that nobody runs any more, or that is parked."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from .. import settings
from ..settings import Settings

if TYPE_CHECKING:
    from regrow_protocol.messages import EventRecord

    from ..processes import Row


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("resume")(resume)


def resume(
    context: typer.Context,
    pid: Annotated[str, typer.Argument(metavar="[PID|NAME]", help="The process; a unique prefix will do.")] = "",
    where: Annotated[str, typer.Option("--where", metavar="QUERY", help="All that it finds, in place of PID.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --where: do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="With --where: only show what it finds.")] = False,
    program: Annotated[str, typer.Option("--program", help="The program [the one it was started with].")] = "",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no events.")] = False,
    app: Annotated[str, typer.Option("--app", help="Look only in this app.")] = "",
) -> None:
    """Go on with a process whose program was killed, or that is stuck.

    If no host runs it, one is started for its program and the tree is followed to its end as by `regrow run`: result on
    standard output, Ctrl-C cancels. If the file has been changed since, the processes move to the new code. A stuck
    process on a living host is taken up again there, and so are, with --where, all stuck ones that the query finds.

    \b
    regrow resume p_01m7
    regrow resume p_01m7 --program fixed.py
    regrow resume --where 'status=stuck and type=worker'
    """
    from ..bulk import check
    from ..following import report

    check(pid, where)
    if where:
        asyncio.run(_take_up(settings.of(context), where, app, yes=yes, dry_run=dry_run))
        return
    record = asyncio.run(_resume(settings.of(context), pid, program, quiet, app))
    if record is not None:
        report(record)


async def _take_up(chosen: Settings, where: str, app: str, *, yes: bool, dry_run: bool) -> None:
    from regrow.client import Client
    from regrow_protocol import messages as m

    from ..access import connected
    from ..bulk import confirm, each, select

    async with connected(chosen) as bus:
        found = await select(bus, where, app=app, statuses=["stuck"])
        if not confirm(found, "Take up again", yes=yes, dry_run=dry_run):
            return
        client = Client(bus)

        async def one(row: Row) -> str:
            await client.send(row.app, row.pid, m.Resume())
            return "is to be taken up again"

        await each(found, one)


async def _resume(chosen: Settings, given: str, program: str, quiet: bool, app: str) -> EventRecord | None:
    from regrow import history as histories
    from regrow.errors import ProgramError
    from regrow.program import resolve

    from ..access import connected
    from ..errors import NoHost
    from ..live import build_for, is_hosted
    from ..resolve import find
    from ..resuming import Resuming

    async with connected(chosen) as bus:
        found = await find(bus, given, app=app)
        history = await histories.read(bus, found.app, found.pid, found.partitions)
        if history.ended:
            print(f"{found.pid} is {history.events[-1].type} already.")
            return None
        resuming = Resuming(bus, history)
        if await is_hosted(bus, found.app, history.build) and not program:
            await resuming.take_up_stuck()
            return None
        if not program:
            target = history.program.target if history.program is not None else ""
            try:
                build = await build_for(bus, found.app, history.type, target=target)
            except NoHost:
                pass
            else:
                await resuming.move(build)
                print(f"{history.root} and what runs below it moved to build {build}, which has a host.")
                return None
        if not program and history.program is None:
            raise ProgramError(
                f"The program of {found.pid} is not known",
                hint=f"regrow resume {found.pid} --program FILE",
            )
        target = resolve(program) if program else history.program.target if history.program else ""
        url = await asyncio.to_thread(chosen.url)
        return await resuming.run(target, url, quiet=quiet)
