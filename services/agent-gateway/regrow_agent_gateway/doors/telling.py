"""What harnesses tell and are told, in the form that all doors have in common."""

from __future__ import annotations

import re
from typing import Any

from msgspec import Raw
from regrow_protocol import messages
from regrow_protocol.agents import Entry, Outcome

from ..calls import text_of
from ..desk import TOLD
from ..errors import InvalidRequest
from .answering import an_object

_ID = re.compile(r"[\x21-\x7e]{1,200}")


def an_id(given: Any, what: str) -> str:
    """An id that a harness has given. Raises InvalidRequest."""
    if not isinstance(given, str) or not _ID.fullmatch(given):
        raise InvalidRequest(f"{what} must have 1 to 200 printable ASCII characters, without spaces")
    return given


def told(given: Any) -> tuple[str, str, dict[str, Any]]:
    """Type, id (or "") and data of an entry as a harness tells it. Raises InvalidRequest."""
    entry = an_object(given, "An entry")
    type_, id_ = entry.get("type"), entry.get("id", "")
    if not isinstance(type_, str) or type_ not in TOLD:
        raise InvalidRequest(f"The type of an entry is one of {', '.join(sorted(TOLD))}, not {str(type_)[:40]!r}")
    return type_, an_id(id_, "The id of an entry") if id_ else "", an_object(entry.get("data", {}), "The data")


def message(entry: Entry) -> dict[str, Any]:
    """A message to an agent: seq, id, time, text, sender."""
    data: dict[str, Any] = messages.decode(entry.data, dict)
    text, sender = data.get("text", ""), data.get("sender", "")
    return {"seq": entry.seq, "id": entry.id, "time": entry.time, "text": text, "sender": sender}


def outcome(result: Outcome) -> dict[str, Any]:
    """The answer to a call: `value`, or `error` with code, message, type."""
    if result.error is not None:
        error = result.error
        return {"error": {"code": error.code, "message": text_of(error), "type": error.error}}
    return {"value": result.value if isinstance(result.value, Raw) else None}
