"""`regrow call`: call an endpoint of a process."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from .. import settings
from ..settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("call")(call)


def call(
    context: typer.Context,
    pid: Annotated[str, typer.Argument(metavar="PID|NAME", help="The process; a unique prefix of its pid will do.")],
    endpoint: Annotated[str, typer.Argument(help="The endpoint that it exposes; `regrow status PID` lists them.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Its arguments.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for it to be exposed.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="For the answer; 0: for ever.")] = 30.0,
    app: Annotated[str, typer.Option("--app", help="Look only in this app.")] = "",
) -> None:
    """Call an endpoint; print its answer as JSON. Values are JSON, or else text; @FILE is what a file holds.

    \b
    regrow call pool add_task name=json path=/usr/lib/python3/json
    regrow call p_01m7 tasks

    By its public name a process is called through the registry, which checks the arguments first and keeps a record.
    """
    from ..listing import print_result

    print_result(asyncio.run(_call(settings.of(context), pid, endpoint, arguments or [], wait, timeout, app)))


async def _call(
    chosen: Settings, given: str, endpoint: str, arguments: list[str], wait: bool, timeout: float, app: str
) -> Any:
    from regrow.client import Client
    from regrow.codec import to_raw
    from regrow.errors import InvalidArguments, ProcessEnded

    from ..access import connected
    from ..arguments import parse
    from ..endpoints import call_public, is_public
    from ..errors import NoHost, TimeUp
    from ..live import SUCCESSION, is_hosted
    from ..processes import ENDS
    from ..resolve import find

    values = parse(arguments)
    async with connected(chosen) as bus:
        found = await find(bus, given, app=app)
        record = found.record
        if record is not None and record.status in ENDS:
            raise ProcessEnded(f"The process {found.pid} is {record.status}: it answers no calls any more")
        soon = min(SUCCESSION, timeout or SUCCESSION)
        if record is not None and not await is_hosted(bus, found.app, record.build, within=soon):
            raise NoHost(f"No host of app {found.app} runs that could answer", hint=f"regrow resume {found.pid}")
        client = Client(bus)
        try:
            if not wait and await is_public(bus, given, found.pid):
                answer = await call_public(client, found.app, given, endpoint, values, timeout=timeout or None)
            else:
                answer = await client.call(found.app, found.pid, endpoint, values, wait=wait, timeout=timeout or None)
        except TimeoutError as error:
            raise TimeUp(
                f"{endpoint}() of {found.pid} has not answered within {timeout:g} s; the call stands",
                hint=f"regrow status {found.pid}",
            ) from error
        except InvalidArguments as error:
            if all(isinstance(value, str) for value in values.values()):
                raise
            hint = """values are JSON where they are that: text is written as name='"7"'"""
            raise InvalidArguments(error.message, hint=hint) from error
        finally:
            await client.close()
        return to_raw(answer)
