"""`regrow host`: run one or several hosts for a program in the foreground.

Each host process is started again by itself when it dies. One that cannot be kept running is given up; the command
goes on while another one runs. Whatever ends the command, the hosts are stopped gracefully, all at once.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from regrow_protocol.errors import RegrowError

from .. import settings
from ..settings import Settings

if TYPE_CHECKING:
    from regrow.host.main import Ready
    from regrow.launcher import HostProcess

MAX_PROCS = 1024
"""An app has no more partitions than that."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("host")(host)


def host(
    context: typer.Context,
    program: Annotated[str, typer.Argument(metavar="FILE|MODULE", help="The program whose processes it runs.")],
    app: Annotated[str, typer.Option("--app", help="The app [the program's name].")] = "",
    procs: Annotated[str, typer.Option("--procs", metavar="N|auto", help="How many hosts; auto: one per core.")] = "1",
    version: Annotated[str, typer.Option("--version", help="Of the app, shown by `regrow hosts`.")] = "",
    upgrade: Annotated[
        str, typer.Option("--upgrade", help="auto: running processes of older code move here at once; else: wait.")
    ] = "wait",
) -> None:
    """Run a host: processes of the app that are started elsewhere run here.

    Several hosts of one app share its processes: a host uses one core, --procs starts as many as are wanted. A host
    that dies is started again. Ctrl-C or SIGTERM ends them gracefully: what they ran goes on on other hosts, or when
    there is one again.

    \b
    regrow host examples/survey.py --app surveys --procs 4
    regrow start surveys survey folder=/usr/lib/python3
    """
    from ..arguments import split_target
    from ..errors import UsageError

    if split_target(program)[1]:
        raise UsageError("A host runs all processes of a program", hint=f"regrow host {split_target(program)[0]}")
    if upgrade not in ("auto", "wait"):
        raise UsageError(f"--upgrade is auto or wait, not {upgrade}")
    env = {"REGROW_APP_VERSION": version, "REGROW_UPGRADE": upgrade}
    asyncio.run(_host(settings.of(context), program, app, count_of(procs), env))


def count_of(procs: str) -> int:
    """How many hosts `--procs` asks for; raises UsageError."""
    from ..errors import UsageError

    if procs == "auto":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not procs.isdecimal() or not 1 <= int(procs) <= MAX_PROCS:
        raise UsageError(f"--procs is a number from 1 to {MAX_PROCS}, or auto, not {procs}")
    return int(procs)


async def _host(chosen: Settings, program: str, app: str, count: int, env: dict[str, str]) -> None:
    from regrow.launcher import HostProcess
    from regrow.program import resolve

    from ..access import connected

    target = resolve(program)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    url = await asyncio.to_thread(chosen.url)

    def ready(host: Ready) -> None:
        end = " Ctrl-C ends it." if count == 1 else ""
        print(f"Host {host.host} runs app {host.app} (build {host.build}).{end}", flush=True)

    async with connected(chosen) as bus:
        hosts = [HostProcess(target, url, app=app, bus=bus, env=env, on_ready=ready) for _ in range(count)]
        running = asyncio.ensure_future(_run(hosts))
        waiting = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                await running
        finally:
            waiting.cancel()
            running.cancel()
            await asyncio.wait([running, waiting])
            await asyncio.gather(*(host.stop() for host in hosts))
        print("Stopped.")


async def _run(hosts: list[HostProcess]) -> None:
    """Start all, and wait until none can be kept running any more; raises why."""
    room = asyncio.Semaphore(2 * (os.cpu_count() or 1))
    refused: list[RegrowError] = []

    async def start(host: HostProcess) -> None:
        async with room:
            try:
                if not refused:
                    await host.start()
            except RegrowError as error:
                refused.append(error)

    async with asyncio.TaskGroup() as starting:
        for host in hosts:
            starting.create_task(start(host))
    if refused:  # one speaks for all
        raise refused[0]
    if len(hosts) > 1:
        print(f"All {len(hosts)} hosts run. Ctrl-C ends them.", flush=True)
    left = {host.failed for host in hosts}
    while True:
        failed, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        for each in failed:
            if not left:
                raise each.result()
            print(f"error: one host is given up, {len(left)} go on: {each.result().message}", file=sys.stderr)
