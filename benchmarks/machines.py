"""Machines: what a command costs above the bare call of the library that its backend uses, and what else machines do.

On each backend that can be used here: folders of this computer (`local`), a real sshd on loopback (`ssh`), a real
Docker engine (`docker`). The last two come from the tests' own fixtures, and are left out, with a line that says why,
where they cannot be had. The bare calls are made by `bare.py`, on the same computer, in turns with Regrow's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from figures import Figure, median, of_rounds, percentile
from harness import APP, Stack, Watched, temporary_folder, until
from meter import Meter
from regrow import DockerImage, LocalImage, Machine, machine
from regrow.outside import acting
from regrow.testing.managers import Manager

T = TypeVar("T")

TESTS = Path(__file__).parents[1] / "tests"
FIXTURES = (TESTS, TESTS / "integration" / "machines")
BARE = Path(__file__).with_name("bare.py")
MIB = 1 << 20
AT_ONCE = 200
ENOUGH = 15.0
"""Seconds of many commands at once after which there are no further rounds of them."""
WARM = 2


class NotHere(Exception):
    """Why a backend cannot be used."""


@dataclass
class Place:
    """Where machines are made.

    Attributes:
        backend: its name.
        image: of the machines.
        bare: arguments of `bare.py`.
        env, options: of the manager.
        roots: programs, with all that they start, that work for it.
        told_apart: everything that works for it is below these or the manager.
    """

    backend: str
    image: Any
    bare: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    options: list[str] = field(default_factory=list)
    roots: list[int] = field(default_factory=list)
    told_apart: bool = True


# Places ---------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def local() -> AsyncIterator[Place]:
    """Folders of this computer."""
    yield Place("local", LocalImage())


@asynccontextmanager
async def ssh() -> AsyncIterator[Place]:
    """A real sshd on loopback, and a login that is made for it where we may."""
    with _fixtures() as skipped:
        from ssh_server import SSHServer, make_login
    with contextlib.ExitStack() as stack:
        try:
            login = stack.enter_context(make_login())
        except skipped as error:
            raise NotHere(str(error)) from error
        server = stack.enter_context(SSHServer(login))
        image = server.image()
        names = ("host", "port", "user", "key", "known_hosts")
        arguments = {name: getattr(image, name) for name in names}
        yield Place("ssh", image, arguments, roots=[server._process.pid])


@asynccontextmanager
async def docker() -> AsyncIterator[Place]:
    """The engine that answers, or one that is started for this."""
    with _fixtures():
        from docker_engine import IMAGE, NoEngine, base_image, shared
    with temporary_folder() as folder, contextlib.ExitStack() as stack:
        try:
            engine = stack.enter_context(shared(folder / "docker"))
            base_image(engine)
        except NoEngine as error:
            raise NotHere(str(error)) from error
        bare = {"url": engine.url, "image": IMAGE}
        warm = ["--warm", f"{IMAGE}={WARM}"]
        yield Place("docker", DockerImage(IMAGE), bare, {"DOCKER_HOST": engine.url}, warm, told_apart=False)


@contextlib.contextmanager
def _fixtures() -> Any:
    """The tests' fixtures can be imported; gives what they raise to skip a test."""
    sys.path += [str(folder) for folder in FIXTURES if str(folder) not in sys.path]
    try:
        from _pytest.outcomes import Skipped

        yield Skipped
    except ImportError as error:
        raise NotHere(f"the tests' fixtures cannot be imported: {error}") from error


PLACES = {"local": local, "ssh": ssh, "docker": docker}
BACKENDS = tuple(PLACES)


# Programs -------------------------------------------------------------------------------------------------------------


class Bare:
    """The program that makes the bare calls."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    async def calls(self, count: int) -> list[float]:
        """Make so many; the milliseconds of each."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"%d\n" % count)
        line = await asyncio.wait_for(self._process.stdout.readline(), 60)
        return json.loads(line)


@asynccontextmanager
async def _bare(place: Place) -> AsyncGenerator[Bare]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(BARE), place.backend, json.dumps(place.bare), stdin=pipe, stdout=pipe
    )
    assert process.stdin is not None
    try:
        yield Bare(process)
        process.stdin.close()
        await asyncio.wait_for(process.wait(), 10)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def _manager(stack: Stack, place: Place) -> AsyncGenerator[Manager]:
    manager = Manager(stack.server.url, backends=place.backend, options=place.options, env=place.env)
    try:
        await manager.start_async()
        yield manager
    finally:
        await asyncio.to_thread(manager.stop)
        if place.backend == "docker":
            await asyncio.to_thread(_remove_containers, place.bare["url"], manager.node)
        await asyncio.to_thread(manager.close)


def _remove_containers(url: str, node: str) -> None:
    """Warm machines and snapshots: the engine may be one that stays."""
    import docker

    client = docker.APIClient(base_url=url, version="auto")
    label = {"label": f"regrow.node={node}"}
    for container in client.containers(all=True, filters=label):
        client.remove_container(container["Id"], force=True, v=True)
    for image in client.images(filters=label):
        client.remove_image(image["Id"], force=True)
    client.close()


# Measuring ------------------------------------------------------------------------------------------------------------


async def run(
    stack: Stack, rounds: int, quick: bool, backends: tuple[str, ...], say: Callable[[str], None]
) -> list[Figure]:
    """Everything, on each of the backends that can be used."""
    found: list[Figure] = []
    for backend in backends:
        try:
            async with AsyncExitStack() as exits:
                place = await exits.enter_async_context(PLACES[backend]())
                say(f"machines, {backend}")
                manager = await exits.enter_async_context(_manager(stack, place))
                bare = await exits.enter_async_context(_bare(place))
                await exits.enter_async_context(acting(stack.client, APP))
                found += await _Backend(stack, place, manager, bare, rounds, quick).figures()
        except NotHere as error:
            say(f"machines, {backend}: left out: {error}")
    return found


class _Backend:
    """The figures of one backend."""

    def __init__(self, stack: Stack, place: Place, manager: Manager, bare: Bare, rounds: int, quick: bool) -> None:
        assert manager.process is not None
        self._stack, self._place, self._bare = stack, place, bare
        self._rounds, self._quick = rounds, quick
        roots = {"manager": [manager.process.pid], "bare": [bare.pid], "machines": place.roots}
        self._watched = Watched(stack, roots)

    async def figures(self) -> list[Figure]:
        found = await self._warm() if self._place.backend == "docker" else []
        async with await machine(self._place.image, wait=60) as box:
            found = [*await self._commands(box), *await self._at_once(box), *await self._files(box), *found]
            found += [*await self._copies(box)]
        return [*found, *await self._life()]

    def _named(self, what: str) -> str:
        return f"{self._place.backend}: {what}"

    def _others(self, *meters: Meter) -> float:
        return max(meter.others for meter in meters) if self._place.told_apart else 0.0

    async def _commands(self, box: Machine) -> list[Figure]:
        """`true`: bare, from the body of a process, and from a client, in turns."""
        count = (20 if self._quick else 60) if self._place.backend == "docker" else (60 if self._quick else 200)
        ways: dict[str, Callable[[int], Awaitable[list[float]]]] = {
            "bare call": self._bare.calls,
            "exec from a body": lambda n: self._stack.run("execs", box=box, n=n),
            "exec from a client": lambda n: _execs(box, n),
        }
        done: dict[str, list[tuple[Meter, list[float]]]] = {way: [] for way in ways}
        for call in ways.values():
            await call(count // 5)
        for _ in range(self._rounds):
            await self._stack.patience.quiet()
            for way, call in ways.items():
                done[way].append(await self._watched.metered(lambda call=call: call(count)))
        found: list[Figure] = []
        middle = {way: [percentile(ms, 0.5) for _, ms in tries] for way, tries in done.items()}
        edge = {way: [percentile(ms, 0.99) for _, ms in tries] for way, tries in done.items()}
        bare = middle["bare call"]
        for way, tries in done.items():
            others = self._others(*(meter for meter, _ in tries))
            costs = [meter.cost(count) for meter, _ in tries]
            cost = {name: median([one[name] for one in costs]) for name in costs[0]}
            for share, values in (("p50", middle), ("p99", edge)):
                figure = of_rounds(self._named(f"{way}, {share}"), "latency", values[way], others=others)
                figure.base = median(values["bare call"])
                figure.cost = cost if share == "p50" else {}
                found.append(figure)
            if way != "bare call":
                added = [mine - base for mine, base in zip(middle[way], bare, strict=True)]
                found.append(of_rounds(self._named(f"{way}, added"), "latency", added, others=others))
        return found

    async def _at_once(self, box: Machine) -> list[Figure]:
        """Commands of one machine at the same time, from a client."""
        tries: list[Meter] = []
        for _ in range(self._rounds):
            await self._stack.patience.quiet()
            meter, done = await self._watched.metered(
                lambda: asyncio.gather(*(box.exec("true") for _ in range(AT_ONCE)))
            )
            assert all(result.ok for result in done)
            tries.append(meter)
            if sum(each.seconds for each in tries) > ENOUGH:
                break
        seconds = [meter.seconds for meter in tries]
        others = self._others(*tries)
        name = self._named(f"{AT_ONCE} execs at once")
        return [
            of_rounds(name, "time", seconds, AT_ONCE, others=others, cost=tries[0].cost(AT_ONCE)),
            of_rounds(name, "rate", [AT_ONCE / each for each in seconds], others=others),
        ]

    async def _files(self, box: Machine) -> list[Figure]:
        """A file of 1 MiB."""
        content = os.urandom(MIB)

        async def read() -> None:
            assert await box.read_file("big") == content

        write = await self._repeated("write of 1 MiB", 10, lambda: box.write_file("big", content))
        return [write, await self._repeated("read of 1 MiB", 10, read)]

    async def _copies(self, box: Machine) -> list[Figure]:
        """Of a machine that holds a file of 1 MiB."""
        forks: list[Machine] = []

        async def fork() -> None:
            forks.extend(await box.fork(1, wait=60))

        try:
            return [
                await self._repeated("snapshot", 5, box.snapshot),
                await self._repeated("fork of 1", 5, fork),
            ]
        finally:
            await asyncio.gather(*(each.stop() for each in forks))

    async def _life(self) -> list[Figure]:
        """Making a machine, until a command can run on it, and stopping it."""
        boxes: list[Machine] = []
        image = self._place.image
        if self._place.backend == "docker":  # not one that is warm
            image = replace(image, env={"COLD": "1"})

        async def create() -> None:
            boxes.append(await machine(image, wait=60))

        async def stop() -> None:
            await boxes.pop().stop()

        try:
            made = await self._repeated("create", 10, create)
            return [made, await self._repeated("stop", len(boxes), stop, whole=True)]
        finally:
            await asyncio.gather(*(box.stop() for box in boxes))

    async def _warm(self) -> list[Figure]:
        """A machine that was made in advance; each one when the pool is full again."""
        bucket = self._stack.bus.kv("regrow_machines")

        async def full() -> bool:
            states = [msgspec.json.decode(entry.value)["state"] async for entry in bucket.items("machine.*")]
            return states.count("warm") == WARM and not {"creating", "requested"} & set(states)

        taken: list[float] = []
        for _ in range(3 if self._quick else 10):
            await until(full, "the machines made in advance are there")
            began = time.perf_counter()
            box = await machine(self._place.image)
            taken.append((time.perf_counter() - began) * 1000)
            await box.stop()
        return [of_rounds(self._named("create, warm"), "latency", [percentile(taken, 0.5)])]

    async def _repeated(
        self, what: str, count: int, work: Callable[[], Awaitable[object]], *, whole: bool = False
    ) -> Figure:
        """The median of its milliseconds, one after the other."""
        count = count if whole or not self._quick else max(3, count // 3)
        taken: list[float] = []

        async def all_of_it() -> None:
            for _ in range(count):
                began = time.perf_counter()
                await work()
                taken.append((time.perf_counter() - began) * 1000)

        await self._stack.patience.quiet()
        meter, _ = await self._watched.metered(all_of_it)
        return of_rounds(self._named(what), "latency", [percentile(taken, 0.5)], others=self._others(meter))


async def _execs(box: Machine, count: int) -> list[float]:
    """One after the other; the milliseconds of each."""
    taken: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        result = await box.exec("true")
        taken.append((time.perf_counter() - began) * 1000)
        assert result.ok
    return taken
