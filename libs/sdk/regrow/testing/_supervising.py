"""What `runtime()` does in place of the supervisor service: it starts roots again, and gives every permit at once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from msgspec import Raw
from regrow_protocol import limits, subjects
from regrow_protocol import messages as m
from regrow_protocol.bus import Bus

from ..client import Client
from ..clock import Clock


class Supervising:
    """Of one app. `open` begins it; `close` ends it.

    Args:
        app: whose processes are looked after.
        client: to send to them with.
        clock: where it skips, a root that is down waits until `passed` is called.

    Attributes:
        asked: permits that have not been given yet.
    """

    def __init__(self, app: str, client: Client, clock: Clock) -> None:
        self._app, self._client, self._clock = app, client, clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._down: dict[asyncio.Event, float] = {}
        self.asked = 0

    def open(self, bus: Bus) -> None:
        """Listen to what processes say."""
        bus.nc.raw_subscribe(subjects.events_of(self._app, type_="down"), self._is_down)
        bus.nc.raw_subscribe(limits.admission_subject(self._app), self._asks)

    def close(self) -> None:
        """Do nothing more."""
        for task in self._tasks:
            task.cancel()

    @property
    def due(self) -> list[float]:
        """When roots come back, seconds since 1970."""
        return list(self._down.values())

    def passed(self, due: float) -> None:
        """The clock has moved to `due`."""
        for event, at in self._down.items():
            if at <= due:
                event.set()

    def _is_down(self, _subject: bytes, _reply: bytes, _headers: bytes | None, data: bytes) -> None:
        event = m.decode(data, m.EventRecord)
        if event.meta is not None:
            self._spawn(self._start_again(event))

    async def _start_again(self, event: m.EventRecord) -> None:
        due = asyncio.Event()
        self._down[due] = again_at = m.decode(event.data, m.RootDown).again_at
        with suppress(TimeoutError):
            wait = None if self._clock.skipping else max(0.0, again_at - self._clock.now())
            await asyncio.wait_for(due.wait(), wait)
        again = event.incarnation + 1
        await self._client.send(self._app, event.pid, m.Again(incarnation=again), msg_id=f"{event.pid}.{again}.again")
        del self._down[due]

    def _asks(self, _subject: bytes, _reply: bytes, _headers: bytes | None, data: bytes) -> None:
        command = m.decode(data, m.Command)
        if command.name == "acquire" and command.by is not None and command.op is not None:
            result = m.Result(incarnation=command.by.incarnation, op=command.op, value=Raw(b"null"))
            self.asked += 1
            self._spawn(self._answer(command.by.pid, result, command.id))

    async def _answer(self, pid: str, result: m.Result, id_: str) -> None:
        try:
            await self._client.send(self._app, pid, result, msg_id=f"{id_}.permit")
        finally:
            self.asked -= 1

    def _spawn(self, coro: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coro)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
