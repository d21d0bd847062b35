"""Where the embedded stack's agent-gateway listens: its port stays over every restart, for agents keep its URL."""

from __future__ import annotations

import fcntl
import socket
import struct

from msgspec import Struct
from regrow_protocol.ports import free_port
from regrow_service.logs import Logger

from .data_dir import DataDir, read, write

HOST = "127.0.0.1"
DOCKER = "docker0"
"""The interface by which Docker's containers reach this computer. (Docker Desktop leads them to its loopback.)"""
_SIOCGIFADDR = 0x8915


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


def gateway_hosts() -> str:
    """The addresses that the gateway listens at: for agents on this computer, and for those in its Docker machines."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            answer = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("256s", DOCKER.encode()))
        except OSError:
            return HOST
    return f"{HOST},{socket.inet_ntoa(answer[20:24])}"


def _free(wanted: int) -> int:
    for port in (wanted or free_port(), free_port(), free_port()):
        try:
            for host in gateway_hosts().split(","):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind((host, port))
        except OSError:
            continue
        return port
    raise OSError(f"no port of {HOST} is free")
