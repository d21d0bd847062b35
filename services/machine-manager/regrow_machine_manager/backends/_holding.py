"""Commands of this node, quickly: most end in milliseconds, and need nobody beside their shell to keep their output.

The outputs are FIFOs whose reading ends the command's shell holds too, and nobody reads them at first. When the command
ends soon, the manager moves what is in them to the command's files, by `splice`, so that a byte is always in one of
both. When it lasts, or the manager dies (its end of the shell's input closes), a guard beside the shell starts the
programs that keep outputs, which is all that other backends do.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from ..backend import Completed
from ..wrapper import INLINE

SOON = 0.02
"""Seconds in which a command ends soon."""

_PIECE = 1 << 16


async def hold(
    run: Callable[[list[str], int], Awaitable[Completed]],
    files: Path,
    id: str,  # noqa: A002
    cap: int,
    owner: tuple[int, int] | None,
) -> Completed:
    """Run a command by `wrapper.HOLD`.

    Args:
        run: runs the shell, given the paths of the two FIFOs, with an open file as its input.
        files: folder of the commands' files.
        id: of the command.
        cap: bytes to keep of each output.
        owner: user and group of the files; None: those of this process.

    Returns:
        Its status as the output's first line, then the beginnings of its outputs when they are whole, as of `START`.
    """
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        fifos = [files / f"{id}.{secrets.token_hex(4)}.{suffix}" for suffix in ("o", "e")]
        ends = [_fifo(path, owner, stack) for path in fifos]
        heard, told = os.pipe()
        stack.callback(os.close, heard)
        life = _Life(told)
        stack.callback(life.close)
        later = loop.call_later(SOON, life.close)
        stack.callback(later.cancel)
        # When this wait is cancelled the shell may not have opened the FIFOs yet: then they are its own to remove.
        done = await run([str(path) for path in fifos], heard)
        later.cancel()
        for path in fifos:
            path.unlink(missing_ok=True)
        mine = done.stdout.startswith(b"+")  # these FIFOs are the command's; of a repeat they are nobody's
        done = Completed(done.exit_code, done.stdout.removeprefix(b"+"), done.stderr)
        words = done.stdout.split()
        if not mine or life.closed or done.exit_code != 0 or words[5:7] != [b"h", b"h"]:
            return done
        kept = [
            _move(end, files / f"{id}.{suffix}", cap, owner) for end, suffix in zip(ends, ("out", "err"), strict=True)
        ]
        totals: list[bytes] = []
        for (total, _), suffix in zip(kept, ("n1", "n2"), strict=True):
            if total is None:
                return done  # the guard goes on
            totals.append(b"%d" % total)
            _write(files / f"{id}.{suffix}", b"%d\n" % total, owner)
        (files / f"{id}.h").unlink(missing_ok=True)
        life.tell()
        line = b" ".join([*words[:5], *totals, *words[7:]])
        return Completed(0, line + b"\n" + kept[0][1], kept[1][1])


class _Life:
    """The end of a pipe that tells the guard: closed, that it shall go on by itself; a line, that all is done."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.closed = False

    def tell(self) -> None:
        with suppress(BrokenPipeError):  # it was killed
            os.write(self._fd, b"\n")

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            os.close(self._fd)


def _fifo(path: Path, owner: tuple[int, int] | None, stack: ExitStack) -> int:
    """The reading end of a new FIFO."""
    os.mkfifo(path, 0o600)
    if owner is not None:
        os.chown(path, *owner)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return fd


def _move(end: int, path: Path, cap: int, owner: tuple[int, int] | None) -> tuple[int | None, bytes]:
    """Move what is in a FIFO to a file, up to the cap.

    Returns:
        Bytes in all, None when something holds it open or there may be more; and the file's beginning.
    """
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


def _new(path: Path, owner: tuple[int, int] | None) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if owner is not None:
        os.fchown(fd, *owner)
    return fd


def _write(path: Path, content: bytes, owner: tuple[int, int] | None) -> None:
    fd = _new(path, owner)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)
