"""A process whose history begins as another's: what `regrow fork` and `regrow import` make.

Its first inputs are copies with their recorded times. While they are applied the fold goes by the other's id wherever
the program could tell (children's ids, random numbers, digests), and nothing that it asks for is done again; only its
events are announced, as its own. With the last copied input it becomes itself: operations that wait for others' answers
fail as `Forked`, children and callers of the other process are none of its, timers go on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from regrow_protocol import messages as m
from regrow_protocol.messages import Failure

if TYPE_CHECKING:
    from .process import Process

FORKED = Failure("Forked", "it was under way where this history was cut off from another process's", "forked")
"""The outcome of what was pending at the cut."""


class Copying:
    """The copied part of a history while it is applied.

    Args:
        process: at its start.
        forks: where it ends, and those before it where it was itself made of a copy.
    """

    def __init__(self, process: Process, forks: list[m.Fork]) -> None:
        self._left = list(forks)
        process.pid = forks[0].pid

    def after_turn(self, process: Process) -> None:
        """An input has been applied."""
        _withhold(process)
        while self._left and process.inputs >= self._left[0].inputs:
            self._left.pop(0)
            process.pid = self._left[0].pid if self._left else process.id
            if process.ended:
                continue
            process.cut_off()
            process._turn()
            if self._left:
                _withhold(process)
        if not self._left:
            process.copying = None


def _withhold(process: Process) -> None:
    """Of what a copied input makes the fold send, only events go out."""
    process.outputs = [output for output in process.take_outputs() if output.to == "event"]
    process.new_local.clear()
    process.dropped_local.clear()
