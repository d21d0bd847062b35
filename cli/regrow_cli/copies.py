"""Making a process from a history: for `regrow fork` and `regrow import`."""

from __future__ import annotations

import sys

from regrow import history as histories
from regrow.history import History
from regrow.host.host import ensure_app, ensure_build
from regrow_protocol import ids
from regrow_protocol.bus import Bus

from .errors import NoHost
from .live import build_for


async def create(bus: Bus, history: History, app: str, *, at: int | None = None) -> str:
    """Write the inbox of a new process of `app` that begins as a copy; its pid.

    It goes to a build that has hosts, where one has such a process; else it waits for its own.

    Raises:
        BadHistory: it cannot be copied.
    """
    target = history.program.target if history.program is not None else ""
    pid = ids.new_id(ids.PROCESS)
    try:
        build = await build_for(bus, app, history.type, build=history.build, target=target)
    except NoHost:
        build = history.build
        print(f"No host of app {app} runs it yet; that does: regrow resume {pid}", file=sys.stderr)
    inputs = histories.copied(history, build, at=at)
    partitions = await ensure_app(bus, app, partitions=history.partitions)
    await ensure_build(bus, app, build)  # before its first input: hosts read from there on
    await histories.publish(bus, app, pid, partitions, inputs)
    return pid
