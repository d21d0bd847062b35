"""`regrow export` and `regrow import`: histories as files."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from .. import settings
from ..settings import Settings


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("export")(export)
    app.command("import")(import_)


def export(
    context: typer.Context,
    pid: Annotated[str, typer.Argument(metavar="PID|NAME", help="The process; a unique prefix of its pid will do.")],
    file: Annotated[Path | None, typer.Argument(help="Where to write it [standard output].")] = None,
    app: Annotated[str, typer.Option("--app", help="Look only in this app.")] = "",
) -> None:
    """Write the history of a process as JSON: its inputs, with large values, and its events.

    `regrow replay FILE` folds it on any machine that has the program; `regrow import FILE` makes a process of it.

    \b
    regrow export p_01m7 run.json
    regrow export survey | jq '.inputs[] | [.seq, .message.kind]' -c
    """
    data = asyncio.run(_export(settings.of(context), pid, app))
    if file is None:
        sys.stdout.buffer.write(data)
        return
    from ..errors import UsageError

    try:
        file.write_bytes(data)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}") from error
    print(f"{file}: {len(data):,} bytes", file=sys.stderr)


async def _export(chosen: Settings, given: str, app: str) -> bytes:
    from regrow import history as histories

    from ..access import connected
    from ..resolve import find

    async with connected(chosen) as bus:
        found = await find(bus, given, app=app)
        return histories.encode(await histories.read(bus, found.app, found.pid, found.partitions))


def import_(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="A file of `regrow export`; - for standard input.")],
    app: Annotated[str, typer.Option("--app", help="The app to put it in [the one it is from].")] = "",
) -> None:
    """Make a process that has an exported history; print its pid.

    A history that has ended is there to be looked at; another one goes on by itself, as after `regrow fork`.

    \b
    regrow import run.json --app surveys
    """
    print(asyncio.run(_import(settings.of(context), _read(file), app)))


def _read(file: str) -> bytes:
    from regrow.history import BadHistory

    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise BadHistory(f"{file} cannot be read: {error.strerror}", hint="give a file of `regrow export`") from error


async def _import(chosen: Settings, data: bytes, app: str) -> str:
    from regrow import history as histories

    from ..access import connected
    from ..copies import create

    history = histories.decode(data)
    async with connected(chosen) as bus:
        return await create(bus, history, app or history.app)
