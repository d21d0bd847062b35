"""What the supervisor takes from the environment, beyond what every service takes."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from regrow_service.settings import ServiceSettings


class SupervisorSettings(ServiceSettings, frozen=True, kw_only=True):
    """See `regrow_service.settings`."""

    host_ttl: Annotated[
        float, Meta(ge=1, description="Seconds that a host's key lives without being renewed; hosts must use the same.")
    ] = 2.0
    partitions: Annotated[
        int,
        Meta(ge=1, le=1024, description="Partitions of an app that is seen for the first time; fixed from then on."),
    ] = 16
    keep: Annotated[
        float, Meta(ge=0, description="Seconds that histories of ended processes are kept; 0: for ever.")
    ] = 30 * 86_400.0
    upgrade_grace: Annotated[
        float, Meta(ge=0, description="Seconds without any host of a build before its processes go to another build.")
    ] = 5.0
