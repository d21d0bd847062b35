"""Commands that are handled once, however often they arrive and wherever their handler died.

The first thing that handling a command does is to create a record that carries the command's id. "It exists, with my
id" means: continue with the steps that are not recorded yet. "With another id" means: somebody else was first. When all
steps are done the reply is recorded, and a repeat of the command gets that reply. Of two handlers at work at once, the
first recorded result counts.

A step runs at least once, its recorded result counts once: between doing and recording it a handler may die. So a step
does one thing, and does it under an id derived from the command's (`Command.derived`), by which the other side
recognises a repeat.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import replace
from regrow_protocol import messages
from regrow_protocol.bus import Bucket
from regrow_protocol.errors import RegrowError, WrongRevision

R = TypeVar("R")

CONFLICTS = 20
"""Handlers of one command that may get in each other's way before something must be wrong."""


class AlreadyTaken(RegrowError):
    """Another command has created the record first.

    Attributes:
        by: id of that command.
    """

    code = "already-taken"

    def __init__(self, key: str, by: str) -> None:
        super().__init__(f"{key} was already created by command {by}", hint="choose another name, or use what exists")
        self.by = by


class CommandRecord(Struct, frozen=True, omit_defaults=True):
    """What is known of a command.

    Attributes:
        command: its id.
        steps: results of the steps that are done, by name.
        reply: the answer; set when all is done.
    """

    command: str
    steps: dict[str, Raw] = {}
    reply: Raw | UnsetType = UNSET


class Command:
    """A command that is being handled; `handle` makes it.

    Attributes:
        id: the command's.
    """

    def __init__(self, kv: Bucket, key: str, id_: str, ttl: float | None) -> None:
        self.id = id_
        self._kv, self._key, self._ttl = kv, key, ttl
        self._record = CommandRecord(id_)
        self._revision = 0

    def derived(self, name: str) -> str:
        """The id for what the step `name` sends or makes."""
        return f"{self.id}.{name}"

    async def step(self, name: str, do: Callable[[], Awaitable[R]], type_: type[R]) -> R:
        """Do one step, unless its result is recorded; the recorded result, of `type_`."""
        if name not in self._record.steps:
            result = messages.encode(await do())
            await self._write(lambda now: _with_step(now, name, Raw(result)))
        return messages.decode(self._record.steps[name], type_)

    async def _open(self) -> None:
        while True:
            found = await self._kv.get(self._key)
            if found is not None:
                return self._take(*found)
            try:
                self._revision = await self._kv.create(self._key, messages.encode(self._record), ttl=self._ttl)
            except WrongRevision:
                continue
            return None

    async def _write(self, change: Callable[[CommandRecord], CommandRecord]) -> None:
        for _ in range(CONFLICTS):
            changed = change(self._record)
            if changed is self._record:
                return
            try:
                self._revision = await self._kv.update(
                    self._key, messages.encode(changed), self._revision, ttl=self._ttl
                )
            except WrongRevision:
                await self._open()
            else:
                self._record = changed
                return
        raise WrongRevision(f"The record of command {self.id} was changed by others {CONFLICTS} times")

    def _take(self, value: bytes, revision: int) -> None:
        record = messages.decode(value, CommandRecord)
        if record.command != self.id:
            raise AlreadyTaken(self._key, record.command)
        self._record, self._revision = record, revision


async def handle(
    kv: Bucket,
    command: str,
    work: Callable[[Command], Awaitable[R]],
    type_: type[R],
    *,
    key: str = "",
    ttl: float | None = None,
) -> R:
    """Handle a command once; its reply, of `type_`.

    Args:
        kv: bucket of the records.
        command: its id, the same in every repeat.
        work: does it with `Command.step`s and returns the reply; runs again from the top after a crash.
        key: of the record; the command's id by default. A name that two commands may want decides who gets it.
        ttl: seconds that the record is kept after its last change; None: for ever.

    Raises:
        AlreadyTaken: another command has the key.
    """
    at_work = Command(kv, key or command, command, ttl)
    await at_work._open()
    if at_work._record.reply is UNSET:
        reply = Raw(messages.encode(await work(at_work)))
        await at_work._write(lambda now: now if now.reply is not UNSET else replace(now, reply=reply))
    assert not isinstance(at_work._record.reply, UnsetType)
    return messages.decode(at_work._record.reply, type_)


def _with_step(record: CommandRecord, name: str, result: Raw) -> CommandRecord:
    return record if name in record.steps else replace(record, steps={**record.steps, name: result})
