"""`regrow cancel`: cancel a process and all below it."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from .. import settings
from ..settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("cancel")(cancel)


def cancel(
    context: typer.Context,
    pid: Annotated[str, typer.Argument(metavar="PID|NAME", help="The process; a unique prefix of its pid will do.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it stands in the record.")] = "",
    timeout: Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="To wait; 0: do not.")] = 10.0,
    app: Annotated[str, typer.Option("--app", help="Look only in this app.")] = "",
) -> None:
    """Cancel a process, its children first, and wait for its end.

    \b
    regrow cancel p_01m7
    regrow cancel survey --reason "wrong folder"
    """
    asyncio.run(_cancel(settings.of(context), pid, reason, timeout, app))


async def _cancel(chosen: Settings, given: str, reason: str, timeout: float, app: str) -> None:
    from regrow.client import Client, RemoteProcess
    from regrow.errors import ExecutionFailed

    from ..access import connected
    from ..errors import TimeUp
    from ..live import is_hosted
    from ..resolve import find

    async with connected(chosen) as bus:
        found = await find(bus, given, app=app)
        process = RemoteProcess(Client(bus), found.app, found.pid)
        status = await process.status()
        if status not in ("waiting", "running"):
            print(f"{found.pid} is {status} already.")
            return
        await process.cancel(reason)
        if found.record is not None and not await is_hosted(bus, found.app, found.record.build):
            print(f"{found.pid} will be cancelled when a host of app {found.app} runs: regrow resume {found.pid}")
            return
        if not timeout:
            return
        try:
            await process.result(timeout)
        except ExecutionFailed:
            pass  # cancelled, or it failed on its way out: told below
        except TimeoutError as error:
            raise TimeUp(
                f"{found.pid} has not ended within {timeout:g} s; it was told to", hint=f"regrow status {found.pid}"
            ) from error
        print(f"{found.pid} {await process.status()}")
