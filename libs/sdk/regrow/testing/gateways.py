"""An agent-gateway for tests: the real program, on a port of loopback, that can be killed.

`python -m regrow_agent_gateway` must be installed (`regrow[gateway]` brings it); it is known here only as a program.
"""

from __future__ import annotations

from regrow_protocol.ports import free_port

from ._service_program import ServiceDied, ServiceProgram, asked

__all__ = ["Gateway", "GatewayDied", "free_port"]


class GatewayDied(ServiceDied):
    """It ended by itself; what it printed is in the text."""


class Gateway(ServiceProgram):
    """One replica, which may be ended and started again; it keeps its port.

    Args:
        nats: URL of the NATS server.
        port: of the doors; 0: one that is free. Replicas may share one.
        env: further settings.

    Attributes:
        url: of the doors.
    """

    name = "agent-gateway"
    died = GatewayDied

    def __init__(self, nats: str, *, port: int = 0, env: dict[str, str] | None = None) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._health = 0
        chosen = {"REGROW_NATS_URL": nats, "REGROW_GATEWAY_PORT": str(self.port)}
        super().__init__(
            "regrow_agent_gateway",
            {"REGROW_GATEWAY_SHARE_PORT": "true", **(env or {}), **chosen},
        )

    def start(self) -> None:
        """Start it; returns when agents can come.

        Raises:
            GatewayDied: it did not start.
        """
        self._health = free_port()
        self.launch(env={"REGROW_HEALTH_PORT": str(self._health)})
        self.await_ready(self._health)

    def metrics(self) -> str:
        """What it measures, in Prometheus' text format."""
        return asked(self._health, "/metrics") or ""
