"""`regrow status`: all that is known of a process."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated

import typer

from .. import settings
from ..settings import Settings

if TYPE_CHECKING:
    from ..inspection import Inspection


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("status")(status)


def status(
    context: typer.Context,
    pid: Annotated[str, typer.Argument(metavar="PID|NAME", help="The process; a unique prefix of its pid will do.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    app: Annotated[str, typer.Option("--app", help="Look only in this app.")] = "",
    fold: Annotated[bool, typer.Option(help="Fold its history here, for its endpoints and what it waits for.")] = True,
) -> None:
    """Show a process: its tree, agents, endpoints, what it waits for, why it is stuck, its last events.

    Endpoints and what it waits for come from folding its recorded inbox here, where its program is on this machine and
    unchanged; nothing is sent or done by that. Otherwise it is told what the streams say.

    \b
    regrow status p_01m7
    regrow status survey --json
    """
    from ..listing import print_json

    chosen = settings.of(context)
    found = asyncio.run(_status(chosen, pid, app, fold))
    if as_json:
        print_json(found)
    else:
        _show(found)


async def _status(chosen: Settings, given: str, app: str, fold: bool) -> Inspection:
    from ..access import connected
    from ..data_dir import resolve
    from ..inspection import inspect
    from ..resolve import find

    async with connected(chosen) as bus:
        return await inspect(bus, await find(bus, given, app=app), resolve(chosen.data), fold=fold)


def _show(found: Inspection) -> None:
    from ..listing import clock, duration, print_table
    from ..live_view import event_line
    from .agents import show as show_agents

    now = time.time()
    row = found.process
    named = f' "{row.name}"' if row.name else ""
    print(f"{row.type}{named}  {row.status}")
    facts = [
        ("pid", row.pid),
        ("app", f"{row.app}, build {row.build}"),
        ("tags", ", ".join(f"{name}={value}" for name, value in row.tags.items())),
        ("parent", row.parent or ""),
        ("program", found.program),
        ("started", f"{clock(row.started)}, {duration(now - row.started)} ago" if row.started else ""),
        ("ended", f"{clock(row.ended)}, after {duration(row.ended - row.started)}" if row.ended else ""),
        ("incarnation", str(row.incarnation) if row.incarnation else ""),
        ("inputs", f"{found.inputs}, {found.first} to {found.last}"),
        ("host", found.host or ("none runs it: regrow resume " + row.pid if row.status == "no-host" else "")),
        ("detached", f"process {found.detached.process.pid}, output in {found.detached.log}" if found.detached else ""),
        ("error", row.error),
        ("stuck", f"at input {row.stuck.seq}: {row.stuck.reason}" if row.stuck else ""),
        ("endpoints", ", ".join(found.endpoints or []) or ("none" if found.endpoints is not None else "")),
        ("not folded", found.not_folded),
    ]
    for name, value in facts:
        if value:
            print(f"  {name:12} {value}")
    if found.waiting:
        print("\nwaiting for")
        lines = [
            [each.kind, each.name, each.pid or (f"in {duration(each.due - now)}" if each.due else ""), each.line]
            for each in found.waiting
        ]
        print_table(["OPERATION", "NAME", "", "LINE"], lines, empty="")
    if found.agents:
        print("\nagents")
        show_agents(found.agents, empty="")
    if len(found.tree) > 1:
        print("\ntree")
        lines = [[each.pid, "  " * each.depth + each.type, each.status, each.name] for each in found.tree]
        print_table(["PID", "PROCESS", "STATUS", "NAME"], lines, empty="")
    if found.events:
        print("\nlast events")
        for event in found.events:
            print(f"  {event_line(event)}")
