"""`regrow up`: run the embedded stack, in the foreground with its status, or detached until `regrow down`."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from typing import Annotated

import typer

from .. import settings
from ..connections import Connection
from ..data_dir import StackInfo, resolve
from ..errors import UsageError
from ..settings import Settings
from ..stack import StackStatus, ensure_stack, last_wanted, stack_status, stop_if_unused

HOLD = "regrow up"
"""Name of the connection by which a foreground `up` keeps the stack; it ends with the process, however that ends."""
_EVERY = 1.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("up")(up)


def up(
    context: typer.Context,
    detach: Annotated[bool, typer.Option("--detach", help="Return when it runs; `regrow down` stops it.")] = False,
) -> None:
    """Run the embedded stack: a NATS server and the services.

    Programs start it by themselves when they need it, and it stops when none is left; with `up` it stays.
    """
    chosen = settings.of(context)
    if chosen.nats:
        raise UsageError("`regrow up` runs a server of its own: --nats makes no sense with it", hint="leave it away")
    info = ensure_stack(chosen.data, keep=detach)
    if detach:
        print(f"Regrow is up, data in {info.data}. Stop it with: {_command('down', chosen)}")
        return
    mark = last_wanted(chosen.data)
    print(f"Regrow is up, data in {info.data}. Ctrl-C ends it.", flush=True)
    asyncio.run(_watch(chosen, info))
    if stop_if_unused(chosen.data, mark, left=HOLD):
        print("Stopped.")
        return
    status = stack_status(chosen.data)
    if status.state != "running":
        print("It has been stopped already.")
    elif status.kept:
        print(f"The stack stays, since it was started with --detach. Stop it with: {_command('down', chosen)}")
    else:
        print(f"Programs use the stack: it stops after the last of them. At once: {_command('down', chosen)}")


async def _watch(chosen: Settings, info: StackInfo) -> None:
    """Print what changes until Ctrl-C or SIGTERM, or until somebody stops the stack."""
    from regrow_protocol.bus import Bus

    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    hold = await Bus.connect(info.url, name=HOLD)
    try:
        shown: list[str] = []
        while True:
            status = await asyncio.to_thread(stack_status, chosen.data)
            if status.state == "stopped":
                break
            lines = describe(status)
            stamp = time.strftime("%H:%M:%S")
            for line in lines:
                if line not in shown:
                    print(f"{stamp}  {line}", flush=True)
            shown = lines
            if ended.is_set():
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EVERY):
                    await ended.wait()
    finally:
        await hold.close()


def describe(status: StackStatus) -> list[str]:
    """A stack's status, one line per part; a line changes when something happened to the part."""
    lines = []
    for child in status.children:
        again = f", restarted {child.restarts} times, last end: {child.last_exit}" if child.restarts else ""
        lines.append(f"{child.name}: pid {child.process.pid}{again}")
    if status.state == "orphaned":
        lines.append("the stack process was killed; its children go on without it: regrow up takes them over")
    if status.connected is None:
        lines.append("NATS server: does not answer")
    else:
        programs = [each for each in status.connected if each.name != HOLD]
        lines.append(f"connected: {', '.join(sorted(map(_program, programs))) or 'no programs'}")
    return lines


def _program(connection: Connection) -> str:
    return connection.name or f"connection {connection.cid}"


def _command(name: str, chosen: Settings) -> str:
    return f"regrow {name} --data {resolve(chosen.data).path}" if chosen.data else f"regrow {name}"
