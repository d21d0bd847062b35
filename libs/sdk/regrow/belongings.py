"""What a process has made and may want to find again: its agents and machines, of one incarnation."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .agents.keeping import Charge
    from .machines.machine import Machine


class Belongings:
    """Of one incarnation.

    Attributes:
        agents: by id, those that have ended too.
        names: of agents that live, or are about to.
        machines: by id, those that were not stopped or given away by it.
    """

    def __init__(self) -> None:
        self.agents: dict[str, Charge] = {}
        self.names: set[str] = set()
        self.machines: dict[str, Machine] = {}

    def clear(self) -> None:
        """Its process has left memory."""
        self.agents.clear()
        self.names.clear()
        self.machines.clear()
