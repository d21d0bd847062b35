"""`regrow cancel`: cancel a process and all below it."""

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
    app.command("cancel")(cancel)


def cancel(
    context: typer.Context,
    pid: Annotated[str, typer.Argument(metavar="[PID|NAME]", help="The process; a unique prefix will do.")] = "",
    reason: Annotated[str, typer.Option("--reason", help="Why; it stands in the record.")] = "",
    where: Annotated[str, typer.Option("--where", metavar="QUERY", help="All that it finds, in place of PID.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --where: do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="With --where: only show what it finds.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="To wait; 0: do not.")] = 10.0,
    app: Annotated[str, typer.Option("--app", help="Look only in this app.")] = "",
) -> None:
    """Cancel a process, its children first, and wait for its end.

    \b
    regrow cancel p_01m7
    regrow cancel survey --reason "wrong folder"
    regrow cancel --where 'type=worker and age>2h' --dry-run
    """
    from ..bulk import check

    check(pid, where)
    if where:
        asyncio.run(_cancel_all(settings.of(context), where, reason, app, yes=yes, dry_run=dry_run))
        return
    asyncio.run(_cancel(settings.of(context), pid, reason, timeout, app))


async def _cancel_all(chosen: Settings, where: str, reason: str, app: str, *, yes: bool, dry_run: bool) -> None:
    from regrow.client import Client, RemoteProcess

    from ..access import connected
    from ..bulk import confirm, each, select
    from ..processes import ENDS, STATUSES

    living = [status for status in STATUSES if status not in ENDS]
    async with connected(chosen) as bus:
        found = await select(bus, where, app=app, statuses=living)
        if not confirm(found, "Cancel", yes=yes, dry_run=dry_run):
            return
        client = Client(bus)

        async def one(row: Row) -> str:
            await RemoteProcess(client, row.app, row.pid).cancel(reason)
            return "is told to end"

        await each(found, one)


async def _cancel(chosen: Settings, given: str, reason: str, timeout: float, app: str) -> None:
    from regrow.client import Client, RemoteProcess
    from regrow.errors import ExecutionFailed

    from ..access import connected
    from ..errors import TimeUp
    from ..live import SUCCESSION, is_hosted
    from ..resolve import find

    async with connected(chosen) as bus:
        found = await find(bus, given, app=app)
        process = RemoteProcess(Client(bus), found.app, found.pid)
        status = await process.status()
        if status not in ("waiting", "running"):
            print(f"{found.pid} is {status} already.")
            return
        hosted = found.record is None or await is_hosted(bus, found.app, found.record.build)
        await process.cancel(reason)  # its host may end with it
        if not timeout and hosted:
            return
        try:
            await process.result(timeout if hosted else min(timeout, SUCCESSION))
        except ExecutionFailed:
            pass  # cancelled, or it failed on its way out: told below
        except TimeoutError as error:
            if not hosted:  # nor has another one come
                print(f"{found.pid} will be cancelled when a host of app {found.app} runs: regrow resume {found.pid}")
                return
            raise TimeUp(
                f"{found.pid} has not ended within {timeout:g} s; it was told to", hint=f"regrow status {found.pid}"
            ) from error
        print(f"{found.pid} {await process.status()}")
