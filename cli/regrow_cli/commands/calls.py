"""`regrow calls`: calls from outside, and of agents to what was attached to them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from .. import settings
from ..settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from regrow_protocol.bus import Bus, Received
    from regrow_protocol.endpoints import CallRecord


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("calls")(calls)


def calls(
    context: typer.Context,
    pid: Annotated[str, typer.Argument(metavar="[PID|NAME]", help="Only of this process.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    last: Annotated[int, typer.Option("--last", "-n", min=0, metavar="N", help="How many past ones at most.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
    app: Annotated[str, typer.Option("--app", help="Look for the process only in this app.")] = "",
) -> None:
    """Print the calls that came through the registry or an agent-gateway and have ended: who called what, how long it
    took, the size of the result, the error. They are kept for seven days.

    \b
    regrow calls
    regrow calls pool --follow
    """
    asyncio.run(_calls(settings.of(context), pid, follow, last, as_json, app))


async def _calls(chosen: Settings, given: str, follow: bool, last: int, as_json: bool, app: str) -> None:
    from regrow_protocol import messages as m

    from ..access import connected
    from ..resolve import find

    async with connected(chosen) as bus:
        pid = (await find(bus, given, app=app)).pid if given else ""
        async for record in _records(bus, pid, last, follow):
            print(m.encode(record).decode() if as_json else _line(record), flush=True)


async def _records(bus: Bus, pid: str, last: int, follow: bool) -> AsyncIterator[CallRecord]:
    """The last ones, and with `follow` those that come; each once."""
    from regrow_protocol import messages as m
    from regrow_protocol.endpoints import CallRecord
    from regrow_protocol.streams import CALLS

    pattern = f"regrow.called.*.{pid or '*'}.*"
    end = await bus.last_seq(CALLS)
    begin = 1 if pid else max(1, end - last + 1)
    past = await bus.history(CALLS, pattern, begin) if last and end else []
    seen: set[str] = set()
    arrived: asyncio.Queue[bytes] = asyncio.Queue()
    for received in past[-last:] if last else []:
        arrived.put_nowait(received.data)
    after = max(end, past[-1].seq if past else 0)

    def take(batch: list[Received]) -> None:
        for received in batch:
            arrived.put_nowait(received.data)

    reader = bus.read(CALLS, pattern, after + 1, take) if follow else None
    try:
        while reader is not None or not arrived.empty():
            record = m.decode(await arrived.get(), CallRecord)
            if record.id not in seen:
                seen.add(record.id)
                yield record
    finally:
        if reader is not None:
            await reader.stop()


def _line(record: CallRecord) -> str:
    from ..listing import clock

    outcome = f"{record.error.error}: {record.error.message}" if record.error else f"{record.size:,} bytes"
    took = f"{record.duration * 1000:.1f}ms" if record.duration < 1 else f"{record.duration:.2f}s"
    return f"{clock(record.started)}  {record.pid} {record.endpoint}  by {record.caller or '?'}  {took}  {outcome}"
