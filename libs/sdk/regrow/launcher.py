"""Starts a host as a process of the operating system, keeps it running, and tells the others at once when it died.

The launcher saw its host end, so it may delete the host's record: take-over need not wait for the TTL.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence

import msgspec
from regrow_protocol.bus import Bus
from regrow_protocol.errors import RegrowError
from regrow_protocol.subjects import token

from .errors import ProgramError
from .host.main import HASH_SEED, Ready

log = logging.getLogger("regrow.launcher")

START_TIMEOUT = 30.0
MAX_LINE = 1 << 16
MAX_DEATHS, WITHIN = 8, 60.0


class HostProcess:
    """One host, started again when it dies.

    What its program prints goes to this program's standard output, or with `prints_to_stderr` to its standard error.

    Args:
        restart: start it again when it dies.
        on_death: called with the exit code of one that died.
        on_ready: called with what each said of itself, the first and those that follow.

    Attributes:
        ready: what the present one said of itself.
        deaths: how often it died.
        failed: why it is given up.
    """

    def __init__(
        self,
        target: str,
        url: str,
        *,
        app: str = "",
        bus: Bus | None = None,
        restart: bool = True,
        on_death: Callable[[int], None] | None = None,
        on_ready: Callable[[Ready], None] | None = None,
        env: dict[str, str] | None = None,
        prints_to_stderr: bool = False,
    ) -> None:
        self._argv: Sequence[str] = [
            sys.executable, "-m", "regrow.host", target, "--with-parent", *(["--app", app] if app else []),
        ]  # fmt: skip
        self._env = {**os.environ, **(env or {}), "REGROW_NATS_URL": url, "PYTHONHASHSEED": HASH_SEED}
        self._prints_to_stderr = prints_to_stderr
        if prints_to_stderr:
            self._env["PYTHONUNBUFFERED"] = "1"
        self._bus = bus
        self._restart = restart
        self._on_death = on_death
        self._on_ready = on_ready
        self._process: asyncio.subprocess.Process | None = None
        self._errors: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = False
        self.ready: Ready | None = None
        self.deaths = 0
        self.failed: asyncio.Future[RegrowError] = asyncio.get_running_loop().create_future()

    @property
    def os_pid(self) -> int:
        """Of the present host process."""
        return self._process.pid if self._process is not None else 0

    async def start(self) -> Ready:
        """Start it; returns when it is registered. Raises ProgramError when it cannot start."""
        ready = await self._launch()
        self._keeper = asyncio.get_running_loop().create_task(self._keep())
        return ready

    async def _launch(self) -> Ready:
        read, write = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                "--ready-fd",
                str(write),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE if self._prints_to_stderr else None,
                stderr=asyncio.subprocess.PIPE,
                env=self._env,
                pass_fds=[write],
                start_new_session=True,
            )
        finally:
            os.close(write)
        tail: list[str] = []
        self._errors = asyncio.get_running_loop().create_task(_forward_all(self._process, tail))
        try:
            async with asyncio.timeout(START_TIMEOUT):
                line = await _read_line(read)
        except BaseException as error:
            self._process.kill()
            if isinstance(error, TimeoutError):
                raise ProgramError(f"The host did not start within {START_TIMEOUT:g} s") from None
            raise
        if not line:
            await self._process.wait()
            await self._errors
            errors = [text for text in tail if text.startswith("error: ")]
            hints = [text.removeprefix("hint: ") for text in tail if text.startswith("hint: ")]
            text = errors[-1].removeprefix("error: ") if errors else "\n".join(tail[-5:]) or "no output"
            raise ProgramError(f"The host did not start: {text}", hint=hints[-1] if hints else "")
        self.ready = msgspec.json.decode(line, type=Ready)
        if self._on_ready is not None:
            self._on_ready(self.ready)
        return self.ready

    async def _keep(self) -> None:
        deaths: list[float] = []
        while True:
            assert self._process is not None
            code = await self._process.wait()
            if self._stopping:
                return
            self.deaths += 1
            log.warning("the host %s (pid %d) died: %s", self.ready and self.ready.host, self.os_pid, _death(code))
            await self._announce()
            if self._on_death is not None:
                self._on_death(code)
            if not self._restart:
                return
            now = time.monotonic()
            deaths = [*[at for at in deaths if now - at < WITHIN], now]
            if len(deaths) > MAX_DEATHS:
                self._fail(ProgramError(f"The host died {len(deaths)} times within {WITHIN:g} s; given up"))
                return
            try:
                await self._launch()
            except RegrowError as error:
                self._fail(error)
                return

    def _fail(self, error: RegrowError) -> None:
        if not self.failed.done():
            self.failed.set_result(error)

    async def _announce(self) -> None:
        """Delete the dead host's record."""
        if self._bus is None or self.ready is None:
            return
        with contextlib.suppress(RegrowError):  # its TTL does it too
            await self._bus.kv("regrow_hosts").purge(f"{token(self.ready.app)}.{self.ready.host}", marker_ttl=60)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def stop(self, timeout: float = 15.0) -> None:
        """SIGTERM, and SIGKILL after `timeout` seconds."""
        self._stopping = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(timeout):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._errors is not None:
            await self._errors


def _death(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


async def _read_line(descriptor: int) -> bytes:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", closefd=True)
    )
    try:
        return await reader.readline()
    finally:
        transport.close()


async def _forward_all(process: asyncio.subprocess.Process, tail: list[str]) -> None:
    """Its standard error to ours, and its standard output where that is a pipe."""
    assert process.stderr is not None
    printed = [_forward(process.stdout, [], started=True)] if process.stdout is not None else []
    await asyncio.gather(_forward(process.stderr, tail), *printed)


async def _forward(stream: asyncio.StreamReader, tail: list[str], *, started: bool = False) -> None:
    """Lines to our standard error, keeping the last ones; errors before it has `started` are for `start` to tell."""
    rest = b""
    while data := await stream.read(1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > MAX_LINE:
            lines, rest = [*lines, rest], b""
        for line in lines:
            text = line.decode(errors="replace")
            tail.append(text[:1000])
            started = started or not text.startswith(("error: ", "hint: "))
            if started:
                sys.stderr.write(text + "\n")
        del tail[:-50]
    if rest:
        sys.stderr.write(rest.decode(errors="replace") + "\n")
