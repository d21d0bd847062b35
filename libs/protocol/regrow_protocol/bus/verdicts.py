"""What an answer to a publish means: stored, refused for good, or to be sent again."""

from __future__ import annotations

import msgspec

from ..errors import PublishRejected, RegrowError, StorageFull, Unreachable, WrongRevision
from .wire import AckBody, ErrorBody, decode_ack, status_of

_WRONG_REVISION = {10070, 10071, 10164}
_NOT_NOW = {404, 408, 429}
STORE_FULL = {10002, 10023, 10028, 10047, 10077}


def read_answer(headers: bytes | None, data: bytes) -> AckBody:
    """The acknowledgement, or the error, that came; a bare status (503: nobody there) becomes an error too."""
    status = status_of(headers)
    if status:
        return AckBody(error=ErrorBody(status, 0, f"status {status}"))
    try:
        return decode_ack(data)
    except msgspec.MsgspecError:
        return AckBody(error=ErrorBody(500, 0, f"no acknowledgement but {data[:80]!r}"))


def for_good(subject: str, error: ErrorBody) -> RegrowError | None:
    """What a message on `subject` fails with; None when it shall be sent again."""
    if error.err_code in _WRONG_REVISION:
        return WrongRevision(f"{subject} has changed meanwhile: {error.description}", hint="read it again")
    if error.err_code in STORE_FULL or error.code >= 500 or error.code in _NOT_NOW:
        return None
    what = f"The stream refused a message on {subject}: {error.description}"
    return PublishRejected(what, hint="sending it again will not help")


def for_now(stream: str, error: ErrorBody) -> RegrowError:
    """What is reported while messages for `stream` are sent again."""
    if error.err_code in STORE_FULL:
        what = f"The stream {stream} takes no more: {error.description}"
        return StorageFull(what, hint="free space on its disk or raise its limits; what waits is kept and sent again")
    return Unreachable(f"The stream {stream} does not answer: {error.description}")
