"""The port of the embedded stack's agent-gateway: the same over every restart, for agents keep its URL."""

from __future__ import annotations

import socket

from msgspec import Struct
from regrow_service.logs import Logger

from .data_dir import DataDir, read, write

HOST = "127.0.0.1"


class GatewayAddress(Struct, frozen=True):
    """`gateway.json`: where the agent-gateway listens."""

    port: int


def gateway_port(place: DataDir, log: Logger) -> int:
    """The port that the gateway of `place` had before, or another where that is taken; call it when no gateway runs."""
    known = read(place.gateway, GatewayAddress)
    port = _free(known.port if known else 0)
    if known is None or port != known.port:
        if known is not None:
            log.warning("port of the agent-gateway taken: agents that run lose it", port=known.port, now=port)
        write(place.gateway, GatewayAddress(port))
    return port


def _free(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError(f"no port of {HOST} is free")
