"""Where the drivers of turn-based harnesses tell what their programs say: `POST …/output?id=ID`, a line of JSON each.

The harness's adapter makes entries of it; what a person would read of it is answered, for the agent's terminal. Entries
have ids made from `id`, so a line that is told again adds nothing. `GET …/output` tells what a turn that was cut off
had called (`recall`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ..context import Context
from ..desk import Desk
from ..errors import InvalidRequest
from ..harness import UnknownHarness, find
from ..harnesses.turns import Told, TurnHarness
from .access import admit
from .answering import an_object, body
from .recall import recall
from .telling import an_id


class OutputDoor:
    """Of one gateway."""

    def __init__(self, context: Context, desk: Desk) -> None:
        self._here = context
        self._desk = desk

    async def recall(self, request: Request) -> Response:
        """What the agent had called in a turn that was cut off, for its next one."""
        visitor = await admit(self._desk, request)
        return PlainTextResponse(await recall(self._here.conversations, visitor.agent))

    async def take(self, request: Request) -> Response:
        """One line."""
        visitor = await admit(self._desk, request)
        id_ = an_id(request.query_params.get("id", ""), "id")
        line = an_object(await body(request, self._here.settings.gateway_max_body), "A line")
        told = _told(visitor.agent.harness, line)
        for n, each in enumerate(told):
            data: Mapping[str, Any] = msgspec.to_builtins(each.data)
            await self._desk.entry(visitor.agent, each.type, data, id_=f"{id_}.{n}", session=visitor.session)
        return PlainTextResponse("".join(each.shown for each in told))


def _told(name: str, line: Mapping[str, Any]) -> list[Told]:
    try:
        harness = find(name)
    except UnknownHarness as error:
        raise InvalidRequest(error.message, hint=error.hint) from error
    if not isinstance(harness, TurnHarness):
        raise InvalidRequest(f"What the harness {name} says is told in entries")
    return harness.told(line)
