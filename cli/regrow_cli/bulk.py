"""Doing something to all processes that a query finds: how many is shown first, and asked for."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence

from regrow_protocol.bus import Bus
from regrow_protocol.errors import RegrowError

from .errors import UsageError
from .processes import Row, in_tree_order, rows
from .where import parse

SHOWN = 10
AT_ONCE = 32


def check(given: str, where: str) -> None:
    """One process or a query: raises UsageError for both, or none."""
    if bool(given) == bool(where):
        what = "both a process and --where" if given else "neither a process nor --where"
        raise UsageError(
            f"The command has {what}", hint="name a process, or say --where 'type=worker and status=failed'"
        )


async def select(bus: Bus, where: str, *, app: str = "", statuses: Sequence[str] = ()) -> list[Row]:
    """The processes that a query finds, parents before children; only those in one of the `statuses`."""
    fits = parse(where)
    found = [row for row in await rows(bus) if app in ("", row.app) and (not statuses or row.status in statuses)]
    return in_tree_order([row for row in found if fits(row)])


def confirm(found: Sequence[Row], what: str, *, yes: bool, dry_run: bool) -> bool:
    """Show what is meant; whether it shall be done.

    Raises:
        UsageError: nobody can be asked here, and `--yes` was not given.
    """
    if not found:
        print("The query finds no process.", file=sys.stderr)
        return False
    print(f"{what} {len(found)} process{'es' if len(found) > 1 else ''}:", file=sys.stderr)
    for row in found[:SHOWN]:
        print(f"  {row.pid}  {row.type}  {row.status}  {row.name}".rstrip(), file=sys.stderr)
    if len(found) > SHOWN:
        print(f"  and {len(found) - SHOWN} more", file=sys.stderr)
    if dry_run or yes:
        return not dry_run
    if not sys.stdin.isatty():
        raise UsageError("Nobody can be asked here whether that is meant", hint="add --yes, or --dry-run to only look")
    return input("Go on? [y/N] ").strip().lower() in ("y", "yes")


async def each(found: Sequence[Row], do: Callable[[Row], Awaitable[str]]) -> None:
    """Do it to all, some at a time; a line for each. What fails is told, and the first such error raised at the end."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(row: Row) -> RegrowError | None:
        async with gate:
            try:
                print(f"{row.pid} {await do(row)}", flush=True)
            except RegrowError as error:
                print(f"error: {row.pid}: {error.message}", file=sys.stderr)
                return error
        return None

    errors = [error for error in await asyncio.gather(*map(one, found)) if error is not None]
    if errors:
        raise errors[0]
