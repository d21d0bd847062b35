"""One SSH connection and what runs over it: programs, the file session, and how its errors are told.

A program either did not start (`NotStarted`: the caller may try again on another connection), or its outcome is told,
or the connection went while it ran (`BackendUnavailable`: it may have run). asyncssh answers a connection that is lost
in the middle of a program with an exit status of None and no error, and leaves stdin open unless it is closed.

A server takes 10 sessions on a connection unless it is told otherwise (`MaxSessions`), so at most `SESSIONS` programs
run on one, beside the file session; a server that takes fewer is found out, and remembered for the connection.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import importlib.util
import logging
import shlex
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backend import BackendUnavailable, Completed, MachineFailed
from ._ssh_address import Address

if TYPE_CHECKING:
    import asyncssh

SESSIONS = 8
"""Programs at a time on one connection."""

CONNECT_TIMEOUT = 10.0
"""Seconds to reach a server, and as many to log in."""

ALIVE_EVERY, ALIVE_MISSED = 10.0, 3
"""A connection is given up when this many questions, this many seconds apart, were not answered."""

MAX_COMMAND = 120_000
"""Bytes of a program with its arguments: the server's shell gets them as one argument, which Linux caps at 128 KiB."""

Credentials = Callable[[Address], Awaitable[dict[str, Any]]]
"""Options of `asyncssh.connect` that log in at an address."""


class LoginRefused(MachineFailed):
    """The server does not let us in with this user and key."""

    code = "login-refused"


class NotStarted(Exception):
    """The program did not start, for a reason of this connection alone."""


def check_asyncssh() -> None:
    """See that asyncssh is there, without a third of a second for its import: most nodes never need it.

    Raises:
        BackendUnavailable: it is not installed.
    """
    if importlib.util.find_spec("asyncssh") is None:
        raise _missing()


@functools.cache
def load_asyncssh() -> Any:
    """The package asyncssh; the first call takes long, and `connect` makes it in a thread.

    Raises:
        BackendUnavailable: it is not installed.
    """
    try:
        module = importlib.import_module("asyncssh")
    except ImportError as error:
        raise _missing() from error
    logging.getLogger("asyncssh").setLevel(logging.WARNING)  # it tells every connection and channel
    return module


def _missing() -> BackendUnavailable:
    return BackendUnavailable("The package asyncssh is missing", hint="pip install 'regrow[ssh]'")


async def file_credentials(address: Address) -> dict[str, Any]:
    """Log in by the key in the address's file, or with the SSH agent and the default keys."""
    if not address.key:
        return {}
    if not await asyncio.to_thread(Path(address.key).is_file):
        raise MachineFailed(f"There is no key {address.key} for {address}", hint="it is read on the manager's node")
    return {"client_keys": [address.key], "agent_path": None}


def cancelling() -> bool:
    """Whether the running task itself is to end, rather than what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class Link:
    """An open connection.

    Attributes:
        busy: sessions that programs use.
        limit: that they may use.
        held: connections that go through this one.
    """

    def __init__(self, address: Address, connection: asyncssh.SSHClientConnection, through: Link | None) -> None:
        self.address = address
        self.busy = 0
        self.limit = SESSIONS
        self.held = 0
        self.closing: asyncio.TimerHandle | None = None
        self._connection = connection
        self._through = through
        self._sftp: asyncio.Task[asyncssh.SFTPClient] | None = None
        if through:
            through.held += 1

    @property
    def open(self) -> bool:
        """Nobody knows that it is gone."""
        return not self._connection.is_closed()

    @property
    def idle(self) -> bool:
        """Nothing goes on here."""
        return not self.busy and not self.held

    async def run(self, command: str, stdin: bytes) -> Completed:
        """Run a command line of the server's shell.

        Raises:
            NotStarted: it did not.
            BackendUnavailable: the connection went while it ran.
        """
        asyncssh = load_asyncssh()
        try:
            process = await self._connection.create_process(command, encoding=None)
        except asyncssh.ChannelOpenError as error:
            await self._know()
            if error.code != asyncssh.constants.OPEN_REQUEST_SESSION_FAILED:
                raise NotStarted(str(error)) from error
            if self.open:
                raise MachineFailed(f"{self.address} refuses to run programs: {error}") from error
            raise self._lost() from error
        except (OSError, asyncssh.Error) as error:
            raise self._lost() from error
        try:
            try:
                if stdin:
                    process.stdin.write(stdin)
                process.stdin.write_eof()
            except OSError:
                # It ended before it read its input, or the connection went: the end of the channel tells which.
                pass
            stdout, stderr = await process.communicate()
        except (OSError, asyncssh.Error) as error:
            raise self._lost() from error
        finally:
            process.close()
        if process.exit_signal:
            number = getattr(signal, f"SIG{process.exit_signal[0]}", signal.SIGKILL)
            return Completed(128 + int(number), stdout or b"", stderr or b"")
        if process.exit_status is None:
            raise self._lost()
        return Completed(process.exit_status, stdout or b"", stderr or b"")

    async def sftp(self) -> asyncssh.SFTPClient:
        """The connection's file session, which all share.

        Raises:
            NotStarted: it could not be opened.
        """
        asyncssh = load_asyncssh()
        if self._sftp is None or self._sftp.cancelled() or (self._sftp.done() and self._sftp.exception()):
            self._sftp = asyncio.create_task(self._start_sftp())
        starting = self._sftp
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            if starting.cancelled() and not cancelling():
                raise NotStarted("the connection is being closed") from None
            raise
        except asyncssh.ChannelOpenError as error:
            await self._know()
            if self.open and error.code == asyncssh.constants.OPEN_REQUEST_SESSION_FAILED:
                raise MachineFailed(f"{self.address} has no SFTP", hint="Subsystem sftp internal-sftp") from error
            raise NotStarted(str(error)) from error
        except (OSError, asyncssh.Error) as error:
            raise NotStarted(str(error)) from error

    async def _start_sftp(self) -> asyncssh.SFTPClient:
        return await self._connection.start_sftp_client()

    def forget_sftp(self) -> None:
        """The file session broke: the next caller opens a new one."""
        if self._sftp is not None and self._sftp.done() and not self._sftp.cancelled() and not self._sftp.exception():
            self._sftp.result().exit()
        self._sftp = None

    async def close(self) -> None:
        """End the connection; what runs on the server goes on or not as the server has it."""
        if self.closing:
            self.closing.cancel()
        if self._sftp is not None:
            self._sftp.cancel()
            await asyncio.wait([self._sftp], timeout=1)
            self._sftp = None
        if self._through:
            self._through.held -= 1
            self._through = None
        self._connection.close()
        try:
            async with asyncio.timeout(2):
                await self._connection.wait_closed()
        except TimeoutError:
            self._connection.abort()

    async def _know(self) -> None:
        """Let asyncssh tell of a connection that has just gone: it refuses channels a turn of the loop before that."""
        await asyncio.sleep(0)

    def _lost(self) -> BackendUnavailable:
        return BackendUnavailable(f"The connection to {self.address} was lost", hint="the program may have run")


async def connect(address: Address, credentials: Credentials, through: Link | None) -> Link:
    """Open a connection.

    Raises:
        MachineFailed: the login or the server's key was refused, or a file for them is missing.
        BackendUnavailable: the server does not answer.
    """
    asyncssh = await asyncio.to_thread(load_asyncssh)
    known = Path(address.known_hosts)
    if not await asyncio.to_thread(known.is_file):
        raise MachineFailed(f"There is no {known} with the key of {address}", hint=_keyscan(address))
    options = await credentials(address)
    try:
        async with asyncio.timeout(2 * CONNECT_TIMEOUT + 2):
            connection = await asyncssh.connect(
                address.host,
                address.port,
                username=address.user,
                known_hosts=str(known),
                config=None,  # the image says all; nothing of ~/.ssh/config
                preferred_auth="publickey",
                connect_timeout=CONNECT_TIMEOUT,
                login_timeout=CONNECT_TIMEOUT,
                keepalive_interval=ALIVE_EVERY,
                keepalive_count_max=ALIVE_MISSED,
                tunnel=through._connection if through else (),
                **options,
            )
    except asyncssh.KeyExchangeFailed as error:
        raise MachineFailed(f"{address} has no way to speak in common: {error}", hint="is it very old?") from error
    except asyncssh.HostKeyNotVerifiable as error:
        raise MachineFailed(f"The key of {address} is not in {known}: {error}", hint=_keyscan(address)) from error
    except asyncssh.PermissionDenied as error:
        hint = "put the public key of `key` (or of the agent's) into ~/.ssh/authorized_keys there"
        raise LoginRefused(f"{address} refuses the login: {error}", hint=hint) from error
    except asyncssh.IllegalUserName as error:
        raise MachineFailed(f"{address} cannot be a login: {error}") from error
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        hint = "a private key without a passphrase; keys with one go into the SSH agent"
        raise MachineFailed(f"The key for {address} cannot be used: {error}", hint=hint) from error
    except (OSError, asyncssh.Error) as error:
        said = str(error) or type(error).__name__
        raise BackendUnavailable(f"{address} does not answer: {said}", hint="is its SSH server up?") from error
    return Link(address, connection, through)


def _keyscan(address: Address) -> str:
    return f"`ssh-keyscan -p {address.port} {address.host} >> {shlex.quote(address.known_hosts)}`, and compare the key"
