"""Which call a request for a tool is: the same one, however often and wherever it is made.

Harnesses that say which call of the model's they carry out are believed (Claude Code, Codex); conversations pair calls
and results by these ids. Others (opencode) number their requests, anew in each session of theirs: the session's name
goes with the number. Who names neither makes a new call with every request.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
from msgspec import Struct, field
from regrow_protocol.agents import call_key
from regrow_protocol.ids import new_id

from .access import Visitor

OWN_IDS = ("claudecode/toolUseId", "callId")
"""Keys of `_meta` that hold the model's own id of a call: of Claude Code, of Codex."""
MAX_SESSION = 200
METHOD = "tools/call"


class Incoming(Struct, frozen=True, kw_only=True):
    """A message of a client.

    Attributes:
        method: empty for what is no request, or none that can be read.
        id: of the request.
        session, call: what a call is known by, see `Desk.call`.
        key: of a call; empty for anything else.
    """

    visitor: Visitor
    method: str = ""
    id: int | str | None = None
    session: str = ""
    call: str = ""

    @property
    def key(self) -> str:
        """The `call_key` of a call; empty for anything else."""
        return call_key(self.session, self.call) if self.call else ""


class _Params(Struct):
    name: str = ""
    arguments: msgspec.Raw = msgspec.Raw(b"{}")
    meta: dict[str, Any] = field(default_factory=dict[str, Any], name="_meta")


class _Method(Struct):
    method: str = ""
    id: int | str | None = None


class _Call(Struct):
    params: _Params


def incoming(visitor: Visitor, body: bytes, session: str) -> Incoming:
    """What a client has sent; whether it is sound is not looked at here.

    Args:
        visitor: who it is.
        body: of its request.
        session: name of its MCP session, empty if it has none.
    """
    try:
        message = msgspec.json.decode(body, type=_Method)
        if message.method != METHOD or message.id is None:
            return Incoming(visitor=visitor, method=message.method, id=message.id)
        params = msgspec.json.decode(body, type=_Call).params
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Incoming(visitor=visitor)
    of, call = _identity(params, message.id, session)
    return Incoming(visitor=visitor, method=message.method, id=message.id, session=of, call=call)


def _identity(params: _Params, id_: int | str, session: str) -> tuple[str, str]:
    own = next((found for key in OWN_IDS if isinstance(found := params.meta.get(key), str) and found), "")
    if own:
        # With what is called: a model's server that counts its calls anew must not get the answer to another one.
        return "mcp", json.dumps([own, params.name, bytes(params.arguments).decode(errors="replace")])
    if session and len(session) <= MAX_SESSION:
        return f"mcp {session}", json.dumps(id_)
    return "mcp", new_id("r")
