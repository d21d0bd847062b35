"""Talking to a Docker engine from an event loop.

Calls of the docker SDK run in threads of their own (`call`), as many at a time as there are threads; the rest waits.
What can be tried again is a `BackendUnavailable`; what the engine refuses stays the SDK's `APIError`, for the caller to
say what it means.

Programs run in a container by `run`. Their input and output go over a connection that the engine takes over, which is
done here on the loop and not by the SDK: its socket loses what came with the answer's head, and would hold a thread for
as long as the program runs.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ..backend import BackendUnavailable, Completed, MachineFailed
from ._docker_sdk import docker, load, requests

T = TypeVar("T")

THREADS = 128
"""Calls of the SDK at a time."""

TIMEOUT = 60.0
"""Seconds that the engine may take to answer, or to go on answering."""

LONG = 1800.0
"""The same for what moves whole file systems: pulls, commits."""

_LOOK = 10.0
"""Seconds of silence after which it is looked whether a program still runs."""

_NOT_NOW = re.compile(
    rb"(cannot exec in a \w+ (state|container|process)|Container \w+ is (not running|paused))[^\n]*\r\n"
)
"""What the engine says in a program's place when it cannot start it now."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")

_HINT = "is the Docker engine running, and may this user reach it? See $DOCKER_HOST"


class Interrupted(BackendUnavailable):
    """The engine knows nothing of a program any more: it, or the container, ended meanwhile."""


def failed(what: str, error: docker.errors.APIError) -> MachineFailed | BackendUnavailable:
    """The error to raise for what the engine refuses."""
    said = str(error.explanation or error).strip()
    if error.status_code == 503:
        return BackendUnavailable(f"{what}: {said}", hint="the engine starts or ends; try again")
    return MachineFailed(f"{what}: {said}", hint="see what Docker said")


class Engine:
    """One engine, that of `$DOCKER_HOST` or the default socket."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="docker")
        self._client: Any = None
        self._slow: Any = None
        self._tls: ssl.SSLContext | None = None
        self.url = os.environ.get("DOCKER_HOST") or ""
        self._address = ""

    async def open(self) -> None:
        """Connect.

        Raises:
            BackendUnavailable: no engine answers.
        """
        await asyncio.to_thread(load)  # `_in_thread` names errors of the SDK, which would import it
        try:
            options = docker.utils.kwargs_from_env()
            self._address = str(docker.utils.parse_host(options.get("base_url"), tls="tls" in options))
            if not self._address.startswith(("http+unix://", "http://", "https://")):
                raise BackendUnavailable(
                    f"Docker at {self.url} cannot be used", hint="give unix:// or tcp:// in $DOCKER_HOST"
                )
            if "tls" in options:
                self._tls = _context(options["tls"])
            make = partial(docker.APIClient, version="auto", max_pool_size=THREADS, **options)
            self._client = await self._in_thread(partial(make, timeout=TIMEOUT))
            self._slow = await self._in_thread(partial(make, timeout=LONG))
        except docker.errors.DockerException as error:
            raise BackendUnavailable(f"Docker does not answer: {error}", hint=_HINT) from error

    async def close(self) -> None:
        """Let go of the connections; calls under way end on their own."""
        for client in (self._client, self._slow):
            if client is not None:
                client.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def call(self, call: Callable[[Any], T], *, slow: bool = False) -> T:
        """Call the SDK's `APIClient` in a thread.

        Raises:
            APIError: the engine refuses.
            BackendUnavailable: it does not answer.
        """
        client = self._slow if slow else self._client
        if client is None:
            raise BackendUnavailable("The Docker backend is not open", hint=_HINT)
        return await self._in_thread(partial(call, client))

    async def _in_thread(self, call: Callable[[], T]) -> T:
        def knock() -> T:
            # The SDK leaves a socket open for each connection that is refused.
            if (path := self._socket) is not None:
                with socket.socket(socket.AF_UNIX) as trial:
                    trial.settimeout(TIMEOUT)
                    trial.connect(path)
            return call()

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, knock)
        except docker.errors.APIError:
            raise
        except (requests.exceptions.RequestException, OSError) as error:
            raise BackendUnavailable(f"Docker does not answer: {error}", hint=_HINT) from error

    @property
    def _socket(self) -> str | None:
        path = self._address.removeprefix("http+unix://")
        return None if path == self._address else "/" + path.lstrip("/")

    @property
    def remote(self) -> bool:
        """Whether it is on another machine, whose containers' addresses are not reached from here."""
        return self._socket is None and urlsplit(self._address).hostname not in _LOOPBACK

    async def stat(self, container: str, path: str) -> dict[str, Any] | None:
        """What is at a path in a container, running or not: `mode` as Go's os.FileMode, `linkTarget`. None: nothing.

        Raises:
            APIError, BackendUnavailable: as in `call`.
        """

        def head(client: Any) -> dict[str, Any] | None:
            url = f"{client.base_url}/v{client.api_version}/containers/{container}/archive"
            with client.head(url, params={"path": path}, timeout=client.timeout) as answer:
                return _stat(client, container, answer)

        return await self.call(head)

    # Programs ---------------------------------------------------------------------------------------------------------

    async def run(
        self, container: str, argv: list[str], *, user: str, stdin: bytes = b"", started: Callable[[], None]
    ) -> Completed:
        """Run a program in a running container and wait for its end; `started` is called when it was started at last.

        Raises:
            APIError: the engine refuses: 404 where there is no such container, 409 where it does not run or is paused.
            BackendUnavailable: it does not answer; the program may have run.
        """
        if stdin and self._tls is not None:
            # TLS has no end of one direction: the program's input ends after as many bytes as there are.
            argv = ["sh", "-c", f'head -c {len(stdin)} | "$@"', "sh", *argv]
        made = await self.call(
            lambda c: c.exec_create(container, argv, user=user, stdin=bool(stdin), workdir="/")["Id"]
        )
        try:
            stdout, stderr = await self._attached(made, stdin, started)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise BackendUnavailable(f"The connection to Docker broke: {error!r}", hint=_HINT) from error
        done = Completed(await self._exit_code(made), stdout, stderr)
        if done.exit_code == 126 and not stderr and _NOT_NOW.fullmatch(stdout):
            raise _refused(409, stdout)  # it was paused or ended after its connection was taken over
        return done

    async def _attached(self, made: str, stdin: bytes, started: Callable[[], None]) -> tuple[bytes, bytes]:
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await self._connect()
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._start(reader, writer, made)
            watching = asyncio.create_task(self._watch_start(made, started))
            try:
                return await self._carry(reader, writer, made, stdin)
            finally:
                watching.cancel()
                await asyncio.wait([watching])
        finally:
            writer.transport.abort()  # without what is left of an input that nobody reads

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        limit = 1024 * 1024
        if self._socket is not None:
            return await asyncio.open_unix_connection(self._socket, limit=limit)
        where = urlsplit(self._address)
        return await asyncio.open_connection(str(where.hostname), where.port, ssl=self._tls, limit=limit)

    async def _start(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, made: str) -> None:
        """Start the program and take its connection over."""
        version = self._client.api_version
        body = b'{"Detach": false, "Tty": false}'
        writer.write(
            f"POST /v{version}/exec/{made}/start HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split()[1])
        if status in (101, 200):
            return
        length = next((int(h.split(":")[1]) for h in head if h.lower().startswith("content-length:")), 0)
        raise _refused(status, await reader.readexactly(length))

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, made: str, stdin: bytes
    ) -> tuple[bytes, bytes]:
        outputs = {1: bytearray(), 2: bytearray()}
        reading = asyncio.create_task(_demultiplex(reader, outputs))
        tasks = [reading]
        if stdin:
            tasks.append(asyncio.create_task(_feed(writer, stdin, half=self._tls is None)))
        try:
            while not reading.done():
                before = sum(map(len, outputs.values()))
                await asyncio.wait([reading], timeout=_LOOK)
                silent = not reading.done() and sum(map(len, outputs.values())) == before
                if silent and not (await self._look(made))["Running"]:
                    break  # the connection is dead, or what the program left behind holds its output open
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:  # a program may end without having read its input
                task.cancel()
            await asyncio.wait(tasks)
        return bytes(outputs[1]), bytes(outputs[2])

    async def _watch_start(self, made: str, started: Callable[[], None]) -> None:
        """Tell of a start that lasts, as the program does; most have ended before the first look."""
        delay = 0.1
        # Not told here that the engine is gone: who carries its output is.
        with contextlib.suppress(docker.errors.APIError, BackendUnavailable):
            found: dict[str, Any] = {"Pid": 0, "Running": True}
            while found["Running"] and not found["Pid"]:
                await asyncio.sleep(delay)
                found = await self._look(made)
                delay = min(delay * 1.5, 1.0)
            started()

    async def _look(self, made: str) -> dict[str, Any]:
        try:
            return await self.call(lambda c: c.exec_inspect(made))
        except docker.errors.APIError as error:
            if error.status_code != 404:
                raise
            # An engine that restarted knows none of the programs it started before.
            raise Interrupted("Docker restarted while a program ran", hint="it may have run; try again") from error

    async def _exit_code(self, made: str) -> int:
        """Of a program that has closed its outputs; it may still run."""
        delay = 0.005
        while (found := await self._look(made))["Running"]:
            await asyncio.sleep(delay)
            delay = min(delay * 1.5, 1.0)
        if found["ExitCode"] is None:
            raise Interrupted("Docker did not start a program", hint="its container is stopping; try again")
        return found["ExitCode"]


async def _feed(writer: asyncio.StreamWriter, stdin: bytes, *, half: bool) -> None:
    view = memoryview(stdin)
    # A program may end without reading its input.
    with contextlib.suppress(ConnectionError):
        for start in range(0, len(view), 256 * 1024):
            writer.write(view[start : start + 256 * 1024])
            await writer.drain()
        if half:
            writer.write_eof()


async def _demultiplex(reader: asyncio.StreamReader, outputs: dict[int, bytearray]) -> None:
    """Split the engine's stream of frames, each after a head of channel, three zeros and its length, until its end."""
    while True:
        try:
            head = await reader.readexactly(8)
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise
            return
        left = int.from_bytes(head[4:], "big")
        while left:
            piece = await reader.read(left)
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            outputs.setdefault(head[0], bytearray()).extend(piece)
            left -= len(piece)


def _stat(client: Any, container: str, answer: requests.Response) -> dict[str, Any] | None:
    found = answer.headers.get("X-Docker-Container-Path-Stat")
    if found is not None:
        return json.loads(base64.b64decode(found))
    client.inspect_container(container)  # raises where it is the container that is missing
    if answer.status_code == 404:
        return None
    raise docker.errors.APIError(f"{answer.status_code} for a path in {container}", response=answer)


def _refused(status: int, body: bytes) -> docker.errors.APIError:
    answer = requests.Response()
    answer.status_code = status
    try:
        said = json.loads(body)["message"]
    except (ValueError, KeyError, TypeError):
        said = body.decode(errors="replace")
    return docker.errors.APIError(f"{status} from Docker", response=answer, explanation=said)


def _context(tls: Any) -> ssl.SSLContext:
    """The SDK's TLS settings for a connection of our own."""
    context = ssl.create_default_context(cafile=tls.ca_cert if tls.verify else None)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert:
        context.load_cert_chain(*tls.cert)
    return context
