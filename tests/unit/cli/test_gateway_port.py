"""Where the embedded stack's gateway listens."""

from __future__ import annotations

import pytest
from regrow_cli import gateway_port


def test_the_gateway_listens_where_containers_reach_this_computer(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the address of Docker's interface, where there is one, beside loopback."""
    monkeypatch.setattr(gateway_port, "DOCKER", "lo")
    assert gateway_port.gateway_hosts() == "127.0.0.1,127.0.0.1"
    monkeypatch.setattr(gateway_port, "DOCKER", "none")
    assert gateway_port.gateway_hosts() == "127.0.0.1"
