"""Commands to the machines of a node: checked, handed to who does them, answered.

A command must come from the machine's own app. What fails is an answer too; only what cannot be answered, or nobody may
ask for, becomes a dead letter.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
from msgspec.structs import replace
from regrow_protocol import messages
from regrow_protocol.bus import Received
from regrow_protocol.errors import RegrowError
from regrow_protocol.machines import ARGUMENTS, Describe, Description, Expose, Give, MachineRecord
from regrow_protocol.messages import Command, Failure, Ref
from regrow_service.answers import Answer, checked, failure, is_pid
from regrow_service.consumer import Later, Rejected
from regrow_service.logs import get_logger

from .backend import BackendUnavailable, Data, MachineFailed, MachineLost
from .budget import Share
from .capacity import NoCapacity
from .context import Context
from .ending import Ending
from .executing import Executing
from .files import Files
from .making import BUS_ERRORS
from .once import NOTHING, Once, value
from .patience import patiently
from .records import ENDED
from .registry import Opened
from .snapshots import Snapshots

WHICHEVER = -1
"""Incarnation of an owner that got the machine by `give`."""
_RETRYABLE = (BackendUnavailable, NoCapacity)
_REPEATABLE = frozenset({"exec", "kill", "read", "describe"})
"""Commands that may be done again: what they do is known on the machine, or changes nothing."""


class Handling:
    """Of one manager."""

    def __init__(self, context: Context, ending: Ending, once: Once) -> None:
        self._here = context
        self._ending = ending
        self._once = once
        self.executing = Executing(context)
        self._files = Files(context, once)
        self._snapshots = Snapshots(context, ending)
        self._log = get_logger("handling")

    async def handle(self, command: Command, message: Received) -> None:
        """Answer one command, or raise what the consumer knows to deal with."""
        _, _, _, app, _, _, target = message.subject.split(".")
        checked(command, app)
        if command.name not in ARGUMENTS or command.name == "create":
            error = Rejected(f"{command.name!r} is nothing that a machine does")
            await self._here.answers.send(command, Answer(error=failure(error, retryable=False)))
            raise error

        with self.executing.share() as share:
            await self._handle(command, target, share)

    async def _handle(self, command: Command, target: str, share: Share) -> None:
        async def work() -> Answer:
            answer = await self._outcome(command, target, share)
            if command.name == "fork" and answer.error is not None:
                await self._snapshots.give_up(command)
            return answer

        try:
            answer = await (work() if command.name in _REPEATABLE else self._once.run(command, work))
        except Rejected:  # an app is told no more of another one's than of what is not there
            error = MachineLost(f"The machine {target} is unknown")
            await self._here.answers.send(command, Answer(error=failure(error, retryable=False)))
            raise
        await self._here.answers.send(command, answer)

    async def lost(self, command: Command, reason: str) -> None:
        """Answer a command that is given up."""
        if command.name == "fork":
            await self._snapshots.give_up(command)
        await self._here.answers.send(command, Answer(error=Failure("MachineFailed", reason, "machine-failed")))

    async def _outcome(self, command: Command, target: str, share: Share) -> Answer:
        try:
            return await self._do(command, target, share)
        except (Later, Rejected, *BUS_ERRORS):
            raise
        except msgspec.MsgspecError as error:
            return Answer(error=Failure("InvalidArguments", f"{command.name}: {error}", "invalid-arguments", False))
        except Exception as error:  # noqa: BLE001 - somebody else's backend: its caller must hear of it
            return Answer(error=self._failure(command, target, error))

    def _failure(self, command: Command, target: str, error: Exception) -> Failure:
        record = self._here.records.live(target)
        if command.name not in ("stop", "drop") and (record is None or record.state == "stopping"):
            # whatever a backend says of a machine that is taken from under its hands
            lost = (
                error if isinstance(error, MachineLost) else MachineLost(f"The machine {target} was stopped meanwhile")
            )
            return failure(lost, retryable=False)
        if isinstance(error, RegrowError | OSError):
            return failure(error, retryable=isinstance(error, _RETRYABLE))
        self._log.error("a command failed", command=command.id, what=command.name, machine=target, exc_info=error)
        return failure(error)

    async def _do(self, command: Command, target: str, share: Share) -> Answer:
        if command.name == "drop":
            return await self._snapshots.drop(command, target)
        record = await self._machine(command, target)
        if command.name == "stop":
            return await self._stop(target, record)
        if command.name == "describe" and record is not None:
            return value(self._describe(record, messages.decode(command.args, Describe).line))
        if record is None or record.state != "ready":
            if command.name == "kill":
                return NOTHING  # its command went with the machine
            if record is not None and record.failure is not None and record.failure.code == MachineLost.code:
                raise MachineLost(record.failure.message)
            state = "unknown" if record is None else record.state
            raise MachineLost(f"The machine {target} is {state}", hint=record.reason if record else "")
        if command.name == "give":
            return await self._give(command, target)
        opened = await patiently(self._here, record.backend, partial(self._opened, record.backend))
        data: Data = msgspec.json.decode(record.data)
        if command.name == "exec":
            return await self.executing.exec(command, record, opened, data, share)
        if command.name == "read":
            return await self._files.read(command, opened, data, share)
        if command.name == "fork":
            return await self._snapshots.fork(command, record, opened, data)
        if command.name == "snapshot":
            return await self._snapshots.snapshot(command, record, opened, data)
        short: dict[str, Callable[[Command, Opened, Data], Awaitable[Answer]]] = {
            "kill": self.executing.kill,
            "write": self._files.write,
            "pack": self._files.pack,
            "unpack": self._files.unpack,
            "expose": self._expose,
        }
        return await short[command.name](command, opened, data)

    async def _opened(self, backend: str) -> Opened:
        return self._here.backends.get(backend)

    async def _machine(self, command: Command, id_: str) -> MachineRecord | None:
        """The machine of a command; None when nobody knows it. What stands in memory is enough for one that is ready:
        who has just made or taken it told its user only after the record stood.
        """
        record = self._here.records.live(id_)
        if record is None or record.state != "ready" or record.app != command.app:
            record = await self._here.records.fetch(id_)
        if record is not None and record.app != command.app:
            raise Rejected(f"the machine {id_} is not of the app {command.app!r}")
        return record

    async def _stop(self, id_: str, record: MachineRecord | None) -> Answer:
        here = self._here
        if record is None or record.state in ENDED:
            return NOTHING
        await self._ending.mark(id_, "asked")

        def over() -> bool:
            return here.records.live(id_) is None or here.stopping.is_set()

        if not await here.records.wait(id_, over, here.settings.machine_patience):
            raise BackendUnavailable(
                f"The machine {id_} is not stopped yet", hint="it will be; its backend is tried on"
            )
        if here.records.live(id_) is not None:
            raise Later("this manager stops")
        return NOTHING

    async def _give(self, command: Command, id_: str) -> Answer:
        pid = messages.decode(command.args, Give).pid
        if not is_pid(pid):
            raise MachineFailed(f"{pid[:80]!r} is no id of a process", hint="give it to a handle, or its pid")

        def give(now: MachineRecord) -> MachineRecord | None:
            if now.state != "ready":
                return None
            return replace(now, owner=Ref(pid, WHICHEVER, 0), keep=False)

        record, changed = await self._here.records.change(id_, give)
        if not changed:
            raise MachineLost(f"The machine {id_} is {record.state if record else 'unknown'}")
        return NOTHING

    async def _expose(self, command: Command, opened: Opened, data: Data) -> Answer:
        port = messages.decode(command.args, Expose).port
        return value(await patiently(self._here, opened.backend.name, lambda: opened.backend.expose(data, port)))

    def _describe(self, record: MachineRecord, line: str) -> Description:
        known = Description(
            id=record.id,
            app=record.app,
            node=record.node,
            backend=record.backend or record.image.backend,
            state=record.state,
            owner=record.owner.pid if record.owner else "",
            name=record.name,
            created=record.created,
            keep=record.keep,
            details={"host": record.host} if record.host else {},
        )
        opened = self._here.backends.opened.get(record.backend)
        data: Data | None = msgspec.json.decode(record.data)
        if opened is None or data is None:
            return known
        backend = opened.backend
        can = [name for name, method in (("snapshot", "snapshot"), ("ports", "expose")) if backend.has(method)]
        if backend.has("fork") or backend.has("snapshot"):
            can.append("fork")
        return msgspec.structs.replace(
            known, can=can, shell=backend.shell(data, line), workdir=backend.workdir(data), root=backend.root(data)
        )
