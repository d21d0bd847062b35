"""The endpoints of a process: calls come in, run in the scope of their owner, and are answered once."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import re
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Raw
from regrow_protocol import agents, subjects
from regrow_protocol import messages as m
from regrow_protocol.messages import Failure

from .codec import Signature, to_raw
from .errors import EndpointNotFound, ProcessEnded, failure_of
from .operations import Output

if TYPE_CHECKING:
    from .process import Process


_REPLY = re.compile(r"regrow\.reply\.[\w-]+\.[\w-]+")
_AGENT_REPLY = re.compile(r"regrow\.agent\.([\w=-]+)\.(a_[0-9a-z]+)\.result\.([0-9a-f]+)")


def answer_to(
    process: Process, call: m.Call, value: Raw | m.UnsetType, failure: Failure | None, number: Callable[[], int]
) -> Output | None:
    """The answer to a call, to be sent to whoever made it; `number` gives its number. None where nobody can be told."""
    if call.by is not None and call.op is not None:
        result = m.Result(incarnation=call.by.incarnation, op=call.op, value=value, error=failure)
        return Output("inbox", call.by.pid, result, number())
    if _REPLY.fullmatch(call.reply):
        return Output("reply", call.reply, m.Reply(value=value, error=failure), number())
    if (found := _AGENT_REPLY.fullmatch(call.reply)) and found[1] == subjects.token(process.env.app):
        entry = agents.Entry(
            id=f"{found[3]}.result", type="result", time=process.clock, call=found[3],
            data=Raw(m.encode(agents.Outcome(value=value, error=failure))),
        )  # fmt: skip
        return Output("agent", call.reply, entry, number())
    return None


class Endpoint:
    """An exposed function."""

    __slots__ = ("function", "signature")

    def __init__(self, function: Callable[..., Coroutine[Any, Any, Any]], name: str) -> None:
        self.function = function
        self.signature = Signature(function, f"{name.rpartition('/')[2]}()")


class Endpoints:
    """Endpoints by name, the calls under way, and those that wait for a name to be exposed."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._by_name: dict[str, Endpoint | None] = {}
        self._running: dict[int, tuple[m.Call, int]] = {}
        self._waiting: dict[str, list[tuple[m.Call, int]]] = {}
        self._kept: list[tuple[m.Call, int]] = []
        self._tool_calls: set[str] = set()
        self._ended: ProcessEnded | None = None
        self._last = 0
        self.hold_all = False
        """A `restart` body has not had its first turn: every call waits."""

    @property
    def names(self) -> list[str]:
        """Of what is exposed now, without the tools of agents."""
        return [name for name in self._by_name if "/" not in name]

    def expose(self, name: str, function: Callable[..., Coroutine[Any, Any, Any]] | None) -> None:
        """Answer calls of `name` from now on; None stands for a function of a `restart` body."""
        if function is not None and not inspect.iscoroutinefunction(function):
            raise TypeError(f"@expose needs an async function; {name} is not one")
        self._by_name[name] = Endpoint(function, name) if function is not None else None
        for call, seq in self._waiting.pop(name, []):
            self.called(call, seq)

    def release(self) -> None:
        """The first turn is over: what is not exposed now does not exist."""
        self.hold_all = False
        waiting, self._waiting = self._waiting, {}
        for calls in waiting.values():
            for call, seq in calls:
                self.called(call, seq)

    def tool_called(self, tool: m.ToolCall, seq: int) -> None:
        """An agent's call has come, as input `seq`; a repeat is answered already, or will be."""
        id_ = f"{tool.agent}.{tool.call}"
        if id_ not in self._tool_calls:
            self._tool_calls.add(id_)
            self.called(m.Call(endpoint=tool.endpoint, args=tool.args, reply=tool.reply, client=tool.agent), seq)

    def called(self, call: m.Call, seq: int) -> None:
        """A call has come, as input `seq`."""
        if self._ended is not None:
            self._end(call, seq)
            return
        limits = self._process.limits
        if call.endpoint not in self._by_name:
            if call.wait or self.hold_all:
                if (refusal := limits.waiting()) is not None:
                    self.answer(call, UNSET, refusal)
                    return
                self._waiting.setdefault(call.endpoint, []).append((call, seq))
                return
            known = ", ".join(sorted(self.names)) or "none"
            missing = EndpointNotFound(f"No endpoint {call.endpoint!r}; exposed: {known}")
            self.answer(call, UNSET, failure_of(missing))
            return
        if (refusal := limits.call(len(self._running))) is not None:
            self.answer(call, UNSET, refusal)
            return
        self._last += 1
        self._running[self._last] = call, seq
        endpoint = self._by_name[call.endpoint]
        process = self._process
        if endpoint is None:
            assert process.restart is not None
            process.restart.deliver("call", self._last, Raw(m.encode({"endpoint": call.endpoint, "args": call.args})))
            return
        process.loop.create_task(self._serve(self._last, endpoint, call), context=contextvars.Context())

    async def _serve(self, key: int, endpoint: Endpoint, call: m.Call) -> None:
        try:
            args, kwargs = endpoint.signature.decode(call.args)
            value = to_raw(await endpoint.function(*args, **kwargs), f"The result of {call.endpoint}()")
        except BaseException as error:
            if self._process.gone or (self._process.closing and isinstance(error, asyncio.CancelledError)):
                raise  # the process ends: `close` answers
            self.settle(key, UNSET, failure_of(error))
        else:
            self.settle(key, value, None)

    def settle(self, key: int, value: Raw | m.UnsetType, failure: Failure | None) -> None:
        """Answer the call number `key`, unless it was."""
        call, _ = self._running.pop(key, (None, 0))
        if call is not None:
            self.answer(call, value, failure)

    def answer(self, call: m.Call, value: Raw | m.UnsetType, failure: Failure | None) -> None:
        """Send an answer to whoever called."""
        process = self._process
        output = answer_to(process, call, value, failure, process.number)
        if output is not None:
            process.outputs.append(output)

    def forget(self) -> None:
        """Its process has left memory."""
        self._by_name.clear()
        self._running.clear()
        self._waiting.clear()
        self._kept.clear()
        del self._process

    def disown(self) -> None:
        """Answer nobody who has called so far: the calls were made to another process (`forking`)."""
        self._running = {
            key: (msgspec.structs.replace(call, by=None, op=None, reply=""), seq)
            for key, (call, seq) in self._running.items()
        }
        self._waiting.clear()
        self._kept.clear()

    @property
    def waiting(self) -> list[tuple[m.Call, int]]:
        """Calls that wait for their endpoint, or for the next incarnation, with their inputs."""
        return [*(waiting for calls in self._waiting.values() for waiting in calls), *self._kept]

    def close(self, error: ProcessEnded, *, waiting_too: bool = True) -> None:
        """The body has ended: whatever is under way, or else waits, and all that comes later, gets `error`."""
        self._ended = error
        running, self._running = self._running, {}
        for call, seq in running.values():
            self._end(call, seq)
        if waiting_too:
            for call, _ in self.waiting:
                self.answer(call, UNSET, failure_of(error))
            self._waiting.clear()
            self._kept.clear()

    def _end(self, call: m.Call, seq: int) -> None:
        """What becomes of a call when the body has ended."""
        assert self._ended is not None
        if call.again and self._process.endings.comes_again:
            self._kept.append((call, seq))
        else:
            self.answer(call, UNSET, failure_of(self._ended))
