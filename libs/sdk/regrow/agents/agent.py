"""`Agent`: what a process, or a client, does with an agent.

An `Agent` is only a name, so it can be given to other processes. What keeps the agent going (its tools, its restarts)
is in the process that made it, which finds it there by its id.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, overload

from msgspec import Struct
from regrow_protocol import agents as wire

from .. import scope
from ..codec import from_raw, to_raw
from ..errors import OutsideProcess
from ..machines.errors import Unsupported
from ..machines.execution import ExecResult
from ..machines.machine import Machine
from .conversation import Conversation
from .errors import AgentError, AgentUnknown, NotItsOwner
from .tools import checked

if TYPE_CHECKING:
    from ..handle import Event
    from .keeping import AgentLoss, Charge

F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, Any]])
H = TypeVar("H", bound="Callable[[AgentLoss], Any]")

STARTED = "agent_started"
"""The event that a process announces of each agent that it has made; its data is the `Agent`."""
OUTSIDE = "operator"
"""Who speaks to agents from outside of processes."""


@dataclass(frozen=True)
class Agent:
    """An agent. It can be an argument, a result or the data of an event.

    Attributes:
        id: `a_…`.
        name: as its owner calls it.
        app: whose it is.
        machine: where it runs; None for one that came by itself.
        owner: pid of the process that made it.
    """

    id: str
    name: str
    app: str
    machine: Machine | None = None
    owner: str = ""

    @classmethod
    def of(cls, record: wire.AgentRecord) -> Agent:
        """The agent of a record, for who looks at agents from outside."""
        ref = record.machine
        box = Machine(ref.id, ref.app, ref.node, ref.backend) if ref is not None else None
        return cls(record.id, record.name, record.app, box, record.owner.pid)

    # Its tools --------------------------------------------------------------------------------------------------------

    @overload
    def on(self, tool: F, /) -> F: ...
    @overload
    def on(self, tool: str = "", /, *, timeout: float | None = None) -> Callable[[F], F]: ...
    def on(self, tool: Any = "", /, *, timeout: float | None = None) -> Any:
        """Decorator: make an async function a tool of this agent, `@worker.on` or `@worker.on("name")`.

        It runs in the scope of this process; its annotations and docstring tell the model what it takes. An agent that
        runs gets to know it at once.

        Args:
            tool: its name, 1 to 64 letters, digits, `-` and `_`; by default the function's.
            timeout: seconds after which a call is given up; the agent is told.

        Raises:
            NotItsOwner: another process made the agent.
        """
        charge = self._charge("on")
        if not isinstance(tool, str):
            checked(tool, tool_name(tool), timeout)
            charge.tools.add(tool, tool_name(tool), timeout)
            return tool

        def register(function: F) -> F:
            name = tool or tool_name(function)
            checked(function, name, timeout)
            charge.tools.add(function, name, timeout)
            return function

        return register

    def on_lost(self, hook: H) -> H:
        """Decorator: call a function, async or not, with the `AgentLoss` when the agent has died for good."""
        self._charge("on_lost").hooks.append(hook)
        return hook

    # Talking ----------------------------------------------------------------------------------------------------------

    async def send(self, text: str, *, sender: str = "") -> int:
        """Tell it something; it reads that when its turn is over, or as soon as its harness can.

        Args:
            text: the message.
            sender: who says it, shown to the agent; by default nobody for its owner, and else the process's type.

        Returns:
            The place of the message in the conversation.

        Raises:
            AgentEnded: it has ended.
        """
        if not isinstance(text, str):
            raise TypeError(f"send() needs a text, not {text!r}")
        here = here_for(self)
        charge = _charge_in(here, self.id)
        version = charge.tools.tell() if charge is not None else 0
        said_by = sender or ("" if charge is not None else _name_of(here))
        return await self._ask("send", wire.Send(text, version, said_by), int)

    @property
    def events(self) -> Conversation:
        """Its conversation, from the first entry: `async for event in worker.events`."""
        return Conversation(self._read)

    async def _read(self, after: int, wait: bool, most: int) -> wire.Page:
        return await self._ask("read", wire.ReadConversation(after, wait, most), wire.Page)

    async def usage(self) -> wire.Usage:
        """What it has used so far: tokens and US dollars, as its harness tells."""
        return (await self.describe()).usage or wire.Usage()

    async def describe(self) -> wire.AgentRecord:
        """What the gateway knows of it: its state, session, tools, usage."""
        return await self._ask("describe", wire.Nothing(), wire.AgentRecord)

    # Its machine ------------------------------------------------------------------------------------------------------

    async def exec(
        self,
        command: str | list[str],
        *,
        user: str = "agent",
        timeout: float | None = None,
        env: dict[str, str] | None = None,
        cwd: str = "",
        stdin: bytes | str | None = None,
    ) -> ExecResult:
        """Run a command on its machine, as `Machine.exec` does.

        Raises:
            Unsupported: it has none, for it came by itself.
        """
        if self.machine is None:
            raise Unsupported(f"The agent {self.name} came by itself: it has no machine")
        return await self.machine.exec(command, user=user, timeout=timeout, env=env, cwd=cwd, stdin=stdin)

    # Its life ---------------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Of its doors at the gateway; its owner's to know."""
        return self._charge("url").url

    @property
    def token(self) -> str:
        """That opens its doors; its owner's to know."""
        return self._charge("token").token

    async def registered(self) -> None:
        """Wait until its harness has come to the gateway: for one that comes by itself."""
        await self._charge("registered").registered(1)

    async def stop(self) -> None:
        """End it: its harness is killed, its token opens nothing any more, a machine made for it is stopped.

        Raises:
            NotItsOwner: another process made it.
        """
        await self._charge("stop").stop()

    def _charge(self, what: str) -> Charge:
        here = here_for(self)
        charge = _charge_in(here, self.id)
        if charge is None or self.owner != here.pid:
            raise NotItsOwner(
                f"{self.name}.{what} is for the process that made the agent: {self.owner or 'another one'}",
                hint="send() works everywhere; or let that process do it, in an endpoint",
            )
        return charge

    async def _ask(self, name: str, args: Struct, type_: Any) -> Any:
        here = here_for(self)
        subject = wire.agent_subject(self.app, self.id)
        return await here.command(f"agent.{name}", subject, args, type_, AgentError).future


def here_for(agent: Agent) -> Any:
    """The running scope, if it is of the agent's app."""
    here = scope.find()
    if here is None:
        raise OutsideProcess(
            f"{agent.name!r} is out of reach: this works in a process, or with regrow.outside.acting(client, app)"
        )
    if here.app != agent.app:
        raise AgentUnknown(f"The agent {agent.id} is of the app {agent.app!r}, not of {here.app!r}")
    return here


def _charge_in(here: Any, id_: str) -> Charge | None:
    return here.belongings.agents.get(id_) if here.belongings is not None else None


def started(events: Iterable[Event]) -> dict[str, Agent]:
    """The agents that a process has announced, by name; those that it bubbled are its children's."""
    found = [e.data for e in events if e.type == STARTED and e.source is None]
    agents = [from_raw(to_raw(data), Agent) for data in found]
    return {agent.name: agent for agent in agents}


def tool_name(function: Any) -> str:
    """The name that a function has as a tool."""
    return str(getattr(function, "__name__", ""))


def _name_of(here: Any) -> str:
    start = getattr(here, "start", None)
    return start.type if start is not None else OUTSIDE
