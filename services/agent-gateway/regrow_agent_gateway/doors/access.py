"""Who knocks: the agent in the path, its token, the session of its harness."""

from __future__ import annotations

from typing import NamedTuple

from regrow_protocol.agents import AgentRecord
from starlette.requests import HTTPConnection

from ..desk import Desk
from ..errors import InvalidRequest

SUBPROTOCOL = "regrow"
"""Of WebSockets; whoever cannot set headers offers this and the token as subprotocols."""


class Visitor(NamedTuple):
    """Who was let in.

    Attributes:
        session: of its harness; that which the agent is in, where it named none.
    """

    agent: AgentRecord
    session: int


async def admit(desk: Desk, connection: HTTPConnection) -> Visitor:
    """Let an agent in, by the `Authorization: Bearer` header, or a WebSocket's subprotocol.

    Raises:
        Unauthorized, AgentEnded, SessionOver: not this one.
        InvalidRequest: its session is no number.
        Unreachable: that cannot be told now.
    """
    agent = await desk.agent(connection.path_params["agent"], _token(connection))
    session = number(connection, "session", connection.headers.get("regrow-session", "0"))
    agent = await desk.seen(agent, session)
    return Visitor(agent, session or agent.session)


def number(connection: HTTPConnection, name: str, default: str) -> int:
    """A whole number in the query. Raises InvalidRequest."""
    text = connection.query_params.get(name, default)
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise InvalidRequest(f"{name}={text[:40]!r} is no whole number")
    return int(text)


def _token(connection: HTTPConnection) -> str:
    kind, _, given = connection.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return given.strip()
    if connection.scope["type"] == "websocket":
        offered = connection.scope.get("subprotocols", [])
        return next((each for each in offered if each != SUBPROTOCOL), "")
    return ""
