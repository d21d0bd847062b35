"""`current_runtime()`: what the running process has, in one place."""

from __future__ import annotations

from typing import Any

from . import scope
from .agents.agent import Agent
from .api import CurrentProcess
from .errors import OutsideProcess
from .machines.machine import Machine


class CurrentRuntime:
    """The running process with its agents and machines.

    Attributes:
        process: itself.
        app: name of its app.
        agents: by name, those that it made and that have not ended.
        machines: that it made and neither stopped nor gave away, by id.
    """

    __slots__ = ("_scope",)

    def __init__(self, of: Any) -> None:
        self._scope = of

    def __repr__(self) -> str:
        return f"CurrentRuntime({self._scope.pid!r})"

    @property
    def process(self) -> CurrentProcess:
        return CurrentProcess(self._scope)

    @property
    def app(self) -> str:
        return str(self._scope.app)

    @property
    def agents(self) -> dict[str, Agent]:
        charges = self._scope.belongings.agents.values()
        return {each.name: each.agent for each in charges if each.state in ("starting", "running")}

    @property
    def machines(self) -> dict[str, Machine]:
        return dict(self._scope.belongings.machines)


def current_runtime() -> CurrentRuntime:
    """What the process whose body, endpoint or callback is running has."""
    here = scope.current()
    if here.belongings is None:
        raise OutsideProcess("current_runtime() works only inside a process")
    return CurrentRuntime(here)
