"""The desk that every door leads to: who an agent is, what it may call, and its calls.

A door knows an agent's id, its token, and the session of the harness; all that it may do goes through here, so the
doors differ in nothing but their protocols.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
from msgspec import Raw
from msgspec.structs import replace
from regrow_protocol import messages
from regrow_protocol.agents import ENTRIES, AgentRecord, Outcome, Tool, call_key, tool_endpoint
from regrow_protocol.errors import RegrowError
from regrow_protocol.ids import new_id
from regrow_service import validation
from regrow_service.logs import get_logger

from . import news, tokens
from .calls import Calls, OnWait, Target
from .context import Context
from .conversations import Stored, entry
from .doors.waiting import first
from .errors import AgentEnded, InvalidArguments, InvalidRequest, SessionOver, ToolNotFound, Unauthorized
from .grants import Grants
from .links import Links
from .measures import REFUSED
from .records import ENDED
from .stalls import Stalls
from .turn_news import Turns
from .usage import Sums

TOLD = frozenset({"text", "turn", "usage", "note"})
"""Entries that a harness may write."""
REMEMBERED = 100_000
LOOK = 0.5
"""Seconds between two looks for a tool that comes back."""
_NONE = Raw(b"{}")


class Desk:
    """Of one gateway."""

    def __init__(self, context: Context, grants: Grants, links: Links, stalls: Stalls, sums: Sums) -> None:
        self._here = context
        self._grants, self._links, self._stalls, self._sums = grants, links, stalls, sums
        self._turns = Turns(context)
        self._calls = Calls(context, links.call, stalls.heard)
        self._seen: dict[tuple[str, int], None] = {}
        self._changes: dict[str, set[asyncio.Event]] = {}
        self._log = get_logger("desk")
        context.records.subscribe(self.tell)

    # who --------------------------------------------------------------------------------------------------------------

    async def agent(self, id_: str, token: str) -> AgentRecord:
        """The agent whose token this is.

        Raises:
            Unauthorized: it is not; an agent that does not exist has no token either.
            AgentEnded: it was.
            Unreachable: that cannot be told now.
        """
        if not tokens.fits(self._here.secret, id_, token):
            raise self.refused(id_, Unauthorized("This is no token of this agent", hint="Authorization: Bearer rga_…"))
        record = self._here.records.live(id_) or await self._here.records.fetch(id_)
        if record is None or record.state == ENDED:
            reason = record.reason if record is not None and record.reason else "it is over"
            raise self.refused(id_, AgentEnded(f"The agent {id_} has ended: {reason}"))
        return record

    def refused(self, id_: str, error: RegrowError) -> RegrowError:
        """Note that something was refused to an agent; the error itself."""
        self._here.metrics[REFUSED].labels(error.code).inc()
        self._log.warning("refused", agent=id_[:64], code=error.code, reason=error.message)
        return error

    async def seen(self, agent: AgentRecord, session: int) -> AgentRecord:
        """The harness is there: its first word in a session makes it `registered`, and its owner hears of that.

        Returns:
            The agent as it is in that session.

        Raises:
            SessionOver: it was started again since, or was never started so often.
            Unreachable: it could not be noted.
        """
        if session and session != agent.session:
            known = await self._here.records.fetch(agent.id)  # what is known here may be older
            agent = known if known is not None and known.state != ENDED else agent
            if session != agent.session:
                what = f"Session {session} of the agent {agent.id} is over: it is in session {agent.session}"
                raise self.refused(agent.id, SessionOver(what, hint="end; the harness was started again"))
        if (agent.id, agent.session) in self._seen:
            return agent
        here, number = self._here, agent.session
        registered = entry("registered", str(number), {"session": number}, session=number)
        await here.conversations.add(agent, registered)
        await news.tell(here.inboxes, agent, registered)

        def running(now: AgentRecord) -> AgentRecord | None:
            return replace(now, state="running") if now.session == number and now.state != ENDED else None

        now, _ = await here.records.change(agent.id, running)
        self._stalls.heard(agent)
        self._seen[agent.id, number] = None
        if len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]
        return now or agent

    def still(self, agent: AgentRecord) -> AgentRecord:
        """The agent as it is now.

        Raises:
            AgentEnded: it is no more.
            SessionOver: its harness was started again.
        """
        now = self._here.records.live(agent.id)
        if now is None:
            raise AgentEnded(f"The agent {agent.id} has ended")
        if now.session != agent.session:
            raise SessionOver(f"Session {agent.session} of the agent {agent.id} is over: it is in {now.session}")
        return now

    # what -------------------------------------------------------------------------------------------------------------

    def tools(self, agent: AgentRecord) -> list[Tool]:
        """What the agent may call now."""
        return [tool for tool, _ in self._reach(agent).values()]

    @contextmanager
    def changed(self, agent_id: str) -> Generator[asyncio.Event]:
        """An event that is set whenever an agent, or what it may call, has changed; who waits for it clears it."""
        event = asyncio.Event()
        events = self._changes.setdefault(agent_id, set())
        events.add(event)
        try:
            yield event
        finally:
            events.discard(event)
            if not events and self._changes.get(agent_id) is events:
                del self._changes[agent_id]

    def tell(self, agent_id: str) -> None:
        """An agent, or what it may call, has changed."""
        for event in self._changes.get(agent_id, ()):
            event.set()

    def _reach(self, agent: AgentRecord) -> dict[str, tuple[Tool, Target]]:
        """By name, what the agent may call and where that goes: of two with one name its own comes first, then what was
        attached.
        """
        found = {tool.name: (tool, _own(agent, tool)) for tool in agent.tools}
        for name, reached in self._reach_of_others(agent):
            found.setdefault(name, reached)
        return found

    def _find(self, agent: AgentRecord, name: str) -> tuple[Tool, Target] | None:
        """One of `_reach`."""
        for tool in agent.tools:
            if tool.name == name:
                return tool, _own(agent, tool)
        return next((reached for known_as, reached in self._reach_of_others(agent) if known_as == name), None)

    def _reach_of_others(self, agent: AgentRecord) -> Iterator[tuple[str, tuple[Tool, Target]]]:
        for tool, endpoint, grant in self._grants.of(agent):
            target = Target(
                tool=tool.name, args=_NONE, endpoint=endpoint, pid=grant.pid, grant=grant.id, rate=grant.rate
            )
            yield tool.name, (tool, target)
        for tool, target in self._links.tools(agent):
            yield tool.name, (tool, target)

    # calls and entries ------------------------------------------------------------------------------------------------

    async def call(
        self,
        agent: AgentRecord,
        *,
        session: str,
        call: str,
        tool: str,
        args: Mapping[str, Any],
        on_wait: OnWait | None = None,
    ) -> Outcome:
        """Call a tool, once for each session and call; a repeat is answered what the first one was.

        Args:
            agent: who calls.
            session: of the harness, or of its connection where ids of calls begin anew with each.
            call: the harness's own id of the call.
            tool: its name.
            args: by the names of its parameters.
            on_wait: awaited now and then with the seconds that the call has waited.

        Raises:
            ToolNotFound: the agent may not call it, or there is none.
            InvalidArguments: they do not fit.
            TooMany: calls are under way.
            Unreachable: the store does not answer; the same call may be made again.
        """
        agent = self._here.records.live(agent.id) or agent
        try:
            target = await self._target_now(agent, tool, args)
        except (ToolNotFound, InvalidArguments) as error:
            # what was called while it could be is answered as it was
            known = await self._calls.again(agent, call_key(session, call), on_wait)
            if known is None:
                raise self.refused(agent.id, error) from None
            return known
        return await self._calls.call(agent, session, call, target, on_wait)

    async def _target_now(self, agent: AgentRecord, tool: str, args: Mapping[str, Any]) -> Target:
        """As `_target`; found is also what another gateway has just given, and what comes back after a restart."""
        try:
            return self._target(agent, tool, args)
        except (ToolNotFound, InvalidArguments):
            now = await self._here.records.fetch(agent.id)
            if now is None or now.state == ENDED:
                raise
        with self.changed(agent.id) as changed:
            while self._grants.coming(now, tool) and not self._here.stopping.is_set():
                await first(changed, self._here.stopping, timeout=LOOK)
                changed.clear()
        return self._target(now, tool, args)

    def _target(self, agent: AgentRecord, tool: str, args: Mapping[str, Any]) -> Target:
        found = self._find(agent, tool)
        if found is None:
            names = ", ".join(sorted(self._reach(agent))) or "none"
            raise ToolNotFound(f"There is no tool {tool[:100]!r}; there are: {names}")
        try:
            validation.check(found[0], dict(args))
        except validation.InvalidArguments as error:
            raise InvalidArguments(error.message, hint=error.hint) from error
        return replace(found[1], args=Raw(messages.encode(args)))

    async def again(self, agent: AgentRecord, key: str, on_wait: OnWait | None = None) -> Outcome | None:
        """What a call was answered that was made before, waited for if need be; None when it was not.

        Args:
            agent: who has called.
            key: the `call_key` of its session and call.
            on_wait: as of `call`.

        Raises:
            TooMany, Unreachable: as of `call`.
        """
        return await self._calls.again(agent, key, on_wait)

    async def entry(
        self, agent: AgentRecord, type_: str, data: Mapping[str, Any], *, id_: str = "", session: int = 0
    ) -> Stored:
        """Add to the conversation what a harness tells: one of `TOLD`; where it stands."""
        made = entry(type_, id_ or new_id("e"), checked(type_, data), session=session or agent.session)
        stored = await self._here.conversations.add(agent, made)
        self._stalls.heard(agent)
        if type_ == "usage":
            self._sums.used(agent.id)
        elif type_ == "turn":
            self._turns.heard(agent)
        return stored


def _own(agent: AgentRecord, tool: Tool) -> Target:
    """Where a call of an agent's own tool goes."""
    return Target(tool=tool.name, args=_NONE, endpoint=tool_endpoint(agent.id, tool.name), pid=agent.owner.pid)


def checked(type_: str, data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The data of an entry itself, if others can read it. Raises InvalidRequest."""
    try:
        msgspec.convert(data, ENTRIES.get(type_, dict))
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"The data of a {type_} entry does not fit: {error}") from error
    return data
