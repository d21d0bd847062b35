"""`regrow run --detach`: a process of its own that keeps a host for one root until the root has ended.

It is in the background of nobody: a session of its own, its output in `logs/run-<pid>.log` of the data folder, and a
file `runs/<pid>.json` there while it lives. SIGTERM stops it and leaves the root as it is: `regrow resume PID` goes on
with it.

`python -m regrow_cli.detached --report-fd N < ORDER` is that process.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Raw, Struct
from regrow.client import RemoteProcess
from regrow.runtime import Session
from regrow_protocol import ids
from regrow_protocol import messages as m
from regrow_protocol.errors import RegrowError

from . import data_dir
from .data_dir import DataDir
from .errors import Reported
from .os_process import Identity, identify, is_alive
from .roots import RootOptions
from .settings import Settings

log = logging.getLogger("regrow.detached")


class Order(Struct):
    """What to run.

    Attributes:
        target: the program.
        type: of the root.
        args: its arguments' JSON.
        options: of the root.
        app: empty for the program's own.
        pid: of the root; empty: to be made.
        url: of the NATS server.
        log: path of the log.
    """

    target: str
    type: str
    args: bytes
    options: RootOptions = RootOptions()
    app: str = ""
    pid: str = ""
    url: str = ""
    log: str = ""


class RunRecord(Struct, frozen=True):
    """`runs/<pid>.json` of the data folder.

    Attributes:
        pid: of the root.
        process: that keeps its host.
        started: seconds since 1970.
        log: path of its output.
    """

    pid: str
    app: str
    target: str
    process: Identity
    started: float
    log: str


class _Report(Struct, omit_defaults=True):
    record: RunRecord | None = None
    code: str = ""
    message: str = ""
    hint: str = ""


def launch(chosen: Settings, order: Order) -> RunRecord:
    """Start the process that keeps a host; returns when the root is started.

    Raises:
        Reported: it could not; with the code of its own error.
        DataDirUnusable, StackFailed, StackTimeout: as ever.
    """
    place = data_dir.resolve(chosen.data)
    data_dir.prepare(place)
    _runs(place).mkdir(mode=0o700, exist_ok=True)
    order.url = chosen.url()
    order.pid = ids.new_id(ids.PROCESS)
    order.log = str(place.logs / f"run-{order.pid}.log")
    told, tell = os.pipe()
    try:
        with open(order.log, "ab", opener=_private) as output:
            process = subprocess.Popen(  # noqa: S603 - our own module
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "regrow_cli.detached",
                    "--report-fd",
                    str(tell),
                    "--runs",
                    str(_runs(place)),
                ],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=(tell,),
                start_new_session=True,
            )
        os.close(tell)
        tell = -1
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(msgspec.json.encode(order))
        with os.fdopen(told, "rb", closefd=False) as answer:
            line = answer.readline()
    finally:
        for fd in (told, tell):
            if fd >= 0:
                os.close(fd)
    report = msgspec.json.decode(line, type=_Report) if line else _Report(message=_last_line(Path(order.log)))
    if report.record is None:
        process.wait()
        raise Reported(report.message, code=report.code, hint=report.hint)
    return report.record


def record_of(place: DataDir, pid: str) -> RunRecord | None:
    """The process that keeps a host for this root, if one does."""
    record = data_dir.read(_runs(place) / f"{pid}.json", RunRecord)
    return record if record is not None and is_alive(record.process) else None


def _runs(place: DataDir) -> Path:
    return place.path / "runs"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return f"The detached run did not start: {lines[-1] if lines else 'it said nothing'}"


def main(argv: list[str] | None = None) -> int:
    """Keep a host until the root has ended; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m regrow_cli.detached")
    parser.add_argument("--report-fd", type=int, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    report_fd: int = options.report_fd
    os.set_inheritable(report_fd, False)

    def report(what: _Report) -> None:
        with contextlib.suppress(BrokenPipeError):  # whoever launched us is gone; the root runs all the same
            os.write(report_fd, msgspec.json.encode(what) + b"\n")
        os.close(report_fd)

    try:
        asyncio.run(_keep(order, options.runs, report))
    except RegrowError as error:
        log.error("%s", error)  # noqa: TRY400 - a known error
        with contextlib.suppress(OSError):  # it was told already that all is well
            report(_Report(code=error.code, message=error.message, hint=error.hint))
        return 1
    return 0


async def _keep(order: Order, runs: Path, report: Callable[[_Report], None]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    session = await Session.open(order.target, app=order.app, url=order.url)
    file = runs / f"{order.pid}.json"
    try:
        process = await _start(session, order)
        identity = identify(os.getpid())
        assert identity is not None
        record = RunRecord(process.pid, process.app, order.target, identity, time.time(), order.log)
        data_dir.write(file, record)
        log.info("%s %s runs in app %s", order.type, process.pid, process.app)
        report(_Report(record))
        await _until_end(session, process, stop)
    finally:
        file.unlink(missing_ok=True)
        await session.close()


async def _start(session: Session, order: Order) -> RemoteProcess:
    ready = session.host.ready
    assert ready is not None
    program, options = m.Program(order.target, str(Path.cwd())), order.options
    return await session.client.start(
        ready.app, ready.build, order.type, Raw(order.args), name=options.name, program=program, pid=order.pid,
        tags=options.tags, restart=options.restart,
    )  # fmt: skip


async def _until_end(session: Session, process: RemoteProcess, stop: asyncio.Event) -> None:
    async def end() -> None:
        async for record in session.client.records(process.app, process.pid):
            if record.final:
                log.info("%s %s", process.pid, record.type)
                return

    waiting = [asyncio.ensure_future(end()), asyncio.ensure_future(stop.wait())]
    try:
        await asyncio.wait([*waiting, session.host.failed], return_when=asyncio.FIRST_COMPLETED)
        if session.host.failed.done():
            raise session.host.failed.result()
        for each in waiting:
            if each.done():
                each.result()
    finally:
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
    if stop.is_set():
        log.info("stopped; `regrow resume %s` goes on with it", process.pid)


if __name__ == "__main__":
    sys.exit(main())
