"""`regrow start`: start a process on hosts that already run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from .. import settings
from ..roots import NAME, RESTART, TAG, RootOptions
from ..settings import Settings

if TYPE_CHECKING:
    from regrow_protocol.bus import Bus
    from regrow_protocol.messages import EventRecord


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("start")(start)


def start(
    context: typer.Context,
    app: Annotated[str, typer.Argument(help="The app, as its hosts were given it.")],
    type_: Annotated[str, typer.Argument(metavar="PROCESS", help="The process type.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Its arguments.")] = None,
    name: Annotated[str, NAME] = "",
    tag: Annotated[list[str] | None, TAG] = None,
    restart: Annotated[str, RESTART] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Show its events until it ends; print its result.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="With --wait: show no events.")] = False,
) -> None:
    """Start a process on the hosts of an app; print its pid.

    It is given to the newest build that has the process. With --wait, Ctrl-C ends the waiting, not the process.

    \b
    regrow start surveys survey folder=/usr/lib/python3 --name today
    regrow start surveys survey --wait --tag customer=acme
    regrow start bots poller --restart permanent
    """
    from ..following import report

    options = RootOptions.of(name, tag, restart)
    record = asyncio.run(_start(settings.of(context), app, type_, arguments or [], options, wait, quiet))
    if record is not None:
        report(record)


async def _start(
    chosen: Settings, app: str, type_: str, arguments: list[str], options: RootOptions, wait: bool, quiet: bool
) -> EventRecord | None:
    from regrow.client import Client
    from regrow.codec import to_raw
    from regrow_protocol.streams import EVENTS

    from ..access import connected
    from ..arguments import parse
    from ..following import follow
    from ..live import build_for, program_of
    from ..live_view import view_for

    raw = to_raw(parse(arguments), f"An argument of {type_}()")
    async with connected(chosen) as bus:
        build = await build_for(bus, app, type_, patient=True)
        client = Client(bus)
        if options.name:
            await _is_free(bus, app, options.name)
        since = await bus.last_seq(EVENTS)
        program = await program_of(bus, app, build)
        process = await client.start(
            app, build, type_, raw, name=options.name, program=program, tags=options.tags, restart=options.restart
        )
        if not wait:
            print(process.pid)
            return None
        with view_for(quiet=quiet) as view:
            view.began(f"{type_} {process.pid} in app {app}")
            return await follow(client, process, view, build=build, since=since)


async def _is_free(bus: Bus, app: str, name: str) -> None:
    from regrow_protocol.subjects import token

    from ..errors import NameTaken

    found = await bus.kv("regrow_processes").get(f"name.{token(app)}.{token(name)}")
    if found is not None:
        raise NameTaken(f"{name} is the name of {found[0].decode()}, which runs", hint="choose another one")
