"""What an agent had called in a turn that was cut off, in words for its model.

A harness that is killed in the middle of a call finds its conversation again, but there the call is "interrupted": the
model would make it again, under a new id, and so have it done twice. So it is told what its calls were answered.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct
from regrow_protocol import messages
from regrow_protocol.agents import AgentRecord, Entry

from ..calls import outcome_of, text_of
from ..conversations import Conversations

MOST = 20
"""Calls that are told, the last ones of the turn."""
SHOWN = 4000
"""Characters of an answer."""
PAGE = 200


class _Called(Struct):
    tool: str = ""
    args: msgspec.Raw = msgspec.Raw(b"{}")


async def recall(conversations: Conversations, agent: AgentRecord) -> str:
    """Calls of the agent's last turn, if that has not ended, and their answers; empty when there are none."""
    last = await conversations.last(agent, "turn")
    if last is None or messages.decode(last.data, dict[str, Any]).get("state") != "started":
        return ""
    calls: dict[str, Entry] = {}
    answers: dict[str, Entry] = {}
    after, left = last.seq, 1
    while left:
        found, left = await conversations.page(agent.app, agent.id, after, PAGE)
        if not found:
            break
        for entry in found:
            if entry.type in ("call", "result"):
                (calls if entry.type == "call" else answers)[entry.call] = entry
        after = found[-1].seq
    if not calls:
        return ""
    told = [_told(call, answers.get(key)) for key, call in [*calls.items()][-MOST:]]
    return "\n".join(["[What you had called before you were stopped, which is done once and for all:", *told, "]"])


def _told(call: Entry, answer: Entry | None) -> str:
    try:
        made = messages.decode(call.data, _Called)
    except msgspec.MsgspecError:
        made = _Called()
    what = f"- {made.tool} {_cut(bytes(made.args).decode(errors='replace'))}"
    if answer is None:
        return f"{what}: it has not answered yet"
    outcome = outcome_of(answer)
    if outcome.error is not None:
        return f"{what}: it failed: {_cut(text_of(outcome.error))}"
    value = outcome.value if isinstance(outcome.value, msgspec.Raw) else msgspec.Raw(b"null")
    return f"{what}: it answered {_cut(bytes(value).decode(errors='replace'))}"


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text)} characters)"
