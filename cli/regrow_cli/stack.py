"""The embedded stack: a NATS server and the services, one per data folder, shared by all programs of its user.

`ensure_stack` returns a stack that is ready, and starts one when there is none; however many programs do so at the same
moment, there is one. Programs never stop it: what they started stops by itself when nobody is connected any more
(`stack_process`). All calls block; from a coroutine use `asyncio.to_thread`.

For programs that must not import this package (the SDK):

    python -m regrow_cli.stack ensure --data DIR

prints the `StackInfo` as one line of JSON. Errors are one line on stderr, and the exit code is that of `exit_codes`.
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct
from regrow_protocol.errors import RegrowError, Unreachable

from . import data_dir
from .children import ChildSpec
from .connections import Connection, connections
from .data_dir import STACK_USER, ChildRecord, DataDir, StackInfo
from .errors import DataDirUnusable, StackFailed, StackTimeout
from .exit_codes import exit_code
from .os_process import Identity, end, is_alive

STOP_GRACE = 8.0
"""Seconds until a stack that does not stop is killed; it needs less than five."""
_POLL = 0.02
_SEEN_CLOSED = 1.0
_SEEN_LEFT = 5.0


class StackStatus(Struct, frozen=True):
    """What is to be said about the stack of a folder.

    Attributes:
        state: `orphaned`: the stack process was killed; what it ran goes on without it until somebody needs a stack.
        children: those that run.
        connected: programs connected to the server, without the stack's own services; None: it does not say.
        kept: it stays when nobody is connected.
    """

    state: Literal["running", "starting", "orphaned", "stopped"]
    data: str
    info: StackInfo | None = None
    children: list[ChildRecord] = []
    connected: list[Connection] | None = None
    kept: bool = False


def ensure_stack(
    data: Path | None = None,
    *,
    keep: bool = False,
    timeout: float = 60.0,
    services: Sequence[ChildSpec] | None = None,
) -> StackInfo:
    """A stack that is ready, started if there is none.

    Args:
        data: its folder; None: `REGROW_HOME`, else `~/.regrow`.
        keep: it shall stay until it is stopped.
        timeout: seconds until it must be ready.
        services: to run beside the NATS server if it is started; None: those that Regrow needs.

    Raises:
        DataDirUnusable, StackFailed, StackTimeout: and nothing was started, but after a StackTimeout it may still come.
    """
    place = data_dir.resolve(data)
    data_dir.prepare(place)
    deadline = time.monotonic() + timeout
    try:
        with place.gated(deadline):
            _want(place, keep=keep)
            return _start(place, services, deadline)
    except OSError as error:
        raise DataDirUnusable(f"The data folder {place.path} cannot be used: {error}", hint="regrow doctor") from error


def stop_stack(data: Path | None = None) -> bool:
    """Stop the stack and whatever a killed one left behind. Returns whether there was anything to stop.

    Raises:
        StackFailed: something does not end, even by force.
        StackTimeout: another program has been starting it for too long.
    """
    place = data_dir.resolve(data)
    if not place.lock.exists():
        return False
    with place.gated(time.monotonic() + 60.0):
        return _stop(place)


def stop_if_unused(data: Path | None, since: int, *, left: str = "") -> bool:
    """Stop the stack if it is not kept, nobody is connected, and nobody has asked for it after `since` (`last_wanted`).

    Args:
        data: its folder.
        since: see above.
        left: name of a connection that the caller has just closed.

    Returns whether it was stopped; otherwise it stops by itself later.
    """
    place = data_dir.resolve(data)
    info = place.running()
    with place.gated(time.monotonic() + 60.0):
        if info is None or last_wanted(data) != since or _kept(place) or not _alone(info, left):
            return False
        _stop(place)
        return True


def _alone(info: StackInfo, left: str) -> bool:
    """Whether nobody is connected; the server may take a moment to see what was closed, longer for `left`."""
    began = time.monotonic()
    while True:
        waited = time.monotonic() - began
        others = _others(info)
        if others == []:
            return True
        if waited > (_SEEN_LEFT if all(each.name == left for each in others or []) else _SEEN_CLOSED):
            return False
        time.sleep(0.05)


def last_wanted(data: Path | None) -> int:
    """When somebody last asked for the stack: nanoseconds since 1970, to compare only."""
    return data_dir.resolve(data).wanted.stat().st_mtime_ns


def stack_status(data: Path | None = None) -> StackStatus:
    """How the stack is; starts nothing and changes nothing."""
    place = data_dir.resolve(data)
    children = [child for child in data_dir.read(place.children, list[ChildRecord]) or [] if is_alive(child.process)]
    if info := place.running():
        return StackStatus("running", str(place.path), info, children, _others(info), _kept(place))
    state: Literal["starting", "orphaned", "stopped"]
    state = "starting" if place.locked() else "orphaned" if children else "stopped"
    return StackStatus(state, str(place.path), children=children)


def _stop(place: DataDir) -> bool:
    from .nats_child import end_orphans  # heavy, and `ensure` is quicker without

    found = place.locked()
    deadline = time.monotonic() + STOP_GRACE
    while place.locked():
        # Not written yet if the process has only just been started.
        holder = data_dir.read(place.lock, Identity)
        gone = end(holder, grace=max(0.0, deadline - time.monotonic())) if holder else False
        if not gone and time.monotonic() >= deadline:
            raise StackFailed(f"The stack in {place.path} cannot be ended", hint=_see(place))
        time.sleep(_POLL)
    left = end_orphans(place)
    for path in (place.info, place.wanted):
        path.unlink(missing_ok=True)
    return found or bool(left)


def _want(place: DataDir, *, keep: bool) -> None:
    place.wanted.touch(mode=0o600)
    if keep:
        place.wanted.write_text("keep")


def _start(place: DataDir, services: Sequence[ChildSpec] | None, deadline: float) -> StackInfo:
    while True:
        if info := place.running():
            _await_server(place, info, deadline)
            return info
        if not place.locked():
            _spawn(place, services, deadline)
        elif time.monotonic() >= deadline:
            raise StackTimeout(f"The stack in {place.path} was not ready in time", hint=_see(place))
        else:
            time.sleep(_POLL)


def _kept(place: DataDir) -> bool:
    return place.wanted.exists() and place.wanted.read_text().strip() == "keep"


def _others(info: StackInfo) -> list[Connection] | None:
    try:
        return [each for each in connections(info.monitor) if each.authorized_user != STACK_USER]
    except Unreachable:
        return None


def _spawn(place: DataDir, services: Sequence[ChildSpec] | None, deadline: float) -> None:
    """Start a stack process and wait for what it reports."""
    argv = [sys.executable, "-P", "-m", "regrow_cli.stack", "run", "--data", str(place.path)]
    if services is not None:
        argv += ["--services", msgspec.json.encode(list(services)).decode()]
    environment = {name: value for name, value in os.environ.items() if name not in ("REGROW_NATS_URL", "REGROW_HOME")}
    told, tell = os.pipe()
    try:
        with (place.logs / "stack.log").open("ab") as log:
            starter = subprocess.Popen(  # noqa: S603 - our own module
                [*argv, "--report-fd", str(tell)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=place.path,
                env=environment,
                pass_fds=(tell,),
            )
        os.close(tell)
        tell = -1
        starter.wait()  # it forks at once and leaves
        line = _read_line(told, deadline)
    finally:
        for fd in (told, tell):
            if fd >= 0:
                os.close(fd)
    if line is None:
        raise StackTimeout(f"The stack in {place.path} was not ready in time", hint=_see(place))
    if not line:
        raise StackFailed(f"The stack process ended while starting: {_last_line(place)}", hint=_see(place))
    report = msgspec.json.decode(line)
    if report.get("message"):
        raise StackFailed(" | ".join(report["message"].splitlines()), hint=report.get("hint") or _see(place))


def _read_line(fd: int, deadline: float) -> bytes | None:
    """A line; empty when the other end was closed without one, None when the time is up."""
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        part = os.read(fd, 65536)
        if not part:
            return b""
        line += part
    return line


def _await_server(place: DataDir, info: StackInfo, deadline: float) -> None:
    """Wait until the NATS server accepts connections: it may just be restarted."""
    port = int(info.url.rsplit(":", 1)[1])
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
                if connection.recv(4) == b"INFO":
                    return
        except OSError as error:
            if time.monotonic() >= deadline:
                raise StackTimeout(
                    f"The stack in {place.path} runs, but its NATS server does not answer: {error}",
                    hint=f"see {place.logs / 'nats.log'}",
                ) from error
        time.sleep(_POLL)


def _see(place: DataDir) -> str:
    return f"see {place.logs / 'stack.log'}, or run: regrow doctor"


def _last_line(place: DataDir) -> str:
    lines = (place.logs / "stack.log").read_text(errors="replace").splitlines()
    return lines[-1][:300] if lines else "it wrote nothing"


def _run(place: DataDir, services: str, report_fd: int) -> int:
    """Leave the caller's session and be the stack."""
    if os.fork():
        os._exit(0)  # so that it is nobody's child, and nobody has to wait for it
    os.setsid()
    from . import stack_process  # heavy, and `ensure` is quicker without

    def report(what: stack_process.Report) -> None:
        nonlocal report_fd
        if report_fd >= 0:
            try:
                os.write(report_fd, msgspec.json.encode(what) + b"\n")
                os.close(report_fd)
            except BrokenPipeError:  # whoever asked is gone; the stack is for others as well
                pass
            report_fd = -1

    if report_fd >= 0:
        os.set_inheritable(report_fd, False)
    chosen = msgspec.json.decode(services, type=list[ChildSpec]) if services else stack_process.default_services(place)
    return stack_process.run(place, chosen, report)


def main(argv: Sequence[str] | None = None) -> int:
    """The module's command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m regrow_cli.stack", description="The embedded stack of Regrow.")
    parser.add_argument("action", choices=["ensure", "stop", "status", "run"])
    parser.add_argument("--data", type=Path, help="data folder (default: REGROW_HOME, else ~/.regrow)")
    parser.add_argument("--keep", action="store_true", help="ensure: it stays until it is stopped")
    parser.add_argument("--timeout", type=float, default=60.0, help="ensure: seconds until it must be ready")
    parser.add_argument("--services", default="", help="ensure, run: JSON list of services instead of the usual ones")
    parser.add_argument("--report-fd", type=int, default=-1, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    try:
        if options.action == "run":
            return _run(data_dir.resolve(options.data), options.services, options.report_fd)
        if options.action == "ensure":
            services = msgspec.json.decode(options.services, type=list[ChildSpec]) if options.services else None
            result = ensure_stack(options.data, keep=options.keep, timeout=options.timeout, services=services)
        elif options.action == "stop":
            result = {"stopped": stop_stack(options.data)}
        else:
            result = stack_status(options.data)
    except RegrowError as error:
        print("error: " + " ".join(str(error).splitlines()), file=sys.stderr)
        return exit_code(error)
    print(msgspec.json.encode(result).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
