"""Files of a machine over SFTP, by the login user: written whole or not at all, never outside of the machine's root.

The server itself resolves links: what its `realpath` says must be under the real root. Nothing here is held against a
program on the machine that moves a link between the look and the use: such a program runs as the same user, who may
read and write those files anyway.
"""

from __future__ import annotations

import asyncio
import posixpath
import secrets
import stat
from typing import TYPE_CHECKING, Any

from ..backend import MachineFailed
from ..paths import OutsideRoot
from ._ssh_link import load_asyncssh

if TYPE_CHECKING:
    import asyncssh


class Gone(Exception):
    """The machine's folder is not there."""


async def write(
    sftp: asyncssh.SFTPClient, path: str, content: bytes, mode: int | None, root: str, *, alive: str
) -> None:
    """Write a file and the folders above it. An existing one keeps its mode unless another is given.

    Args:
        sftp: the file session.
        path: absolute.
        content: of the file.
        mode: permissions.
        root: real path that the file must be under.
        alive: path that is there as long as the machine is.

    Raises:
        Gone: the machine is not there.
        OutsideRoot, FileNotFoundError, IsADirectoryError, PermissionError: see `Backend.write`.
        MachineFailed: the server could not, for instance since its disk is full.
    """
    module = load_asyncssh()
    try:
        here, known, real = await asyncio.gather(_stat(sftp, alive), _stat(sftp, path), _real(sftp, path))
        if here is None:
            raise Gone(alive)
        real = await _place(sftp, path, real, root)
        permissions = known.permissions if known else None
        if permissions is not None and stat.S_ISDIR(permissions):
            raise IsADirectoryError(path)
        if mode is None and permissions is not None:
            mode = stat.S_IMODE(permissions)
        part = posixpath.join(posixpath.dirname(real), f".regrow.part.{secrets.token_hex(6)}")
        attrs = module.SFTPAttrs() if mode is None else module.SFTPAttrs(permissions=mode & 0o700 | 0o600)
        try:
            async with sftp.open(part.encode(), "xb", attrs) as file:
                await file.write(content)
                if mode is not None:
                    await file.chmod(mode)
            await sftp.posix_rename(part.encode(), real.encode())
        except BaseException:
            await _remove(sftp, part)
            raise
    except module.SFTPError as error:
        raise _as_told(error, path) from error


async def read(sftp: asyncssh.SFTPClient, path: str, offset: int, limit: int | None, root: str, *, alive: str) -> bytes:
    """Bytes of a file from `offset`, at most `limit`; see `write`."""
    module = load_asyncssh()
    try:
        real, known = await asyncio.gather(_real(sftp, path), _stat(sftp, path))
        if real is None or known is None:
            raise FileNotFoundError(path) if await _stat(sftp, alive) else Gone(alive)
        _inside(path, real, root)
        if stat.S_ISDIR(known.permissions or 0):
            raise IsADirectoryError(path)
        if not stat.S_ISREG(known.permissions or stat.S_IFREG):
            raise PermissionError(f"{path} is no ordinary file")  # to open a FIFO would hold up the whole session
        there = max(0, (known.size or 0) - offset)
        wanted = there if limit is None else min(limit, there)
        if not wanted:
            return b""
        async with sftp.open(real.encode(), "rb") as file:
            return bytes(await file.read(wanted, offset))
    except module.SFTPError as error:
        raise _as_told(error, path) from error


async def _place(sftp: asyncssh.SFTPClient, path: str, real: str | None, root: str) -> str:
    """The real path of a file to be; the folders above it are made."""
    if real is None:
        above = posixpath.dirname(path)
        while (there := await _real(sftp, above)) is None:
            above = posixpath.dirname(above)
        # A server resolves a path whose last part is missing, so `there` may be one level deeper than what exists.
        _inside(path, there, root)
        await sftp.makedirs(posixpath.dirname(path).encode(), exist_ok=True)
        real = await _real(sftp, path)
        if real is None:
            raise FileNotFoundError(path)
    _inside(path, real, root)
    if real == root:
        raise IsADirectoryError(path)
    return real


async def _real(sftp: asyncssh.SFTPClient, path: str) -> str | None:
    module = load_asyncssh()
    try:
        return (await sftp.realpath(path.encode())).decode("utf-8", "surrogateescape")
    except (module.SFTPNoSuchFile, module.SFTPNoSuchPath):
        return None


async def _stat(sftp: asyncssh.SFTPClient, path: str) -> Any:
    module = load_asyncssh()
    try:
        return await sftp.stat(path.encode())
    except (module.SFTPNoSuchFile, module.SFTPNoSuchPath):
        return None


async def _remove(sftp: asyncssh.SFTPClient, part: str) -> None:
    """Remove what was begun; the error of the write itself is what is told."""
    module = load_asyncssh()
    try:
        await sftp.remove(part.encode())
    except module.SFTPError:
        return


def _inside(path: str, real: str, root: str) -> None:
    if real != root and not real.startswith(root.rstrip("/") + "/"):
        raise OutsideRoot(f"{path!r} leads to {real}, outside of the machine's folder {root}", hint="a link leads out")


def _as_told(error: Any, path: str) -> Exception:
    """The error of the file session, as `Backend` has it; one of the connection as it is."""
    module = load_asyncssh()
    if isinstance(error, module.SFTPConnectionLost | module.SFTPNoConnection):
        return error
    if isinstance(error, module.SFTPNoSuchFile | module.SFTPNoSuchPath):
        return FileNotFoundError(path)
    if isinstance(error, module.SFTPPermissionDenied | module.SFTPWriteProtect):
        return PermissionError(path)
    if isinstance(error, module.SFTPFileIsADirectory):
        return IsADirectoryError(path)
    return MachineFailed(f"{path}: the server says {error}", hint="is its disk full, or something no folder?")
