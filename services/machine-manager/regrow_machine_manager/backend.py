"""What a backend is: the small contract between the manager and a kind of machine.

A backend is a class found by an entry point of the group `regrow.machines`, whose name is the backend's. The manager
makes one instance and calls it from its event loop; nothing may block that. A backend keeps nothing that it needs after
a crash: whatever it must know of a machine is in the `data` that `spawn` returned, JSON that stands in the machine's
record. Any call may be repeated after a crash, so `spawn` and `stop` are idempotent by the machine's id.

What the manager builds on top, the same for all: commands that survive their caller (`commands`), rules for paths
(`paths`), folders, leases, capacity.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from regrow_protocol.errors import RegrowError
from regrow_protocol.machines import Port

from . import wrapper

I = TypeVar("I")  # noqa: E741 - an image class

Data = dict[str, Any]
"""What a backend needs to reach a machine: JSON."""


class MachineLost(RegrowError):
    """The machine is gone: nothing can be done on it any more."""

    code = "machine-lost"


class MachineFailed(RegrowError):
    """The backend cannot do what was asked for, and will not be able to by trying again."""

    code = "machine-failed"


class BackendUnavailable(RegrowError):
    """The backend does not answer at the moment (an engine that restarts, a dropped connection): to be tried again."""

    code = "backend-unavailable"


class Unsupported(RegrowError):
    """This backend has no such operation."""

    code = "unsupported"


@dataclass(frozen=True)
class Node:
    """Where the backend runs.

    Attributes:
        name: of the node.
        folder: that belongs to the backend on this node; it exists.
        store: id of the store that holds the records: machines of other stores, whose managers run on the same node,
            are none of `made()`.
        volumes: folders of the node that its operator allows machines to have; one that ends in `:ro` only to be read.
        host_network: whether its operator allows machines on the node's own network.
    """

    name: str
    folder: Path
    store: str = ""
    volumes: Sequence[str] = ()
    host_network: bool = False


@dataclass(frozen=True)
class Spawned:
    """A machine that is there.

    Attributes:
        data: to reach it.
        host: for a pool of hosts, the one it is on.
    """

    data: Data
    host: str = ""


@dataclass(frozen=True)
class Completed:
    """A short program that has ended on a machine."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class Backend(ABC, Generic[I]):
    """A kind of machine.

    Attributes:
        name: as in the entry point.
        image: class of its images.
        anywhere: its machines are reached from every node, not only from where they were made.
        at_once: calls of `exec` that the backend takes at a time per machine; more wait.
        holds: a call of `exec` may last as long as a command does: it takes no place of others, and what it runs is a
            session of its own that goes on when the manager dies. Commands are then run by `hold`.
    """

    name: ClassVar[str]
    image: ClassVar[type[Any]]
    anywhere: ClassVar[bool] = False
    at_once: ClassVar[int] = 64
    holds: ClassVar[bool] = False

    def __init__(self, node: Node) -> None:
        self.node = node

    async def open(self) -> None:
        """Get ready. Raises `BackendUnavailable` when it cannot be used on this node; it is then left out."""

    async def close(self) -> None:
        """Let go of connections; machines go on."""

    # What each must have ----------------------------------------------------------------------------------------------

    @abstractmethod
    async def spawn(self, machine: str, image: I, *, load: Mapping[str, int]) -> Spawned:
        """Make the machine with the id `machine`, or find the one that was made for that id before.

        Args:
            machine: its id, `m_…`.
            image: what from.
            load: machines on each host (`Spawned.host`) of this backend, for pools.
        """

    @abstractmethod
    async def exec(self, data: Data, argv: list[str], *, user: str = "agent", stdin: bytes = b"") -> Completed:
        """Run a short program on the machine and wait for its end.

        What it starts in sessions of its own goes on after it. A caller that is cancelled, or dies, may leave it
        running.

        Args:
            data: of the machine.
            argv: the program and its arguments, not for a shell.
            user: `agent` (the machine's ordinary user), `root`, or a name.
            stdin: its input.

        Raises:
            MachineLost: the machine is gone.
            BackendUnavailable: it cannot be reached now; the program may have run.
        """

    @abstractmethod
    async def write(
        self, data: Data, path: str, content: bytes, *, mode: int | None = None, user: str = "agent"
    ) -> None:
        """Write a file, whole or not at all, and the folders above it.

        `path` is absolute on the machine, and was checked to be inside `root(data)` as far as its text says; where
        links could lead out of the root the backend looks itself and raises `paths.OutsideRoot`.
        """

    @abstractmethod
    async def read(
        self, data: Data, path: str, *, user: str = "agent", offset: int = 0, limit: int | None = None
    ) -> bytes:
        """Bytes of a file from `offset`, at most `limit`.

        Raises:
            FileNotFoundError, IsADirectoryError, PermissionError: as the machine says.
        """

    @abstractmethod
    async def stop(self, data: Data) -> None:
        """End the machine, all that runs on it, and what was made for it. One that is gone already is fine."""

    # Where things are -------------------------------------------------------------------------------------------------

    @abstractmethod
    def workdir(self, data: Data) -> str:
        """Absolute path on the machine where commands start and relative paths begin."""

    def root(self, data: Data) -> str:
        """Absolute path on the machine that files must be under."""
        return self.workdir(data)

    def state(self, data: Data) -> str:
        """Absolute path of a folder on the machine for the manager's own files; commands keep their output there."""
        return f"{self.workdir(data)}/.regrow"

    def env(self, data: Data) -> dict[str, str]:
        """Variables of every command: its image's."""
        return dict(data.get("env", {}))

    async def hold(self, data: Data, id: str, arguments: list[str], *, user: str, stdin: bytes) -> Completed:  # noqa: A002
        """Run a command by `wrapper.HERE` with these arguments, or in a quicker way that leaves the same files.

        Returns:
            Its status as the output's first line; then, when its outputs are whole, their beginnings.
        """
        del id
        return await self.exec(data, ["sh", "-c", wrapper.HERE, "sh", *arguments], user=user, stdin=stdin)

    async def stage(self, data: Data, name: str, content: bytes, *, user: str = "agent") -> str:
        """Put a file of the user's into the manager's own folder, where that is quicker than as a program's input.

        Returns:
            Its absolute path on the machine; empty: not possible.
        """
        return ""

    def prefix(self, data: Data) -> list[str]:
        """A program, with its arguments, that runs every command given to it after them: to set limits."""
        return []

    # What some have ---------------------------------------------------------------------------------------------------

    async def attach(self, data: Data) -> bool:
        """Whether the machine is still there; called when a manager meets it for the first time."""
        return (await self.exec(data, ["true"])).exit_code == 0

    async def snapshot(self, data: Data, snapshot: str) -> Data:
        """Keep the machine's state under the id `snapshot`; what `restore` and `drop` need."""
        raise Unsupported(f"A {self.name} machine has no snapshots")

    async def restore(self, machine: str, image: I, kept: Data, *, load: Mapping[str, int]) -> Spawned:
        """As `spawn`, from what `snapshot` returned."""
        raise Unsupported(f"A {self.name} machine has no snapshots")

    async def drop(self, kept: Data) -> None:
        """Remove a snapshot; one that is gone already is fine."""
        raise Unsupported(f"A {self.name} machine has no snapshots")

    async def fork(self, data: Data, machines: list[str], image: I) -> list[Spawned]:
        """Make a machine for each id in the present state of this one, where that is quicker than by a snapshot."""
        raise Unsupported(f"A {self.name} machine forks by a snapshot")

    async def expose(self, data: Data, port: int) -> Port:
        """Where a TCP port of the machine is reached from outside."""
        raise Unsupported(f"A {self.name} machine exposes no ports")

    def shell(self, data: Data, line: str = "") -> list[str]:
        """A program, run on the manager's node, that opens a shell on the machine; empty: none.

        With `line` it runs that there, on its terminal, and ends with it; empty: not possible.
        """
        return []

    def memory(self, image: I) -> int:
        """Bytes of memory that a machine of this image is promised; 0: none in particular."""
        return 0

    async def made(self) -> dict[str, Data]:
        """Machines of this node that are there, by id, with what `stop` needs; the unknown ones are removed."""
        return {}

    def has(self, method: str) -> bool:
        """Whether the backend has an operation that not all have: `snapshot`, `fork`, `expose`, …."""
        return getattr(type(self), method) is not getattr(Backend, method)
