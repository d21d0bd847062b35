"""What lists say of exposed endpoints and of grants: their records; and calls through the registry."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
from msgspec import Raw, Struct
from regrow.client import Client
from regrow.codec import to_raw
from regrow.errors import CallFailed
from regrow.outside import acting
from regrow_protocol import messages as m
from regrow_protocol.bus import Bus
from regrow_protocol.endpoints import (
    BUCKET,
    CallEndpoint,
    Detach,
    EndpointsRecord,
    Grant,
    PublicName,
    grant_key,
    name_key,
    process_key,
    registry_subject,
)
from regrow_protocol.errors import InvalidName, RegrowError
from regrow_protocol.subjects import untoken

from .errors import TimeUp

PATIENCE = 30.0
"""Seconds to wait for a registry's answer."""


class GrantNotFound(RegrowError):
    """There is no such grant."""

    code = "grant-not-found"


class EndpointRow(Struct, kw_only=True):
    """An endpoint in a list.

    Attributes:
        pid, app, type: of its process.
        name: that its process has or wants; empty for none.
        public: `regrow.api.<name>.<endpoint>` calls it.
        endpoint, description, version: see `agents.Tool`.
        arguments: JSON Schema.
    """

    pid: str
    app: str
    type: str
    name: str
    public: bool
    endpoint: str
    description: str
    version: str
    arguments: Raw


async def endpoints(bus: Bus, *, app: str = "", pid: str = "") -> list[EndpointRow]:
    """The endpoints of living processes, or of one; oldest process first."""
    bucket = bus.kv(BUCKET)
    names: dict[str, str] = {}
    async for entry in bucket.items("name.*"):
        names[untoken(entry.key.removeprefix("name."))] = m.decode(entry.value, PublicName).pid
    known = [_decoded(entry.value) async for entry in bucket.items(process_key(pid or "*"))]
    living = [record for record in known if record is not None and not record.ended and app in ("", record.app)]
    return [
        EndpointRow(
            pid=record.pid, app=record.app, type=record.type, name=record.name,
            public=bool(record.name) and names.get(record.name) == record.pid, endpoint=tool.name,
            description=tool.description, version=tool.version, arguments=tool.schema,
        )
        for record in sorted(living, key=lambda record: (record.created, record.pid))
        for tool in record.endpoints.values()
    ]  # fmt: skip


def _decoded(data: bytes) -> EndpointsRecord | None:
    try:
        return m.decode(data, EndpointsRecord)
    except msgspec.MsgspecError:  # of another version: not ours to judge
        return None


async def grants(bus: Bus, *, app: str = "") -> list[Grant]:
    """The grants that stand, oldest first."""
    found = [m.decode(entry.value, Grant) async for entry in bus.kv(BUCKET).items("grant.>")]
    standing = [grant for grant in found if not grant.expires or grant.expires > time.time()]
    return sorted([each for each in standing if app in ("", each.app)], key=lambda grant: (grant.created, grant.id))


async def revoke(bus: Bus, id_: str) -> None:
    """Have a grant revoked. Raises GrantNotFound, TimeUp."""
    found = [m.decode(entry.value, Grant) async for entry in bus.kv(BUCKET).items(grant_key("*", id_))]
    if not found:
        raise GrantNotFound(f"There is no grant {id_}", hint="`regrow grants` lists them")
    client = Client(bus)
    try:
        await _ask(client, found[0].app, "detach", Detach(id_), timeout=PATIENCE)
    except TimeoutError as error:
        raise TimeUp(
            f"No registry has answered within {PATIENCE:g} s; the request stands", hint="is one running? regrow doctor"
        ) from error
    finally:
        await client.close()


async def is_public(bus: Bus, name: str, pid: str) -> bool:
    """Whether a process has a public name."""
    try:
        found = await bus.kv(BUCKET).get(name_key(name))
    except InvalidName:
        return False
    return found is not None and m.decode(found[0], PublicName).pid == pid


async def call_public(
    client: Client, app: str, name: str, endpoint: str, values: dict[str, Any], *, timeout: float | None
) -> Any:
    """Call an endpoint by its process's public name, through the registry; TimeoutError after `timeout` seconds."""
    args = to_raw(values, f"An argument of {endpoint}()")
    return await _ask(client, app, "call", CallEndpoint(endpoint=endpoint, args=args, name=name), timeout=timeout)


async def _ask(client: Client, app: str, what: str, args: Struct, *, timeout: float | None) -> Any:
    async with acting(client, app) as outside, asyncio.timeout(timeout):
        return await outside.command(f"registry.{what}", registry_subject(app), args, Any, CallFailed).future
