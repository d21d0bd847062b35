"""`regrow ssh`: a shell on a machine, whichever backend."""

from __future__ import annotations

import asyncio
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from .. import settings
from ..settings import Settings

if TYPE_CHECKING:
    from regrow_protocol.bus import Bus
    from regrow_protocol.machines import MachineRecord


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("ssh")(ssh)


def ssh(
    context: typer.Context,
    machine: Annotated[str, typer.Argument(metavar="MACHINE|AGENT", help="An id, a unique prefix of one, or a name.")],
    show: Annotated[bool, typer.Option("--print", help="Only print the program that opens it on its node.")] = False,
    app: Annotated[str, typer.Option("--app", help="Look only in this app.")] = "",
) -> None:
    """Open a shell on a machine, or an agent's, on the computer that is its node; the shell's exit code is ours.

    The machine goes on when the shell ends. Whatever ends the machine ends the shell.

    \b
    regrow ssh box
    regrow ssh --print m_01m7
    """
    code = asyncio.run(_ssh(settings.of(context), machine, show, app))
    if code:
        raise typer.Exit(code)


async def _ssh(chosen: Settings, given: str, show: bool, app: str) -> int:
    from ..access import connected
    from ..terminal import program, run
    from ..using_machines import handle, machines

    async with connected(chosen) as bus:
        record = await _machine(bus, given, app)
        async with machines(bus, record.app):
            found = await handle(record).describe()
        argv = program(found, instead=f"regrow exec {found.id} -- COMMAND")
        if show:
            print(shlex.join(argv))
            return 0
        # With the connection open: a stack stays for as long as somebody is in a shell of it.
        return await run(found, argv)


async def _machine(bus: Bus, given: str, app: str) -> MachineRecord:
    """The machine that is meant, or that of the agent that is."""
    from ..agents import AgentNotFound, find
    from ..using_machines import MachineNotFound, usable

    try:
        return await usable(bus, given, app=app)
    except MachineNotFound as unknown:
        try:
            agent = await find(bus, given, app=app)
        except AgentNotFound:
            raise unknown from None
        if agent.machine is None:
            raise MachineNotFound(f"The agent {agent.name} runs on no machine of ours") from None
        return await usable(bus, agent.machine.id, app=app)
