"""Answers over HTTP: JSON, also of what went wrong, with the status that fits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from regrow_protocol import messages
from regrow_protocol.errors import RegrowError
from regrow_service.logs import get_logger
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ..errors import AgentError, InvalidRequest, TooLarge

_log = get_logger("doors")
BODY = 60.0
"""Seconds in which the body of a request must have come."""
_AGAIN = "1"
"""Seconds after which a client may try again what was not possible now."""


def json(data: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer; `data` is what msgspec encodes."""
    return Response(messages.encode(data), status, headers, "application/json")


def described(error: RegrowError) -> dict[str, Any]:
    """An error as the doors tell it."""
    return {"code": error.code, "message": str(error)}


def refusal(error: RegrowError) -> Response:
    """The answer that tells of an error; what is not the agent's fault is `503`."""
    status = error.status if isinstance(error, AgentError) else 503
    headers: dict[str, str] = {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status in (429, 503):
        headers["retry-after"] = _AGAIN
    return json({"error": described(error)}, status, headers)


def answering(handle: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """A handler whose errors are answered."""

    async def handled(request: Request) -> Response:
        try:
            return await handle(request)
        except ClientDisconnect:
            return Response(status_code=499)
        except RegrowError as error:
            if not isinstance(error, AgentError):
                _log.warning("a request of an agent is to be made again", path=request.url.path, reason=str(error))
            return refusal(error)
        except Exception as error:  # noqa: BLE001 - the last one to see it: logged, and told
            _log.exception("a request of an agent failed", path=request.url.path)
            return json({"error": {"code": "failed", "message": f"{type(error).__name__}: see the gateway's log"}}, 500)

    return handled


async def body(request: Request, most: int) -> Any:
    """The JSON of a request; an empty object where it has none.

    Raises:
        TooLarge: it has more bytes than `most`.
        InvalidRequest: it is no JSON.
    """
    given = await whole(request, most)
    return decoded(given) if given.strip() else {}


async def whole(request: Request, most: int) -> bytes:
    """All bytes of a request's body. Raises TooLarge: it has more than `most`."""
    told = request.headers.get("content-length", "0")
    if told.isdecimal() and int(told) > most:
        raise TooLarge(f"{told} bytes are more than is taken", hint=f"at most {most}")
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise TooLarge(f"The request has more bytes than is taken ({most})")
                parts.append(part)
    except TimeoutError:
        raise InvalidRequest(f"The request's body has not come within {BODY:g} s") from None
    return b"".join(parts)


def decoded(data: bytes | str) -> Any:
    """JSON. Raises InvalidRequest."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"That is no JSON: {error}") from error


def an_object(data: Any, what: str) -> dict[str, Any]:
    """A JSON object. Raises InvalidRequest."""
    if not isinstance(data, dict):
        raise InvalidRequest(f"{what} must be a JSON object")
    return data
