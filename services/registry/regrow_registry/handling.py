"""Commands to the registry: what processes expose, grants, and calls that outlive their caller.

Commands of one process may come in any order, and again. What decides between two is the operation that each is of:
the latest one of an endpoint stands; what was withdrawn stays so; who has ended exposes nothing.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
from msgspec import UNSET, Raw
from msgspec.structs import replace
from regrow_protocol import agents, ids, messages, values
from regrow_protocol.agents import AgentRecord
from regrow_protocol.bus import Received
from regrow_protocol.endpoints import (
    ARGUMENTS,
    Attach,
    CallEndpoint,
    Detach,
    EndpointsRecord,
    ExposeEndpoint,
    Grant,
    Withdraw,
)
from regrow_protocol.errors import PublishRejected, RegrowError, StorageFull, Unreachable, WrongRevision
from regrow_protocol.messages import Command, Failure
from regrow_service.answers import Answer, Answers, checked, failure, is_pid
from regrow_service.consumer import Later, Rejected

from .calling import Calling
from .recording import Recording
from .records import Records

TRY_AGAIN = (Unreachable, StorageFull, WrongRevision)
"""What a command is given back for: it is nobody's answer."""
GATHER = 0.05
"""Seconds for which what a process without a name exposes waits for more of it, and perhaps for its end, to be written
at once."""


class Refused(RegrowError):
    """What a command asks for is not done."""

    code = "refused"


class Handling:
    """Of one registry."""

    def __init__(self, records: Records, calling: Calling, answers: Answers, recording: Recording) -> None:
        self._records = records
        self._calling = calling
        self._answers = answers
        self._recording = recording

    async def handle(self, command: Command, message: Received) -> None:
        """Do what a command asks for, and answer it."""
        checked(command, message.subject.split(".")[3])
        type_ = ARGUMENTS.get(command.name)
        try:
            if type_ is None:
                raise Refused(f"{command.name!r} is nothing that a registry does")
            command = await values.inflate(command, self._answers.bus.get_value)
            args: Any = messages.decode(command.args, type_)
            answer = await self._do(command, args, message)
        except (Later, Rejected, *TRY_AGAIN):
            raise
        except msgspec.MsgspecError as error:
            answer = Answer(error=Failure("InvalidArguments", f"{command.name}: {error}", "invalid-arguments", False))
        except RegrowError as error:
            answer = Answer(error=failure(error, retryable=False))
        await self._answers.send(command, answer)
        if answer.error is not None and not command.reply:
            raise Rejected(f"{command.name}: {answer.error.message}")

    async def lost(self, command: Command, reason: str) -> None:
        """Answer a command that is given up."""
        await self._answers.send(command, Answer(error=Failure("Refused", reason, Refused.code)))

    async def _do(self, command: Command, args: Any, message: Received) -> Answer:
        if isinstance(args, CallEndpoint):
            return await self._call(command, args)
        if isinstance(args, ExposeEndpoint):
            await self._expose(command, args, message.time)
        elif isinstance(args, Withdraw):
            await self._withdraw(command, args)
        elif isinstance(args, Attach):
            return Answer(Raw(messages.encode(await self._attach(command, args, message.time))))
        elif isinstance(args, Detach):
            await self._records.revoke(args.grant, lambda grant: grant.app == command.app)
        return Answer(Raw(b"null"))

    # what processes expose --------------------------------------------------------------------------------------------

    async def _expose(self, command: Command, args: ExposeEndpoint, at: float) -> None:
        pid, position = _pid(command), [args.incarnation, args.n]

        def with_it(record: EndpointsRecord | None) -> EndpointsRecord | None:
            record = record or EndpointsRecord(pid=pid, app=command.app, type=args.type, created=at)
            name = args.endpoint.name
            late = args.incarnation <= record.incarnation or record.since.get(name, [-1]) >= position
            if record.ended or record.app != command.app or late:
                return None
            return replace(
                record,
                type=args.type,
                name=args.name,
                endpoints={**record.endpoints, name: args.endpoint},
                since={**record.since, name: position},
            )

        record = await self._records.change(pid, with_it, gather=0.0 if args.name else GATHER)
        if record is not None and record.name and not record.ended and not self._records.has_name(record):
            await self._records.claim(record)

    async def _withdraw(self, command: Command, args: Withdraw) -> None:
        pid = _pid(command)

        def without(record: EndpointsRecord | None) -> EndpointsRecord | None:
            record = record or EndpointsRecord(pid=pid, app=command.app, type="", ended=args.ended)
            if record.app != command.app:
                return None
            if args.ended:
                return replace(record, endpoints={}, since={}, incarnation=args.incarnation, ended=True)
            kept = {name: since for name, since in record.since.items() if since[0] > args.incarnation}
            return replace(
                record,
                endpoints={name: record.endpoints[name] for name in kept},
                since=kept,
                incarnation=max(record.incarnation, args.incarnation),
            )

        record = await self._records.change(pid, without)
        if args.ended and record is not None:
            await end(self._records, pid, record.name)

    # grants -----------------------------------------------------------------------------------------------------------

    async def _attach(self, command: Command, args: Attach, at: float) -> str:
        if not is_pid(args.pid) or not is_pid(args.agent):
            raise Refused("a grant is of a process to an agent, by their ids")
        if args.rate < 0 or args.seconds < 0:
            raise Refused(f"a grant's rate and seconds must not be negative: {args.rate:g}, {args.seconds:g}")
        found = await self._answers.bus.kv(agents.BUCKET).get(f"agent.{args.agent}")
        agent = messages.decode(found[0], AgentRecord) if found is not None else None
        if agent is None or agent.app != command.app:
            raise Refused(f"There is no agent {args.agent} in the app {command.app}", hint="`regrow agents` lists them")
        if agent.state == "ended":
            raise Refused(f"The agent {args.agent} has ended")
        grant = Grant(
            id=ids.derived_id(ids.GRANT, command.id, at),
            app=command.app,
            agent=args.agent,
            pid=args.pid,
            by=command.by.pid if command.by is not None else "",
            only=args.only,
            prefix=args.prefix,
            rate=args.rate,
            expires=at + args.seconds if args.seconds else 0.0,
            created=at,
        )
        if not grant.expires or grant.expires > time.time():
            await self._records.grant(grant)
        return grant.id

    # calls ------------------------------------------------------------------------------------------------------------

    async def _call(self, command: Command, args: CallEndpoint) -> Answer:
        if bool(args.name) == bool(args.pid):
            raise Refused("a call is of a process by its public name or by its pid")
        target = await self._calling.target(args.endpoint, pid=args.pid, name=args.name, app=command.app)
        caller = command.by.pid if command.by is not None else caller_of(command.reply) or command.id
        with self._recording.of(target, command.id, caller) as record:
            try:
                reply = await self._calling.call(target, args.args, key=f"{command.app}.{command.id}")
            except PublishRejected as error:
                raise Refused(f"{args.endpoint} could not be called: {error}") from error
            record.answered(reply)
        return Answer(reply.value if reply.error is None else UNSET, reply.error)


async def end(records: Records, pid: str, name: str) -> None:
    """What a process that has ended leaves behind: grants of its endpoints, and its public name."""
    for kept in [kept for kept in records.grants.values() if kept.record.pid == pid]:
        await records.revoke(kept.record.id, lambda grant: grant.pid == pid)
    if name:
        await records.settle(name)


def caller_of(reply: str) -> str:
    """Who waits on a reply subject, `_INBOX.<id>.…` or `regrow.reply.<client>.<n>`."""
    parts = reply.split(".")
    return parts[2] if reply.startswith("regrow.reply.") and len(parts) > 2 else parts[1] if len(parts) > 1 else ""


def _pid(command: Command) -> str:
    if command.by is None:
        raise Rejected(f"{command.name} is for processes")
    return command.by.pid
