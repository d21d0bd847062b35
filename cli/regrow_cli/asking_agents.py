"""Commands to the agent-gateway from the command line."""

from __future__ import annotations

import asyncio
from typing import Any

from msgspec import Struct
from regrow.client import Client
from regrow.outside import acting
from regrow_protocol.agents import AgentRecord, agent_subject
from regrow_protocol.bus import Bus
from regrow_protocol.errors import RegrowError

from .agents import ENDS
from .errors import TimeUp

PATIENCE = 30.0
"""Seconds to wait for a gateway's answer."""


class AgentEnded(RegrowError):
    """The agent that is meant is there no more."""

    code = "agent-ended"


class AgentRefused(RegrowError):
    """The gateway does not do it."""

    code = "agent-refused"


async def ask(bus: Bus, record: AgentRecord, name: str, args: Struct, type_: Any) -> Any:
    """What a gateway answers to a command about a living agent.

    Raises:
        AgentEnded: it lives no more.
        TimeUp: no gateway answers.
        AgentRefused, or what the gateway raised: it is not done.
    """
    if record.state in ENDS:
        why = f": {record.reason}" if record.reason else ""
        raise AgentEnded(f"The agent {record.id} ({record.name}) is {record.state}{why}", hint="regrow agents")
    client = Client(bus)
    try:
        async with acting(client, record.app) as outside, asyncio.timeout(PATIENCE):
            subject = agent_subject(record.app, record.id)
            return await outside.command(f"agent.{name}", subject, args, type_, AgentRefused).future
    except TimeoutError as error:
        raise TimeUp(
            f"No agent-gateway has answered within {PATIENCE:g} s; the request stands",
            hint="is one running? regrow doctor",
        ) from error
    finally:
        await client.close()
