"""Commands on a machine: their result, and what they write while they run."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from regrow_protocol.machines import ExecDone

from ..commanding import Asked
from .errors import ExecTimeout

if TYPE_CHECKING:
    from .machine import Machine


@dataclass(frozen=True)
class ExecResult:
    """How a command ended.

    Attributes:
        exit_code: as a shell tells it: 128 + the signal's number for one that was killed.
        stdout_bytes, stderr_bytes: what it wrote, as it is.
        command: what was run.
        truncated: it wrote more than is kept; `left_out` bytes are missing at the end of its outputs.
        duration: seconds.
    """

    exit_code: int
    stdout_bytes: bytes
    stderr_bytes: bytes
    command: str
    truncated: bool = False
    left_out: int = 0
    duration: float = 0.0

    @property
    def ok(self) -> bool:
        """It ended with 0."""
        return self.exit_code == 0

    @property
    def stdout(self) -> str:
        """Its standard output as text; what is not UTF-8 becomes U+FFFD."""
        return self.stdout_bytes.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        """Its standard error as text; what is not UTF-8 becomes U+FFFD."""
        return self.stderr_bytes.decode("utf-8", "replace")


def result_of(done: ExecDone, command: str, timeout: float | None) -> ExecResult:
    """The result of a command. Raises ExecTimeout for one that was killed since its time was over."""
    result = ExecResult(
        done.exit_code, done.stdout, done.stderr, command, done.left_out > 0, done.left_out, done.duration
    )
    if done.timed_out:
        text = f"The command was killed after {timeout:g} s: {command[:200]}"
        raise ExecTimeout(text, hint="give it a longer timeout=, or None for no limit", result=result)
    return result


class Line(str):
    """A line that a command wrote, without its end.

    Attributes:
        channel: `stdout` or `stderr`.
    """

    __slots__ = ("channel",)
    channel: str

    def __new__(cls, text: str, channel: str) -> Line:
        line = super().__new__(cls, text)
        line.channel = channel
        return line


class LineFeed:
    """What a command writes, cut into lines as it comes."""

    def __init__(self) -> None:
        self.lines: deque[Line] = deque()
        self.ended = False
        self._waiter: asyncio.Future[None] | None = None
        self._taken: dict[str, int] = {}
        self._rest: dict[str, bytes] = {}

    def push(self, channel: str, offset: int, data: bytes) -> None:
        """The piece of `channel` that begins at byte `offset`; what is known of it already is dropped."""
        taken = self._taken.get(channel, 0)
        if offset > taken or offset + len(data) <= taken:
            return
        self._taken[channel] = offset + len(data)
        *whole, rest = (self._rest.get(channel, b"") + data[taken - offset :]).split(b"\n")
        self._rest[channel] = rest
        self.lines.extend(Line(line.decode("utf-8", "replace"), channel) for line in whole)
        if whole:
            self._wake()

    def end(self) -> None:
        """Nothing more comes."""
        for channel, rest in self._rest.items():
            if rest:
                self.lines.append(Line(rest.decode("utf-8", "replace"), channel))
        self._rest.clear()
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def more(self) -> None:
        """Wait until there is a line, or the end."""
        while not self.lines and not self.ended:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter


class ExecStream:
    """A command that runs, as an async iterable of the lines that it writes; `result()` waits for its end.

    Whoever is cancelled while they wait for a line or the result kills the command.
    """

    def __init__(self, machine: Machine, asked: Asked, feed: LineFeed, command: str, timeout: float | None) -> None:
        self._machine = machine
        self._asked = asked
        self._feed = feed
        self._timeout = timeout
        self.command = command
        asked.future.add_done_callback(lambda _: feed.end())

    def __aiter__(self) -> ExecStream:
        return self

    async def __anext__(self) -> Line:
        try:
            await self._feed.more()
        except asyncio.CancelledError:
            self.kill()
            raise
        if self._feed.lines:
            return self._feed.lines.popleft()
        raise StopAsyncIteration

    async def result(self) -> ExecResult:
        """Wait for its end; its outputs are empty here, for they were streamed.

        Raises:
            ExecTimeout: it was killed since its time was over.
        """
        try:
            done = await asyncio.shield(self._asked.future)
        except asyncio.CancelledError:
            self.kill()
            raise
        return result_of(done, self.command, self._timeout)

    def kill(self) -> None:
        """Kill it and all of its process group."""
        if not self._asked.future.done():
            self._machine._tell_kill(self._asked.id)
