"""`regrow run`: start a program's main process on a host of its own, show what happens, print the result."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from .. import settings
from ..roots import NAME, RESTART, TAG, RootOptions
from ..settings import Settings

if TYPE_CHECKING:
    from regrow_protocol.messages import EventRecord


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run")(run)


def run(
    context: typer.Context,
    program: Annotated[str, typer.Argument(metavar="FILE[:PROCESS]", help="A Python file, or a module's name.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Its arguments.")] = None,
    name: Annotated[str, NAME] = "",
    tag: Annotated[list[str] | None, TAG] = None,
    restart: Annotated[str, RESTART] = "",
    app: Annotated[str, typer.Option("--app", help="The app [the program's name].")] = "",
    detach: Annotated[bool, typer.Option("--detach", help="Print the pid and return; it runs on.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no events.")] = False,
) -> None:
    """Run a process of a program to its end; print its result as JSON.

    Without PROCESS it is `main`, or the last process that the file defines. Values are JSON, or else text; @FILE is
    what a file holds. Events go to standard error. Ctrl-C cancels the process and all below it; when the command is
    killed, `regrow resume PID` goes on where it was.

    \b
    regrow run examples/survey.py
    regrow run examples/survey.py:survey folder=/usr/lib/python3 concurrency=4
    regrow run bot.py task=@task.json --detach --name bot
    """
    from regrow.program import resolve

    from ..arguments import split_target
    from ..programs import arguments_for, load_quietly, process_type

    file, wanted = split_target(program)
    loaded = load_quietly(resolve(file))
    type_ = process_type(loaded, wanted)
    raw = arguments_for(type_, arguments or [])
    chosen, options = settings.of(context), RootOptions.of(name, tag, restart)
    if detach:
        from ..detached import Order, launch

        order = Order(loaded.target, type_.name, bytes(raw), options, app=app)
        record = launch(chosen, order)
        typer.echo(f"It runs detached, output in {record.log}. Look at it with: regrow status {record.pid}", err=True)
        print(record.pid)
        return
    from ..following import report

    report(asyncio.run(_run(chosen, loaded.target, type_.name, raw, options, app, quiet)))


async def _run(
    chosen: Settings, target: str, type_: str, raw: bytes, options: RootOptions, app: str, quiet: bool
) -> EventRecord:
    from regrow.runtime import Session
    from regrow_protocol.streams import EVENTS

    from ..following import run_to_the_end
    from ..live_view import view_for

    url = await asyncio.to_thread(chosen.url)
    with view_for(quiet=quiet) as view:
        view.began(f"starting {target}")
        session = await Session.open(target, app=app, url=url, prints_to_stderr=True)
        try:
            since = await session.bus.last_seq(EVENTS)
            process = await session.start(
                type_, raw, target, name=options.name, tags=options.tags, restart=options.restart
            )
            view.began(f"{type_} {process.pid} in app {process.app}")
            assert session.host.ready is not None
            return await run_to_the_end(session, process, view, build=session.host.ready.build, since=since)
        finally:
            await session.close()
