"""`Agent` as ramure has it, on an agent of `regrow`."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, TypeVar, cast

from regrow_protocol.errors import RegrowError

from .. import agents, scope
from . import local as locals_
from .log import Log
from .machines.making import make
from .machines.program import handle_of
from .stream import Stream

if TYPE_CHECKING:
    from .local import Local
    from .machines.base import Machine
    from .types import ExecResult

log = logging.getLogger("regrow.ramure")

F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, Any]])

LOG_GRACE = 2.0

_RAMURES = {"call": "tool_call", "result": "tool_result"}
"""What ramure calls entries of a conversation."""


class Agent:
    """An agent, which ends with the process that made it.

    Attributes:
        name: of it, unique in its run.
        machine: that it runs on.
        system_prompt, model: what it was made with.
        handle: the agent as `regrow` has it.
        scope: the process that made it.
    """

    def __init__(
        self, handle: agents.Agent, machine: Machine, owner: Local, system_prompt: str | None, model: str | None
    ) -> None:
        self.handle = handle
        self.name = handle.name
        self.id = handle.id
        self.machine = machine
        self.system_prompt = system_prompt
        self.model = model
        self.scope = owner
        self._log: Log | None = None
        self._logged = 0
        self._following: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"Agent({self.name!r}, {self.id!r})"

    @contextlib.contextmanager
    def _acting(self) -> Generator[None]:
        """Act as the process that made it, whoever calls."""
        token = scope.ambient.set(self.scope.scope)
        try:
            yield
        finally:
            scope.ambient.reset(token)

    def on(self, tool_name: str) -> Callable[[F], F]:
        """Decorator: make an async function a tool of this agent; it runs in the scope of the process that made it."""

        def register(fn: F) -> F:
            if not inspect.iscoroutinefunction(fn):
                raise TypeError("Tool handlers must be async")
            self.register_handler(tool_name, fn)
            return fn

        return register

    def register_handler(self, name: str, fn: Callable[..., Coroutine[Any, Any, Any]]) -> None:
        """Make an async function a tool of this agent."""
        with self._acting():
            self.handle.on(name)(fn)

    async def send(self, text: str) -> None:
        """Tell it something."""
        with self._acting():
            await self.handle.send(text)

    async def exec(self, command: str, *, user: str = "agent", timeout: int | None = None) -> ExecResult:
        """Run a command on its machine."""
        return await self.machine.exec(command, user=user, timeout=timeout)

    async def stop(self) -> None:
        """End it."""
        with self._acting():
            await self.handle.stop()
        self.scope.runtime.agents.pop(self.name, None)

    @property
    def log(self) -> Log:
        """Its conversation: `message`, `tool_call`, `tool_result`, `text`, `turn`, `usage`, …; read from now on."""
        if self._log is None:
            folder = self.scope.runtime.folder
            self._log = Log(folder / f"{self.name}.jsonl" if folder is not None else None)
            with self._acting():
                self._following = self.scope.scope.background(self._follow(self._log))
        return self._log

    @property
    def events(self) -> Stream:
        """The events of its conversation, from the first to its end."""
        return self.log.stream

    async def _follow(self, log: Log) -> None:
        async for entry in self.handle.events:
            self._enter(log, entry)

    def _enter(self, log: Log, entry: agents.AgentEvent) -> None:
        self._logged = entry.seq
        origin = "server" if entry.type in ("message", "result") else "agent"
        log.emit(_RAMURES.get(entry.type, entry.type), entry.data, origin=origin)

    async def close_log(self) -> None:
        """Its process ends: log what it has not logged yet."""
        if self._log is None or self._following is None:
            return
        self._following.cancel()
        await asyncio.wait([self._following])
        try:
            async with asyncio.timeout(LOG_GRACE):
                for entry in await self.handle.events.so_far(self._logged):
                    self._enter(self._log, entry)
        except (RegrowError, TimeoutError) as error:
            log.info("the end of the conversation of %s is not in its log: %r", self.name, error)
        finally:
            self._log.close()


async def agent(
    name: str,
    *,
    system_prompt: str | None = None,
    model: str | None = None,
    image: Any = None,
    machine: Any = None,
    **options: Any,
) -> Agent:
    """Make an agent and wait until its harness, pi, has registered.

    Args:
        name: unique in its run.
        system_prompt: what it is told first.
        model: as its harness knows it.
        image: of the machine that is made for it; by default that of this process.
        machine: where it runs instead.
        **options: of `regrow.agent`: `harness=`, `env=`, `options=`, `restart=`, ….

    Raises:
        ValueError: the name is taken, or both an image and a machine are given.
        AgentNotStarted: its harness did not come; it shows its last output.
    """
    here = locals_.current()
    if image is not None and machine is not None:
        raise ValueError("Pass either machine= or image=, not both")
    known = here.runtime.agents
    if name in known:
        raise ValueError(f"Agent {name!r} already exists")
    known[name] = None
    try:
        box = cast("Machine", machine) if machine is not None else await make(here, image or here.image)
        handle = await agents.agent(
            name, system_prompt or "", model=model or "", machine=handle_of(box, here), **options
        )
    except BaseException:
        known.pop(name, None)
        raise
    made = known[name] = here.agents[name] = Agent(handle, box, here, system_prompt, model)
    if here.runtime.folder is not None:
        assert made.log.path is not None
    return made


def connect(a: Agent, b: Agent, *, direction: str = "both") -> None:
    """Let two agents speak to each other, and exchange files.

    Args:
        a, b: the agents.
        direction: `both`, or `forward`: only `a` may speak to `b`.
    """
    if direction not in ("both", "forward"):
        raise ValueError("direction must be 'both' or 'forward'")
    here = locals_.current()
    agents.connect(a.handle, b.handle, "both" if direction == "both" else "forward")
    here.runtime.log.emit("connection_added", {"a": a.name, "b": b.name, "direction": direction})


async def end_agents(owner: Local) -> None:
    """The body of the process that made them has ended: they end with it, and are logged to their end."""
    for name in owner.agents:
        owner.runtime.agents.pop(name, None)
    await asyncio.gather(*(each.close_log() for each in owner.agents.values()))
