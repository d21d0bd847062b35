"""`regrow exec`: run a command on a machine."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from .. import exit_codes, settings
from ..settings import Settings

if TYPE_CHECKING:
    from regrow.commanding import Asked
    from regrow_protocol.machines import Exec, ExecDone

    from ..machine_output import Output

KILL_PATIENCE = 15.0
"""Seconds to wait for the end of a command that was killed; the machine gives it five before it uses force."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("exec")(exec_)


def exec_(
    context: typer.Context,
    machine: Annotated[str, typer.Argument(metavar="MACHINE", help="Its id, a unique prefix of it, or its name.")],
    command: Annotated[
        list[str],
        typer.Argument(metavar="-- COMMAND...", help="One word: a line for its shell. Several: a program's arguments."),
    ],
    user: Annotated[str, typer.Option("--user", "-u", help="agent (the ordinary user), root, or a name.")] = "agent",
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", help="After which it is killed; 0: never.")
    ] = 0.0,
    env: Annotated[list[str] | None, typer.Option("--env", "-e", metavar="K=V", help="A variable; repeatable.")] = None,
    cwd: Annotated[str, typer.Option("--cwd", "-C", metavar="DIR", help="Where it starts; else its workdir.")] = "",
    stdin: Annotated[
        bool, typer.Option("--stdin", "-i", help="Read standard input to its end first, and give it that.")
    ] = False,
    app: Annotated[str, typer.Option("--app", help="Look only in this app.")] = "",
) -> None:
    """Run a command on a machine; its output comes as it is written, its exit code is ours.

    Ctrl-C kills it on the machine, with its process group. Were we killed ourselves it would go on.

    \b
    regrow exec m_01m7 -- pytest -q
    regrow exec box -- 'grep -c ERROR *.log | sort'
    regrow exec box --user root --timeout 60 --env DEBIAN_FRONTEND=noninteractive -- apt-get install -y jq
    """
    from regrow.machines.machine import _exec as wire_exec
    from regrow_protocol.machines import MAX_STREAM

    from ..errors import UsageError

    given = sys.stdin.buffer.read() if stdin else None
    try:
        wanted = wire_exec(
            command[0] if len(command) == 1 else command,
            user,
            timeout or None,
            _variables(env or []),
            cwd,
            given,
            MAX_STREAM,
            stream=True,
        )
    except ValueError as error:
        raise UsageError(str(error), hint="regrow exec --help") from error
    code = asyncio.run(_run(settings.of(context), machine, app, wanted))
    if code:
        raise typer.Exit(code)


def _variables(given: list[str]) -> dict[str, str]:
    from ..errors import UsageError

    found: dict[str, str] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not name or not equals:
            raise UsageError(f"{each!r} is no variable", hint="--env NAME=VALUE")
        found[name] = value
    return found


async def _run(chosen: Settings, given: str, app: str, wanted: Exec) -> int:
    from regrow.machines import MachineError
    from regrow_protocol.machines import ExecDone, Kill, machine_subject

    from ..access import connected
    from ..machine_output import Output
    from ..using_machines import machines, usable

    async with connected(chosen) as bus:
        record = await usable(bus, given, app=app)
        subject = machine_subject(record.app, record.node, record.id)
        async with machines(bus, record.app) as outside:
            output = Output()
            asked = outside.command("machine.exec", subject, wanted, ExecDone, MachineError, output)
            stopped = await _until_end(asked, output)
            if stopped:
                outside.tell("machine.kill", subject, Kill(asked.id))
                await asyncio.wait([asked.future], timeout=KILL_PATIENCE)
            if not asked.future.done():
                print(f"{record.id} has not said yet that the command has ended; it was told to", file=sys.stderr)
                return stopped
            await output.finish()
            if output.broken.done():
                return _unwritten(output.broken.result())
            done: ExecDone = await asked.future
    return stopped or _exit_code(done, wanted)


def _unwritten(error: OSError) -> int:
    from ..errors import OutputLost

    if isinstance(error, BrokenPipeError):
        return exit_codes.OK  # whoever read has enough
    raise OutputLost(f"What the command wrote cannot be written here: {error.strerror}; it was told to end")


async def _until_end(asked: Asked, output: Output) -> int:
    """Wait for the end of a command; otherwise what to exit with since somebody wants us to stop, or does not read."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[int] = loop.create_future()

    def stop(number: signal.Signals) -> None:
        if told.done():
            os._exit(128 + number)  # asked a second time: at once, whatever still waits
        told.set_result(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)
    await asyncio.wait([asked.future, told, output.broken], return_when=asyncio.FIRST_COMPLETED)
    if asked.future.done():
        return 0
    return told.result() if told.done() else exit_codes.FAILED


def _exit_code(done: ExecDone, wanted: Exec) -> int:
    from ..errors import TimeUp

    if done.timed_out:
        raise TimeUp(f"The command was killed after {wanted.timeout:g} s", hint="give it a longer --timeout")
    if done.left_out:
        print(f"warning: {done.left_out} bytes of its output were left out", file=sys.stderr)
    return done.exit_code
