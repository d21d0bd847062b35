"""`regrow ssh`: a shell on a machine, whichever backend."""

from __future__ import annotations

import asyncio
import shlex
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from .. import settings
from ..settings import Settings

if TYPE_CHECKING:
    from regrow_protocol.machines import Description


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("ssh")(ssh)


def ssh(
    context: typer.Context,
    machine: Annotated[str, typer.Argument(metavar="MACHINE", help="Its id, a unique prefix of it, or its name.")],
    show: Annotated[bool, typer.Option("--print", help="Only print the program that opens it on its node.")] = False,
    app: Annotated[str, typer.Option("--app", help="Look only in this app.")] = "",
) -> None:
    """Open a shell on a machine, on the computer that is its node; the shell's exit code is ours.

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
    from ..errors import Elsewhere
    from ..using_machines import handle, machines, usable

    async with connected(chosen) as bus:
        record = await usable(bus, given, app=app)
        async with machines(bus, record.app):
            found = await handle(record).describe()
        argv = _program(found)
        if show:
            print(shlex.join(argv))
            return 0
        if found.node != (here := _this_node()):
            raise Elsewhere(
                f"The machine {found.id} is reached from the node {found.node}, and this is {here}",
                hint=f"there: {shlex.join(argv)}",
            )
        # With the connection open: a stack stays for as long as somebody is in a shell of it.
        return await _shell(argv)


def _this_node() -> str:
    from regrow_machine_manager.settings import ManagerSettings
    from regrow_service.settings import read

    return read(ManagerSettings).node_name


def _program(found: Description) -> list[str]:
    from regrow.machines import Unsupported

    if not found.shell:
        raise Unsupported(f"A {found.backend} machine has no shell", hint=f"regrow exec {found.id} -- COMMAND")
    return found.shell


async def _shell(argv: list[str]) -> int:
    """Run the program on our terminal. Signals of the terminal are for it alone; others are handed on."""
    from ..errors import Elsewhere

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGQUIT):
        loop.add_signal_handler(number, lambda: None)
    try:
        process = await asyncio.create_subprocess_exec(*argv)
    except OSError as error:
        raise Elsewhere(
            f"{argv[0]} cannot be run here: {error.strerror}", hint=f"it opens it: {shlex.join(argv)}"
        ) from error
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, process.send_signal, number)
    code = await process.wait()
    return code if code >= 0 else 128 - code
