"""What lists say of agents: their records, and which one is meant (an id, a unique beginning of one, or a name)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
from msgspec import Struct
from regrow_protocol import ids
from regrow_protocol import messages as m
from regrow_protocol.agents import BUCKET, AgentRecord, Usage
from regrow_protocol.bus import Bus
from regrow_protocol.errors import RegrowError

ENDS = ("ended", "lost")
SHOWN = 8
_ID = re.compile(rf"a_[{ids.ALPHABET}]{{26}}")


class AgentNotFound(RegrowError):
    """There is no such agent."""

    code = "agent-not-found"


class AmbiguousAgent(RegrowError):
    """More than one agent fits."""

    code = "ambiguous-agent"


class AgentRow(Struct, kw_only=True):
    """An agent in a list.

    Attributes:
        state: `enrolled` (its harness has not come yet), `running`, `lost`, `ended`.
        owner: pid of the process that has it.
        machine, node, backend: where it runs; empty where nobody started it.
        session: counts the starts of its harness.
        tools: names of its own.
        links: names of the agents that it may speak to.
        usage: of its turns so far.
        created, ended: seconds since 1970; 0 before it ended.
        reason: why it is lost or has ended.
    """

    id: str
    app: str
    name: str
    state: str
    harness: str
    model: str
    owner: str
    machine: str
    node: str
    backend: str
    session: int
    tools: list[str]
    links: list[str]
    usage: Usage
    created: float
    ended: float
    reason: str


async def records(bus: Bus) -> list[AgentRecord]:
    """The records of all agents, in the order in which they were made."""
    found = [_decoded(entry.value) async for entry in bus.kv(BUCKET).items("agent.*")]
    return sorted([record for record in found if record is not None], key=lambda record: (record.created, record.id))


async def record_of(bus: Bus, id_: str) -> AgentRecord | None:
    """The record of an agent, if it has one."""
    found = await bus.kv(BUCKET).get(f"agent.{id_}")
    return _decoded(found[0]) if found is not None else None


def _decoded(data: bytes) -> AgentRecord | None:
    try:
        return m.decode(data, AgentRecord)
    except msgspec.MsgspecError:  # of another version: not ours to judge
        return None


def row_of(record: AgentRecord) -> AgentRow:
    """A record as a row."""
    machine = record.machine
    return AgentRow(
        id=record.id, app=record.app, name=record.name, state=record.state, harness=record.harness, model=record.model,
        owner=record.owner.pid, machine=machine.id if machine else "", node=machine.node if machine else "",
        backend=machine.backend if machine else "", session=record.session, tools=[tool.name for tool in record.tools],
        links=sorted(record.links.values()), usage=record.usage or Usage(), created=record.created, ended=record.ended,
        reason=record.reason,
    )  # fmt: skip


async def find(bus: Bus, given: str, *, app: str = "", owner: str = "") -> AgentRecord:
    """The agent that `given` means, one that lives before those that do not.

    Args:
        bus: connected.
        given: an id, a unique beginning of one, or a name.
        app: only of this app.
        owner: only of the process whose pid begins so.

    Raises:
        AgentNotFound: none.
        AmbiguousAgent: more than one; the message lists them.
    """
    if _ID.fullmatch(given):
        record = await record_of(bus, given)
        fitting = [record] if record is not None and _wanted(record, app, owner) else []
    else:
        known = [record for record in await records(bus) if _wanted(record, app, owner)]
        living = [record for record in known if record.state not in ENDS]
        gone = [record for record in known if record.state in ENDS]
        fitting = _named(living, given) or _beginning(living, given) or _named(gone, given) or _beginning(gone, given)
    if not fitting:
        where = f" of {owner}" if owner else f" in app {app}" if app else ""
        raise AgentNotFound(f"There is no agent {given}{where}", hint="`regrow agents --all` lists them")
    if len(fitting) > 1:
        lines = [f"{each.id} ({each.name}, {each.state}, of {each.owner.pid}, app {each.app})" for each in fitting]
        more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        text = "\n".join([f"{given} fits {len(lines)} agents:", *lines[:SHOWN], *more])
        raise AmbiguousAgent(text, hint="give more of the id, or --of PID")
    return fitting[0]


def _wanted(record: AgentRecord, app: str, owner: str) -> bool:
    return app in ("", record.app) and _begins(record.owner.pid, owner, ids.PROCESS)


def _named(known: Sequence[AgentRecord], name: str) -> list[AgentRecord]:
    return [record for record in known if record.name == name]


def _beginning(known: Sequence[AgentRecord], prefix: str) -> list[AgentRecord]:
    return [record for record in known if prefix and _begins(record.id, prefix, ids.AGENT)]


def _begins(id_: str, prefix: str, kind: str) -> bool:
    return not prefix or id_.startswith(prefix if prefix.startswith(f"{kind}_") else f"{kind}_{prefix}")
