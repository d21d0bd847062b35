"""The checks behind `regrow doctor`. They look, and neither start nor change anything; each ends within seconds."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import shutil
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct
from regrow_protocol import streams
from regrow_protocol.bus import Bus
from regrow_protocol.errors import RegrowError, Unreachable
from regrow_protocol.server import find_binary

from .backend_checks import backends, managers
from .connections import variables
from .data_dir import DataDir, resolve
from .settings import Settings
from .stack import StackStatus, stack_status

GIB = 1 << 30
DISK_WARN, DISK_FAIL = 5 * GIB, GIB // 2
SKEW_WARN, SKEW_FAIL = 0.5, 5.0
_TIMEOUT = 3.0


class Check(Struct, frozen=True):
    """One finding.

    Attributes:
        status: `fail`: Regrow does not work, or data is in danger; `warn`: something works less well than it could.
        hint: what to do; empty when it is ok.
    """

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    hint: str = ""


async def examine(settings: Settings) -> list[Check]:
    """All checks, in the order in which they depend on each other."""
    place = resolve(settings.data)
    status = await asyncio.to_thread(stack_status, settings.data)
    url = settings.running_url()
    embedded = status.info is not None and url == status.info.url
    checks = [python(), await asyncio.to_thread(nats_binary), data_folder(place), disk(place)]
    checks += [stack(status, wanted=not url or embedded), *await server(url)]
    checks.append(await asyncio.to_thread(durability, status if embedded else None))
    checks.append(tmux())
    return [*checks, *await asyncio.to_thread(machines)]


def machines() -> list[Check]:
    """Which kinds of machines could a machine-manager on this computer make?"""
    return [Check(f"machines: {name}", *msgspec.structs.astuple(found)) for name, found in backends().items()]


def python() -> Check:
    """Which one runs this? An older one than Regrow needs could not have come this far."""
    return Check("Python", "ok", f"{'.'.join(map(str, sys.version_info[:3]))} at {sys.executable}")


def nats_binary() -> Check:
    """Is there a server to run?"""
    try:
        binary = find_binary()
    except RegrowError as error:
        return Check("nats-server", "fail", error.message, error.hint)
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=20, check=False)  # noqa: S603
    return Check("nats-server", "ok", f"{said.stdout.strip().removeprefix('nats-server: ')} at {binary}")


def data_folder(place: DataDir) -> Check:
    """Can it hold a stack, and can nobody else read it?"""
    name, path, other = "data folder", place.path, "name another one with --data or REGROW_HOME"
    try:
        found = path.stat()
    except FileNotFoundError:
        parent = _existing(path)
        if os.access(parent, os.W_OK | os.X_OK):
            return Check(name, "ok", f"{path} (does not exist yet)")
        return Check(name, "fail", f"{path} does not exist, and {parent} cannot be written to", other)
    except OSError as error:
        return Check(name, "fail", f"{path}: {error.strerror}", other)
    if not stat.S_ISDIR(found.st_mode):
        return Check(name, "fail", f"{path} is no folder", other)
    if found.st_uid != os.geteuid():
        return Check(name, "fail", f"{path} belongs to another user", other)
    if not os.access(path, os.W_OK | os.X_OK):
        return Check(name, "fail", f"{path} cannot be written to", f"chmod 700 {path}, or {other}")
    if stat.S_IMODE(found.st_mode) & 0o077:
        return Check(name, "warn", f"{path} can be read by others, and it holds credentials", f"chmod 700 {path}")
    return Check(name, "ok", str(path))


def disk(place: DataDir) -> Check:
    """Is there room for the store?"""
    free = shutil.disk_usage(_existing(place.path)).free
    detail, hint = f"{free / GIB:.1f} GiB free", "free some, or move the data folder: a full store accepts nothing"
    if free < DISK_FAIL:
        return Check("disk", "fail", detail, hint)
    return Check("disk", "warn", detail, hint) if free < DISK_WARN else Check("disk", "ok", detail)


def stack(status: StackStatus, *, wanted: bool) -> Check:
    """Does the embedded stack run, and do its children stay up?"""
    name, log = "embedded stack", Path(status.data) / "logs"
    if status.state == "stopped":
        if wanted:
            return Check(name, "ok", "does not run; programs start it when they need it")
        return Check(name, "ok", "does not run; another server is used")
    if status.state == "orphaned":
        left = ", ".join(f"{child.name} (pid {child.process.pid})" for child in status.children)
        return Check(name, "warn", f"was killed and left behind: {left}", "regrow up takes over; regrow down ends them")
    if status.state == "starting":
        return Check(name, "warn", "is starting", f"if that lasts, see {log / 'stack.log'}")
    info = status.info
    assert info is not None
    restarted = [child for child in status.children if child.restarts]
    installed = importlib.metadata.version("regrow")
    detail = f"pid {info.pid}, version {info.version}, up for {_duration(time.time() - info.started)}"
    if restarted:
        which = ", ".join(f"{child.name} {child.restarts} times ({child.last_exit})" for child in restarted)
        return Check(name, "warn", f"{detail}; restarted: {which}", f"see {log}")
    if info.version != installed:
        return Check(name, "warn", f"{detail}, but {installed} is installed", "regrow down; the next program starts it")
    return Check(name, "ok", detail)


async def server(url: str) -> list[Check]:
    """Is NATS there, are the streams, and do the clocks agree?"""
    if not url:
        return [Check("NATS", "ok", "no server runs now: not checked")]
    try:
        bus = await Bus.connect(url, name="regrow doctor", connect_timeout=_TIMEOUT)
    except RegrowError as error:
        return [Check("NATS", "fail", error.message, error.hint or "start one: regrow up")]
    try:
        # Not nats-py's `connected_server_version`: it is not set by every way of connecting.
        version = bus.nc._server_info.get("version", "of an unknown version")
        checks = [Check("NATS", "ok", f"{version} at {_without_credentials(url)}")]
        return checks + await _streams(bus)
    except RegrowError as error:
        return [Check("NATS", "fail", error.message, error.hint or "is JetStream switched on?")]
    finally:
        await bus.close()


async def _streams(bus: Bus) -> list[Check]:
    specs = [*streams.STREAMS, *(bucket.stream() for bucket in streams.BUCKETS), streams.VALUES_STREAM]
    wanted = {spec.name for spec in specs}
    present: set[str] = set()
    total = 1
    while len(present) < total:
        asked = msgspec.json.encode({"offset": len(present)})
        page = msgspec.json.decode(await bus.request("$JS.API.STREAM.NAMES", asked, timeout=_TIMEOUT), type=_Names)
        total = page.total if page.streams else len(present)
        present.update(page.streams or [])
    missing = sorted(wanted - present)
    if missing:
        detail = f"{len(missing)} of {len(wanted)} are missing: {', '.join(missing[:3])}{', …' if missing[3:] else ''}"
        # They are made by whoever needs them first, so on a server that nothing has used yet there is none.
        return [Check("streams", "warn", detail, "the supervisor or the first program makes them; does it run?")]
    apps = sum(name.startswith(streams.inbox_stream("x")[:-1]) for name in present)
    return [
        Check("streams", "ok", f"all {len(wanted)}, and those of {apps} apps"),
        await _clock(bus, min(wanted)),
        Check("machine-managers", *msgspec.structs.astuple(await managers(bus))),
    ]


async def _clock(bus: Bus, stream: str) -> Check:
    """The server's answers carry its time: compare it with ours in the middle of the request."""
    before = time.time()
    answer = msgspec.json.decode(await bus.request(f"$JS.API.STREAM.INFO.{stream}", timeout=_TIMEOUT), type=_Info)
    after = time.time()
    # Anywhere between sending and receiving is no difference.
    then = answer.ts.timestamp()
    skew = max(before - then, then - after, 0.0)
    detail, hint = f"differs by {skew:.3f} s from the server's", "synchronise the clocks (NTP)"
    if skew >= SKEW_FAIL:
        return Check("clock", "fail", detail, f"{hint}: timers fire at the server's time")
    return Check("clock", "warn", detail, hint) if skew >= SKEW_WARN else Check("clock", "ok", detail)


def durability(status: StackStatus | None) -> Check:
    """Is every write synced to the disk before it is acknowledged?"""
    name = "fsync"
    if status is None or status.info is None:
        return Check(name, "ok", "no embedded server runs: not checked")
    try:
        config: dict[str, Any] = variables(status.info.monitor)["jetstream"]["config"]
    except (Unreachable, KeyError) as error:
        return Check(name, "warn", f"cannot be seen: {error}", "see the check of NATS above")
    if config.get("sync_always"):
        return Check(name, "ok", "every write is on the disk before it is acknowledged")
    interval = config.get("sync_interval", 0) / 1e9
    return Check(
        name,
        "warn",
        f"every {interval:g} s: losing power may lose what was written since (killed processes lose nothing)",
        "unset REGROW_DURABILITY, then regrow down, regrow up",
    )


def tmux() -> Check:
    """Agents' terminals are tmux sessions."""
    found = shutil.which("tmux")
    if found:
        return Check("tmux", "ok", found)
    return Check("tmux", "warn", "is not installed: agents cannot run in terminals here", "make system-deps")


class _Names(Struct):
    total: int = 0
    streams: list[str] | None = None


class _Info(Struct):
    ts: datetime = datetime.fromtimestamp(0, UTC)


def _existing(path: Path) -> Path:
    return next(each for each in (path, *path.parents) if each.exists())


def _without_credentials(url: str) -> str:
    return ",".join(part.rpartition("@")[2].removeprefix("nats://") for part in url.split(","))


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
