"""`regrow machines`: the machines; `stop` and `gc` end what is not needed."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from .. import settings
from ..settings import Settings

if TYPE_CHECKING:
    from regrow_protocol.bus import Bus
    from regrow_protocol.machines import MachineRecord

    from ..machines import MachineRow

machines = typer.Typer(invoke_without_command=True)
FRESH = 3.0
"""Seconds to wait where no machine-manager lives at all: the stack was perhaps started for this command."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(machines, name="machines")


@machines.callback()
def ls(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Ended ones too.")] = False,
    app: Annotated[str, typer.Option("--app", help="Only of this app.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List machines, and with `stop` and `gc` end those that are not needed.

    State: requested (waits for room), creating, ready, warm (made in advance), stopping, stopped, failed; no-manager
    (it is there, but no machine-manager of its node runs).

    \b
    regrow machines
    regrow machines --all --app builds --json
    regrow machines stop m_01m7
    """
    if context.invoked_subcommand is None:
        asyncio.run(_ls(settings.of(context), everything, app, as_json))
    elif everything or app or as_json:
        from ..errors import UsageError

        name = context.invoked_subcommand
        raise UsageError(f"Options of `{name}` stand behind it", hint=f"regrow machines {name} --help")


async def _ls(chosen: Settings, everything: bool, app: str, as_json: bool) -> None:
    from ..access import connected
    from ..listing import print_json
    from ..machines import ENDS, records, row_of, until_managed

    async with connected(chosen) as bus:
        found = [
            kept
            for kept in await records(bus)
            if app in ("", kept.record.app) and (everything or kept.record.state not in ENDS)
        ]
        going = any(kept.record.state not in ENDS for kept in found)
        alive = await until_managed(bus, bool, FRESH) if going else set[str]()
    rows = [row_of(kept, alive) for kept in found]
    if as_json:
        print_json(rows)
    else:
        _print(rows, everything)


def _print(rows: list[MachineRow], everything: bool) -> None:
    from ..listing import duration, print_table

    now = time.time()
    print_table(
        ["ID", "STATE", "BACKEND", "AGE", "NODE", "APP", "OWNER", "NAME"],
        [
            [
                row.id,
                row.state,
                row.backend,
                duration(now - row.created),
                f"{row.node}: {row.host}" if row.host else row.node,
                row.app,
                row.owner or ("kept" if row.keep else ""),
                row.name,
            ]
            for row in rows
        ],
        empty="There is no machine."
        if everything
        else "No machine runs; `regrow machines --all` lists ended ones too.",
    )


@machines.command("stop")
def stop(
    context: typer.Context,
    given: Annotated[
        list[str] | None, typer.Argument(metavar="[MACHINE]...", help="Their ids, unique prefixes of them, or names.")
    ] = None,
    app: Annotated[str, typer.Option("--app", help="All of this app; with ids: look only there.")] = "",
) -> None:
    """Stop machines, and all that runs on them. A process that uses one gets `MachineLost`.

    \b
    regrow machines stop m_01m7 box
    regrow machines stop --app builds
    """
    from ..errors import UsageError

    if not given and not app:
        raise UsageError("Say which machines", hint="regrow machines stop MACHINE..., or --app APP")
    asyncio.run(_stop(settings.of(context), given or [], app))


async def _stop(chosen: Settings, given: list[str], app: str) -> None:
    from ..access import connected
    from ..machines import ENDS, records
    from ..using_machines import find

    async with connected(chosen) as bus:
        if given:
            wanted = {record.id: record for record in [await find(bus, each, app=app) for each in given]}
        else:
            wanted = {kept.record.id: kept.record for kept in await records(bus) if kept.record.app == app}
            wanted = {id_: record for id_, record in wanted.items() if record.state not in ENDS}
            if not wanted:
                print(f"No machine of app {app} runs.", file=sys.stderr)
        await _all(bus, list(wanted.values()))


async def _all(bus: Bus, wanted: list[MachineRecord]) -> None:
    """Stop them at the same time; what could not be stopped is told, and the first such error raised at the end."""
    from regrow_protocol.errors import RegrowError

    results = await asyncio.gather(*[_one(bus, record) for record in wanted], return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    for error in errors[1:]:
        if not isinstance(error, RegrowError):
            raise error
        print(f"error: {error.message}", file=sys.stderr)
    if errors:
        raise errors[0]


async def _one(bus: Bus, record: MachineRecord) -> None:
    from ..machines import ENDS
    from ..stopping_machines import stop

    if record.state in ENDS:
        print(f"{record.id} is {record.state} already")
    elif await stop(bus, record):
        print(f"{record.id} stopped")
    else:
        print(f"{record.id} will be stopped: no machine-manager of its node {record.node} runs at present")


@machines.command("gc")
def gc(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only show what would be removed.")] = False,
    older: Annotated[
        str, typer.Option("--older-than", metavar="TIME", help="Records and snapshots of that age: 90s, 30m, 12h, 7d.")
    ] = "1d",
    snapshots: Annotated[bool, typer.Option("--snapshots", help="Snapshots that nobody needs too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """Remove what nobody needs: machines whose owner has ended, and records of machines that ended a while ago.

    With --snapshots also snapshots that are that old and have no name, of machines that have ended, and from which no
    running machine was made.

    \b
    regrow machines gc --dry-run
    regrow machines gc --snapshots --older-than 7d
    """
    from ..durations import seconds

    asyncio.run(_gc(settings.of(context), dry_run, seconds(older), snapshots, as_json))


async def _gc(chosen: Settings, dry_run: bool, older: float, with_snapshots: bool, as_json: bool) -> None:
    from ..access import connected
    from ..listing import print_json, print_table
    from ..machine_gc import forget, look
    from ..stopping_machines import drop, stop

    async with connected(chosen) as bus:
        found = await look(bus, older=older, with_snapshots=with_snapshots)
        if not dry_run:
            await asyncio.gather(*[stop(bus, record) for record, _ in found.machines])
            for each in found.records:
                await forget(bus, each)
            for snapshot, _ in found.snapshots:
                await drop(bus, snapshot)
    if as_json:
        print_json(found.all)
        return
    would = "would be " if dry_run else ""
    done = {"machine": f"{would}stopped", "record": f"{would}forgotten", "snapshot": f"{would}removed"}
    print_table(
        ["ID", "WHAT", "WHY", "APP", "NAME"],
        [[each.id, done[each.what], each.why, each.app, each.name] for each in found.all],
        empty="There is nothing to remove.",
    )
