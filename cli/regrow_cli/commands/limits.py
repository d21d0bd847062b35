"""`regrow limits`: how many may run, or begin per time, at once."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated

import typer

from .. import settings
from ..settings import Settings

limits = typer.Typer(no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(limits, name="limits", help="Set how many may run, or begin per time, at once: set, ls, rm.")


@limits.command("set")
def set_(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="As processes have it in limits=, steps in limit=.")],
    concurrency: Annotated[int, typer.Option("--concurrency", min=0, help="That may run at once; 0: any number.")] = 0,
    rate: Annotated[
        str, typer.Option("--rate", metavar="N/TIME", help="That may begin within a time, as 100/1m; empty: any.")
    ] = "",
    per: Annotated[
        str,
        typer.Option("--per", metavar="type|tag.NAME", help="Each process type, or each value of a tag, by itself."),
    ] = "",
) -> None:
    """Set a limit, or change it; that counts from now on, also for those who wait.

    \b
    regrow limits set llm --concurrency 8 --rate 100/1m
    regrow limits set crawl --concurrency 2 --per tag.customer
    """
    from regrow_protocol import subjects
    from regrow_protocol.limits import Limit

    from ..durations import seconds
    from ..errors import UsageError

    subjects.token(name)
    count, period = 0, 60.0
    if rate:
        found = re.fullmatch(r"(\d+)/(.+)", rate.strip())
        if found is None or not int(found[1]):
            raise UsageError(f"{rate!r} is no rate", hint="as 100/1m")
        count, period = int(found[1]), seconds(found[2])
    if not concurrency and not count:
        raise UsageError("Say what is allowed", hint=f"--concurrency 8, --rate 100/1m; or: regrow limits rm {name}")
    if per not in ("", "type") and not per.removeprefix("tag.") < per:
        raise UsageError(f"{per!r} is nothing to count by", hint="--per type, or --per tag.customer")
    limit = Limit(name=name, concurrency=concurrency, rate=count, period=period, per=per)
    asyncio.run(_set(settings.of(context), limit))


async def _set(chosen: Settings, limit: object) -> None:
    from regrow_protocol import messages as m
    from regrow_protocol.limits import Limit
    from regrow_protocol.subjects import token

    from ..access import connected

    assert isinstance(limit, Limit)
    async with connected(chosen) as bus:
        await bus.kv("regrow_limits").put(f"limit.{token(limit.name)}", m.encode(limit))
    print(f"{limit.name} set")


@limits.command("ls")
def ls(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, with who holds permits.")] = False,
) -> None:
    """List limits: what is allowed, how many hold a permit, how many wait."""
    asyncio.run(_ls(settings.of(context), as_json))


async def _ls(chosen: Settings, as_json: bool) -> None:
    from ..access import connected
    from ..limits import rows
    from ..listing import duration, print_json, print_table

    async with connected(chosen) as bus:
        found = await rows(bus)
    if as_json:
        print_json(found)
        return
    print_table(
        ["NAME", "PER", "CONCURRENCY", "RATE", "HELD", "WAITING"],
        [
            [
                row.name,
                f"{row.per} {row.pool}".strip(),
                str(row.concurrency or ""),
                f"{row.rate} in {duration(row.period)}" if row.rate else "",
                str(len(row.holders)),
                str(row.waiting),
            ]
            for row in found
        ],
        empty="No limit is set; `regrow limits set --help` says how.",
    )


@limits.command("rm")
def rm(context: typer.Context, name: Annotated[str, typer.Argument(help="The limit.")]) -> None:
    """Remove a limit: whoever waits goes on."""
    asyncio.run(_rm(settings.of(context), name))


async def _rm(chosen: Settings, name: str) -> None:
    from regrow_protocol.subjects import token

    from ..access import connected
    from ..limits import LimitNotFound

    async with connected(chosen) as bus:
        kv, key = bus.kv("regrow_limits"), f"limit.{token(name)}"
        if await kv.get(key) is None:
            raise LimitNotFound(f"There is no limit {name}", hint="`regrow limits ls` lists them")
        await kv.purge(key, marker_ttl=60.0)
    print(f"{name} removed")
