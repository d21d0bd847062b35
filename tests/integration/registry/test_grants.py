"""Grants: written once, revoked for good, expired in time, and gone with process and agent."""

from __future__ import annotations

import time
from typing import Any

from msgspec import Raw
from msgspec.structs import replace
from regrow.testing import Runtime
from regrow_protocol import agents, messages
from regrow_protocol.agents import AgentRecord
from regrow_protocol.bus import Bus
from regrow_protocol.endpoints import (
    BUCKET,
    Attach,
    Detach,
    EndpointsRecord,
    Grant,
    grant_key,
    process_key,
    registry_subject,
)
from regrow_protocol.ids import AGENT, new_id
from regrow_protocol.messages import Command, Ref, Reply
from regrow_protocol.streams import COMMANDS, REPLIES
from shops import all_handled, eventually, record, shop


async def _agent(bus: Bus, app: str, state: Any = "running") -> str:
    """An agent's record, as the gateway writes it."""
    id_ = new_id(AGENT)
    made = AgentRecord(id=id_, app=app, command="x", name="a", owner=Ref("p_1", 0, 1), harness="none", state=state)
    await bus.kv(agents.BUCKET).put(f"agent.{id_}", messages.encode(made))
    return id_


async def _tell(bus: Bus, app: str, args: Attach | Detach, id_: str, time_: int = 1) -> None:
    """Send a command for the first time, or again."""
    name = "attach" if isinstance(args, Attach) else "detach"
    command = Command(id=id_, app=app, name=name, args=Raw(messages.encode(args)), reply=f"regrow.reply.{id_}.1")
    await bus.publish(COMMANDS, registry_subject(app), messages.encode(command), f"{id_}.{time_}")


async def _ask(bus: Bus, app: str, args: Attach | Detach, id_: str = "") -> Reply:
    id_ = id_ or new_id("x")
    await _tell(bus, app, args, id_)

    async def stored() -> Any:
        return await bus.last(REPLIES, f"regrow.reply.{id_}.1")

    return messages.decode((await eventually(stored, "its answer")).data, Reply)


async def _grant(bus: Bus, agent: str, id_: str) -> Grant | None:
    found = await bus.kv(BUCKET).get(grant_key(agent, id_))
    return messages.decode(found[0], Grant) if found else None


def _id(reply: Reply) -> str:
    assert isinstance(reply.value, Raw)
    return messages.decode(reply.value, str)


async def test_a_grant_and_its_end(rt: Runtime, bus: Bus) -> None:
    """A repeated `attach` is one grant; one that comes late, after `detach`, brings nothing back."""
    process = await rt.start(shop)
    agent = await _agent(bus, rt.app)
    args = Attach(process.pid, agent, only=["sell"], prefix="shop_", rate=30, seconds=3600)
    id_ = new_id("x")
    granted = _id(await _ask(bus, rt.app, args, id_))
    grant = await _grant(bus, agent, granted)
    assert grant is not None
    assert (grant.only, grant.prefix, grant.rate, grant.pid, grant.by) == (["sell"], "shop_", 30.0, process.pid, "")
    assert 3590 < grant.expires - time.time() <= 3600
    other = await _ask(bus, "another-app", Detach(granted))
    assert other.error is None
    assert await _grant(bus, agent, granted) == grant
    for _ in range(2):
        assert (await _ask(bus, rt.app, Detach(granted))).error is None
    revoked = await _grant(bus, agent, granted)
    assert revoked is not None
    assert 0 < revoked.expires <= time.time()
    await _tell(bus, rt.app, args, id_, 2)
    await all_handled(bus, rt.app)
    assert await _grant(bus, agent, granted) == revoked


async def test_grants_that_are_refused(rt: Runtime, bus: Bus) -> None:
    """To nobody, to an agent of another app or one that has ended, with limits that are none."""
    process = await rt.start(shop)
    foreign, ended = await _agent(bus, "another-app"), await _agent(bus, rt.app, "ended")
    good = await _agent(bus, rt.app)
    for args in (
        Attach(process.pid, "a_nobody"),
        Attach(process.pid, foreign),
        Attach(process.pid, ended),
        Attach(process.pid, good, rate=-1),
        Attach("p_1.>", good),
        Attach(process.pid, "*"),
    ):
        refused = await _ask(bus, rt.app, args)
        assert refused.error is not None
        assert refused.error.code == "refused"


async def test_grants_end_with_their_process_and_agent(rt: Runtime, bus: Bus) -> None:
    """The end of the process revokes at once; an agent's end, and what was missed, is found by the sweep."""
    process = await rt.start(shop)
    agent, other = await _agent(bus, rt.app), await _agent(bus, rt.app)
    await eventually(lambda: record(bus, process.pid), "its endpoints")
    of_process = _id(await _ask(bus, rt.app, Attach(process.pid, agent)))
    second = await rt.start(shop)
    of_agent = _id(await _ask(bus, rt.app, Attach(second.pid, other)))
    short = _id(await _ask(bus, rt.app, Attach(second.pid, agent, seconds=5)))
    assert await _grant(bus, agent, short) is not None
    await process.call("close", wait=True)
    found = await bus.kv(agents.BUCKET).get(f"agent.{other}")
    assert found is not None
    ended = messages.decode(found[0], AgentRecord)
    await bus.kv(agents.BUCKET).put(f"agent.{other}", messages.encode(_ended(ended)))

    async def all_over() -> bool:
        grants = [await _grant(bus, agent, of_process), await _grant(bus, other, of_agent)]
        return all(each is None or 0 < each.expires <= time.time() for each in grants)

    await eventually(all_over, "their end")

    async def expired() -> bool:
        return await _grant(bus, agent, short) is None

    await eventually(expired, "the short one's end")


def _ended(agent: AgentRecord) -> AgentRecord:
    return replace(agent, state="ended")


async def test_records_of_what_has_ended_are_swept(rt: Runtime, bus: Bus, name: str) -> None:
    """A record that should be gone is withdrawn, and its name given up, by what the last event says."""
    process = await rt.start(shop)
    await process.call("close", wait=True)
    assert await process.result(45) == []

    async def ended() -> Any:
        found = await record(bus, process.pid)
        return found if found is not None and found.ended else None

    gone = await eventually(ended, "its end")
    stale = EndpointsRecord(pid=process.pid, app=rt.app, type="shop", name=name, endpoints={}, created=gone.created)
    await bus.kv(BUCKET).put(process_key(process.pid), messages.encode(stale))
    await eventually(ended, "the sweep")

    async def unnamed() -> bool:
        return await bus.kv(BUCKET).get(f"name.{name}") is None

    await eventually(unnamed, "the name's end")
