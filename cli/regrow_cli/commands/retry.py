"""`regrow retry`: start what failed once more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from .. import settings
from ..settings import Settings

if TYPE_CHECKING:
    from regrow.client import Client
    from regrow_protocol.bus import Bus

    from ..processes import Row


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("retry")(retry)


def retry(
    context: typer.Context,
    pid: Annotated[str, typer.Argument(metavar="[PID|NAME]", help="A process that failed or was cancelled.")] = "",
    where: Annotated[str, typer.Option("--where", metavar="QUERY", help="All that it finds, in place of PID.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only show what would be started.")] = False,
    app: Annotated[str, typer.Option("--app", help="Look only in this app.")] = "",
) -> None:
    """Start a process as one that ended was started: same type, arguments, name and tags. Prints the new pid.

    It is a root: the parent of the old one has heard of its end. A host of its app must run (`regrow host`).

    \b
    regrow retry p_01m7
    regrow retry --where 'status=failed and tag.customer=acme' --yes
    """
    from ..bulk import check

    check(pid, where)
    asyncio.run(_retry(settings.of(context), pid, where, app, yes=yes, dry_run=dry_run))


async def _retry(chosen: Settings, given: str, where: str, app: str, *, yes: bool, dry_run: bool) -> None:
    from regrow.client import Client

    from ..access import connected
    from ..bulk import confirm, each, select
    from ..processes import ENDS, row_of
    from ..resolve import find

    async with connected(chosen) as bus:
        client = Client(bus)
        try:
            if where:
                found = await select(bus, where, app=app, statuses=ENDS)
                if confirm(found, "Start again", yes=yes, dry_run=dry_run):
                    await each(found, lambda row: _start(bus, client, row))
                return
            known = await find(bus, given, app=app)
            if known.record is None or known.record.status not in ENDS:
                from ..errors import UsageError

                raise UsageError(f"{known.pid} has not ended", hint=f"regrow status {known.pid}")
            row = row_of(known.record, (), {})
            if dry_run:
                confirm([row], "Start again", yes=yes, dry_run=True)
                return
            print(await _start(bus, client, row))
        finally:
            await client.close()


async def _start(bus: Bus, client: Client, row: Row) -> str:
    """Start it once more; the new pid."""
    from regrow import history as histories
    from regrow.history import BadHistory
    from regrow_protocol import messages as m

    from ..live import build_for

    history = await histories.read(bus, row.app, row.pid, await client.partitions_of(row.app))
    decoded = [histories.decode_or_none(each.message) for each in history.inputs]
    start = next((each for each in decoded if isinstance(each, m.Start)), None)
    if start is None:
        raise BadHistory(f"The history of {row.pid} has no start")
    target = history.program.target if history.program is not None else ""
    build = await build_for(bus, row.app, start.type, target=target, patient=True)
    started = await client.start(
        row.app, build, start.type, start.args, name=start.name, program=start.program, tags=start.tags,
        machine=start.machine, restart=start.restart,
    )  # fmt: skip
    return started.pid
