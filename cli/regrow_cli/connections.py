"""Who is connected to a NATS server, by its monitoring (`/connz`, `/varz`). Blocks: from a coroutine use a thread."""

from __future__ import annotations

import http.client
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct
from regrow_protocol.errors import Unreachable


class Connection(Struct, frozen=True):
    """A client of the server.

    Attributes:
        cid: the server's number for it.
        name: what the client calls itself, or empty.
        authorized_user: the user it is connected as, or empty.
        lang: of its client library, or empty.
    """

    cid: int
    name: str = ""
    authorized_user: str = ""
    lang: str = ""


class _Connz(Struct):
    connections: list[Connection] = []


def connections(monitor: str, *, timeout: float = 2.0) -> list[Connection]:
    """The clients of the server whose monitoring is at `monitor`.

    Raises:
        Unreachable: it does not answer, or with something else.
    """
    # Beyond this many it is all the same to those who ask: somebody is there.
    return _get(monitor, "/connz?auth=true&limit=256", _Connz, timeout).connections


def variables(monitor: str, *, timeout: float = 2.0) -> dict[str, Any]:
    """The server's `/varz`.

    Raises:
        Unreachable: as for `connections`.
    """
    return _get(monitor, "/varz", dict[str, Any], timeout)


def _get(monitor: str, path: str, type_: Any, timeout: float) -> Any:
    parts = urlsplit(monitor)
    # Not urllib: that would ask the environment for a proxy, and this is loopback.
    client = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=timeout)
    try:
        client.request("GET", path)
        response = client.getresponse()
        body = response.read()
        if response.status != http.HTTPStatus.OK:
            raise Unreachable(f"The NATS server's monitoring at {monitor} answered {response.status}")
        return msgspec.json.decode(body, type=type_)
    except (OSError, http.client.HTTPException, msgspec.MsgspecError) as error:
        raise Unreachable(f"The NATS server's monitoring at {monitor} does not answer: {error}") from error
    finally:
        client.close()
