"""How the owner keeps an agent: its harness runs as a command on its machine, and that command's end is its end.

What follows is decided here, in the owner's own process, durably like all of it: the harness is started again with its
conversation after a back-off, or the agent is lost. A harness that does not come to the gateway in time is killed,
which counts as an end. When the process ends, or the agent is stopped, the command is killed and the gateway is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from regrow_protocol import agents as wire
from regrow_protocol import machines as machine_wire
from regrow_protocol.errors import RegrowError

from .. import scope
from ..commanding import Asked
from ..errors import Forked, ProcessGone
from ..machines.errors import MachineError, MachineLost
from ..machines.machine import Machine
from ..supervision.policy import Backoff, RestartPolicy
from .agent import Agent
from .errors import AgentEnded, AgentError, AgentNotStarted
from .tools import ToolTable

log = logging.getLogger("regrow.agents")

SHOWN = 4_000
"""Characters of a harness's last output that errors and events tell."""
KILL_GRACE = 15.0
"""Seconds that a killed harness may take to end, until its output is done without."""


@dataclass(frozen=True)
class AgentLoss:
    """An agent that has died for good.

    Attributes:
        agent: that was lost.
        reason: in words.
        exit_code: of its harness; None where it is not known.
        output: the end of what it showed.
        session: the number of its last start.
    """

    agent: Agent
    reason: str
    exit_code: int | None = None
    output: str = ""
    session: int = 0


@dataclass(frozen=True)
class Care:
    """How an agent is kept.

    Attributes:
        restart: `permanent`: started again however it ended; `transient`: unless it ended with 0; `temporary`: never.
        restarts: so often in a row; None: without limit. One that ran for `backoff.steady` seconds starts a new row.
        backoff: before each.
        start_timeout: seconds that a harness has until it must have come to the gateway.
    """

    restart: RestartPolicy
    restarts: int | None
    backoff: Backoff
    start_timeout: float

    def again(self, end: End, failures: int) -> bool:
        """Whether the harness is started again, `failures` being its ends in a row."""
        if end.final or self.restart == "temporary" or (self.restart == "transient" and end.exit_code == 0):
            return False
        return self.restarts is None or failures <= self.restarts


@dataclass(frozen=True)
class End:
    """How a session of a harness ended.

    Attributes:
        final: another one is of no use.
    """

    reason: str
    exit_code: int | None = None
    output: str = ""
    final: bool = False

    @classmethod
    def of(cls, done: machine_wire.ExecDone, late: str = "") -> End:
        """The end of the command; `late`: it was killed since it had not come in time."""
        output = (done.stdout + done.stderr).decode("utf-8", "replace").strip()[-SHOWN:]
        reason = f"it ended with exit code {done.exit_code}"
        if late:
            reason = f"{late} and was killed"
        return cls(reason, done.exit_code, output)


class Charge:
    """An agent as its owner keeps it.

    Attributes:
        agent: None until it is enrolled.
        tools: of it.
        hooks: called when it is lost.
        own_machine: the machine was made for it, and is stopped with it.
        state: `starting`, `running`, `lost`, `ended`.
    """

    def __init__(self, name: str, care: Care) -> None:
        self.name = name
        self.care = care
        self.agent: Agent | None = None
        self.tools = ToolTable()
        self.hooks: list[Callable[[AgentLoss], Any]] = []
        self.own_machine: Machine | None = None
        self.state = "starting"
        self.url = self.token = ""
        self._named = True
        self._session = 1
        self._seen = 0
        self._failure: AgentError | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._keeper: asyncio.Task[None] | None = None
        self._running: Asked | None = None

    # Beginning --------------------------------------------------------------------------------------------------------

    def enrolled(self, agent: Agent, enrolled: wire.Enrolled) -> None:
        """The gateway knows it: from now on it can be told things, and its tools answer."""
        here = scope.current()
        self.agent, self.url, self.token = agent, enrolled.url, enrolled.token
        here.belongings.agents[agent.id] = self
        here.expose(self._heard, wire.news_endpoint(agent.id))
        self.tools.enrolled(agent.id, agent.app)
        if enrolled.launch is not None:
            self._keeper = here.background(self._keep(enrolled.launch))

    async def registered(self, session: int) -> None:
        """Wait until the harness has come in that session; raises AgentNotStarted or AgentEnded when it never will."""
        while self._seen < session:
            if self._failure is not None:
                raise self._failure
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _never_comes(self, failure: AgentError) -> None:
        self.state = "ended"
        self._failure = failure
        self._wake()

    async def _heard(self, what: str, session: int = 0, data: Any = None, **_: Any) -> None:
        """The endpoint `news_endpoint`."""
        if what == "registered":
            self._seen = max(self._seen, session)
            self._wake()
        elif what == "stalled":
            known = data if isinstance(data, dict) else {}
            self._emit("agent_stalled", **({"session": session} | known))
        elif what == "lost" and session >= self._session:
            if self._running is not None:
                self._kill(self._running)  # what follows is decided when it has ended
            elif self._keeper is None:
                await self._lose(End("it has fallen silent", final=True))

    # Keeping ----------------------------------------------------------------------------------------------------------

    async def _keep(self, launch: wire.Launch) -> None:
        try:
            await self._keep_on(launch)
        except asyncio.CancelledError:
            with suppress(ProcessGone):
                if self._running is not None:
                    self._kill(self._running)
                if self.state not in ("lost", "ended"):
                    self._end_at_gateway()
            if self.state != "lost":
                self._never_comes(AgentEnded(f"The agent {self.name!r} was ended"))
            raise

    async def _keep_on(self, launch: wire.Launch) -> None:
        failures = 0
        while True:
            self._session = launch.session
            began = scope.current().clock
            end = await self._session_of(launch)
            if self.state == "starting":
                self._fail(end)
                return
            if scope.current().clock - began >= self.care.backoff.steady:
                failures = 0
            failures += 1
            if not self.care.again(end, failures):
                await self._lose(end)
                return
            assert self.agent is not None
            await asyncio.sleep(self.care.backoff.delay(failures, f"{self.agent.id}.{launch.session}"))
            try:
                launch = await self._relaunch(launch.session, end)
            except RegrowError as error:
                reason = f"it could not be started again: {error.message}"
                await self._lose(End(reason, end.exit_code, end.output, final=True))
                return

    async def _relaunch(self, session: int, end: End) -> wire.Launch:
        assert self.agent is not None
        args = wire.Relaunch(session, end.exit_code or 0)
        subject = wire.agent_subject(self.agent.app, self.agent.id)
        return await scope.current().command("agent.relaunch", subject, args, wire.Launch, AgentError).future

    async def _session_of(self, launch: wire.Launch) -> End:
        """Run the harness once, to its end."""
        assert self.agent is not None
        box = self.agent.machine
        assert box is not None
        try:
            await asyncio.gather(*(box.write_file(f.path, f.data, mode=f.mode) for f in launch.files))
            self._running = box._ask("exec", machine_wire.Exec(launch.command, env=launch.env), machine_wire.ExecDone)
            try:
                return await self._watch(self._running.future, launch)
            finally:
                if self._running.future.done():
                    self._running = None
        except Forked:
            return End("it belongs to the process that this one was copied from", final=True)
        except RegrowError as error:
            return End(error.message, final=isinstance(error, MachineLost) or not isinstance(error, MachineError))

    async def _watch(self, ended: asyncio.Future[machine_wire.ExecDone], launch: wire.Launch) -> End:
        session = launch.session
        came = asyncio.ensure_future(self.registered(session))
        late = ""
        try:
            await asyncio.wait([ended, came], timeout=self.care.start_timeout, return_when=asyncio.FIRST_COMPLETED)
            if self._seen >= session:
                self._came(session)
            elif not ended.done():
                gateway = launch.env.get("REGROW_AGENT_URL", "").partition("/agents/")[0]
                late = f"it did not come to the gateway {gateway} within {self.care.start_timeout:g} s"
                assert self._running is not None
                self._kill(self._running)
                await asyncio.wait([ended], timeout=KILL_GRACE)
                if not ended.done():
                    return End(f"{late}, nor end when it was killed")
        finally:
            came.cancel()
        return End.of(await asyncio.shield(ended), late)

    def _came(self, session: int) -> None:
        if self.state == "starting":
            self.state = "running"
        else:
            self._emit("agent_restarted", session=session)

    # Ending -----------------------------------------------------------------------------------------------------------

    def _fail(self, end: End) -> None:
        """It has not even started: whoever waits in `agent()` is told."""
        self._end_at_gateway()
        text = f"The agent {self.name!r} has not started: {end.reason}"
        shown = f"; it showed:\n{end.output}" if end.output else ""
        self._never_comes(AgentNotStarted(text + shown, exit_code=end.exit_code, output=end.output))

    async def _lose(self, end: End) -> None:
        """It is not started again."""
        here = scope.current()
        assert self.agent is not None
        by_itself = end.exit_code == 0 and not end.final
        self.state = "ended" if by_itself and self.care.restart == "transient" else "lost"
        self._free_name()
        subject = wire.agent_subject(self.agent.app, self.agent.id)
        if self.state == "ended":
            self._end_at_gateway()
            self._emit("agent_ended", exit_code=0, reason=end.reason)
            return
        if self.agent.owner == here.pid:
            here.tell("agent.lost", subject, wire.Lost(self._session, end.exit_code or 0, end.reason))
        self._emit("agent_lost", session=self._session, exit_code=end.exit_code, reason=end.reason, output=end.output)
        loss = AgentLoss(self.agent, end.reason, end.exit_code, end.output, self._session)
        for hook in list(self.hooks):
            try:
                called = hook(loss)
                if asyncio.iscoroutine(called):
                    await called
            except Exception:
                log.exception("on_lost of agent %s raised", self.agent.id)

    async def stop(self) -> None:
        """As `Agent.stop`."""
        here = scope.current()
        agent = self.agent
        assert agent is not None
        self._never_comes(AgentEnded(f"The agent {self.name!r} was ended"))
        self._free_name()
        if self._keeper is not None and not self._keeper.done():
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        subject = wire.agent_subject(agent.app, agent.id)
        await here.command("agent.stop", subject, wire.Nothing(), None, AgentError).future
        if self.own_machine is not None:
            await self.own_machine.stop()

    def give_up(self) -> None:
        """`agent()` was cancelled, or failed: leave nothing behind, and wait for nothing."""
        here = scope.current()
        self._free_name()
        if self._keeper is not None and not self._keeper.done():
            self._keeper.cancel()
        elif self.agent is not None and self.state != "ended":
            self._end_at_gateway()
        if self._keeper is None:
            self.state = "ended"
        if self.own_machine is not None and self.own_machine.id in here.belongings.machines:
            self.own_machine._tell_stop()

    def _free_name(self) -> None:
        """Once: after that another agent may have it."""
        if self._named:
            self._named = False
            scope.current().belongings.names.discard(self.name)

    def _end_at_gateway(self) -> None:
        """Unless this process is a copy of the one that made it."""
        if self.agent is not None and self.agent.owner == scope.current().pid:
            subject = wire.agent_subject(self.agent.app, self.agent.id)
            scope.current().tell("agent.stop", subject, wire.Nothing())

    def _kill(self, asked: Asked) -> None:
        assert self.agent is not None
        assert self.agent.machine is not None
        self.agent.machine._tell_kill(asked.id)

    def _emit(self, type_: str, **data: Any) -> None:
        assert self.agent is not None
        scope.current().emit(type_, {"id": self.agent.id, "name": self.name, **data})
