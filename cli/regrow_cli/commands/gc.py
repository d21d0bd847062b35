"""`regrow gc`: remove the histories of what ended long ago."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import settings
from ..settings import Settings

if TYPE_CHECKING:
    from regrow_protocol.bus import Bus
    from regrow_protocol.messages import ProcessRecord


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("gc")(gc)


def gc(
    context: typer.Context,
    keep: Annotated[str, typer.Option("--keep", metavar="TIME", help="What ended later stays: 12h, 7d, 30d.")] = "30d",
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only show what would be removed.")] = False,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="DIR", help="Write each history to a file there first.")
    ] = None,
    app: Annotated[str, typer.Option("--app", help="Only of this app.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """Remove inboxes, events and conversations of processes whose whole tree ended long ago.

    Supervisors do so by themselves after REGROW_KEEP seconds (30 days).

    \b
    regrow gc --dry-run
    regrow gc --keep 7d --export histories
    """
    from ..durations import seconds

    asyncio.run(_gc(settings.of(context), seconds(keep), dry_run, export, app, as_json))


async def _gc(chosen: Settings, keep: float, dry_run: bool, export: Path | None, app: str, as_json: bool) -> None:
    from regrow_supervisor.retention import agents_of, expired, purge

    from ..access import connected
    from ..listing import duration, print_json, print_table

    now = time.time()
    async with connected(chosen) as bus:
        found = await expired(bus, now - keep, app=app)
        owned = await agents_of(bus) if found and not dry_run else {}
        for record in [] if dry_run else found:
            if export is not None:
                await _export(bus, record, export)
            await purge(bus, record, owned.get(record.pid, []))
    if as_json:
        print_json(found)
        return
    done = "would be removed" if dry_run else "removed"
    print_table(
        ["PID", "PROCESS", "STATUS", "ENDED", "APP", ""],
        [[r.pid, r.type, r.status, f"{duration(now - r.ended)} ago", r.app, done] for r in found],
        empty="There is nothing to remove.",
    )


async def _export(bus: Bus, record: ProcessRecord, folder: Path) -> None:
    from regrow import history as histories
    from regrow.client import Client
    from regrow.history import BadHistory

    from ..errors import UsageError

    client = Client(bus)
    try:
        partitions = await client.partitions_of(record.app)
        history = await histories.read(bus, record.app, record.pid, partitions)
    except BadHistory:
        return  # its inbox is gone already
    finally:
        await client.close()
    try:
        await asyncio.to_thread(_write, folder / f"{record.pid}.json", histories.encode(history))
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}; nothing more is removed") from error


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
