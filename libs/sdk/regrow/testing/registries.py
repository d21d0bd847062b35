"""A registry for tests: the real program, that can be killed.

`python -m regrow_registry` must be installed (`regrow[registry]` brings it); this module knows it only as a program.
"""

from __future__ import annotations

from regrow_protocol.ports import free_port

from ._service_program import ServiceDied, ServiceProgram


class RegistryDied(ServiceDied):
    """It ended by itself; what it printed is in the text."""


class Registry(ServiceProgram):
    """One registry at a time; make several for replicas.

    Args:
        url: of the NATS server.
        env: further variables, as `REGROW_CALL_PATIENCE`.
    """

    name = "registry"
    died = RegistryDied

    def __init__(self, url: str, *, env: dict[str, str] | None = None) -> None:
        super().__init__("regrow_registry", {**(env or {}), "REGROW_NATS_URL": url})

    def start(self) -> None:
        """Start one; returns when it takes commands and requests.

        Raises:
            RegistryDied: it did not start.
        """
        port = free_port()
        self.launch(env={"REGROW_HEALTH_PORT": str(port)})
        self.await_ready(port)
