"""What all parts of a bus share: the connection's ups and downs, requests to the JetStream API, permissions, problems,
ticks.

Publishers, readers and consumers register here as parties; the link tells them when the connection is back, when the
server has refused something, and, four times a second, to look after themselves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from ..errors import AccessDenied, RegrowError, Unreachable
from . import connecting
from .connection import Connection
from .wire import ApiError, api_error, pub, status_of

log = logging.getLogger(__name__)

TICK = 0.25
ATTEMPT = 2.0
"""Seconds after which a request that was not answered is sent again."""
PAUSE, PAUSE_MAX = 0.02, 0.5
"""Seconds before a request that was answered with `not now` is sent again."""
PROBLEM_EVERY = 5.0
"""Seconds between two log lines about the same problem."""
MUTE = 3.0
"""Seconds of nothing but time-outs and 503 after which a client of a cluster tries another server."""
_TRY_AGAIN = {10005, 10008, 10009}

OnProblem: TypeAlias = Callable[[str, RegrowError], None]


class Party(Protocol):
    """Who has something under way on the connection."""

    def restored(self) -> None:
        """The connection is back: what was under way on the old one is lost."""

    def tick(self, now: float) -> None:
        """Called four times a second while connected, with the loop's time."""

    def refused(self, subject: str) -> None:
        """The server refused to let something be published on `subject`."""


class Link:
    """Holds the connection of a bus.

    Attributes:
        nc: the connection.
        connected_since: the loop's time when it was made.
        on_problem: called with (stream, error) when something is repeated or waits for long.
        parties: who is told of what happens.
    """

    def __init__(self, connection: Connection) -> None:
        self.nc = connection
        self.loop = asyncio.get_running_loop()
        self.closed = False
        self.connected_since = 0.0
        self.on_problem: OnProblem | None = None
        self.on_down: Callable[[], None] | None = None
        self.on_up: Callable[[], None] | None = None
        self.parties: set[Party] = set()
        self._is_up = asyncio.Event()
        self._asking: dict[str, set[asyncio.Future[Any]]] = {}
        self._problems: dict[tuple[str, str], float] = {}
        self._mute_since: float | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._moving: asyncio.Task[None] | None = None

    async def connect(self, url: str, name: str, timeout: float) -> None:
        """Connect; see `Bus.connect`."""
        # nats-py calls from inside its tasks; everything here happens in plain callbacks of the loop instead
        soon = self.loop.call_soon
        await connecting.connect(
            self.nc, url, name, lambda: soon(self._went_down) and None, lambda: soon(self._came_up) and None, timeout
        )
        self.nc.on_permission = lambda what, subject: soon(self._refused, what, subject) and None
        self.nc.start_replies()
        self.connected_since = self.loop.time()
        self._is_up.set()
        self._ticker = self.loop.call_later(TICK, self._tick)

    async def close(self) -> None:
        """Close the connection; who waits for it gets `Unreachable`."""
        self.closed = True
        self._is_up.set()
        if self._ticker is not None:
            self._ticker.cancel()
        if self._moving is not None:
            self._moving.cancel()
        await connecting.close(self.nc)

    async def up(self) -> None:
        """Wait until connected; `Unreachable` when the bus is closed."""
        while not self.nc.up:
            if self.closed:
                raise Unreachable("The bus is closed")
            self._is_up.clear()
            await self._is_up.wait()

    # requests ---------------------------------------------------------------------------------------------------------

    async def request(self, subject: str, payload: bytes = b"", *, timeout: float = 10.0) -> bytes:
        """Ask the JetStream API; see `Bus.request`."""
        pause = PAUSE
        problem = "no answer"
        try:
            async with asyncio.timeout(timeout):
                while True:
                    await self.up()
                    try:
                        async with asyncio.timeout(min(ATTEMPT, timeout)):
                            headers, body = await self._ask_once(subject, payload)
                    except TimeoutError:
                        self._unanswered()
                        continue
                    status = status_of(headers)
                    error = None if status else api_error(body)
                    if status == 0 and error is None:
                        self._mute_since = None
                        return body
                    if error is not None and error.code != 503 and error.err_code not in _TRY_AGAIN:
                        raise ApiError(f"{subject}: {error.description}", status=error.code, err_code=error.err_code)
                    problem = error.description if error else f"status {status}"
                    self._unanswered()
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, PAUSE_MAX)
        except TimeoutError:
            what = f"{subject} was not answered within {timeout} s: {problem}"
            raise Unreachable(what, hint="is the NATS server running?") from None

    async def core_request(self, subject: str, payload: bytes, *, timeout: float = 2.0) -> bytes:
        """One request over core NATS, sent once; raises `Unreachable`."""
        try:
            async with asyncio.timeout(timeout):
                await self.up()
                headers, body = await self._ask_once(subject, payload)
        except TimeoutError:
            raise Unreachable(f"{subject} was not answered within {timeout} s") from None
        if status_of(headers) == 503:
            raise Unreachable(f"Nobody listens on {subject}")
        return body

    async def _ask_once(self, subject: str, payload: bytes) -> tuple[bytes | None, bytes]:
        future: asyncio.Future[tuple[bytes | None, bytes]] = self.loop.create_future()

        def take(_subject: bytes, _reply: bytes, headers: bytes | None, data: bytes) -> None:
            if not future.done():
                future.set_result((headers, data))

        reply = self.nc.expect(take)
        try:
            self.ask(subject, reply, payload, future)
            return await future
        finally:
            self.asked(subject, future)
            self.nc.forget(reply)

    def ask(self, subject: str, reply: str, payload: bytes, future: asyncio.Future[Any]) -> None:
        """Send a request whose `future` fails with `AccessDenied` if the server refuses it; `asked` ends that."""
        self._asking.setdefault(subject, set()).add(future)
        self.nc.send(pub(subject, reply, payload))

    def asked(self, subject: str, future: asyncio.Future[Any]) -> None:
        """The request has ended, in whatever way."""
        waiting = self._asking.get(subject)
        if waiting is not None:
            waiting.discard(future)
            if not waiting:
                del self._asking[subject]

    # what happens -----------------------------------------------------------------------------------------------------

    def problem(self, stream: str, error: RegrowError) -> None:
        """Report what is repeated or waits; the same is logged once in a while."""
        now = self.loop.time()
        self._unanswered()
        if self.on_problem is not None:
            self.on_problem(stream, error)
        key = (stream, error.code)
        if now - self._problems.get(key, -PROBLEM_EVERY) >= PROBLEM_EVERY:
            self._problems[key] = now
            log.warning("%s: %s", stream, error)

    def _went_down(self) -> None:
        if self.closed:
            return
        self._is_up.clear()
        if self.on_down is not None:
            self.on_down()

    def _came_up(self) -> None:
        if self.closed:
            return
        self.connected_since = self.loop.time()
        self._mute_since = None
        self._is_up.set()
        for party in list(self.parties):
            party.restored()
        if self.on_up is not None:
            self.on_up()

    def _refused(self, what: str, subject: str) -> None:
        log.warning("The NATS server refuses the permission to %s %s", what, subject)
        if what != "publish":
            return
        for party in list(self.parties):
            party.refused(subject)
        for future in list(self._asking.get(subject, ())):
            if not future.done():
                hint = "see the user's permissions on the NATS server"
                future.set_exception(AccessDenied(f"No permission to ask {subject}", hint=hint))

    def answered(self) -> None:
        """The server has done something for us."""
        self._mute_since = None

    def _unanswered(self) -> None:
        """An answer was missing, or said that nobody is there. A server cut off from its cluster is left for others."""
        now = self.loop.time()
        if self._mute_since is None:
            self._mute_since = now
        elif now - self._mute_since > MUTE and len(self.nc.servers) > 1 and self.nc.up:
            self._mute_since = None
            log.warning("The NATS server at %s does not answer: trying another", self.nc.connected_url)
            self._moving = self.loop.create_task(self.nc.force_reconnect())

    def _tick(self) -> None:
        if self.closed:
            return
        self._ticker = self.loop.call_later(TICK, self._tick)
        connecting.revive(self.nc)
        if self.nc.up:
            self._is_up.set()
            now = self.loop.time()
            for party in list(self.parties):
                party.tick(now)
