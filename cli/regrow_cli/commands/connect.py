"""`regrow connect`: look over an agent's shoulder."""

from __future__ import annotations

import asyncio
import shlex
from typing import Annotated

import typer

from .. import settings
from ..settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("connect")(connect)


def connect(
    context: typer.Context,
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="Its id, a unique prefix of it, or its name.")],
    read_only: Annotated[
        bool, typer.Option("--read-only", "-r", help="Only look; what is typed goes nowhere.")
    ] = False,
    show: Annotated[bool, typer.Option("--print", help="Only print the program that attaches, on its node.")] = False,
    owner: Annotated[str, typer.Option("--of", metavar="PID", help="Look only at agents of this process.")] = "",
    app: Annotated[str, typer.Option("--app", help="Look only in this app.")] = "",
) -> None:
    """Attach to the terminal in which an agent's harness runs (tmux), on the computer that is its machine's node.

    Ctrl-B D detaches; the agent goes on.

    \b
    regrow connect worker
    regrow connect --read-only a_01m7
    """
    code = asyncio.run(_connect(settings.of(context), agent, read_only, show, owner, app))
    if code:
        raise typer.Exit(code)


async def _connect(chosen: Settings, given: str, read_only: bool, show: bool, owner: str, app: str) -> int:
    from ..access import connected
    from ..agents import ENDS, AgentNotFound, find
    from ..asking_agents import AgentEnded
    from ..terminal import program, run
    from ..using_machines import handle, machines, usable

    async with connected(chosen) as bus:
        agent = await find(bus, given, app=app, owner=owner)
        if agent.state in ENDS:
            raise AgentEnded(f"The agent {agent.id} ({agent.name}) is {agent.state}", hint=f"regrow log {agent.id}")
        if agent.machine is None:
            raise AgentNotFound(f"The agent {agent.name} runs on no machine of ours", hint=f"regrow log {agent.id}")
        line = f"exec tmux -S {shlex.quote(agent.folder + '/tmux.sock')} attach{' -r' if read_only else ''} -t agent"
        record = await usable(bus, agent.machine.id, app=agent.app)
        async with machines(bus, record.app):
            found = await handle(record).describe(line=line)
        argv = program(found, instead=f"regrow ssh {found.id}, and there: {line}")
        if show:
            print(shlex.join(argv))
            return 0
        return await run(found, argv)
