"""Which hosts live, and which build of an app takes a new process."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import TypeVar

from regrow_protocol import messages as m
from regrow_protocol import subjects
from regrow_protocol.bus import Bus
from regrow_supervisor.choice import LiveBuild, newest

from .errors import NoHost
from .processes import hosts

SUCCESSION = 5.0
"""Seconds in which the host that follows one that died comes: `regrow host` and Kubernetes start it anew."""
LOOK = 0.1

T = TypeVar("T")


async def build_for(bus: Bus, app: str, type_: str, *, build: str = "", target: str = "", patient: bool = False) -> str:
    """The build that shall run a process of `type_`: `build` if it has hosts, else the newest that has the type.

    Args:
        bus: connected.
        app, type_: of the process.
        build: that it would rather have.
        target: its program, where known.
        patient: of an app that has had hosts, wait for the one that follows.

    Raises:
        NoHost: no host of the app lives, or none that has such a process.
    """
    by_build = await _by_build(bus, app)
    if not by_build and patient and await bus.kv("regrow_partitions").get(f"app.{subjects.token(app)}") is not None:
        by_build = await _soon(lambda: _by_build(bus, app), SUCCESSION)
    if not by_build:
        raise NoHost(f"No host of app {app} runs", hint=f"start one: regrow host FILE --app {app}")
    if build and type_ in {t for host in by_build.get(build, ()) for t in host.types}:
        return build
    builds = [LiveBuild.of(name, found, await _created(bus, app, name)) for name, found in by_build.items()]
    chosen = newest(builds, type_, target)
    if chosen is None:
        known = ", ".join(sorted({t for each in builds for t in each.types}))
        raise NoHost(f"No host of app {app} has a process {type_}", hint=f"they have: {known}")
    return chosen


async def _by_build(bus: Bus, app: str) -> dict[str, list[m.HostRecord]]:
    """The hosts of an app that take new processes."""
    found: dict[str, list[m.HostRecord]] = defaultdict(list)
    for host in await hosts(bus):
        if host.app == app and not host.draining:
            found[host.build].append(host)
    return found


async def program_of(bus: Bus, app: str, build: str) -> m.Program | None:
    """The program that the hosts of a build run: what a start says, so that it can be resumed and replayed."""
    targets = [host.target for host in await hosts(bus) if (host.app, host.build) == (app, build) and host.target]
    return m.Program(targets[0]) if targets else None


async def is_hosted(bus: Bus, app: str, build: str, *, within: float = 0.0) -> bool:
    """Whether a host of this build lives, or one comes within some seconds."""

    async def look() -> bool:
        return any((host.app, host.build) == (app, build) for host in await hosts(bus))

    return await _soon(look, within)


async def _soon(look: Callable[[], Awaitable[T]], seconds: float) -> T:
    """The first of its answers that holds, or the last one within some seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not (found := await look()) and loop.time() < deadline:  # noqa: ASYNC110 - only the bucket knows
        await asyncio.sleep(LOOK)
    return found


async def _created(bus: Bus, app: str, build: str) -> float | None:
    found = await bus.kv("regrow_partitions").get(f"build.{subjects.token(app)}.{build}")
    return m.decode(found[0], m.BuildRecord).created if found is not None else None


async def owners(bus: Bus) -> dict[tuple[str, str, int], str]:
    """The host that owns each (app, build, partition)."""
    found: dict[tuple[str, str, int], str] = {}
    async for entry in bus.kv("regrow_partitions").items("own.>"):
        _, app, build, part = entry.key.split(".")
        found[subjects.untoken(app), build, int(part)] = m.decode(entry.value, m.Ownership).host
    return found
