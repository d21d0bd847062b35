"""`regrow fork`: more machines in the state of one; or a process whose history begins as another's."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from .. import settings
from ..settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("fork")(fork)


def fork(
    context: typer.Context,
    given: Annotated[
        str, typer.Argument(metavar="MACHINE|PID", help="A machine, or with --at a process: id, unique prefix or name.")
    ],
    at: Annotated[
        int | None, typer.Option("--at", metavar="SEQ", help="Of a process: the last input in common with it.")
    ] = None,
    number: Annotated[int | None, typer.Option("--number", "-n", help="Of a machine: how many [1].")] = None,
    wait: Annotated[
        float | None, typer.Option("--wait", metavar="SECONDS", help="Of a machine: to wait for room [30].")
    ] = None,
    app: Annotated[str, typer.Option("--app", help="Look only in this app.")] = "",
) -> None:
    """Make machines in the present state of one, or a process that has the beginning of another's history; print ids.

    Machines: they are owned as the one is: by its process, with which they end, or by nobody.

    Processes: it has seen and done all that the other had up to that input, and goes on by itself from there. Nothing
    is done twice: steps, calls and children that were under way there fail in it with `Forked`; timers go on.
    `regrow export PID` shows the inputs.

    \b
    regrow fork box -n 3
    regrow fork p_01m7 --at 57
    """
    from ..errors import UsageError

    chosen = settings.of(context)
    if at is not None:
        if number is not None or wait is not None:
            raise UsageError("--at is of processes, --number and --wait are of machines", hint="regrow fork --help")
        print(asyncio.run(_process(chosen, given, at, app)))
        return
    if given.startswith("p_"):
        raise UsageError(
            "A fork of a process needs --at, the last input that it has", hint=f"regrow fork {given} --at SEQ"
        )
    if number is not None and number < 1:
        raise UsageError(f"--number {number}: one or more")
    for id_ in asyncio.run(
        _machines(chosen, given, 1 if number is None else number, 30.0 if wait is None else wait, app)
    ):
        print(id_)


async def _process(chosen: Settings, given: str, at: int, app: str) -> str:
    from regrow import history as histories

    from ..access import connected
    from ..copies import create
    from ..resolve import find

    async with connected(chosen) as bus:
        found = await find(bus, given, app=app)
        history = await histories.read(bus, found.app, found.pid, found.partitions)
        return await create(bus, history, found.app, at=at)


async def _machines(chosen: Settings, given: str, number: int, wait: float, app: str) -> list[str]:
    from ..access import connected
    from ..using_machines import handle, machines, usable

    async with connected(chosen) as bus:
        record = await usable(bus, given, app=app)
        async with machines(bus, record.app):
            return [made.id for made in await handle(record).fork(number, wait=wait)]
