"""Machines that are objects of the program, as `regrow` needs a machine to run an agent on it.

Nobody else reaches such a machine: not the machine-manager, nor the command line, and no files go from agent to agent
there. It ends with its program: what runs on it is ended, and the object is told to stop, when the process ends that
made it; of a program that is killed the backend has to look after what is left.
"""

from __future__ import annotations

import asyncio
import logging
import posixpath
import shlex
from typing import TYPE_CHECKING, Any, NoReturn

from regrow_protocol import ids
from regrow_protocol import machines as wire

from ... import machines
from ...commanding import Asked
from ...machines.errors import MachineError, Unsupported

if TYPE_CHECKING:
    from msgspec import Struct

    from ..local import Local
    from .base import Machine

log = logging.getLogger("regrow.ramure")

END_GRACE = 15.0
"""Seconds that a harness may take to end when it is told to."""

_objects: dict[str, ProgramMachine] = {}


class ProgramMachine:
    """What there is of one machine of the program.

    Attributes:
        machine: the object.
        handle: the machine as `regrow` knows it.
    """

    def __init__(self, machine: Machine, app: str) -> None:
        self.machine = machine
        self.handle = Handle(ids.new_id(ids.MACHINE), app, "", wire.OF_A_PROGRAM)
        self._commands: dict[str, asyncio.Future[wire.ExecDone]] = {}
        self._count = 0
        self._workdir = ""
        _objects[self.handle.id] = self

    async def workdir(self) -> str:
        """Where its commands start."""
        if not self._workdir:
            self._workdir = (await self.machine.exec("pwd")).stdout.strip() or "/"
        return self._workdir

    async def write(self, path: str, content: bytes | str, mode: int | None) -> None:
        """Write a file; relative to the workdir."""
        target = posixpath.join(await self.workdir(), path)
        await self.machine.write_file(target, content)
        if mode is not None:
            await self.machine.exec(f"chmod {mode:o} {shlex.quote(target)}")

    def begin(self, args: wire.Exec) -> Asked:
        """Run a command that can be killed."""
        self._count += 1
        id_ = f"{self.handle.id}-{self._count}"
        future = self._commands[id_] = asyncio.ensure_future(self._run(id_, args))
        future.add_done_callback(lambda _: self._commands.pop(id_, None))
        return Asked(id_, future)

    async def _run(self, id_: str, args: wire.Exec) -> wire.ExecDone:
        """A script, for its variables are not for everybody who lists processes."""
        variables = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in args.env.items())
        script = posixpath.join(await self.workdir(), f".regrow/commands/{id_}.sh")
        text = (
            f"echo $$ >{shlex.quote(script)}.pid\ncd {shlex.quote(await self.workdir())}\n{variables}{args.command}\n"
        )
        try:
            await self.write(script, text, 0o600)
            done = await self.machine.exec(f"exec sh {shlex.quote(script)}", timeout=None)
        except Exception as error:
            raise MachineError(f"A command on {self.machine!r} failed: {type(error).__name__}: {error}") from error
        return wire.ExecDone(done.exit_code, done.stdout.encode(), done.stderr.encode())

    async def kill(self, id_: str) -> None:
        """End a command; a harness ends all that it has started."""
        script = posixpath.join(await self.workdir(), f".regrow/commands/{id_}.sh")
        await self.machine.exec(f"kill -s TERM $(cat {shlex.quote(script)}.pid)")

    def tell_kill(self, id_: str) -> None:
        """As `kill`, and wait for nothing."""
        if id_ in self._commands:
            task = asyncio.ensure_future(self.kill(id_))
            _telling.add(task)
            task.add_done_callback(_telling.discard)

    async def end(self) -> None:
        """End what runs on it, and the machine."""
        running = dict(self._commands)
        try:
            if running:
                await asyncio.gather(*(self.kill(id_) for id_ in running))
                await asyncio.wait(running.values(), timeout=END_GRACE)
        except Exception:
            log.exception("what runs on the machine %r could not be ended", self.machine)
        for future in running.values():
            future.cancel()

    def forget(self) -> None:
        """Its process has ended."""
        _objects.pop(self.handle.id, None)


_telling: set[asyncio.Future[None]] = set()


class Handle(machines.Machine):
    """A machine of the program, where `regrow` takes a machine."""

    @property
    def _object(self) -> ProgramMachine:
        return _objects[self.id]

    async def describe(self, *, line: str = "") -> wire.Description:
        """Where its commands start; nothing else is known of it."""
        if line:
            self._refuse("shell")
        workdir = await self._object.workdir()
        return wire.Description(self.id, self.app, self.node, self.backend, "running", workdir=workdir)

    async def write_file(self, path: str, data: bytes | str, *, mode: int | None = None, user: str = "agent") -> None:
        """Write a file."""
        del user
        await self._object.write(path, data, mode)

    async def read_file(self, path: str, *, user: str = "agent") -> bytes:
        """The content of a file."""
        del user
        return await self._object.machine.read_file(path)

    async def stop(self) -> None:
        """End it."""
        await self._object.machine.stop()

    def _tell_stop(self) -> None:
        """Its process ends it."""

    def _tell_kill(self, id_: str) -> None:
        if (known := _objects.get(self.id)) is not None:
            known.tell_kill(id_)

    def _ask(self, name: str, args: Struct, type_: Any, feed: Any = None) -> Asked:
        if isinstance(args, wire.Exec) and feed is None:
            return self._object.begin(args)
        return self._refuse(name)

    def _refuse(self, what: str) -> NoReturn:
        raise Unsupported(f"{what} is not possible on a machine that is an object of its program")


def handle_of(machine: Machine | Any, owner: Local) -> machines.Machine:
    """A machine of whatever kind, where `regrow` takes one; `owner` is the process whose agent it gets."""
    if isinstance(machine, machines.Machine):
        return machine
    if isinstance(managed := getattr(machine, "handle", None), machines.Machine):
        return managed
    known = next((each for each in owner.programs if each.machine is machine), None)
    if known is None:
        known = ProgramMachine(machine, owner.scope.app)
        owner.programs.append(known)
    return known.handle
