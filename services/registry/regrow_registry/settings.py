"""What the registry takes from the environment, beyond what every service takes."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from regrow_service.settings import ServiceSettings


class RegistrySettings(ServiceSettings, frozen=True, kw_only=True):
    """See `regrow_service.settings`."""

    call_patience: Annotated[
        float, Meta(gt=0, description="Seconds that the answer to a `regrow.api` request is waited for.")
    ] = 600.0
    agent_protocol: Annotated[
        bool, Meta(description="Answer the Synadia Agent Protocol (the `agents` micro service) for running agents.")
    ] = True
    agent_heartbeat: Annotated[
        float, Meta(ge=1, description="Seconds between two heartbeats of an agent in that protocol.")
    ] = 30.0
    registry_sweep: Annotated[
        float, Meta(gt=0, description="Seconds between two looks for records of what has ended.")
    ] = 15.0
