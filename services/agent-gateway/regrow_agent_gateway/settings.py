"""What the agent-gateway takes from the environment, beyond what every service takes; the same as options."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from typing import Annotated

from msgspec import Meta
from regrow_protocol.machines import ENGINES_COMPUTER
from regrow_service.settings import ServiceSettings, read

KIB, MIB = 1024, 1024 * 1024
_LOOPBACK = re.compile(r"^(https?://)(?:localhost|127\.[0-9.]+|\[::1\])(?=[:/]|$)")


class GatewaySettings(ServiceSettings, frozen=True, kw_only=True):
    """See `regrow_service.settings`."""

    gateway_host: Annotated[
        str, Meta(description="Addresses that the agents' doors bind to, with commas between them.")
    ] = "127.0.0.1"
    gateway_port: Annotated[
        int, Meta(ge=0, le=65535, description="Their port; 0: the system chooses one, and the log names it.")
    ] = 8420
    gateway_url: Annotated[
        str,
        Meta(
            pattern=r"^$|^https?://[^\s/]+(/[^\s?#]*)?$",
            description="Where agents reach the doors, as `https://agents.example.org`; empty: host and port.",
        ),
    ] = ""
    gateway_share_port: Annotated[
        bool, Meta(description="Replicas on one computer listen on the same port, and the system spreads agents.")
    ] = False
    gateway_max_body: Annotated[
        int, Meta(ge=KIB, le=48 * MIB, description="Bytes of a request, or of a frame, that are taken.")
    ] = 8 * MIB
    gateway_max_calls: Annotated[
        int, Meta(ge=1, description="Tool calls of one agent that may be under way here at a time.")
    ] = 256
    gateway_heartbeat: Annotated[
        float, Meta(gt=0, description="Seconds between two signs of life on an open connection.")
    ] = 20.0
    gateway_slow: Annotated[
        float, Meta(gt=0, description="Seconds that an agent may take no data before its connection is cut.")
    ] = 20.0

    def hosts(self) -> list[str]:
        """The addresses that the doors bind to; the first one is named to agents."""
        return [host.strip() for host in self.gateway_host.split(",")]

    def url(self, port: int, backend: str = "") -> str:
        """Where agents reach the doors, without a slash at the end.

        Args:
            port: the one that is listened on.
            backend: of the agent's machine. In a container this computer's loopback is the container's own, so it is
                named as the Docker backend names this computer there.
        """
        host = self.hosts()[0]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104
        url = self.gateway_url.rstrip("/") or f"http://{f'[{host}]' if ':' in host and host[0] != '[' else host}:{port}"
        return _LOOPBACK.sub(rf"\1{ENGINES_COMPUTER}", url) if backend == "docker" else url


def parse(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> GatewaySettings:
    """The settings from options and, where those are silent, the environment.

    Raises:
        InvalidSetting: one cannot be used.
        SystemExit: `--help` was asked for, or there is no such option.
    """
    parser = argparse.ArgumentParser(
        prog="regrow-agent-gateway",
        description="Let agents reach the tools of processes.",
        epilog="Further settings are read from the environment (REGROW_…); an option outweighs its variable.",
    )
    option = parser.add_argument
    option("--nats", dest="nats_url", metavar="URL", help="the NATS server (default: $REGROW_NATS_URL)")
    option("--host", dest="gateway_host", help="addresses that the doors bind to (default: 127.0.0.1)")
    option("--port", dest="gateway_port", help="their port (default: 8420)")
    option("--url", dest="gateway_url", help="where agents reach the doors (default: host and port)")
    option(
        "--share-port", dest="gateway_share_port", action="store_const", const="true", help="several listen on the port"
    )
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    chosen = {f"REGROW_{name.upper()}": str(value) for name, value in given.items()}
    return read(GatewaySettings, {**(os.environ if environ is None else environ), **chosen})
