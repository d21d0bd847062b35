"""`regrow send`: say something to an agent."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from .. import settings
from ..settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("send")(send)


def send(
    context: typer.Context,
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="Its id, a unique prefix of it, or its name.")],
    message: Annotated[list[str], typer.Argument(metavar="MESSAGE...", help="What to say; `-` reads standard input.")],
    sender: Annotated[str, typer.Option("--from", metavar="NAME", help="Who says it, as the agent sees it.")] = "",
    owner: Annotated[str, typer.Option("--of", metavar="PID", help="Look only at agents of this process.")] = "",
    app: Annotated[str, typer.Option("--app", help="Look only in this app.")] = "",
) -> None:
    """Send an agent a message. It is kept, and reaches the agent once, also when that is busy or being started again.

    \b
    regrow send worker "Stop after the next file."
    git diff | regrow send reviewer --of p_01m7 -
    """
    from ..errors import UsageError

    text = sys.stdin.read() if message == ["-"] else " ".join(message)
    if not text.strip():
        raise UsageError("There is nothing to say", hint="regrow send AGENT MESSAGE")
    asyncio.run(_send(settings.of(context), agent, text, sender, owner, app))


async def _send(chosen: Settings, given: str, text: str, sender: str, owner: str, app: str) -> None:
    from regrow_protocol.agents import Send

    from ..access import connected
    from ..agents import find
    from ..asking_agents import ask

    async with connected(chosen) as bus:
        record = await find(bus, given, app=app, owner=owner)
        seq = await ask(bus, record, "send", Send(text, sender=sender), int)
    print(f"message {seq} to {record.name} ({record.id})")
