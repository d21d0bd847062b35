"""`regrow schedule`: processes that start at set times."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from .. import settings
from ..roots import TAG
from ..settings import Settings

if TYPE_CHECKING:
    from regrow_protocol.schedules import Schedule

schedule = typer.Typer(no_args_is_help=True)
_APP = typer.Option("--app", help="Look only in this app.")
_NAME = typer.Argument(help="The schedule.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(schedule, name="schedule", help="Start processes at set times: add, ls, pause, resume, rm.")


@schedule.command("add")
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Its name, unique in the app.")],
    target: Annotated[str, typer.Argument(metavar="FILE:PROCESS", help="The program, or its app, and the process.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Its arguments.")] = None,
    cron: Annotated[str, typer.Option("--cron", help="Six fields, seconds first: '0 0 9 * * MON-FRI'.")] = "",
    tz: Annotated[str, typer.Option("--tz", metavar="ZONE", help="Of --cron, as Europe/Berlin; else UTC.")] = "",
    every: Annotated[str, typer.Option("--every", metavar="TIME", help="As 30s, 10m, 12h.")] = "",
    at: Annotated[str, typer.Option("--at", metavar="MOMENT", help="Once, as 2026-12-24T18:00.")] = "",
    overlap: Annotated[
        str, typer.Option("--overlap", help="While the last run goes on: skip, queue, allow, or cancel it.")
    ] = "skip",
    catch_up: Annotated[
        str, typer.Option("--catch-up", metavar="TIME", help="A run that cannot start for that long is dropped.")
    ] = "1h",
    app: Annotated[str, typer.Option("--app", help="The app [the program's name].")] = "",
    tag: Annotated[list[str] | None, TAG] = None,
    replace: Annotated[bool, typer.Option("--replace", help="In place of one of that name.")] = False,
) -> None:
    """Start a process at set times, on hosts of its app (`regrow host FILE`).

    Times are kept by NATS: they are due whether or not anything of Regrow runs. Its processes have the tag
    `schedule=NAME`.

    \b
    regrow schedule add nightly --cron "0 0 9 * * *" --tz Europe/Berlin survey.py:survey folder=/srv
    regrow schedule add poll --every 10m --overlap queue mail:poll
    """
    from regrow.codec import to_raw
    from regrow_protocol.messages import Program
    from regrow_protocol.schedules import Overlap, Schedule

    from ..arguments import parse
    from ..durations import seconds
    from ..errors import UsageError
    from ..roots import tags_of
    from ..schedules import when_of

    file, colon, type_ = target.rpartition(":")
    if not colon or not file or not type_:
        raise UsageError(f"{target!r} names no process", hint="FILE:PROCESS, as survey.py:survey, or APP:PROCESS")
    if overlap not in get_args(Overlap):
        raise UsageError(f"--overlap is none of {', '.join(get_args(Overlap))}: {overlap}")
    path = Path(file)
    if path.suffix == ".py" and not path.is_file():
        raise UsageError(f"There is no file {file}", hint="FILE:PROCESS, as survey.py:survey")
    program = Program(str(path.resolve()), str(Path.cwd())) if path.is_file() else None
    made = Schedule(
        name=name, app=app or (path.stem if program is not None else file), when=when_of(cron, every, at, tz), zone=tz,
        type=type_, args=to_raw(parse(arguments or [])), program=program,
        overlap=cast("Overlap", overlap), catch_up=seconds(catch_up), created=time.time(), tags=tags_of(tag or []),
    )  # fmt: skip
    asyncio.run(_add(settings.of(context), made, replace))


async def _add(chosen: Settings, made: Schedule, replaces: bool) -> None:
    from ..access import connected
    from ..listing import clock
    from ..schedules import add, next_runs

    async with connected(chosen) as bus:
        await add(bus, made, replaces=replaces)
    runs = next_runs(made, 1, time.time())
    print(
        f"{made.name}: {made.type} of app {made.app}, " + (f"first {clock(runs[0])}" if runs else "never: that is past")
    )


@schedule.command("ls")
def ls(
    context: typer.Context,
    app: Annotated[str, typer.Option("--app", help="Only of this app.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, with three next runs each.")] = False,
) -> None:
    """List schedules with their next and last runs."""
    asyncio.run(_ls(settings.of(context), app, as_json))


async def _ls(chosen: Settings, app: str, as_json: bool) -> None:
    from ..access import connected
    from ..listing import clock, print_json, print_table
    from ..schedules import records, row_of

    async with connected(chosen) as bus:
        rows = [row_of(each, time.time()) for each in await records(bus) if app in ("", each.app)]
    if as_json:
        print_json(rows)
        return
    print_table(
        ["NAME", "PROCESS", "WHEN", "NEXT", "LAST", "RUNS", "SKIPPED", "APP"],
        [
            [
                row.name,
                row.type,
                f"{row.when} {row.zone}".strip(),
                "paused" if row.paused else clock(row.next[0]) if row.next else "",
                f"{clock(row.last_at)} {row.last}" if row.last else "",
                str(row.runs),
                str(row.skipped),
                row.app,
            ]
            for row in rows
        ],
        empty="There is no schedule; `regrow schedule add --help` says how to make one.",
    )


@schedule.command("pause")
def pause(context: typer.Context, name: Annotated[str, _NAME], app: Annotated[str, _APP] = "") -> None:
    """Start nothing of a schedule, until `resume`; runs that are due meanwhile are dropped."""
    asyncio.run(_change(settings.of(context), name, app, "paused"))


@schedule.command("resume")
def resume(context: typer.Context, name: Annotated[str, _NAME], app: Annotated[str, _APP] = "") -> None:
    """Go on with a schedule."""
    asyncio.run(_change(settings.of(context), name, app, "resumed"))


@schedule.command("rm")
def rm(context: typer.Context, name: Annotated[str, _NAME], app: Annotated[str, _APP] = "") -> None:
    """Remove a schedule. What it has started goes on."""
    asyncio.run(_change(settings.of(context), name, app, "removed"))


async def _change(chosen: Settings, name: str, app: str, what: str) -> None:
    from .. import schedules
    from ..access import connected

    async with connected(chosen) as bus:
        found = await schedules.find(bus, name, app)
        if what == "removed":
            await schedules.remove(bus, found)
        else:
            await schedules.pause(bus, found, paused=what == "paused")
    print(f"{found.name} {what}")
