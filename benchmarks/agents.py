"""Agents: tool calls over each door of a real gateway, messages to agents, and how soon an agent is there.

Tool calls are compared with those to a bare server of the same library, which keeps nothing (`bare_gateway.py`), made
by the same client in turns; and with calls of a process's endpoint in the same run, which take the same way through the
process but for the gateway. An agent's process has done nothing but wait when it is called.
"""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from agent_clients import Call, Socket, over_http, over_mcp, over_websocket
from figures import Figure, Kind, median, of_rounds, percentile
from harness import APP, DEADLINE, Stack, Watched
from meter import Meter
from regrow import LocalImage, machine
from regrow.client import RemoteProcess
from regrow.outside import acting
from regrow.testing.gateways import Gateway
from regrow.testing.managers import Manager
from regrow_protocol.streams import AGENTS

HERE = Path(__file__).parent
IN_FLIGHT = (16, 64)
MANY = 32
"""Agents, each of a process of its own."""
KNOCK = f"exec {shlex.quote(sys.executable)} -I -S {shlex.quote(str(HERE / 'knock.py'))}"
SETTLE = 0.5
"""Seconds until agents that were stopped have gone."""
Latencies = Callable[[int], Awaitable[list[float]]]
"""Does something so many times, one after the other; the milliseconds of each."""


async def run(stack: Stack, rounds: int, quick: bool) -> list[Figure]:
    """Everything."""
    async with AsyncExitStack() as exits:
        bare, bare_pid = await exits.enter_async_context(_bare())
        gateway = await exits.enter_async_context(_gateway(stack))
        manager = await exits.enter_async_context(_manager(stack))
        assert gateway.process is not None
        assert manager.process is not None
        roots = {"gateway": [gateway.process.pid], "manager": [manager.process.pid], "bare": [bare_pid]}
        watched = Watched(stack, roots, (AGENTS,))
        owners = await stack.start_many("owner", MANY)
        doors: list[list[str]] = await asyncio.gather(
            *(each.call("doors", wait=True, timeout=DEADLINE) for each in owners)
        )
        echo = await stack.start("echo")
        sockets = [await exits.enter_async_context(over_websocket(*each)) for each in doors]
        server = await exits.enter_async_context(over_websocket(bare, ""))
        benchmark = _Agents(watched, rounds, quick)
        found = await benchmark.alone(doors[0], sockets[0], server, echo)
        found += await benchmark.at_once(sockets, server, echo)
        found.append(await benchmark.messages(owners[0], sockets[0]))
        await exits.enter_async_context(acting(stack.client, APP))
        return [*found, *await benchmark.starts(bare)]


# Programs -------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _bare() -> AsyncGenerator[tuple[str, int]]:
    """URL and process id of the bare server."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(HERE / "bare_gateway.py"), stdin=pipe, stdout=pipe
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = int(await asyncio.wait_for(process.stdout.readline(), DEADLINE))
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def _gateway(stack: Stack) -> AsyncGenerator[Gateway]:
    gateway = Gateway(stack.server.url)
    try:
        await gateway.start_async()
        yield gateway
    finally:
        await asyncio.to_thread(gateway.close)


@asynccontextmanager
async def _manager(stack: Stack) -> AsyncGenerator[Manager]:
    manager = Manager(stack.server.url)
    try:
        await manager.start_async()
        yield manager
    finally:
        await asyncio.to_thread(manager.stop)
        await asyncio.to_thread(manager.close)


# Measuring ------------------------------------------------------------------------------------------------------------


class _Agents:
    """The figures of one stack."""

    def __init__(self, watched: Watched, rounds: int, quick: bool) -> None:
        self._watched = watched
        self._rounds = rounds
        self._quick = quick

    async def alone(self, door: list[str], socket: Socket, server: Socket, echo: RemoteProcess) -> list[Figure]:
        """One call at a time, over each door."""

        async def http(count: int) -> list[float]:
            async with over_http(*door) as call:  # the gateway closes one that rests
                return await _calls(call)(count)

        async with over_mcp(*door) as mcp:
            ways: dict[str, Latencies] = {
                "bare WebSocket call": _calls(server.call),
                "call of a process": _calls(lambda v: echo.call("ping", v=v), 1),
                "tool over WebSocket": _calls(socket.call),
                "tool over HTTP": http,
                "tool over MCP": _calls(mcp),
            }
            done = await self._in_turns(ways, 300 if self._quick else 1000)
        found: list[Figure] = []
        bases = {share: [percentile(ms, share) for _, ms in done["bare WebSocket call"]] for share in (0.5, 0.99)}
        for way, tries in done.items():
            for share in (0.5, 0.99):
                name = f"agents: {way}, alone, p{100 * share:.0f}"
                figure = _figure(name, "latency", tries, [percentile(ms, share) for _, ms in tries], len(tries[0][1]))
                figure.base = median(bases[share])
                if share > 0.5:
                    figure.cost = {}
                found.append(figure)
        found.append(_factor("agents: tool over WebSocket to call of a process, alone", found[4], found[2]))
        return found

    async def at_once(self, sockets: list[Socket], server: Socket, echo: RemoteProcess) -> list[Figure]:
        """Many calls under way, of one agent and of many."""
        found: list[Figure] = []
        for flying in IN_FLIGHT:
            ways = {
                "bare WebSocket calls": [server.call],
                "calls of a process": [lambda v: echo.call("ping", v=v)],
                "tools over WebSocket, 1 agent": [sockets[0].call],
                f"tools over WebSocket, {MANY} agents": [socket.call for socket in sockets],
            }
            each = (2000 if self._quick else 8000) // flying
            rates: dict[str, Figure] = {}
            for way, calls in ways.items():
                plus = 1 if way == "calls of a process" else 0
                work = _Flight(calls, flying, plus)
                await work(each // 8)
                tries = await self._tried(lambda work=work, each=each: work(each))
                values = [flying * each / meter.seconds for meter, _ in tries]
                rates[way] = _figure(f"agents: {way}, {flying} in flight", "rate", tries, values, flying * each)
            bare, process, one, _ = rates.values()
            for figure in rates.values():
                figure.base = bare.value
            found += rates.values()
            found.append(_factor(f"agents: tools of 1 agent to calls of a process, {flying} in flight", one, process))
        return found

    async def messages(self, owner: RemoteProcess, socket: Socket) -> Figure:
        """From `send` in the body until the agent, which waits for it, has it over its WebSocket."""

        async def heard(count: int) -> list[float]:
            taken: list[float] = []
            for _ in range(count):
                await owner.call("say")
                sent = await asyncio.wait_for(_arrival(socket), DEADLINE)
                taken.append(sent)
            return taken

        done = await self._in_turns({"message": heard}, 100 if self._quick else 300)
        tries = done["message"]
        values = [percentile(ms, 0.5) for _, ms in tries]
        return _figure("agents: message to an idle agent, p50", "latency", tries, values, len(tries[0][1]))

    async def starts(self, bare: str) -> list[Figure]:
        """`agent()` with a program on a local machine that is there, and that program alone."""
        async with await machine(LocalImage(), wait=DEADLINE) as box:

            async def alone(count: int) -> list[float]:
                await asyncio.sleep(SETTLE)
                taken: list[float] = []
                env = {"REGROW_AGENT_URL": bare, "REGROW_AGENT_TOKEN": "none"}
                for _ in range(count):
                    began = time.perf_counter()
                    process = await asyncio.create_subprocess_exec("sh", "-c", f"{KNOCK} once", env=env)
                    assert await process.wait() == 0
                    taken.append((time.perf_counter() - began) * 1000)
                return taken

            ways: dict[str, Latencies] = {
                "bare start": alone,
                "agent()": lambda n: self._watched.stack.run("starts", box=box, command=KNOCK, n=n),
            }
            done = await self._in_turns(ways, 5 if self._quick else 20)
        base = median([percentile(ms, 0.5) for _, ms in done["bare start"]])
        found: list[Figure] = []
        for way, tries in done.items():
            values = [percentile(ms, 0.5) for _, ms in tries]
            figure = _figure(f"agents: {way} of a trivial program, p50", "latency", tries, values, len(tries[0][1]))
            figure.base = base
            if way == "bare start":
                figure.cost = {}  # its own is not told apart; what is measured is the end of earlier agents
            found.append(figure)
        return found

    async def _in_turns(self, ways: dict[str, Latencies], count: int) -> dict[str, list[tuple[Meter, list[float]]]]:
        """Each way in each round, so that all meet the same moments of the machine."""
        done: dict[str, list[tuple[Meter, list[float]]]] = {way: [] for way in ways}
        for way in ways.values():
            await way(max(count // 5, 1))
        for _ in range(self._rounds):
            await self._watched.stack.patience.quiet()
            for name, way in ways.items():
                done[name].append(await self._watched.metered(lambda way=way: way(count)))
        return done

    async def _tried(self, work: Callable[[], Awaitable[None]]) -> list[tuple[Meter, None]]:
        tries: list[tuple[Meter, None]] = []
        for _ in range(self._rounds):
            await self._watched.stack.patience.quiet()
            tries.append(await self._watched.metered(work))
        return tries


class _Flight:
    """Calls side by side, shared out among those who make them."""

    def __init__(self, calls: list[Call], flying: int, plus: int) -> None:
        self._calls, self._flying, self._plus = calls, flying, plus

    async def __call__(self, each: int) -> None:
        await asyncio.gather(*(self._some(self._calls[at % len(self._calls)], each) for at in range(self._flying)))

    async def _some(self, call: Call, each: int) -> None:
        for value in range(each):
            assert await call(value) == value + self._plus


def _calls(call: Call, plus: int = 0) -> Latencies:
    async def latencies(count: int) -> list[float]:
        taken: list[float] = []
        for value in range(count):
            began = time.perf_counter()
            answer = await call(value)
            taken.append((time.perf_counter() - began) * 1000)
            assert answer == value + plus
        return taken

    return latencies


async def _arrival(socket: Socket) -> float:
    """Milliseconds that the next message was on its way: its text says when it was sent."""
    text = await socket.heard.get()
    return (time.monotonic() - float(text)) * 1000


def _figure(
    name: str, kind: Kind, tries: Sequence[tuple[Meter, object]], values: list[float], operations: int
) -> Figure:
    costs = [meter.cost(operations) for meter, _ in tries]
    cost = {role: median([one[role] for one in costs]) for role in costs[0]}
    others = max(meter.others for meter, _ in tries)
    return of_rounds(name, kind, values, others=others, cost=cost)


def _factor(name: str, mine: Figure, base: Figure) -> Figure:
    """How many times as large one figure is as another, round by round."""
    return of_rounds(name, "factor", [a / b for a, b in zip(mine.rounds, base.rounds, strict=True)])
