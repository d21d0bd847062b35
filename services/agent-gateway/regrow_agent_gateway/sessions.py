"""Sessions of a harness: it has ended, and is started again with its conversation, or is lost."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace
from regrow_protocol.agents import AgentRecord, Launch, Lost, Relaunch
from regrow_protocol.errors import RegrowError

from .context import Context
from .conversations import entry
from .enrolling import Enrolling
from .records import ENDED


class NotLaunched(RegrowError):
    """An agent that nobody starts cannot be started again."""

    code = "not-launched"


class NoSuchSession(RegrowError):
    """The agent was never started so often."""

    code = "no-such-session"


class Sessions:
    """Of one gateway."""

    def __init__(self, context: Context, enrolling: Enrolling) -> None:
        self._here = context
        self._enrolling = enrolling

    async def relaunch(self, agent: AgentRecord, args: Relaunch) -> Launch:
        """The launch that follows on a session; of a later one, if that stands already.

        Raises:
            NotLaunched, NoSuchSession: there is none.
        """
        if agent.machine is None:
            raise NotLaunched(f"The agent {agent.id} comes by itself: nobody starts it")
        await self._lost(agent, args.session, {"exit_code": args.exit_code, "reason": "", "again": True})

        def next_(now: AgentRecord) -> AgentRecord | None:
            if now.state == ENDED or now.session != args.session:
                return None
            return replace(now, state="enrolled", session=now.session + 1, reason="")

        record, _ = await self._here.records.change(agent.id, next_)
        launch = self._enrolling.launch(record or agent)
        assert launch is not None
        return launch

    async def lost(self, agent: AgentRecord, args: Lost) -> None:
        """A session has ended, and none follows."""
        data = {"exit_code": args.exit_code, "reason": args.reason, "again": False}
        await self._lost(agent, args.session, data)

        def lost(now: AgentRecord) -> AgentRecord | None:
            if now.state == ENDED or now.session != args.session:
                return None
            return replace(now, state="lost", reason=args.reason or f"exit code {args.exit_code}")

        await self._here.records.change(agent.id, lost)

    async def _lost(self, agent: AgentRecord, session: int, data: dict[str, Any]) -> None:
        if session > agent.session:
            raise NoSuchSession(f"The agent {agent.id} is in session {agent.session}, not in {session}")
        await self._here.conversations.add(agent, entry("lost", str(session), data, session=session))
