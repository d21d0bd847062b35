"""Programs on our terminal: a shell on a machine, or what runs there in one."""

from __future__ import annotations

import asyncio
import shlex
import signal

from regrow.machines import Unsupported
from regrow_protocol.machines import Description

from .errors import Elsewhere


def this_node() -> str:
    """The node that a machine-manager here would be of."""
    from regrow_machine_manager.settings import ManagerSettings
    from regrow_service.settings import read

    return read(ManagerSettings).node_name


def program(found: Description, *, instead: str) -> list[str]:
    """What opens the shell, or runs the line, that was asked for.

    Raises:
        Unsupported: the backend has none; `instead` says what to do.
    """
    if not found.shell:
        raise Unsupported(f"A {found.backend} machine has no shell for that", hint=instead)
    return found.shell


async def run(found: Description, argv: list[str]) -> int:
    """Run such a program on our terminal, on the computer that is the machine's node; its exit code.

    Signals of the terminal are for it alone; others are handed on.

    Raises:
        Elsewhere: this is another computer, or the program is not here.
    """
    if found.node != (here := this_node()):
        raise Elsewhere(
            f"The machine {found.id} is reached from the node {found.node}, and this is {here}",
            hint=f"there: {shlex.join(argv)}",
        )
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
