"""Ports for programs that keep theirs."""

from __future__ import annotations

import random
import socket
from pathlib import Path

import pytest
from regrow_protocol import ports, server
from regrow_protocol.server import NatsServer, PortTaken


def test_a_port_is_free_and_given_to_nobody_by_chance() -> None:
    """It is below those of outgoing connections."""
    given = {ports.free_port() for _ in range(20)}
    assert given <= set(ports.PORTS)


def test_a_server_takes_another_port_where_its_own_was_taken_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the listening somebody may come."""
    with socket.create_server(("127.0.0.1", ports.free_port())) as squatter:
        taken = squatter.getsockname()[1]
        found = iter([taken, taken, ports.free_port()])
        monkeypatch.setattr(server, "free_port", lambda: next(found))
        with NatsServer.start(tmp_path / "one") as running:
            assert running.port != taken
        with pytest.raises(PortTaken):
            NatsServer.start(tmp_path / "two", port=taken)


def test_whoever_asks_is_told_different_ports() -> None:
    """Also where tests give `random` the same seed in all workers."""
    told = []
    for _ in range(2):
        random.seed(1)
        told.append([ports.free_port() for _ in range(5)])
    assert told[0] != told[1]
