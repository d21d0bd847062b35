"""Tool calls: recorded, put into the inbox of whose tool it is, answered from the conversation.

A call is known by the agent, the harness's session and its own id of the call. First its `call` entry is written, which
stands once; only who found none goes on without looking whether there is an answer. As the fold takes a call once, too,
a call that is repeated at any moment, on any gateway, is carried out once and answered the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec
from msgspec import Raw, Struct
from regrow_protocol import messages
from regrow_protocol.agents import AgentRecord, Entry, Outcome, answer_subject, call_key
from regrow_protocol.endpoints import CallRecord, call_record_subject
from regrow_protocol.errors import RegrowError, StorageFull, Unreachable, WrongRevision
from regrow_protocol.messages import Failure, ToolCall
from regrow_protocol.streams import CALLS as STREAM
from regrow_service.answers import failure
from regrow_service.logs import get_logger
from regrow_service.rates import Rates
from regrow_service.service import until

from .context import Context
from .conversations import entry
from .errors import TooMany
from .measures import CALLING, CALLS, WAITING

AGAIN = 0.5
WAIT_TICK = 5.0
"""Seconds between two words that a call still waits, at most."""

OnWait = Callable[[float], Awaitable[None]]
"""Called now and then while a call waits, with the seconds since it began."""


class Target(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Where a call goes, the data of its `call` entry.

    Attributes:
        endpoint: of the process `pid`; empty for what the gateway does itself.
        grant: id of the grant that allows it, of what was attached.
        rate: calls per minute that it allows in all; 0: any number.
    """

    tool: str
    args: Raw
    endpoint: str = ""
    pid: str = ""
    grant: str = ""
    rate: float = 0.0


_Answered = tuple[Outcome | None, str]
"""An answer, and what is counted for it."""

Here = Callable[[AgentRecord, Target, str], Awaitable[Any]]
"""Does what a tool of the gateway itself does, under ids derived from the call's key; its result."""


class Calls:
    """Of one gateway.

    Args:
        here: carries out the tools of the gateway itself.
        alive: called with an agent whose call waits.
    """

    def __init__(self, context: Context, here: Here, alive: Callable[[AgentRecord], None]) -> None:
        self._here = context
        self._own = here
        self._alive = alive
        self._rates = Rates(context.bus)
        self._under_way: dict[str, int] = {}
        self._log = get_logger("calls")

    async def call(
        self, agent: AgentRecord, session: str, call: str, target: Target, on_wait: OnWait | None = None
    ) -> Outcome:
        """Carry out a call, or find what it was answered.

        Args:
            agent: who calls.
            session, call: of the harness; the same in every repeat.
            target: where it goes; a repeat goes where it went the first time.
            on_wait: see `OnWait`.

        Raises:
            TooMany: of this agent's, as many as may be are under way here.
            Unreachable: the store does not answer; the call may be repeated.
        """
        answered = await self._counted(agent, self._call(agent, session, call_key(session, call), target, on_wait))
        assert answered is not None, "a call that was made is known"
        return answered

    async def again(self, agent: AgentRecord, key: str, on_wait: OnWait | None = None) -> Outcome | None:
        """What a call was answered that was made before, waited for if need be; None when it was not.

        Raises:
            TooMany, Unreachable: as of `call`.
        """
        return await self._counted(agent, self._again(agent, key, on_wait))

    async def _counted(self, agent: AgentRecord, calling: Coroutine[Any, Any, _Answered]) -> Outcome | None:
        most = self._here.settings.gateway_max_calls
        if self._under_way.get(agent.id, 0) >= most:
            calling.close()
            raise TooMany(f"{most} tool calls are under way", hint="wait for one of them to be answered")
        self._under_way[agent.id] = self._under_way.get(agent.id, 0) + 1
        metrics = self._here.metrics
        outcome = "left"
        try:
            with metrics[CALLING].time(), metrics[WAITING].track_inprogress():
                answer, outcome = await calling
            return answer
        finally:
            metrics[CALLS].labels(outcome).inc()
            self._under_way[agent.id] -= 1
            if not self._under_way[agent.id]:
                del self._under_way[agent.id]

    async def _call(
        self, agent: AgentRecord, session: str, key: str, target: Target, on_wait: OnWait | None
    ) -> _Answered:
        here = self._here
        number = int(session) if session.isdecimal() and len(session) < 10 else agent.session
        self._alive(agent)
        with here.results.expect(agent.app, agent.id, key) as answered:
            made = entry("call", f"{key}.call", target, session=number, call=key)
            stored = await here.conversations.add(agent, made)
            if not stored.new:
                known = await here.conversations.last(agent, "result", key)
                if known is not None:
                    return outcome_of(known), "repeated"
                target = await self._recorded(agent, key) or target
            elif seconds := await self._rates.take(f"grant.{target.grant}", target.rate):
                return await self._refuse(agent, key, target, seconds), "refused"
            return await self._carry_out(agent, key, target, answered, on_wait)

    async def _again(self, agent: AgentRecord, key: str, on_wait: OnWait | None) -> _Answered:
        here = self._here
        with here.results.expect(agent.app, agent.id, key) as answered:
            known = await here.conversations.last(agent, "result", key)
            if known is not None:
                return outcome_of(known), "repeated"
            target = await self._recorded(agent, key)
            if target is None:
                return None, "refused"
            return await self._carry_out(agent, key, target, answered, on_wait)

    async def _carry_out(
        self,
        agent: AgentRecord,
        key: str,
        target: Target,
        answered: asyncio.Future[Entry],
        on_wait: OnWait | None,
    ) -> _Answered:
        started = time.time()
        if target.pid:
            await self._send(agent, key, target)
        else:
            serving = until(self._here.stopping, self._serve(agent, key, target))
            self._here.background(serving, f"tool {target.tool}")
        answer = outcome_of(await self._answer(agent, answered, on_wait))
        if target.grant:
            self._note(agent, key, target, answer, started)
        return answer, "failed" if answer.error is not None else "answered"

    async def _refuse(self, agent: AgentRecord, key: str, target: Target, seconds: float) -> Outcome:
        """Answer a call that is more than was granted."""
        what = f"{target.tool} may be called {target.rate:g} times a minute; call it again in {seconds:.1f} s"
        outcome = Outcome(error=Failure("TooMany", what, TooMany.code))
        await self._here.conversations.add(agent, entry("result", f"{key}.result", outcome, call=key))
        return outcome

    def _note(self, agent: AgentRecord, key: str, target: Target, outcome: Outcome, started: float) -> None:
        """Record a call of what was attached, never its content."""
        record = CallRecord(
            id=key,
            app=agent.app,
            pid=target.pid,
            endpoint=target.endpoint,
            caller=agent.id,
            started=started,
            duration=time.time() - started,
            size=len(bytes(outcome.value)) if isinstance(outcome.value, Raw) else 0,
            error=outcome.error,
        )
        subject = call_record_subject(agent.app, target.pid, target.endpoint)
        self._here.bus.publish_soon(STREAM, subject, messages.encode(record), f"{agent.id}.{key}.called")

    async def _recorded(self, agent: AgentRecord, key: str) -> Target | None:
        """A call as it was made the first time."""
        first = await self._here.conversations.last(agent, "call", key)
        try:
            return None if first is None else messages.decode(first.data, Target)
        except msgspec.MsgspecError:
            return None

    async def _send(self, agent: AgentRecord, key: str, target: Target) -> None:
        message = ToolCall(
            agent=agent.id,
            call=key,
            endpoint=target.endpoint,
            args=target.args,
            reply=answer_subject(agent.app, agent.id, key),
        )
        await self._here.inboxes.put(agent.app, target.pid, message, f"{agent.id}.{key}")

    async def _serve(self, agent: AgentRecord, key: str, target: Target) -> None:
        """Carry out a tool of the gateway itself, and record its answer, however long the store is away."""
        while True:
            try:
                outcome = await self._outcome(agent, key, target)
                await self._here.conversations.add(agent, entry("result", f"{key}.result", outcome, call=key))
            except (Unreachable, StorageFull, WrongRevision) as error:
                self._log.warning("a tool of the gateway is tried again", tool=target.tool, reason=str(error))
                await asyncio.sleep(AGAIN)
            except RegrowError as error:
                self._log.error("an answer cannot be recorded", tool=target.tool, agent=agent.id, reason=str(error))
                return
            else:
                return

    async def _outcome(self, agent: AgentRecord, key: str, target: Target) -> Outcome:
        try:
            return Outcome(value=Raw(messages.encode(await self._own(agent, target, key))))
        except (Unreachable, StorageFull, WrongRevision):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the agent must hear of it
            self._log.info("a tool of the gateway failed", tool=target.tool, agent=agent.id, reason=str(error))
            return Outcome(error=failure(error))

    async def _answer(self, agent: AgentRecord, answered: asyncio.Future[Entry], on_wait: OnWait | None) -> Entry:
        begun = time.monotonic()
        while True:
            done, _ = await asyncio.wait([answered], timeout=min(WAIT_TICK, self._here.settings.gateway_heartbeat))
            if done:
                self._alive(agent)
                return answered.result()
            self._alive(agent)
            if on_wait is not None:
                await on_wait(time.monotonic() - begun)


def outcome_of(answer: Entry) -> Outcome:
    """The outcome in a `result` entry."""
    try:
        return messages.decode(answer.data, Outcome)
    except msgspec.MsgspecError as error:
        return Outcome(error=Failure("CallFailed", f"The answer does not decode: {error}", "call-failed"))


def text_of(failure: Failure) -> str:
    """A failure in words for a model."""
    plain = failure.code != "exception" or failure.message.startswith(failure.error)
    text = failure.message if plain else f"{failure.error}: {failure.message}"
    return text if failure.retryable else f"{text} (trying again is of no use)"
