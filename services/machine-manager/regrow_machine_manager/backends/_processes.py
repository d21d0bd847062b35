"""Short programs as processes of this node, without a thread or a watcher each.

A program is a session of its own. It is waited for by its end and not by the end of its output: what it started may
hold that for as long as it likes. A caller that is cancelled leaves it running; it is reaped when it ends: by the loop
that it was started in, and when that is closed before, by the next `run` in this process.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ..backend import Completed

_PIECE = 256 * 1024

_running: dict[asyncio.AbstractEventLoop, dict[subprocess.Popen[bytes], int]] = {}
"""What each loop waits for, with its pidfd: a loop that is closed forgets what it waits for, and reaps nothing."""
_left: set[subprocess.Popen[bytes]] = set()
"""Those whose loop was closed while they ran."""


async def run(
    argv: list[str],
    *,
    cwd: str | Path,
    env: Mapping[str, str],
    stdin: bytes | int = b"",
    stdout: int | None = None,
    stderr: int | None = None,
    account: tuple[int, int, list[int]] | None = None,
) -> Completed:
    """Run a program to its end.

    Args:
        argv: it and its arguments.
        cwd: where it starts.
        env: all its variables.
        stdin: its input, or an open file that is.
        stdout, stderr: open files that its outputs go to; None: they are collected.
        account: user id, group id and further groups to run as; None: those of this process.

    Raises:
        OSError: it cannot be started.
    """
    _reap()
    user, group, groups = account if account is not None else (None, None, None)
    process = subprocess.Popen(  # noqa: S603, ASYNC220 - as quick as asyncio's own, which does the same
        argv,
        cwd=cwd,
        env=env,
        stdin=stdin if isinstance(stdin, int) else subprocess.PIPE if stdin else subprocess.DEVNULL,
        stdout=subprocess.PIPE if stdout is None else stdout,
        stderr=subprocess.PIPE if stderr is None else stderr,
        user=user,
        group=group,
        extra_groups=groups,
        start_new_session=True,
        bufsize=0,
    )
    ended = _ended(process)
    readers = [None if pipe is None else _Reader(pipe.fileno()) for pipe in (process.stdout, process.stderr)]
    outputs = [reader for reader in readers if reader is not None]
    feeding = None
    try:
        if isinstance(stdin, bytes) and process.stdin is not None:
            feeding = asyncio.ensure_future(_feed(process.stdin.fileno(), stdin))
            await asyncio.wait([feeding, ended], return_when=asyncio.FIRST_COMPLETED)
            if feeding.done():
                feeding.result()
            process.stdin.close()
        await asyncio.shield(ended)
        for output in outputs:
            output.drain()
    finally:
        if feeding is not None and not feeding.done():
            feeding.cancel()
            with suppress(asyncio.CancelledError):
                await feeding
        for output in outputs:
            output.close()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    code = process.returncode
    out, err = (b"" if reader is None else bytes(reader.data) for reader in readers)
    return Completed(code if code >= 0 else 128 - code, out, err)


class _Reader:
    """Collects what comes through a pipe."""

    def __init__(self, fd: int) -> None:
        self.data = bytearray()
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self.read)
        self._open = True

    def read(self) -> bool:
        """Take what is there; returns whether there may be more."""
        try:
            piece = os.read(self._fd, _PIECE)
        except BlockingIOError:
            return False
        self.data += piece
        if not piece:
            self.close()
        return bool(piece)

    def drain(self) -> None:
        while self._open and self.read():
            pass

    def close(self) -> None:
        if self._open:
            self._open = False
            self._loop.remove_reader(self._fd)


async def _feed(fd: int, data: bytes) -> None:
    """Write all of `data` to a pipe; a reader that has gone is its own business."""
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:
            room = loop.create_future()
            loop.add_writer(fd, _settle, room)
            try:
                await room
            finally:
                loop.remove_writer(fd)
        except BrokenPipeError:
            return


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _ended(process: subprocess.Popen[bytes]) -> asyncio.Future[None]:
    """Done when the process has ended; it is reaped then, whoever still waits."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    fd = os.pidfd_open(process.pid)
    waited = _running.setdefault(loop, {})
    waited[process] = fd

    def end() -> None:
        loop.remove_reader(fd)
        os.close(fd)
        process.wait()
        del waited[process]
        if not waited:
            del _running[loop]
        _settle(future)

    loop.add_reader(fd, end)
    return future


def _reap() -> None:
    """See to what closed loops have left running."""
    for loop in [loop for loop in list(_running) if loop.is_closed()]:
        for process, fd in _running.pop(loop, {}).items():
            os.close(fd)
            _left.add(process)
    for process in list(_left):
        if process.poll() is not None:
            _left.discard(process)
