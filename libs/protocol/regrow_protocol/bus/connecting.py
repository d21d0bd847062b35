"""Connecting: credentials, time-outs, errors that say what is wrong, and reconnecting for ever.

Credentials stand in the URL (`user:password@` or `token@`) or in the file that `REGROW_NATS_CREDS` names: a `.creds`
file, or a bare nkey seed (both need the package `nkeys`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from nats import errors as nats_errors
from nats.aio.client import Client

from ..errors import AccessDenied, Unreachable
from .connection import Connection

log = logging.getLogger(__name__)

RETRY = 0.1
PING_EVERY = 5
RECONNECT_TIMEOUT = 2
"""Seconds that one server may take to answer when reconnecting, before the next one is tried."""
FLUSH = 1.0
"""Seconds that closing waits until the server has taken what was sent, such as acknowledgements."""


def _split(urls: str) -> tuple[list[str], dict[str, str]]:
    """(URLs without credentials, credentials)."""
    clean: list[str] = []
    credentials: dict[str, str] = {}
    for part in urls.split(","):
        text = part.strip()
        url = urlsplit(text if "://" in text else f"nats://{text}")
        if url.scheme not in ("nats", "tls") or not url.hostname:
            raise Unreachable(f"{text!r} is no address of a NATS server", hint="write nats://host:port")
        if url.username and url.password is not None:
            credentials = {"user": unquote(url.username), "password": unquote(url.password)}
        elif url.username:
            credentials = {"token": unquote(url.username)}
        host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
        clean.append(urlunsplit((url.scheme, f"{host}:{url.port or 4222}", "", "", "")))
    return clean, credentials


def _file_credentials() -> dict[str, str]:
    name = os.environ.get("REGROW_NATS_CREDS", "")
    if not name:
        return {}
    try:
        text = Path(name).expanduser().read_text()
    except OSError as error:
        raise AccessDenied(
            f"The credentials {name} cannot be read: {error.strerror}", hint="see REGROW_NATS_CREDS"
        ) from error
    return {"user_credentials" if "BEGIN NATS USER JWT" in text else "nkeys_seed": str(Path(name).expanduser())}


async def connect(
    connection: Connection,
    urls: str,
    name: str,
    on_down: Callable[[], None],
    on_up: Callable[[], None],
    timeout: float,
) -> None:
    """Connect `connection`; raises `Unreachable` or `AccessDenied` within about `timeout` seconds."""
    servers, credentials = _split(urls)
    options: dict[str, Any] = {**credentials, **_file_credentials()}
    last: list[Exception] = []
    ready = False

    async def error_cb(error: Exception) -> None:
        last.append(error)
        del last[:-5]
        if ready:
            log.info("nats: %s", error)

    async def disconnected_cb() -> None:
        if ready:
            on_down()

    async def reconnected_cb() -> None:
        on_up()

    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                await connection.connect(
                    servers=list(servers),
                    name=name,
                    error_cb=error_cb,
                    disconnected_cb=disconnected_cb,
                    reconnected_cb=reconnected_cb,
                    allow_reconnect=False,
                    connect_timeout=max(1, int(timeout)),
                    reconnect_time_wait=RETRY,  # pyright: ignore[reportArgumentType]
                    max_reconnect_attempts=1,
                    ping_interval=PING_EVERY,
                    pending_size=16 * 1024 * 1024,
                    **options,
                )
            break
        except ImportError as error:
            await _discard(connection)
            raise AccessDenied("These credentials need the package nkeys", hint="pip install nkeys") from error
        except (OSError, TimeoutError, ValueError, nats_errors.Error) as error:
            reason = _denied([error, *last])
            await _discard(connection)
            if reason:
                raise AccessDenied(
                    f"The NATS server at {', '.join(servers)} refuses the credentials: {reason}",
                    hint="see REGROW_NATS_URL and REGROW_NATS_CREDS",
                ) from error
            if loop.time() + RETRY >= deadline:
                cause = next((str(e) for e in [*reversed(last), error] if str(e)), "no answer")
                raise Unreachable(
                    f"No NATS server answers at {', '.join(servers)}: {cause}",
                    hint="is it running? see REGROW_NATS_URL",
                ) from error
            connection._server_pool.clear()
            await asyncio.sleep(RETRY)
    ready = True
    connection.options["allow_reconnect"] = True
    connection.options["max_reconnect_attempts"] = -1
    connection.options["connect_timeout"] = RECONNECT_TIMEOUT
    connection.set_server_pool([*servers, *[url.geturl() for url in connection.discovered_servers]])


async def _discard(connection: Connection) -> None:
    """After a failed attempt: nats-py leaves its socket open."""
    transport, connection._transport = connection._transport, None
    if transport is not None and bool(transport):  # pyright: ignore[reportGeneralTypeIssues]
        transport.close()
        try:
            await transport.wait_closed()
        except OSError as error:
            log.debug("Closing after a failed attempt to connect: %s", error)


def _denied(errors: list[Exception]) -> str:
    """What the server has against the credentials; that it waited for them in vain says nothing of them."""
    for error in errors:
        text = str(error).lower()
        if ("authorization" in text or "authentication" in text) and "timeout" not in text:
            return str(error).removeprefix("nats: ").strip("'")
    return ""


def revive(connection: Connection) -> None:
    """Start reconnecting again if nats-py's attempt ended with an error it does not expect."""
    task = connection._reconnection_task
    if connection._status == Client.RECONNECTING and task is not None and task.done():
        log.warning(
            "Reconnecting ended unexpectedly: starting it again",
            exc_info=task.exception() if not task.cancelled() else None,
        )
        connection._reconnection_task = asyncio.get_running_loop().create_task(connection._attempt_reconnect())


async def close(connection: Connection) -> None:
    """Close for good, also in the middle of reconnecting."""
    connection.options["allow_reconnect"] = False
    task = connection._reconnection_task
    while task is not None and not task.done():
        task.cancel()  # again and again: `asyncio.wait_for` of Python 3.11 may swallow one, and nats-py swallows some
        await asyncio.wait([task], timeout=RETRY)
    if connection.up:
        try:
            await connection.flush(FLUSH)  # pyright: ignore[reportArgumentType]
        except nats_errors.Error as error:
            log.debug("Flushing before the end: %s", error)
    if connection.unwritten():
        connection.abort()
    await connection.close()
