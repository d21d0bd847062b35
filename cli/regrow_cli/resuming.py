"""Going on with processes: stuck ones on their host, a whole tree on a new host, perhaps with changed code."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from regrow.apps import patches_of_build
from regrow.client import Client, RemoteProcess
from regrow.errors import ProgramError
from regrow.history import History
from regrow.runtime import Session
from regrow_protocol import ids, streams, subjects
from regrow_protocol import messages as m
from regrow_protocol.bus import Bus
from regrow_protocol.errors import WrongRevision

from .errors import ProcessStuck, TimeUp
from .following import run_to_the_end
from .live_view import view_for
from .processes import BUCKET, ENDS, Row, rows, tree_of
from .programs import go_to

WAIT = 20.0
_POLL = 0.1


def prepare(target: str, history: History) -> None:
    """Change to the folder that the program ran in; raises ProgramError when it is gone."""
    if not target.startswith("module:") and not Path(target).is_file():
        raise ProgramError(f"The program {target} is gone", hint=f"regrow resume {history.pid} --program FILE")
    if history.program is not None:
        go_to(history.program)


class Resuming:
    """What can be done for the tree of one process.

    Args:
        bus: connected.
        history: of the process.
    """

    def __init__(self, bus: Bus, history: History) -> None:
        self._bus = bus
        self._history = history
        self._client = Client(bus)

    async def _tree(self, pid: str) -> list[Row]:
        """The processes of the tree below `pid` that have not ended."""
        return [row for row in tree_of(await rows(self._bus), pid) if row.status not in ENDS]

    async def take_up_stuck(self) -> None:
        """Have its host take up the process, and those below it, that are parked.

        Raises:
            ProcessStuck: one is parked again.
            TimeUp: the host does nothing.
        """
        stuck = [row for row in await self._tree(self._history.pid) if row.stuck is not None]
        if not stuck:
            pid = self._history.pid
            print(f"{pid} runs, and nothing below it is stuck. Follow it with: regrow events {pid} --follow")
            return
        for row in stuck:
            seq = await self._client.send(row.app, row.pid, m.Resume())
            again = await self._after(row, row.build, seq)
            if again is not None:
                raise ProcessStuck(row.pid, again)
            print(f"{row.pid} is taken up again.")

    async def _after(self, row: Row, build: str, seq: int) -> m.Stuck | None:
        """Wait until the partition's cursor is past `seq`; why the process is parked then, if it is."""
        part = ids.partition_of(row.pid, self._history.partitions)
        key = f"{subjects.token(row.app)}.{build}.{part}"
        bucket = self._bus.kv("regrow_cursors")
        vague: m.Stuck | None = None
        try:
            async with asyncio.timeout(WAIT):
                while True:
                    found = await bucket.get(key)
                    cursor: m.Cursor | None = m.decode(found[0], m.Cursor) if found is not None else None
                    if cursor is not None and cursor.floor >= seq:
                        vague = cursor.stuck.get(row.pid)
                        if vague is None or not vague.vague:
                            return vague
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            if vague is not None:
                return vague
            raise TimeUp(f"No host has taken up {row.pid} within {WAIT:g} s", hint="regrow hosts") from None

    async def move(self, build: str) -> None:
        """Have another build fold what runs in the whole tree."""
        for row in await self._tree(self._history.root):
            if row.build != build:
                await self._upgrade(row, build)

    async def _upgrade(self, row: Row, build: str) -> None:
        part = ids.partition_of(row.pid, self._history.partitions)
        inbox = subjects.inbox(row.app, part, row.pid)
        last = await self._bus.last(streams.inbox_stream(row.app), inbox)
        # The id holds the input it follows: going to and fro between two builds is no repeat.
        msg_id = f"{row.pid}.upgrade.{build}.{last.seq if last is not None else 0}"
        had = await patches_of_build(self._bus, row.app, row.build)
        await self._client.send(row.app, row.pid, m.Upgrade(build=build, had=had), msg_id=msg_id)
        bucket = self._bus.kv(BUCKET)
        found = await bucket.get(row.pid)
        if found is not None:
            record = msgspec.structs.replace(m.decode(found[0], m.ProcessRecord), build=build)
            try:
                await bucket.update(row.pid, m.encode(record), found[1])
            except WrongRevision:
                return  # the supervisor has news of it

    async def run(self, target: str, url: str, *, quiet: bool) -> m.EventRecord:
        """Start a host for the program and follow the root to its end; its final event.

        Raises:
            ProgramError: the program is not there, or cannot be loaded.
            ProcessStuck: the root is parked again.
        """
        history = self._history
        prepare(target, history)
        with view_for(quiet=quiet) as view:
            view.began(f"starting {target}")
            since = await self._bus.last_seq(streams.EVENTS)
            known = {row.pid: row.status for row in tree_of(await rows(self._bus), history.root)}
            session = await Session.open(target, app=history.app, url=url, prints_to_stderr=True)
            try:
                ready = session.host.ready
                assert ready is not None
                after = 0
                await self.move(ready.build)
                for row in await self._tree(history.root):
                    if row.stuck is not None and row.build == ready.build:
                        seq = await self._client.send(row.app, row.pid, m.Resume())
                        after = seq if row.pid == history.root else after
                process = RemoteProcess(session.client, history.app, history.root)
                view.began(f"{history.root} in app {history.app}")
                return await run_to_the_end(
                    session, process, view, build=ready.build, after=after, known=known, since=since
                )
            finally:
                await session.close()
