"""`machine()` and `Machine`: what a body, or a client, does with machines.

A `Machine` is only a name; each of its methods sends a command under the id of the operation, which the machine-manager
does once. So they work from a replayed body, and after the host or the manager died.
"""

from __future__ import annotations

import asyncio
import posixpath
import shlex
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from regrow_protocol import machines as wire
from regrow_protocol.errors import ValueTooLarge
from regrow_protocol.images import AnyImage, encode_image, split_wishes
from regrow_protocol.machines import Description, ExecDone, MachineRef, Port

from .. import scope
from ..api import step
from ..commanding import Asked, taken
from ..errors import InvalidArguments
from .errors import MachineError, MachineLost
from .execution import ExecResult, ExecStream, LineFeed, result_of
from .folders import download, upload

if TYPE_CHECKING:
    from ..handle import ProcessHandle


async def machine(
    image: AnyImage | None = None,
    *,
    keep: bool = False,
    labels: dict[str, str] | None = None,
    wait: float = 30.0,
    name: str = "",
    snapshot_on_failure: bool = False,
) -> Machine:
    """Make a machine. It is stopped when the process that made it ends.

    Args:
        image: what from; None: what this process was given as `machine=` by its `spawn`.
        keep: it outlives its process, until somebody stops it.
        labels: that its manager must have, as {"gpu": "1"}.
        wait: seconds to wait for a manager with room; 0: be refused at once where there is none.
        name: shown in lists.
        snapshot_on_failure: when the process fails, the machine's state is kept, and `failed` tells the snapshot's id.

    Raises:
        NoCapacity: no manager that fits has room.
        InvalidImage: the image cannot be used.
        MachineError: it could not be made.
    """
    here = scope.current()
    if image is None:
        given = here.given_image
        if given is None:
            raise InvalidArguments("machine() needs an image", hint="LocalImage(), DockerImage('python:3.12'), …")
    else:
        image, wished = split_wishes(image)
        snapshot_on_failure |= wished
        given = encode_image(image)
    if wait < 0:
        raise ValueError(f"wait must not be negative: {wait}")
    create = wire.Create(
        image=given,
        keep=keep,
        labels=labels or {},
        wait=wait,
        name=name,
        snapshot_on_failure=snapshot_on_failure or here.snapshot_on_failure,
    )
    asked = here.command("machine.create", wire.create_subject(here.app), create, MachineRef, MachineError)
    made = _handle(await taken(asked, lambda late: _handle(late)._tell_stop()))
    if here.belongings is not None:
        here.belongings.machines[made.id] = made
    return made


def _handle(ref: MachineRef) -> Machine:
    return Machine(ref.id, ref.app, ref.node, ref.backend)


@dataclass(frozen=True)
class Machine:
    """A machine. It can be an argument, a result or the data of an event.

    Attributes:
        id: `m_…`.
        app: whose it is.
        node: the machine-managers that reach it.
        backend: `local`, `docker`, `ssh`, `morph`, or that of a package.
    """

    id: str
    app: str
    node: str
    backend: str

    # Commands ---------------------------------------------------------------------------------------------------------

    async def exec(
        self,
        command: str | list[str],
        *,
        user: str = "agent",
        timeout: float | None = None,
        env: dict[str, str] | None = None,
        cwd: str = "",
        stdin: bytes | str | None = None,
        max_output: int = wire.MAX_OUTPUT,
    ) -> ExecResult:
        """Run a command, once, and wait for its end. Being cancelled kills it with all of its process group.

        Args:
            command: for the machine's `sh -c`; a list is one program with its arguments.
            user: `agent` (the machine's ordinary user), `root`, or a name.
            timeout: seconds from its start after which it is killed; None: no limit.
            env: further variables.
            cwd: where it starts, relative to the machine's workdir.
            stdin: its input.
            max_output: bytes that are kept of each of its outputs, at most 16 MiB; the rest is counted in `left_out`.

        Raises:
            ExecTimeout: its time was over.
            CommandLost: the machine was restarted meanwhile.
            MachineLost: there is no such machine any more.
        """
        exec_ = _exec(command, user, timeout, env, cwd, stdin, max_output, stream=False)
        asked = self._ask("exec", exec_, ExecDone)
        try:
            done = await asked.future
        except asyncio.CancelledError:
            if asked.future.cancelled():
                self._tell_kill(asked.id)
            raise
        return result_of(done, exec_.command, timeout)

    def exec_stream(
        self,
        command: str | list[str],
        *,
        user: str = "agent",
        timeout: float | None = None,
        env: dict[str, str] | None = None,
        cwd: str = "",
        stdin: bytes | str | None = None,
        max_output: int = wire.MAX_STREAM,
    ) -> ExecStream:
        """As `exec`, but gives its lines while it runs: `async for line in box.exec_stream("make"): …`.

        Args:
            command, user, timeout, env, cwd, stdin: as those of `exec`.
            max_output: bytes that are streamed of each of its outputs, at most 1 GiB.
        """
        exec_ = _exec(command, user, timeout, env, cwd, stdin, max_output, stream=True)
        feed = LineFeed()
        asked = self._ask("exec", exec_, ExecDone, feed)
        return ExecStream(self, asked, feed, exec_.command, timeout)

    def _tell_kill(self, id_: str) -> None:
        scope.current().tell("machine.kill", self._subject, wire.Kill(id_))

    # Files ------------------------------------------------------------------------------------------------------------

    async def write_file(self, path: str, data: bytes | str, *, mode: int | None = None, user: str = "agent") -> None:
        """Write a file, whole or not at all, and the folders above it.

        Args:
            path: relative to the machine's workdir, or absolute inside its root.
            data: at most 32 MiB; text as UTF-8.
            mode: its permissions, as 0o755.
            user: that owns it.

        Raises:
            OutsideRoot: the path leads out of the machine's root.
            ValueTooLarge: use `put`.
        """
        content = data.encode() if isinstance(data, str) else bytes(data)
        if len(content) > wire.MAX_FILE:
            raise ValueTooLarge(
                f"{len(content)} bytes are too many for write_file ({path})",
                hint="use put(), which takes files of any size",
            )
        await self._ask("write", wire.Write(path, content, mode, user), None).future

    async def read_file(self, path: str, *, user: str = "agent") -> bytes:
        """The content of a file of at most 32 MiB.

        Raises:
            FileNotFoundError, IsADirectoryError, PermissionError: as the machine says.
            OutsideRoot: the path leads out of the machine's root.
        """
        return await self._ask("read", wire.Read(path, user), bytes).future

    async def put(self, local: str | Path, remote: str, *, user: str = "agent") -> None:
        """Copy a file or folder of this host to the machine: a file as `remote`, a folder's content into `remote`.

        Args:
            local: path on the host where the body runs.
            remote: path on the machine.
            user: that owns it there.
        """
        source = str(local)
        file = await step(_is_file, source, name="machine.put.look")
        into = (posixpath.dirname(remote.rstrip("/")) or ".") if file else remote
        parts = await step(upload, source, posixpath.basename(remote.rstrip("/")), name="machine.put")
        await self._ask("unpack", wire.Unpack(into, parts, user), None).future

    async def get(self, remote: str, local: str | Path, *, user: str = "agent") -> None:
        """Copy a file or folder of the machine to this host: a file as `local`, a folder's content into `local`.

        Args:
            remote: path on the machine.
            local: path on the host where the body runs.
            user: that reads it there.
        """
        parts = await self._ask("pack", wire.Pack(remote, user), list[str]).future
        await step(download, parts, str(local), name="machine.get")

    # Life -------------------------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """End it, and all that runs on it; one that is gone already is fine."""
        _forget(self.id)
        await self._ask("stop", wire.Nothing(), None).future

    def _tell_stop(self) -> None:
        _forget(self.id)
        scope.current().tell("machine.stop", self._subject, wire.Nothing())

    async def snapshot(self, name: str = "") -> str:
        """Keep its state; the snapshot's id, for `from_snapshot`. Raises Unsupported where the backend cannot."""
        return await self._ask("snapshot", wire.Snapshot(name), str).future

    async def fork(self, n: int = 1, *, wait: float = 30.0) -> list[Machine]:
        """Make `n` machines in its present state; they are owned as it is.

        Args:
            n: how many.
            wait: seconds to wait for room.
        """
        if n < 1:
            raise ValueError(f"fork() makes one machine or more, not {n}")
        made = [_handle(ref) for ref in await self._ask("fork", wire.MachineFork(n, wait), list[MachineRef]).future]
        here = scope.current()
        if here.belongings is not None:
            here.belongings.machines |= {each.id: each for each in made}
        return made

    async def describe(self, *, line: str = "") -> Description:
        """What is known of it; with `line`, its `shell` is a program that runs that line there on a terminal."""
        return await self._ask("describe", wire.Describe(line), Description).future

    async def expose_port(self, port: int) -> Port:
        """Where a TCP port of it is reached. Raises Unsupported where the backend cannot."""
        if not 0 < port < 65536:
            raise ValueError(f"{port} is no TCP port")
        return await self._ask("expose", wire.Expose(port), Port).future

    async def give(self, handle: ProcessHandle | str) -> None:
        """Hand it to another process of the app (or its pid): it is stopped with that one instead."""
        pid = handle if isinstance(handle, str) else handle.pid
        await self._ask("give", wire.Give(pid), None).future
        _forget(self.id)

    async def __aenter__(self) -> Machine:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def _subject(self) -> str:
        return wire.machine_subject(self.app, self.node, self.id)

    def _ask(self, name: str, args: Struct, type_: Any, feed: LineFeed | None = None) -> Asked:
        here = scope.current()
        if self.app != here.app:
            raise MachineLost(
                f"The machine {self.id} is of the app {self.app!r}, not of {here.app!r}",
                hint="only processes of its app can use a machine",
            )
        return here.command(f"machine.{name}", self._subject, args, type_, MachineError, feed)


def _forget(id_: str) -> None:
    here = scope.current()
    if here.belongings is not None:
        here.belongings.machines.pop(id_, None)


def _is_file(path: str) -> bool:
    return Path(path).is_file()


def _exec(
    command: str | list[str],
    user: str,
    timeout: float | None,
    env: dict[str, str] | None,
    cwd: str,
    stdin: bytes | str | None,
    max_output: int,
    *,
    stream: bool,
) -> wire.Exec:
    text = command if isinstance(command, str) else shlex.join(command)
    if not text or "\0" in text:
        raise ValueError("a command must have characters, and no NUL")
    if timeout is not None and timeout <= 0:
        raise ValueError(f"timeout must be positive seconds, or None: {timeout}")
    most = wire.MAX_STREAM if stream else wire.MAX_MAX_OUTPUT
    if not 0 <= max_output <= most:
        raise ValueError(f"max_output must be 0 to {most} bytes: {max_output}")
    input_ = stdin.encode() if isinstance(stdin, str) else stdin
    made = wire.Exec(text, user, timeout, env or {}, cwd, input_, stream, max_output)
    try:
        return msgspec.convert(msgspec.to_builtins(made), wire.Exec)
    except msgspec.ValidationError as error:
        raise InvalidArguments(f"exec(): {error}") from error
