"""What a process that fails leaves behind: snapshots of its machines, taken before its end is announced.

The fold knows its machines from its own commands and their answers. When its outcome is a failure it asks for a
snapshot of each machine that was made with `snapshot_on_failure`, and waits for them, at most `PATIENCE` seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import Raw, Struct, UnsetType
from regrow_protocol import machines as wire
from regrow_protocol import messages as m
from regrow_protocol.machines import MachineRef
from regrow_protocol.messages import Failure, Op

if TYPE_CHECKING:
    from ..process import Process

PATIENCE = 120.0
_MAKES = frozenset({"machine.create", "machine.fork", "agent.enrol"})


class _Made(Struct):
    """What the answers to commands that make something have in common."""

    id: str


class _Snapshot:
    """Stands where an operation of the body has a `Pending`."""

    __slots__ = ("keepsakes", "machine", "op")

    def __init__(self, keepsakes: Keepsakes, machine: str, op: Op) -> None:
        self.keepsakes = keepsakes
        self.machine = machine
        self.op = op

    def settle(self, value: Raw | UnsetType, failure: Failure | None) -> None:
        self.keepsakes._taken(self.machine, value, failure)


class Keepsakes:
    """Of one incarnation.

    Attributes:
        snapshots: machine id → snapshot id.
        known: ids of its machines and agents, in the order in which they were made.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._asked: dict[int, bool] = {}
        self._machines: dict[str, MachineRef] = {}
        self._awaited: set[str] | None = None
        self.snapshots: dict[str, str] = {}
        self.known: dict[str, None] = {}

    def asked(self, op: Op, subject: str, args: Raw) -> None:
        """A command of the process goes out."""
        if op.name in _MAKES:
            self._asked[op.n] = (
                op.name == "machine.create" and msgspec.json.decode(args, type=wire.Create).snapshot_on_failure
            )
        elif op.name in ("machine.stop", "machine.give", "agent.stop"):
            gone = subject.rpartition(".")[2]
            self._machines.pop(gone, None)
            self.known.pop(gone, None)

    def answered(self, op: Op, value: Raw | UnsetType) -> None:
        """The answer to a command has come."""
        snapshot = self._asked.pop(op.n, None)
        if snapshot is None or not isinstance(value, Raw):
            return
        if op.name == "machine.fork":
            self.known.update(dict.fromkeys(ref.id for ref in msgspec.json.decode(value, type=list[MachineRef])))
            return
        self.known[msgspec.json.decode(value, type=_Made).id] = None
        if snapshot:
            ref = msgspec.json.decode(value, type=MachineRef)
            self._machines[ref.id] = ref

    def pending(self) -> bool:
        """The process has failed and its machines' snapshots are not there yet; the first call asks for them."""
        if self._awaited is None:
            if not self._machines:
                return False
            self._awaited = set(self._machines)
            for ref in self._machines.values():
                self._ask(ref)
            self._process.loop.call_later(PATIENCE, self._awaited.clear)
        return bool(self._awaited)

    def _ask(self, ref: MachineRef) -> None:
        process = self._process
        subject = wire.machine_subject(ref.app, ref.node, ref.id)
        args = Raw(m.encode(wire.Snapshot(f"{process.pid} failed")))
        process.relations.command("machine.snapshot", subject, args, lambda op: _Snapshot(self, ref.id, op))

    def _taken(self, machine: str, value: Raw | UnsetType, failure: Failure | None) -> None:
        if self._awaited is not None:
            self._awaited.discard(machine)
        if failure is None and isinstance(value, Raw):
            self.snapshots[machine] = msgspec.json.decode(value, type=str)

    def clear(self) -> None:
        """The machines so far are another process's: of the one whose history was copied."""
        self._machines.clear()
        self._asked.clear()

    def forget(self) -> None:
        """The process has left memory, or its next incarnation begins."""
        self.clear()
        del self._process
