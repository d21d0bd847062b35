"""The connections to all SSH servers: one per address, shared by every machine there, opened again when it was lost.

A program waits for one of the connection's sessions. Only when none came free for `PATIENCE` another connection is
opened, `MAX_LINKS` in all; one that nobody uses is closed after `IDLE`. Attempts to connect are shared by all who wait
for them and come further and further apart while they fail, up to `MAX_BACK_OFF`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from regrow_service.logs import get_logger

from ..backend import BackendUnavailable, Completed, MachineFailed
from ._ssh_address import Address
from ._ssh_link import Credentials, Link, NotStarted, cancelling, connect, load_asyncssh

if TYPE_CHECKING:
    import asyncssh

T = TypeVar("T")

MAX_LINKS = 4
PATIENCE = 0.25
IDLE = 300.0
MAX_BACK_OFF = 5.0
FILE_TIMEOUT = 120.0
"""Seconds that one file may take to be read or written."""

ATTEMPTS = 10
"""A program that did not start is tried again this often."""


class Links:
    """All connections of a backend.

    Args:
        credentials: how to log in at an address.
    """

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._servers: dict[Address, _Server] = {}
        self._log = get_logger("ssh")

    async def run(self, address: Address, command: str, stdin: bytes = b"") -> Completed:
        """Run a command line of the server's shell and wait for its end.

        Raises:
            BackendUnavailable: the server cannot be reached, or the connection went while the command ran.
            MachineFailed: the server does not let us in.
        """
        server = self._server(address)
        reason: NotStarted | None = None
        for _ in range(ATTEMPTS):
            link = await server.acquire()
            try:
                return await link.run(command, stdin)
            except NotStarted as error:
                reason = error
                if link.open:
                    link.limit = max(1, link.busy - 1)
            finally:
                server.release(link)
        raise BackendUnavailable(f"{address} starts no program: {reason}", hint="its MaxSessions may be too low")

    async def files(self, address: Address, use: Callable[[asyncssh.SFTPClient], Awaitable[T]]) -> T:
        """Use the file session of an address; `use` is called again when the connection was lost meanwhile.

        Raises:
            BackendUnavailable: the server cannot be reached, or took longer than `FILE_TIMEOUT`.
            MachineFailed: the server does not let us in.
        """
        server = self._server(address)
        reason: Exception | None = None
        for _ in range(3):
            link = await server.hold()
            asyncssh = load_asyncssh()  # which the connection has loaded
            try:
                sftp = await link.sftp()
                async with asyncio.timeout(FILE_TIMEOUT):
                    return await use(sftp)
            except NotStarted as error:
                reason = error
                if link.open:
                    link.limit = max(1, link.limit - 1)
                    await server.wait(1.0)
            except (
                asyncssh.SFTPConnectionLost,
                asyncssh.SFTPNoConnection,
                asyncssh.DisconnectError,
                asyncio.IncompleteReadError,
                ConnectionError,
            ) as error:
                reason = error
                link.forget_sftp()
            except TimeoutError as error:
                link.forget_sftp()
                raise BackendUnavailable(
                    f"The files of {address} do not answer", hint="is a disk there stuck?"
                ) from error
            finally:
                server.let_go(link)
        raise BackendUnavailable(f"The files of {address} cannot be reached: {reason}", hint="it will be tried again")

    def failing(self, address: Address) -> bool:
        """The last attempt to connect there failed, not long ago."""
        server = self._servers.get(address)
        return server is not None and server.failing

    async def drop(self, address: Address) -> None:
        """Close the connections to an address that will not be used again."""
        server = self._servers.pop(address, None)
        if server is not None:
            await server.close()

    async def close(self) -> None:
        """Close all connections, those through others first."""
        servers = sorted(self._servers.values(), key=lambda s: s.address.jump is None)
        self._servers.clear()
        for server in servers:
            await server.close()

    def _server(self, address: Address) -> _Server:
        if address not in self._servers:
            through = self._server(address.jump) if address.jump else None
            self._servers[address] = _Server(address, self._credentials, through)
        return self._servers[address]


class _Server:
    """The connections to one address."""

    def __init__(self, address: Address, credentials: Credentials, jump: _Server | None) -> None:
        self.address = address
        self._credentials = credentials
        self._jump = jump
        self._links: list[Link] = []
        self._opening: asyncio.Task[Link] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._failures = 0
        self._not_before = 0.0
        self._log = get_logger("ssh")

    @property
    def failing(self) -> bool:
        return self._failures > 0 and asyncio.get_running_loop().time() < self._not_before + 30

    async def acquire(self) -> Link:
        """A connection with one of its sessions; `release` gives it back."""
        patient = True
        while True:
            links = self._alive()
            free = [link for link in links if link.busy < link.limit]
            if free:
                link = min(free, key=lambda link: link.busy)
                link.busy += 1
                self._keep(link)
                return link
            if not links:
                await self._open()
            elif patient or len(links) >= MAX_LINKS:
                patient = await self.wait(PATIENCE)
            else:
                patient = True
                try:
                    await self._open()
                except (BackendUnavailable, MachineFailed) as error:
                    self._log.warning("no further connection", address=str(self.address), error=str(error))

    def release(self, link: Link) -> None:
        """The session is free."""
        link.busy -= 1
        self._wake()
        self._unused(link)

    async def hold(self) -> Link:
        """A connection that will not be closed for being idle, without a session; `let_go` gives it back."""
        links = self._alive()
        link = links[0] if links else await self._open()
        link.held += 1
        self._keep(link)
        return link

    def let_go(self, link: Link) -> None:
        """See `hold`."""
        link.held -= 1
        self._unused(link)

    async def wait(self, timeout: float) -> bool:
        """Until a session may be free; False when none was for `timeout` seconds."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await asyncio.wait([future], timeout=timeout)
            return future.done()
        except asyncio.CancelledError:
            if future.done():
                self._wake()  # it was for us; another may have it
            raise
        finally:
            if not future.done():
                self._waiting.remove(future)

    async def close(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        for link in self._links:
            self._end(link)
        self._links.clear()
        if self._closing:
            await asyncio.wait(self._closing)

    def _alive(self) -> list[Link]:
        for link in [link for link in self._links if not link.open]:
            self._links.remove(link)
            self._end(link)
        return self._links

    def _wake(self) -> None:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                return

    async def _open(self) -> Link:
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._connect())
            self._opening.add_done_callback(_retrieved)
        opening = self._opening
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            if opening.cancelled() and not cancelling():
                raise BackendUnavailable(f"The connections to {self.address} are being closed") from None
            raise

    async def _connect(self) -> Link:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._not_before - loop.time()))
        through = await self._jump.hold() if self._jump else None
        try:
            link = await connect(self.address, self._credentials, through)
        except BaseException:
            self._failures += 1
            self._not_before = loop.time() + min(0.1 * 2**self._failures, MAX_BACK_OFF)
            raise
        finally:
            if self._jump and through:
                self._jump.let_go(through)
        self._failures = 0
        self._links.append(link)
        self._wake()
        self._unused(link)
        return link

    def _keep(self, link: Link) -> None:
        if link.closing:
            link.closing.cancel()
            link.closing = None

    def _unused(self, link: Link) -> None:
        self._keep(link)
        if not link.open:
            self._alive()
        elif link.idle:
            link.closing = asyncio.get_running_loop().call_later(IDLE, self._retire, link)

    def _retire(self, link: Link) -> None:
        if link.idle and link in self._links:
            self._links.remove(link)
            self._end(link)

    def _end(self, link: Link) -> None:
        """Close a connection in the background; `close` waits for it."""
        closing: Coroutine[Any, Any, None] = link.close()
        task = asyncio.create_task(closing)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception():
            self._log.warning("a connection did not close", address=str(self.address), error=str(task.exception()))
        if self._jump:
            for link in list(self._jump._links):
                self._jump._unused(link)


def _retrieved(task: asyncio.Task[Link]) -> None:
    """Whoever waited has the error; with nobody waiting it is of no use."""
    if not task.cancelled():
        task.exception()
