"""An agent that is nothing but HTTP requests to a real agent-gateway."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from msgspec import Raw, Struct
from regrow.testing import Runtime
from regrow.testing.gateways import Gateway
from regrow_protocol import messages
from regrow_protocol.agents import Enrol, Enrolled, enrol_subject
from regrow_protocol.bus import Bus
from regrow_protocol.ids import new_id
from regrow_protocol.messages import Command, Ref, Reply
from regrow_protocol.streams import COMMANDS, REPLIES
from shops import eventually, shop


class Refused(Exception):
    """A door said no; what it said."""


@pytest.fixture(scope="module")
def gateway(nats_url: str) -> Iterator[Gateway]:
    made = Gateway(nats_url)
    try:
        made.start()
        yield made
    finally:
        made.close()


class Harness:
    """An agent that is nothing but HTTP requests: it says each message back, word by word, in a turn."""

    def __init__(self, enrolled: Enrolled) -> None:
        self.id = enrolled.id
        self._enrolled = enrolled
        self._after = 0

    async def ask(self, path: str, body: Any = None) -> Any:
        return await asyncio.to_thread(self._ask, path, body)

    def _ask(self, path: str, body: Any) -> Any:
        request = urllib.request.Request(
            self._enrolled.url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self._enrolled.token}",
                "Content-Type": "application/json",
                "Regrow-Session": "1",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=45) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise Refused(error.read().decode()) from error

    async def tell(self, type_: str, **data: Any) -> None:
        await self.ask("/entries", {"type": type_, "data": data})

    async def message(self) -> str:
        """The next message to it."""
        while True:
            found = (await self.ask(f"/messages?after={self._after}&wait=1"))["messages"]
            if found:
                self._after = found[0]["seq"]
                return found[0]["text"]

    async def work(self) -> None:
        while True:
            text = await self.message()
            await self.tell("turn", state="started")
            for word in text.split():
                await self.tell("text", text=word)
            await self.tell("turn", state="ended")


async def command(
    bus: Bus, app: str, subject: str, name: str, args: Struct, *, id_: str = "", by: Ref | None = None
) -> Raw:
    """Send a command; its answer."""
    id_ = id_ or new_id("x")
    reply = f"regrow.reply.{new_id('c')}.1"
    sent = Command(id=id_, app=app, name=name, args=Raw(messages.encode(args)), reply=reply, by=by)
    await bus.publish(COMMANDS, subject, messages.encode(sent), id_)

    async def stored() -> Any:
        return await bus.last(REPLIES, reply)

    answer = messages.decode((await eventually(stored, "its answer")).data, Reply)
    assert answer.error is None, answer.error
    assert isinstance(answer.value, Raw)
    return answer.value


@asynccontextmanager
async def working(harness: Harness) -> AsyncIterator[None]:
    task = asyncio.ensure_future(harness.work())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest_asyncio.fixture
async def harness(rt: Runtime, bus: Bus, gateway: Gateway) -> Harness:
    """An agent of a living process, that has come."""
    process = await rt.start(shop)
    enrol = Enrol(name="echo", harness="none", model="parrot")
    by, id_ = Ref(process.pid, 0, 1), f"{process.pid}.0.1"
    answer = await command(bus, rt.app, enrol_subject(rt.app), "enrol", enrol, id_=id_, by=by)
    made = Harness(messages.decode(answer, Enrolled))
    await made.ask("/tools")  # it has come
    return made
