"""Machines: places where agents and commands run. `machine()` makes one; a `Machine` is a handle that can be sent."""

from regrow_protocol.images import (
    DockerImage,
    InvalidImage,
    Limits,
    LocalImage,
    MorphImage,
    SnapshotImage,
    SSHImage,
    from_snapshot,
)
from regrow_protocol.machines import Description, Port

from .errors import CommandLost, ExecTimeout, MachineError, MachineLost, NoCapacity, OutsideRoot, Unsupported
from .execution import ExecResult, ExecStream, Line
from .machine import Machine, machine

__all__ = [
    "CommandLost",
    "Description",
    "DockerImage",
    "ExecResult",
    "ExecStream",
    "ExecTimeout",
    "InvalidImage",
    "Limits",
    "Line",
    "LocalImage",
    "Machine",
    "MachineError",
    "MachineLost",
    "MorphImage",
    "NoCapacity",
    "OutsideRoot",
    "Port",
    "SSHImage",
    "SnapshotImage",
    "Unsupported",
    "from_snapshot",
    "machine",
]
