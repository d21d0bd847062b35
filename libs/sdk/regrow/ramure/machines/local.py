"""Machines that Regrow's machine-manager makes, as ramure's programs see them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regrow_protocol import images

from ... import machines
from ...machines.errors import ExecTimeout, Unsupported
from ..types import ExecResult
from .base import Image, Machine

TIMED_OUT = 124


class ManagedMachine(Machine):
    """A machine that a machine-manager looks after: it ends when its process does, whatever becomes of the program.

    Attributes:
        handle: the machine as `regrow` has it.
    """

    def __init__(self, handle: machines.Machine) -> None:
        self.handle = handle

    def describe(self) -> dict[str, Any]:
        """What a log says of it."""
        return {"kind": type(self).__name__, "id": self.handle.id, "backend": self.handle.backend}

    async def exec(self, command: str, *, user: str = "agent", timeout: float | None = None) -> ExecResult:
        """Run a command in the machine's shell; when `timeout` seconds are over it is killed: exit code 124."""
        try:
            result = await self.handle.exec(command, user=user, timeout=timeout)
        except ExecTimeout as error:
            return ExecResult(TIMED_OUT, "", f"Timed out after {timeout} s: {error.message}", command)
        return ExecResult(result.exit_code, result.stdout, result.stderr, command)

    async def write_file(self, path: str, content: bytes | str) -> None:
        """Write a file; relative to the machine's workdir."""
        await self.handle.write_file(path, content)

    async def read_file(self, path: str) -> bytes:
        """The content of a file; relative to the machine's workdir."""
        return await self.handle.read_file(path)

    async def stop(self) -> None:
        """End it; one that is gone already is fine."""
        await self.handle.stop()

    async def fork(self, **_options: Any) -> ManagedMachine:
        """A copy of it, running. Raises NotImplementedError where its backend cannot."""
        try:
            return type(self)((await self.handle.fork())[0])
        except Unsupported as error:
            raise NotImplementedError(error.message) from error

    async def snapshot(self, **_options: Any) -> images.SnapshotImage:
        """Its present state as an image. Raises NotImplementedError where its backend cannot."""
        try:
            return machines.from_snapshot(await self.handle.snapshot())
        except Unsupported as error:
            raise NotImplementedError(error.message) from error


class LocalMachine(ManagedMachine):
    """A folder on the machine-manager's node: with the embedded stack, on this one."""


class LocalImage(Image):
    """A folder on this host.

    Args:
        workdir: where commands start; made where it is missing, and kept. By default the program's own.
        env: variables of every command, beside those of the machine-manager; they are recorded.
        id: instead of `workdir`: the `id` of another one.
    """

    def __init__(
        self,
        workdir: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        *,
        id: str | None = None,  # noqa: A002 - ramure's
    ) -> None:
        self.workdir = Path((id or "").removeprefix("local:") or workdir or Path.cwd()).absolute()
        self.env = dict(env or {})

    @property
    def id(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride] - here it always is
        """`local:` and its folder."""
        return f"local:{self.workdir}"

    @property
    def managed(self) -> images.LocalImage:
        """As `regrow` has it. The program's own variables stay out of it: it is recorded."""
        return images.LocalImage(workdir=str(self.workdir), env=self.env)

    async def spawn(self) -> LocalMachine:
        """Make a machine; inside a process only."""
        self.workdir.mkdir(parents=True, exist_ok=True)
        return LocalMachine(await machines.machine(self.managed))
