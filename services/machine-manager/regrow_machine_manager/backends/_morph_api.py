"""MorphCloud's SDK: its client, and how its errors and sizes are told."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from regrow_protocol.images import size

from ..backend import BackendUnavailable, MachineFailed, MachineLost

if TYPE_CHECKING:
    from morphcloud.api import MorphCloudClient

CALL_TIMEOUT = 60.0
"""Seconds of one call of the API; the SDK has no limit of its own."""

START_TIMEOUT = 300.0
"""Seconds until an instance or snapshot is ready."""


@asynccontextmanager
async def calling(what: str, timeout: float = CALL_TIMEOUT) -> AsyncGenerator[None]:
    """Tell the errors of the API as a backend's.

    Raises:
        MachineLost: what was asked for is not there.
        MachineFailed: the API refuses it.
        BackendUnavailable: the API does not answer, or not in `timeout` seconds.
    """
    import httpx
    from morphcloud.api import ApiError

    try:
        async with asyncio.timeout(timeout):
            yield
    except ApiError as error:
        said = f"MorphCloud: {error.status_code} for {what}: {error.response_body[:200]}"
        if error.status_code == 404:
            raise MachineLost(said, hint="it was stopped, or its time was over") from error
        if error.status_code in (408, 429) or error.status_code >= 500:
            raise BackendUnavailable(said) from error
        raise MachineFailed(said, hint="see MORPH_API_KEY and the account's limits") from error
    except (TimeoutError, httpx.HTTPError) as error:
        raise BackendUnavailable(f"MorphCloud does not answer for {what}: {error!r}", hint="MORPH_BASE_URL") from error
    except RuntimeError as error:  # what the SDK raises for an instance or snapshot that failed
        raise MachineFailed(f"MorphCloud: {what}: {error}") from error


def megabytes(value: int | str) -> int:
    """A size as the API has it."""
    return max(1, -(-size(value) // 1024**2))


def make_client() -> MorphCloudClient:
    """The SDK's client, from the environment. Takes long: it makes dozens of TLS contexts.

    Raises:
        BackendUnavailable: the SDK is not installed, or there is no key.
    """
    if importlib.util.find_spec("morphcloud") and not _set_up():
        raise BackendUnavailable("MorphCloud: there is no API key", hint="set MORPH_API_KEY")
    try:
        from morphcloud.api import MorphCloudClient
    except ImportError as error:
        raise BackendUnavailable("The package morphcloud is missing", hint="pip install 'regrow[morph]'") from error
    try:
        return MorphCloudClient()
    except ValueError as error:
        raise BackendUnavailable(f"MorphCloud: {error}", hint="set MORPH_API_KEY") from error


def _set_up() -> bool:
    """Whether the SDK may find a key: in the environment, or in a file where it looks for its profiles.

    Asked first, since its import takes half a second that a node without a key need not spend.
    """
    if os.environ.get("MORPH_API_KEY", "").strip():
        return True
    if named := os.environ.get("MORPH_CONFIG_PATH", "").strip():
        return Path(named).expanduser().exists()
    home = Path("~").expanduser()
    folder = os.environ.get("XDG_CONFIG_HOME", "").strip() or home / ".config"
    return any(path.exists() for path in (Path(folder, "morphcloud/config.toml"), home / ".morphcloud/config.toml"))
