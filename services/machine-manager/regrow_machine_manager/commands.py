"""Commands on machines that survive their caller, over any backend's `exec`.

A command is started once under its id, whoever asks and however often; who asks again attaches to the one that runs or
ran. What it writes, up to a cap, and its exit code are kept on the machine (`wrapper`), so neither the end of the
manager nor a dropped connection touches it. Its time is measured on the machine, from its start.

Short commands take a single call of `exec`. Those that last are watched together, one `exec` for all of a machine.
"""

from __future__ import annotations

import asyncio
import json
import posixpath
import re
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

from regrow_protocol.errors import RegrowError
from regrow_protocol.machines import Exec, ExecDone

from . import wrapper
from .backend import Backend, BackendUnavailable, Completed, Data, MachineFailed
from .watching import LAST, Status, Watch, Watcher, parse, parse_sized

Piece = Callable[[str, int, bytes], Awaitable[None]]
"""Takes channel, offset and data of a piece of output."""

Room = Callable[[int], Awaitable[None]]
"""Waits until so many bytes of output may be held in memory."""

PIECE = 48 * 1024
"""Bytes of a piece of output that is streamed, at most."""

READ = 1024 * 1024
"""Bytes of output that are fetched at a time where it is not streamed."""

MAX_ARGUMENTS = 120 * 1024
"""Bytes of a command's text and variables together: programs can be given no more in an argument."""

GRACE = 5.0
"""Seconds between TERM and KILL."""

HELD = 1.0
"""Seconds that a command's outputs are waited for after its end, when others hold them open."""

_LOST = 2.0  # seconds for which a command has no process and no exit code before it counts as lost
_UNSTARTED = 10.0  # seconds for which a command is about to start before it counts as lost
_SIGNALLED = 128  # exit codes beyond it tell of a signal
_CHANNELS = (("stdout", "out"), ("stderr", "err"))
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:-]{0,63}")


class CommandLost(RegrowError):
    """The machine lost a command, by a reboot or the end of what keeps its exit code: its outcome is unknown."""

    code = "command-lost"


class CommandRefused(RegrowError):
    """A command that cannot be run as it was given."""

    code = "command-refused"


def check(id: str, exec: Exec) -> None:  # noqa: A002
    """Look whether a command can be run as it was given.

    Raises:
        CommandRefused: it cannot.
    """
    if not _ID.fullmatch(id):
        raise CommandRefused(f"{id[:80]!r} is no id of a command")
    if not _USER.fullmatch(exec.user):
        raise CommandRefused(f"{exec.user[:80]!r} is no name of a user")
    if exec.max_output < 1:
        raise CommandRefused(f"max_output is {exec.max_output}", hint="keep at least a byte")
    for name in exec.env:
        if not _NAME.fullmatch(name):
            raise CommandRefused(
                f"{name[:80]!r} is no name of a variable", hint="letters, digits and _, no digit first"
            )
    texts = [exec.command, exec.cwd, *exec.env.values()]
    if any("\0" in text for text in texts):
        raise CommandRefused("A command, its folder and its variables have no NUL bytes")
    if sum(len(text.encode(errors="surrogatepass")) for text in texts) > MAX_ARGUMENTS:
        raise CommandRefused(
            f"The command and its variables are larger than {MAX_ARGUMENTS} bytes",
            hint="write it to a file and run that",
        )


@dataclass
class _Machine:
    """What is known of a machine in this process.

    Attributes:
        slots: for calls of `exec`.
        waiting: for those which wait for a command's end: half of the slots.
        watchers: by user.
        used: callers that use this.
    """

    slots: asyncio.Semaphore
    waiting: asyncio.Semaphore
    watchers: dict[str, Watcher] = field(default_factory=dict[str, Watcher])
    used: int = 0


class Commands:
    """Runs commands on the machines of one backend.

    Args:
        backend: which.
    """

    def __init__(self, backend: Backend[Any]) -> None:
        self._backend = backend
        self._machines: dict[str, _Machine] = {}

    async def run(
        self,
        machine: str,
        data: Data,
        id: str,  # noqa: A002
        exec: Exec,  # noqa: A002
        chunk: Piece | None = None,
        room: Room | None = None,
        sent: tuple[int, int] = (0, 0),
    ) -> ExecDone:
        """Start the command unless it was started, and wait for its end.

        Args:
            machine: its id, for messages.
            data: of the machine.
            id: of the command.
            exec: what to run.
            chunk: is given what it writes, in order, when `exec.stream`.
            sent: bytes of stdout and stderr that it need not be given.
            room: is awaited before outputs are fetched that are more than what comes along with the end.

        Raises:
            CommandLost: it was started, and how it ended cannot be known.
            CommandRefused: it cannot be run as it was given.
            MachineFailed: the machine cannot run commands.
        """
        check(id, exec)
        async with _Reach(self, data) as reach:
            try:
                return await _Call(reach, id, exec, chunk if exec.stream else None, room, sent).run()
            except CommandLost as lost:
                raise CommandLost(f"{lost.message}: {id} on {machine}", hint=lost.hint) from None

    async def kill(self, data: Data, id: str) -> None:  # noqa: A002
        """End all processes of a command: TERM, and KILL after a grace. One that did not start never will.

        Raises:
            MachineFailed: they do not end.
        """
        if not _ID.fullmatch(id):
            raise CommandRefused(f"{id[:80]!r} is no id of a command")
        async with _Reach(self, data) as reach:
            await reach.kill(id, "kill", "agent")

    async def prune(self, data: Data, older: float) -> None:
        """Remove what is kept of commands that ended more than `older` seconds ago; they still run only once."""
        async with _Reach(self, data) as reach:
            users, asked = ["agent"], set[str]()
            while users:
                user = users.pop()
                asked.add(user)
                for line in await reach.lines(user, wrapper.PRUNE, str(int(older))):
                    word, _, other = line.partition(" ")
                    if word == "denied" and other not in asked and other not in users:
                        users.append(other)

    async def close(self) -> None:
        """Stop watching; commands go on."""
        for known in self._machines.values():
            for watcher in known.watchers.values():
                await watcher.close()
        self._machines.clear()


class _Reach:
    """Calls to one machine; what is known of it is kept while somebody uses it."""

    def __init__(self, commands: Commands, data: Data) -> None:
        self.backend = commands._backend
        self.data = data
        self.state = self.backend.state(data)
        self._machines = commands._machines
        self._key = json.dumps(data, sort_keys=True)

    async def __aenter__(self) -> _Reach:
        at_once = self.backend.at_once
        self.known = self._machines.setdefault(
            self._key, _Machine(asyncio.Semaphore(at_once), asyncio.Semaphore(max(1, at_once // 2)))
        )
        self.known.used += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self.known.used -= 1
        if not self.known.used and self._machines.get(self._key) is self.known:
            del self._machines[self._key]
            for watcher in self.known.watchers.values():
                await watcher.close()

    async def exec(self, user: str, script: str, *args: str, stdin: bytes = b"") -> Completed:
        """Run a script of `wrapper` that succeeds."""
        return self.checked(
            await self.backend.exec(self.data, ["sh", "-c", script, "sh", *args], user=user, stdin=stdin)
        )

    def checked(self, done: Completed) -> Completed:
        """What a script printed that succeeded."""
        if done.exit_code != 0:
            said = done.stderr.decode(errors="replace").strip()[-500:]
            if done.exit_code > _SIGNALLED:
                raise BackendUnavailable(f"The shell that looks after commands in {self.state} was killed: {said}")
            raise MachineFailed(f"Commands cannot be run in {self.state}: exit code {done.exit_code}: {said}")
        return done

    async def lines(self, user: str, script: str, *args: str) -> list[str]:
        """What a script that takes the state folder first prints."""
        async with self.known.slots:
            return (await self.exec(user, script, self.state, *args)).stdout.decode(errors="replace").splitlines()

    def watcher(self, user: str) -> Watcher:
        """That of this machine and user."""

        async def look(ids: list[str]) -> list[Status]:
            found = [parse_sized(line) for line in await self.lines(user, wrapper.POLL, *ids)]
            if len(found) != len(ids):
                raise MachineFailed(f"The machine told of {len(found)} commands, not of {len(ids)}")
            return found

        if user not in self.known.watchers:
            self.known.watchers[user] = Watcher(look)
        return self.known.watchers[user]

    async def kill(self, id: str, why: str, user: str) -> None:  # noqa: A002
        """Signal until nothing is left."""
        began = time.monotonic()
        signal, pause = "TERM", 0.01
        while True:
            [answer] = await self.lines(user, wrapper.KILL, id, signal, why)
            word, _, rest = answer.partition(" ")
            if word == "denied" and rest != user:
                user = rest
                continue
            if (word, rest) == ("left", "0"):
                return
            passed = time.monotonic() - began
            if passed > 2 * GRACE:
                raise MachineFailed(f"Processes of the command {id} do not end: {answer}")
            if word != "starting":
                signal = "KILL" if passed >= GRACE else "0"
            await asyncio.sleep(min(pause, max(GRACE - passed, 0.01) if passed < GRACE else pause))
            pause = min(pause * 1.5, 0.25)


class _Call:
    """One caller's wait for one command."""

    def __init__(
        self,
        reach: _Reach,
        id: str,  # noqa: A002
        exec: Exec,  # noqa: A002
        chunk: Piece | None,
        room: Room | None,
        sent: tuple[int, int],
    ) -> None:
        self._reach = reach
        self._id = id
        self._exec = exec
        self._chunk = chunk
        self._room = room
        self._sent = list(sent)
        self._tasks: list[asyncio.Task[None]] = []
        self._limit: asyncio.Task[None] | None = None
        self._killing = False

    async def run(self) -> ExecDone:
        watcher = self._reach.watcher(self._exec.user)
        holds = self._reach.backend.holds
        live = self._chunk is not None
        limit = self._exec.timeout
        status = Status("starting") if holds else await self._start()
        watch: Watch | None = None
        try:
            if not status.whole:
                patient = holds and not live and (limit is None or limit > LAST)
                watch = watcher.add(self._id, live=live, patient=patient)
                if holds:
                    self._begin(self._hold(watch), watch)
                status = await self._follow(watch, status)
            return await self._done(status)
        finally:
            if watch is not None:
                watcher.remove(watch)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _arguments(self) -> list[str]:
        reach, exec_ = self._reach, self._exec
        folder = posixpath.normpath(posixpath.join(reach.backend.workdir(reach.data), exec_.cwd))
        env = {**reach.backend.env(reach.data), **exec_.env}
        return [
            *(reach.state, self._id, str(exec_.max_output), str(len(exec_.stdin or b"")), exec_.user, folder),
            *(f"{name}={value}" for name, value in env.items()),
            *("--", *reach.backend.prefix(reach.data), "/bin/sh", "-c", exec_.command),
        ]

    async def _start(self) -> Status:
        """Start it, and wait a little for its end while not too many do."""
        known, timeout = self._reach.known, self._exec.timeout
        hurry = self._chunk is not None or (timeout is not None and timeout < wrapper.WAIT)
        if hurry or known.waiting.locked():
            return await self._start_and_wait(0)
        async with known.waiting:
            return await self._start_and_wait(wrapper.WAIT)

    async def _start_and_wait(self, wait: int) -> Status:
        async with self._reach.known.slots:
            done = await self._reach.exec(
                self._exec.user,
                wrapper.START,
                str(wait),
                wrapper.DETACHED,
                *self._arguments(),
                stdin=self._exec.stdin or b"",
            )
        return self._first(done)

    async def _hold(self, watch: Watch) -> None:
        """Run it in a call that lasts as long as the command."""
        done = await self._reach.backend.hold(
            self._reach.data, self._id, self._arguments(), user=self._exec.user, stdin=self._exec.stdin or b""
        )
        status = self._first(self._reach.checked(done))
        watch.tell(status)
        if not status.whole:
            self._reach.watcher(self._exec.user).hurry(watch)

    def _first(self, done: Completed) -> Status:
        """The status that was printed, and the outputs after it."""
        line, _, beginning = done.stdout.partition(b"\n")
        status = parse(line.decode(errors="replace"))
        if status.state == "none":
            raise MachineFailed(f"The command {self._id} cannot be started in {self._reach.state}", hint="disk full?")
        return replace(status, inline=(beginning, done.stderr))

    def _begin(self, work: Coroutine[Any, Any, None], watch: Watch) -> asyncio.Task[None]:
        """Do something beside the wait, which ends when that fails."""

        async def guarded() -> None:
            try:
                await work
            except Exception as error:  # noqa: BLE001 - it is the caller's
                watch.fail(error)

        task = asyncio.create_task(guarded(), name=f"command-{self._id}")
        self._tasks.append(task)
        return task

    async def _follow(self, watch: Watch, status: Status) -> Status:
        """Wait until it has ended and its outputs are whole, or have been held open for too long."""
        odd: Status | None = None
        while True:
            if self._chunk is not None:
                await self._send(status)
            if status.state == "exit":
                if status.whole or not (status.held or status.end <= status.now < status.end + HELD):
                    break
            elif status.state == "gone":
                raise CommandLost("The command ran, and its output has been removed since")
            elif status.state == "run":
                odd = None
                self._keep_time(watch, status)
            else:
                odd = odd if odd is not None and odd.state == status.state else status
                self._look_odd(status, status.at - odd.at)
            status = await watch.next()
        if self._limit is not None:
            if not self._killing:
                self._limit.cancel()
            await asyncio.wait([self._limit])
        return status

    def _look_odd(self, status: Status, since: float) -> None:
        """Raise when a command that is neither running nor ended has been so for too long."""
        if status.state == "dead" and (since >= _LOST or status.now < status.start):
            raise CommandLost("The machine has no process and no exit code of the command", hint="was it rebooted?")
        if status.state == "starting" and since >= _UNSTARTED:
            raise CommandLost("The command was about to start, and did not")
        if status.state == "none" and since >= _UNSTARTED:
            raise CommandLost("The machine knows nothing of the command", hint="were its files removed?")

    def _keep_time(self, watch: Watch, status: Status) -> None:
        """See to it that the command is killed when its time is over."""
        if self._exec.timeout is None or self._limit is not None:
            return
        left = self._exec.timeout - (status.now - status.start) - (time.monotonic() - status.at)

        async def limit() -> None:
            await asyncio.sleep(max(0.0, left))
            self._killing = True
            await self._reach.kill(self._id, "timeout", self._exec.user)

        self._limit = self._begin(limit(), watch)

    async def _send(self, status: Status) -> None:
        """Hand on what has been written since the last time."""
        assert self._chunk is not None
        for channel, (name, suffix) in enumerate(_CHANNELS):
            there = min(max(status.sizes[channel], status.totals[channel] or 0), self._exec.max_output)
            while self._sent[channel] < there:
                piece = await self._read(suffix, self._sent[channel], min(PIECE, there - self._sent[channel]))
                if not piece:
                    break
                await self._chunk(name, self._sent[channel], piece)
                self._sent[channel] += len(piece)

    async def _read(self, suffix: str, offset: int, limit: int) -> bytes:
        path = f"{self._reach.state}/commands/{self._id}.{suffix}"
        try:
            return await self._reach.backend.read(
                self._reach.data, path, user=self._exec.user, offset=offset, limit=limit
            )
        except FileNotFoundError:
            return b""

    async def _fetch(self, status: Status, channel: int) -> bytes:
        """What was written to one output, up to the cap."""
        total, cap = status.totals[channel], self._exec.max_output
        wanted = cap if total is None else min(total, cap)
        found = bytearray(status.inline[channel][:wanted] if status.inline is not None else b"")
        while len(found) < wanted:
            piece = await self._read(_CHANNELS[channel][1], len(found), min(READ, wanted - len(found)))
            if not piece:
                break
            found += piece
        return bytes(found)

    async def _done(self, status: Status) -> ExecDone:
        if self._chunk is not None:
            await self._send(status)
            stdout = stderr = b""
        else:
            cap = self._exec.max_output
            size = sum(cap if total is None else min(total, cap) for total in status.totals)
            if self._room is not None and size > wrapper.INLINE:
                await self._room(size)
            stdout, stderr = await self._fetch(status, 0), await self._fetch(status, 1)
        return ExecDone(
            exit_code=status.code,
            stdout=stdout,
            stderr=stderr,
            left_out=sum(max(0, (total or 0) - self._exec.max_output) for total in status.totals),
            duration=round(max(0.0, status.end - status.start), 3),
            timed_out=status.why == "timeout",
            killed=status.why == "kill",
        )
