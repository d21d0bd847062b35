"""Whom agents may reach: each other (`connect`), and endpoints of processes (`attach`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from regrow_protocol import agents as wire
from regrow_protocol.endpoints import Attach, Detach, registry_subject

from .. import scope
from ..errors import CallFailed
from .agent import Agent, here_for

if TYPE_CHECKING:
    from collections.abc import Sequence

Direction = Literal["both", "forward"]


def connect(a: Agent, b: Agent, direction: Direction = "both") -> None:
    """Let two agents of the app speak to each other, by the tools `message`, `send_file` and `download_file`.

    Args:
        a, b: the agents.
        direction: `both`, or `forward`: only `a` may speak to `b`.
    """
    for each in (a, b):
        if not isinstance(each, Agent):
            raise TypeError(f"connect() needs two agents, not {each!r}")
    if a.id == b.id:
        raise ValueError(f"the agent {a.name} cannot be connected to itself")
    if direction not in ("both", "forward"):
        raise ValueError(f'direction must be "both" or "forward", not {direction!r}')
    here_for(b)
    here_for(a).tell("agent.connect", wire.agent_subject(a.app, a.id), wire.Connect(b.id, direction))


@dataclass(frozen=True)
class Grant:
    """That an agent may call endpoints of a process.

    Attributes:
        id: `g_…`.
        agent: id of the agent.
        pid: of the process.
    """

    id: str
    agent: str
    pid: str

    async def revoke(self) -> None:
        """From now on the agent has these tools no more."""
        here = scope.current()
        subject = registry_subject(here.app)
        await here.command("registry.detach", subject, Detach(self.id), None, CallFailed).future


async def attach(
    pid: str, agent: Agent, only: Sequence[str] | None, prefix: str, rate: float, expires: float | None
) -> Grant:
    """As `ProcessHandle.attach`."""
    if not isinstance(agent, Agent):
        raise TypeError(f"attach() needs an agent, not {agent!r}")
    if isinstance(only, str):
        raise TypeError(f"only= is a list of endpoints, as [{only!r}]")
    if rate < 0 or (expires is not None and expires <= 0):
        raise ValueError(f"rate must not be negative, expires must be positive seconds: {rate=}, {expires=}")
    here = here_for(agent)
    names = list(only) if only is not None else None
    args = Attach(pid, agent.id, names, prefix, float(rate), float(expires or 0.0))
    granted = await here.command("registry.attach", registry_subject(here.app), args, str, CallFailed).future
    return Grant(granted, agent.id, pid)
