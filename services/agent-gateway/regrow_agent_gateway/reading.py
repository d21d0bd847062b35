"""`read`: pages of a conversation, waited for.

An entry is heard of when it is published, and read from the stream, which has it a moment later: so what was heard is
read for with short pauses, and now and then without having been heard.
"""

from __future__ import annotations

import asyncio
import re

from regrow_protocol import messages
from regrow_protocol.agents import Entry, Page, ReadConversation, conversation, entries_of
from regrow_protocol.messages import Command
from regrow_protocol.streams import AGENTS
from regrow_service.consumer import Later
from regrow_service.service import until

from .context import Context

MOST = 1000
BYTES = 1024 * 1024
"""Bytes of data in a page, beyond which no further entry is put into it."""
PAUSES = (0.0, 0.002, 0.01, 0.05, 0.2)
QUIET = 10.0
"""Seconds after which the stream is read without anything having been heard."""
_AGENT = re.compile(r"a_[0-9a-z]{26}")


class Reading:
    """Of one gateway."""

    def __init__(self, context: Context) -> None:
        self._here = context

    async def known(self, app: str, agent: str) -> bool:
        """Whether an agent has a conversation."""
        return bool(_AGENT.fullmatch(agent)) and await self._here.bus.last(AGENTS, conversation(app, agent)) is not None

    async def page(self, command: Command, agent: str) -> Page:
        """The page that a `read` command asks for.

        Raises:
            Later: nothing has come, and this gateway stops.
        """
        here = self._here
        args: ReadConversation = messages.decode(command.args, ReadConversation)
        most = min(max(args.most, 1), MOST)
        app = command.app
        if (page := await self._now(app, agent, args.after, most)) is not None:
            return page
        ended = await self._ended(app, agent, args.after)
        if ended or not args.wait:
            return Page(ended=ended)
        heard = asyncio.Event()
        sid = here.bus.nc.raw_subscribe(conversation(app, agent), lambda *_: heard.set())
        try:
            pauses = (0.0,)
            while True:
                heard.clear()
                for pause in pauses:
                    await asyncio.sleep(pause)
                    if (page := await self._now(app, agent, args.after, most)) is not None:
                        return page
                try:
                    async with asyncio.timeout(QUIET):
                        await until(here.stopping, _set(heard))
                except TimeoutError:
                    pass
                if here.stopping.is_set():
                    raise Later("this gateway stops")
                pauses = PAUSES if heard.is_set() else (0.0,)
        finally:
            here.bus.nc.raw_unsubscribe(sid)

    async def _now(self, app: str, agent: str, after: int, most: int) -> Page | None:
        """What there is, or None."""
        found, _ = await self._here.conversations.page(app, agent, after, most)
        entries: list[Entry] = []
        size = 0
        for entry in found:
            size += len(bytes(entry.data))
            if entries and size > BYTES:
                break
            entries.append(entry)
        return Page(entries, ended=entries[-1].type == "ended") if entries else None

    async def _ended(self, app: str, agent: str, after: int) -> bool:
        last = await self._here.bus.last(AGENTS, entries_of(app, agent, "ended"))
        return last is not None and last.seq <= after


async def _set(event: asyncio.Event) -> None:
    await event.wait()
