"""Ports for programs that keep theirs: they are stopped, or killed, and come back on it."""

from __future__ import annotations

import random
import socket

PORTS = range(20_000, 32_000)
"""Below those that systems give to whoever asks for any port, and to outgoing connections."""


def free_port() -> int:
    """A port of loopback that nobody uses, nor gets by chance while nobody listens on it.

    Raises:
        OSError: none is free.
    """
    for port in random.SystemRandom().sample(PORTS, 1000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no port of 127.0.0.1 is free")
