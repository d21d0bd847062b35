"""Commands of this node, quickly: most end in milliseconds, and need nobody beside their shell to keep their output.

The outputs are pipes whose reading ends the command's shell holds too, and nobody reads them at first. When the command
ends soon, the manager moves what is in them to the command's files, by `splice`, so that a byte is always in one of
both. When it lasts, or the manager dies (its end of the socket that is the shell's output closes), a guard beside the
shell starts the programs that keep outputs, which is all that other backends do.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import select
import socket
import stat
import termios
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from ..backend import Completed
from ..wrapper import INLINE

SOON = 0.02
"""Seconds in which a command ends soon."""

_PIECE = 1 << 16


async def hold(
    run: Callable[[tuple[int, int, int]], Awaitable[Completed]],
    files: Path,
    id: str,  # noqa: A002
    cap: int,
    owner: tuple[int, int] | None,
) -> Completed:
    """Run a command by `wrapper.HOLD`.

    Args:
        run: runs the shell with these open files as its input and outputs.
        files: folder of the commands' files.
        id: of the command.
        cap: bytes to keep of each output.
        owner: user and group of the files; None: those of this process.

    Returns:
        Its status as the output's first line, then the beginnings of its outputs when they are whole, as of `START`.
    """
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        out, err = _pipe(owner, stack), _pipe(owner, stack)
        ours, its = socket.socketpair()
        stack.enter_context(its)
        life = _Life(stack.enter_context(ours))
        later = loop.call_later(SOON, life.close)
        stack.callback(later.cancel)
        done = await run((out, its.fileno(), err))
        later.cancel()
        said = life.heard()
        if done.exit_code != 0:
            return Completed(done.exit_code, b"", said)
        mine = said.startswith(b"+")  # these pipes are the command's; of a repeat they are nobody's
        done = Completed(0, said.removeprefix(b"+"), b"")
        words = done.stdout.split()
        if not mine or life.closed or words[5:7] != [b"h", b"h"]:
            return done
        kept = [_move(end, files / f"{id}.{suffix}", cap, owner) for end, suffix in ((out, "out"), (err, "err"))]
        totals = [b"%d" % total for total, _ in kept if total is not None]
        if len(totals) != len(kept) or not _append(files / f"{id}.exit", b"%b %b\n" % tuple(totals), owner):
            return done  # the guard goes on
        life.tell()
        line = b" ".join([*words[:5], *totals, *words[7:]])
        return Completed(0, line + b"\n" + kept[0][1], kept[1][1])


class _Life:
    """Our end of a socket. It tells the guard: shut down, that it shall go on by itself; a line, that all is done."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        end.setblocking(False)
        self.closed = False

    def tell(self) -> None:
        with suppress(OSError):  # it was killed
            self._end.send(b"\n")

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            with suppress(OSError):
                self._end.shutdown(socket.SHUT_WR)

    def heard(self) -> bytes:
        """What the shell has printed."""
        found = b""
        with suppress(BlockingIOError, ConnectionResetError):
            while piece := self._end.recv(_PIECE):
                found += piece
        return found


def _pipe(owner: tuple[int, int] | None, stack: ExitStack) -> int:
    """The reading end of a new pipe, which the owner can open for writing."""
    end, other = os.pipe()
    os.close(other)
    stack.callback(os.close, end)
    os.set_blocking(end, True)  # as the guard's programs have it; here it is only looked at and spliced
    if owner is not None:
        os.fchown(end, *owner)
    return end


def _move(end: int, path: Path, cap: int, owner: tuple[int, int] | None) -> tuple[int | None, bytes]:
    """Move what is in a pipe to a file, up to the cap; no file is made for nothing.

    Returns:
        Bytes in all, None when something holds it open or there may be more; and the file's beginning.
    """
    if not _waiting(end):
        return (0 if _over(end) else None), b""
    kept = 0
    fd = _new(path, owner)
    try:
        while kept < cap:
            try:
                moved = os.splice(end, fd, min(_PIECE, cap - kept), flags=os.SPLICE_F_NONBLOCK)
            except BlockingIOError:
                return None, b""
            if not moved:
                return kept, os.pread(fd, INLINE, 0)
            kept += moved
        return None, b""
    finally:
        os.close(fd)


def _waiting(end: int) -> int:
    """Bytes that are in a pipe."""
    count = array.array("i", [0])
    fcntl.ioctl(end, termios.FIONREAD, count)
    return count[0]


def _over(end: int) -> bool:
    """Whether nobody can write to an empty pipe any more."""
    poll = select.poll()
    poll.register(end, select.POLLIN)
    return any(event & select.POLLHUP and not event & select.POLLIN for _, event in poll.poll(0))


def _new(path: Path, owner: tuple[int, int] | None) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if owner is not None:
        os.fchown(fd, *owner)
    return fd


def _append(path: Path, line: bytes, owner: tuple[int, int] | None) -> bool:
    """Add a line to a file of the command's; false when something else stands there."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or (owner is not None and found.st_uid != owner[0]):
            return False
        return os.write(fd, line) == len(line)
    finally:
        os.close(fd)
