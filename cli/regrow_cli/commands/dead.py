"""`regrow dead`: messages that could not be handled."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import typer

from .. import settings
from ..settings import Settings

dead = typer.Typer(help="Dead letters: messages that could not be handled, with the reason.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(dead, name="dead")


@dead.command("ls")
def ls(
    context: typer.Context,
    service: Annotated[str, typer.Option("--service", help="Only of this one: supervisor, host, …")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List dead letters, oldest first.

    \b
    regrow dead ls
    regrow dead ls --service host --json
    """
    asyncio.run(_ls(settings.of(context), service, as_json))


async def _ls(chosen: Settings, service: str, as_json: bool) -> None:
    from regrow_service.dead import letters

    from ..access import connected
    from ..listing import duration, print_json, print_table

    async with connected(chosen) as bus:
        found = [letter async for letter in letters(bus, service)]
    if as_json:
        print_json(found)
        return
    print_table(
        ["NUMBER", "AGE", "TRIED", "FROM", "REASON"],
        [
            [
                str(each.seq),
                duration(time.time() - each.letter.time),
                str(each.letter.attempts),
                each.letter.subject,
                each.letter.reason,
            ]
            for each in found
        ],
        empty="There are no dead letters.",
    )


@dead.command("show")
def show(
    context: typer.Context,
    number: Annotated[int, typer.Argument(help="Its number in the list.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; the body in base64.")] = False,
) -> None:
    """Show a dead letter with its message.

    \b
    regrow dead show 3
    """
    asyncio.run(_show(settings.of(context), number, as_json))


async def _show(chosen: Settings, number: int, as_json: bool) -> None:
    from regrow_service.dead import show as read

    from ..access import connected
    from ..listing import clock, print_json

    async with connected(chosen) as bus:
        found = await read(bus, number)
    if as_json:
        print_json(found)
        return
    letter = found.letter
    print(f"number   {found.seq}, on {found.subject}")
    print(f"from     {letter.subject}, message {letter.seq} of {letter.stream}")
    print(f"reason   {letter.reason}")
    print(f"time     {clock(letter.time)}, tried {letter.attempts} times")
    for name, value in letter.headers.items():
        print(f"header   {name}: {value}")
    print(f"\n{letter.body.decode(errors='backslashreplace')}")


@dead.command("replay")
def replay(
    context: typer.Context,
    numbers: Annotated[list[int] | None, typer.Argument(help="Their numbers in the list.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
) -> None:
    """Send the messages of dead letters again, where they came from, and take the letters off.

    \b
    regrow dead replay 3 5
    regrow dead replay --all
    """
    from ..errors import UsageError

    if bool(numbers) == everything:
        raise UsageError("Say which dead letters", hint="regrow dead replay NUMBER..., or --all")
    asyncio.run(_replay(settings.of(context), numbers or []))


async def _replay(chosen: Settings, numbers: list[int]) -> None:
    from regrow_service.dead import letters
    from regrow_service.dead import replay as send

    from ..access import connected

    async with connected(chosen) as bus:
        for number in numbers or [letter.seq async for letter in letters(bus)]:
            letter = await send(bus, number)
            print(f"{number}: sent to {letter.letter.subject} again")
