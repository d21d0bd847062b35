"""Commands that are done once: their answers are kept by id, and a repeat gets the kept one.

One write per command. Between doing it and keeping its answer a manager may die, and another one does it again: what a
command makes has an id derived from the command's, by which the backend recognises it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakValueDictionary

from msgspec import Raw, UnsetType
from regrow_protocol import messages
from regrow_protocol.errors import WrongRevision
from regrow_protocol.messages import Command
from regrow_protocol.subjects import token
from regrow_service.answers import Answer, Answers
from regrow_service.idempotent import CommandRecord

BUCKET = "regrow_commands"
KEEP = 7 * 86_400.0
SILENT = 1.0
"""Seconds, less than those after which a silent manager's commands come to others."""


class Once:
    """Over the bucket of the commands' records."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._kv = answers.bus.kv(BUCKET)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def run(self, command: Command, work: Callable[[], Awaitable[Answer]]) -> Answer:
        """The kept answer of a command, or what `work` answers, which is kept."""
        key = _key(command)
        turn = self._turns.get(key)
        if turn is None:
            self._turns[key] = turn = asyncio.Lock()
        async with turn:
            if (known := await self.recall(command)) is not None:
                return known
            return await self.keep(command, await work())

    async def late(self, command: Command, since: float) -> Answer | None:
        """The kept answer of a command that was begun here at `since` (of the loop's clock), if that was long ago.

        A manager that was silent for a while, as one that was suspended, goes on with a command that another one has
        done meanwhile, and after which others may have been done.
        """
        return await self.recall(command) if asyncio.get_running_loop().time() - since > SILENT else None

    async def recall(self, command: Command) -> Answer | None:
        """The kept answer of a command."""
        found = await self._kv.get(_key(command))
        if found is None:
            return None
        reply = messages.decode(found[0], CommandRecord).reply
        return None if isinstance(reply, UnsetType) else messages.decode(reply, Answer)

    async def keep(self, command: Command, answer: Answer) -> Answer:
        """Keep an answer; the one that counts, which is the first."""
        answer = await self._answers.deflated(answer)
        record = CommandRecord(command.id, reply=Raw(messages.encode(answer)))
        try:
            await self._kv.create(_key(command), messages.encode(record), ttl=KEEP)
        except WrongRevision:
            return await self.recall(command) or answer
        return answer


def value(result: Any) -> Answer:
    """An answer with a result."""
    return Answer(value=Raw(messages.encode(result)))


def _key(command: Command) -> str:
    return f"machine.{token(command.app)}.{command.id}"


NOTHING = Answer(value=Raw(b"null"))
