"""`regrow snapshot`: keep a machine's state; `regrow snapshots`: list and remove what was kept."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import typer

from .. import settings
from ..settings import Settings

snapshots = typer.Typer(invoke_without_command=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("snapshot")(snapshot)
    app.add_typer(snapshots, name="snapshots")


def snapshot(
    context: typer.Context,
    machine: Annotated[str, typer.Argument(metavar="MACHINE", help="Its id, a unique prefix of it, or its name.")],
    name: Annotated[str, typer.Option("--name", help="Of the snapshot; one that has a name is not collected.")] = "",
    app: Annotated[str, typer.Option("--app", help="Look only in this app.")] = "",
) -> None:
    """Keep a machine's state; print the snapshot's id, for `machine(from_snapshot(id))`.

    \b
    regrow snapshot box --name before-upgrade
    """
    print(asyncio.run(_snapshot(settings.of(context), machine, name, app)))


async def _snapshot(chosen: Settings, given: str, name: str, app: str) -> str:
    from ..access import connected
    from ..using_machines import handle, machines, usable

    async with connected(chosen) as bus:
        record = await usable(bus, given, app=app)
        async with machines(bus, record.app):
            return await handle(record).snapshot(name)


@snapshots.callback()
def ls(
    context: typer.Context,
    app: Annotated[str, typer.Option("--app", help="Only of this app.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List the snapshots of machines, and with `rm` remove some.

    \b
    regrow snapshots --json
    regrow snapshots rm s_01m7
    """
    if context.invoked_subcommand is None:
        asyncio.run(_ls(settings.of(context), app, as_json))
    elif app or as_json:
        from ..errors import UsageError

        name = context.invoked_subcommand
        raise UsageError(f"Options of `{name}` stand behind it", hint=f"regrow snapshots {name} --help")


async def _ls(chosen: Settings, app: str, as_json: bool) -> None:
    from ..access import connected
    from ..listing import duration, print_json, print_table
    from ..machines import snapshot_row
    from ..machines import snapshots as known

    async with connected(chosen) as bus:
        rows = [snapshot_row(record) for record in await known(bus) if app in ("", record.app)]
    if as_json:
        print_json(rows)
        return
    now = time.time()
    print_table(
        ["ID", "BACKEND", "AGE", "NODE", "APP", "MACHINE", "NAME"],
        [[r.id, r.backend, duration(now - r.created), r.node, r.app, r.machine, r.name] for r in rows],
        empty="There is no snapshot.",
    )


@snapshots.command("rm")
def remove(
    context: typer.Context,
    given: Annotated[list[str], typer.Argument(metavar="SNAPSHOT...", help="Ids, unique prefixes, or names.")],
) -> None:
    """Remove snapshots. Machines that were made from them go on.

    \b
    regrow snapshots rm s_01m7 before-upgrade
    """
    asyncio.run(_remove(settings.of(context), given))


async def _remove(chosen: Settings, given: list[str]) -> None:
    from ..access import connected
    from ..stopping_machines import drop
    from ..using_machines import find_snapshot

    async with connected(chosen) as bus:
        for record in {each.id: each for each in [await find_snapshot(bus, name) for name in given]}.values():
            await drop(bus, record)
            print(f"{record.id} removed")
