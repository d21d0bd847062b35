"""`regrow host`: run a host for a program in the foreground."""

from __future__ import annotations

import asyncio
import signal
from typing import Annotated

import typer

from .. import settings
from ..settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("host")(host)


def host(
    context: typer.Context,
    program: Annotated[str, typer.Argument(metavar="FILE|MODULE", help="The program whose processes it runs.")],
    app: Annotated[str, typer.Option("--app", help="The app [the program's name].")] = "",
    version: Annotated[str, typer.Option("--version", help="Of the app, shown by `regrow hosts`.")] = "",
    upgrade: Annotated[
        str, typer.Option("--upgrade", help="auto: running processes of older code move here at once; else: wait.")
    ] = "wait",
) -> None:
    """Run a host: processes of the app that are started elsewhere run here.

    Several hosts of one app share its processes. A host that dies is started again. Ctrl-C or SIGTERM ends it
    gracefully: what it ran goes on on another host, or when there is one again.

    \b
    regrow host examples/survey.py --app surveys
    regrow start surveys survey folder=/usr/lib/python3
    """
    from ..arguments import split_target
    from ..errors import UsageError

    if split_target(program)[1]:
        raise UsageError("A host runs all processes of a program", hint=f"regrow host {split_target(program)[0]}")
    if upgrade not in ("auto", "wait"):
        raise UsageError(f"--upgrade is auto or wait, not {upgrade}")
    env = {"REGROW_APP_VERSION": version, "REGROW_UPGRADE": upgrade}
    asyncio.run(_host(settings.of(context), program, app, env))


async def _host(chosen: Settings, program: str, app: str, env: dict[str, str]) -> None:
    from regrow.launcher import HostProcess
    from regrow.program import resolve

    from ..access import connected

    target = resolve(program)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    url = await asyncio.to_thread(chosen.url)
    async with connected(chosen) as bus:
        process = HostProcess(target, url, app=app, bus=bus, env=env)
        ready = await process.start()
        print(f"Host {ready.host} runs app {ready.app} (build {ready.build}). Ctrl-C ends it.", flush=True)
        waiting = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait([waiting, process.failed], return_when=asyncio.FIRST_COMPLETED)
            if process.failed.done():
                raise process.failed.result()
        finally:
            waiting.cancel()
            await process.stop()
        print("Stopped.")
