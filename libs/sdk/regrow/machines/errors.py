"""What can go wrong with a machine, as its user meets it; the codes are the machine-manager's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import CallFailed, define

if TYPE_CHECKING:
    from .execution import ExecResult


class MachineError(CallFailed):
    """The machine-manager could not do what was asked for.

    It is also an instance of the exception's own class where that is a builtin one, as FileNotFoundError.
    """

    code = "machine-error"


@define
class NoCapacity(MachineError):
    """No manager has room for the machine, or none that fits is running."""

    code = "no-capacity"


@define
class MachineLost(MachineError):
    """The machine is gone: stopped, or lost with its node."""

    code = "machine-lost"


@define
class CommandLost(MachineError):
    """The machine was restarted while the command ran: nobody knows how far it came."""

    code = "command-lost"


@define
class OutsideRoot(MachineError, ValueError):
    """A path that leads out of the machine's folder, or is none."""

    code = "outside-root"


@define
class Unsupported(MachineError):
    """The machine's backend has no such operation."""

    code = "unsupported"


class ExecTimeout(MachineError, TimeoutError):
    """The command ran longer than its `timeout`, and was killed with all of its process group.

    Attributes:
        result: what it wrote until then; its exit code is that of the kill.
    """

    code = "exec-timeout"

    def __init__(self, message: str, *, hint: str = "", result: ExecResult | None = None) -> None:
        super().__init__(message, hint=hint)
        self.result = result
