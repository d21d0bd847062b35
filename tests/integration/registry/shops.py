"""Processes that the tests of the registry call, and what these share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from regrow import Backoff, agent_process, done, expose, fail, spawn, wait
from regrow_protocol import messages
from regrow_protocol.bus import Bus
from regrow_protocol.endpoints import (
    BUCKET,
    CallRecord,
    EndpointsRecord,
    PublicName,
    name_key,
    process_key,
    registry_subject,
)
from regrow_protocol.streams import COMMANDS, inbox_stream


@agent_process
async def shop() -> list[str]:
    """Sells things."""
    sold: list[str] = []
    gate = asyncio.Event()

    @expose
    async def sell(item: str, count: int = 1, kind: Literal["new", "used"] = "new") -> int:
        """Sell something.

        Args:
            item: what is sold.
        """
        sold.extend([item] * count)
        return len(sold)

    @expose
    async def queue(item: str) -> str:
        sold.append(item)
        await gate.wait()
        return f"served {item}"

    @expose
    async def open_gate() -> None:
        gate.set()

    @expose
    async def burn() -> None:
        raise LookupError("nothing left\nbut ashes")

    @expose
    async def large(size: int) -> str:
        return "x" * size

    @expose
    async def close() -> None:
        done(sold)

    return await wait()


@agent_process
async def kept() -> None:
    """A shop that is opened again whenever it has closed."""
    await spawn(shop, restart="permanent", backoff=Backoff(initial=0.01, jitter=0.0))


@agent_process
async def street(*names: str) -> list[Any]:
    """A shop for each name, the next one when the last one has closed where the name begins with `=`."""
    shops = [spawn(shop, name=each) for each in names]
    return [await each for each in shops]


@agent_process
async def twins(name: str) -> list[Any]:
    """Two shops of one name."""
    shops = [spawn(shop, name=name), spawn(shop, name=name)]
    return [await each for each in shops]


@agent_process(resume="restart")
async def moody(name: str) -> None:
    """Exposes less in its second life."""
    from regrow import current_process

    @expose
    async def steady() -> int:
        return current_process().incarnation

    if current_process().incarnation == 0:

        @expose
        async def once() -> None: ...

    @expose
    async def close() -> None:
        fail(name)

    await wait()


async def eventually(ask: Callable[[], Awaitable[Any]], what: str, timeout: float = 45.0) -> Any:
    """What `ask` gives once that is something."""
    async with asyncio.timeout(timeout):
        while not (found := await ask()):
            await asyncio.sleep(0.02)
    assert found, what
    return found


async def request(outside: NatsClient, subject: str, body: bytes = b"", **headers: str) -> Msg:
    """Ask, again while nobody serves the subject yet."""

    async def ask() -> Msg | None:
        try:
            return await outside.request(subject, body, timeout=20, headers=headers or None)
        except NoRespondersError:
            return None

    return await eventually(ask, subject)


async def holder(bus: Bus, name: str) -> str:
    """Pid of the process that has a public name, once one has."""

    async def ask() -> str:
        found = await bus.kv(BUCKET).get(name_key(name))
        return messages.decode(found[0], PublicName).pid if found else ""

    return await eventually(ask, f"the name {name}")


async def record(bus: Bus, pid: str) -> EndpointsRecord | None:
    """What stands of a process."""
    found = await bus.kv(BUCKET).get(process_key(pid))
    return messages.decode(found[0], EndpointsRecord) if found else None


async def calls(bus: Bus, pid: str) -> dict[str, CallRecord]:
    """The records of calls of a process, by their ids."""
    found = await bus.history("REGROW_CALLS", f"regrow.called.*.{pid}.*")
    read = [messages.decode(each.data, CallRecord) for each in found]
    return {each.id: each for each in read}


async def called(bus: Bus, app: str, pid: str) -> int:
    """How many calls stand in the inbox of a process."""
    found = await bus.history(inbox_stream(app), f"regrow.inbox.{app}.*.{pid}")
    return sum(json.loads(each.data)["kind"] == "call" for each in found)


async def all_handled(bus: Bus, app: str) -> None:
    """Wait until no command of an app to the registry is left."""

    async def none_left() -> bool:
        return not await bus.subjects(COMMANDS, registry_subject(app))

    await eventually(none_left, "the commands")
