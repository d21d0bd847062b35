"""The deterministic event loop: asyncio without a clock, I/O or threads.

A turn applies one input and calls `drain`, which runs until nothing is ready; the host calls it from a plain callback
of its own loop. Time is the process's clock; a timer is handed to the owner of the loop, which fires it when the stream
says so. Tasks and futures are hashed by counters, so sets of them (`asyncio.wait`) have the same order in every replay;
`ordering` wraps what else in asyncio goes by addresses. Tasks and async generators are referenced strongly, so none is
collected in the middle of a turn: a generator that a body has abandoned is closed when the process ends, and what is
left in a process that leaves memory is ended by `close`.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import sys
import traceback
from asyncio import events
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from hashlib import blake2b
from typing import Any, NoReturn, Protocol

from regrow_protocol.messages import Op

from .errors import NotAllowedInBody, ProcessGone

log = logging.getLogger("regrow.loop")

_CLOSE_TRIES = 100
_NEVER = 253_402_300_800.0
"""The year 10000: a timer for then or later never fires, as `asyncio.sleep(math.inf)` never ends."""


class LoopOwner(Protocol):
    """What the loop asks of its process."""

    clock: float
    gone: bool
    replaying: bool

    def timer_set(self, handle: DeterministicTimer) -> None:
        """A timer for `handle.when()` was set."""
        ...

    def timer_cancelled(self, handle: DeterministicTimer) -> None:
        """That timer was cancelled before it fired."""
        ...


class _Nobody:
    """The owner of a loop whose process has left memory."""

    gone = True
    replaying = True

    def __init__(self, clock: float) -> None:
        self.clock = clock

    def timer_set(self, handle: DeterministicTimer) -> None:
        raise ProcessGone

    def timer_cancelled(self, handle: DeterministicTimer) -> None:
        """Nobody waits for it."""


class DeterministicTimer(asyncio.TimerHandle):
    """A timer of a body; `op` is its operation, `n` the number of that, `seq` the input that set it."""

    n: int = 0
    seq: int = 0
    op: Op | None = None


class _Task(asyncio.Task[Any]):
    def __init__(self, coro: Any, *, loop: DeterministicLoop, **kwargs: Any) -> None:
        self._counted = loop.count()
        if kwargs.get("name") is None:
            kwargs["name"] = loop.task_name()  # asyncio counts the tasks of all loops
        super().__init__(coro, loop=loop, **kwargs)

    def __hash__(self) -> int:
        return self._counted


class _Future(asyncio.Future[Any]):
    def __init__(self, *, loop: DeterministicLoop) -> None:
        self._counted = loop.count()
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._counted


class DeterministicLoop(asyncio.AbstractEventLoop):
    """One per process."""

    def __init__(self, owner: LoopOwner) -> None:
        self.owner = owner
        self._ready: deque[asyncio.Handle] = deque()
        self._counter = 0
        self._named = 0
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._generators: dict[int, AsyncGenerator[Any, Any]] = {}
        self._stubborn: list[AsyncGenerator[Any, Any]] = []
        self._sweep_at = 64
        self._forget_at = 16
        self._closed = False

    def count(self) -> int:
        """The next number for a hash."""
        self._counter += 1
        return self._counter

    def task_name(self) -> str:
        """The name of the next task that has none."""
        self._named += 1
        return f"Task-{self._named}"

    def seed(self, seed: str) -> None:
        """Where hashes begin: the same in every replay, and spread, for asyncio keeps all tasks in one set."""
        self._counter = int.from_bytes(blake2b(seed.encode(), digest_size=7).digest(), "big")

    # Running ----------------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Run until nothing is ready."""
        ready = self._ready
        if not ready:
            return
        before = events._get_running_loop()
        hooks = sys.get_asyncgen_hooks()
        events._set_running_loop(self)
        sys.set_asyncgen_hooks(firstiter=self._generator_begins, finalizer=self._generator_abandoned)
        try:
            while ready:
                handle = ready.popleft()
                if not handle._cancelled:  # pyright: ignore[reportAttributeAccessIssue]
                    handle._run()
        finally:
            events._set_running_loop(before)
            sys.set_asyncgen_hooks(*hooks)

    @property
    def idle(self) -> bool:
        """Nothing is ready to run."""
        return not self._ready

    @property
    def tasks(self) -> list[asyncio.Task[Any]]:
        """Tasks that have not ended, oldest first."""
        return [task for task in self._tasks if not task.done()]

    def close(self) -> None:
        """End every coroutine and generator now. The owner must refuse all operations meanwhile (`owner.gone`)."""
        if self._closed:
            return
        self._closed = True
        before = events._get_running_loop()
        hooks = sys.get_asyncgen_hooks()
        events._set_running_loop(self)
        sys.set_asyncgen_hooks(firstiter=self._generator_begins, finalizer=self._generator_abandoned)
        try:
            for task in reversed(self.tasks):
                task._log_destroy_pending = False  # pyright: ignore[reportAttributeAccessIssue]
                coro = task.get_coro()
                if coro is not None:
                    _close(coro)
            for generator in reversed([*self._stubborn, *self._generators.values()]):
                _close_generator(generator)
            for task in self.tasks:
                if (waiter := task._fut_waiter) is not None:  # pyright: ignore[reportAttributeAccessIssue]
                    waiter.cancel()  # the two refer to each other
        finally:
            events._set_running_loop(before)
            sys.set_asyncgen_hooks(*hooks)
            self._tasks.clear()
            self._generators.clear()
            self._stubborn.clear()
            self._ready.clear()

    def forget(self) -> None:
        """Refer to the owner no more, so that both are freed at once; after `close`."""
        self.owner = _Nobody(self.owner.clock)

    def _generator_begins(self, generator: AsyncGenerator[Any, Any]) -> None:
        self._generators[id(generator)] = generator
        if len(self._generators) > self._sweep_at:
            self._generators = {k: g for k, g in self._generators.items() if _open(g)}
            self._sweep_at = max(64, 2 * len(self._generators))

    def _generator_abandoned(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Only reached after `close`; the generator is ended there."""

    # What asyncio asks of a loop --------------------------------------------------------------------------------------

    def call_soon(
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.owner.clock + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        if math.isnan(when):
            raise ValueError("a timer needs a time, not NaN")
        handle = DeterministicTimer(when, callback, args, self, context)
        if when <= self.owner.clock:
            self._ready.append(handle)
        elif when < _NEVER:
            handle._scheduled = True  # pyright: ignore[reportAttributeAccessIssue]
            self.owner.timer_set(handle)
        return handle

    def fire(self, handle: asyncio.TimerHandle) -> None:
        """A timer is due: run it in this turn."""
        handle._scheduled = False  # pyright: ignore[reportAttributeAccessIssue]
        self._ready.append(handle)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        if handle._scheduled:  # pyright: ignore[reportAttributeAccessIssue]
            handle._scheduled = False  # pyright: ignore[reportAttributeAccessIssue]
            assert isinstance(handle, DeterministicTimer)
            self.owner.timer_cancelled(handle)

    def time(self) -> float:
        return self.owner.clock

    def create_future(self) -> asyncio.Future[Any]:
        return _Future(loop=self)

    def create_task(
        self, coro: Generator[Any, Any, Any] | Coroutine[Any, Any, Any], **kwargs: Any
    ) -> asyncio.Task[Any]:
        if self.owner.gone:
            coro.close()
            raise ProcessGone
        task = _Task(coro, loop=self, **kwargs)
        self._tasks[task] = None
        if len(self._tasks) > self._forget_at:
            self._tasks = {task: None for task in self._tasks if not task.done()}
            self._forget_at = max(16, 2 * len(self._tasks))
        return task

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        """Debug mode of asyncio measures real time: not here."""

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return self._closed

    def get_task_factory(self) -> Any:
        return None

    def set_task_factory(self, factory: Any) -> None:
        if factory is not None:
            self._refuse("set_task_factory")

    def get_exception_handler(self) -> Any:
        return None

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not (self._closed or self.owner.replaying):
            self.default_exception_handler(context)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        text = "".join(traceback.format_exception(error)) if isinstance(error, BaseException) else ""
        log.warning("%s: %s\n%s", self.owner, context.get("message", "error in a process"), text)

    def close_generators(self) -> bool:
        """Have generators that the body has abandoned run their `finally` blocks; false when there is none."""
        left = [generator for generator in self._generators.values() if _open(generator)]
        self._generators.clear()
        if not left:
            return False
        for generator in left:
            self.create_task(self._close_generator(generator))
        return True

    async def _close_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        try:
            await generator.aclose()
        except Exception as error:  # noqa: BLE001 - as asyncio does when a loop ends
            context = {"message": f"closing {generator!r}", "exception": error, "asyncgen": generator}
            self.call_exception_handler(context)
        if _open(generator):
            self._stubborn.append(generator)

    async def shutdown_asyncgens(self) -> None:
        """Done when the process ends."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """There is none."""

    def stop(self) -> None:
        self._refuse("stop")

    def _refuse(self, what: str) -> NoReturn:
        raise NotAllowedInBody(
            f"{what} is not possible in the body of a process: the body is replayed, so it may do no I/O of its own",
            hint='do it in `await step(function, …)`, or decorate with @agent_process(resume="restart")',
        )


def _open(generator: Any) -> bool:
    return generator.ag_frame is not None


def _close(coro: Any) -> None:
    """Close a coroutine however often it awaits in its `finally` blocks."""
    for _ in range(_CLOSE_TRIES):
        try:
            coro.close()
        except RuntimeError as error:
            if "ignored GeneratorExit" in str(error):
                continue
            log.debug("closing a parked body: %r", error)
        except BaseException as error:  # noqa: BLE001 - whatever a dying body raises concerns nobody
            log.debug("closing a parked body: %r", error)
        return
    _give_up(coro)


def _close_generator(generator: AsyncGenerator[Any, Any]) -> None:
    for _ in range(_CLOSE_TRIES):
        try:
            generator.aclose().send(None)  # pyright: ignore[reportAttributeAccessIssue]
        except (StopIteration, StopAsyncIteration):
            break
        except BaseException as error:  # noqa: BLE001 - as above
            if "ignored GeneratorExit" not in str(error) and "already running" not in str(error):
                log.debug("closing a parked generator: %r", error)
                break
    if _open(generator):
        _give_up(generator)


_endless: list[Any] = []


def _give_up(what: Any) -> None:
    """Keep it for ever: the end of what is collected as garbage would run in some other process's turn."""
    log.warning("a body keeps awaiting in its finally blocks, and stays in memory: %r", what)
    _endless.append(what)


def _refusal(name: str) -> Callable[..., Any]:
    def refuse(self: DeterministicLoop, *args: Any, **kwargs: Any) -> NoReturn:
        del args, kwargs
        self._refuse(f"asyncio's {name}()")

    refuse.__name__ = name
    return refuse


_REFUSED = (
    "run_forever run_until_complete call_soon_threadsafe run_in_executor set_default_executor getaddrinfo "
    "getnameinfo create_connection create_server start_tls sendfile create_unix_connection create_unix_server "
    "connect_accepted_socket create_datagram_endpoint connect_read_pipe connect_write_pipe subprocess_shell "
    "subprocess_exec add_reader remove_reader add_writer remove_writer sock_recv sock_recv_into sock_recvfrom "
    "sock_recvfrom_into sock_sendall sock_sendto sock_connect sock_accept sock_sendfile add_signal_handler "
    "remove_signal_handler set_exception_handler"
)
for _name in _REFUSED.split():
    setattr(DeterministicLoop, _name, _refusal(_name))
DeterministicLoop.__abstractmethods__ = frozenset()  # pyright: ignore[reportAttributeAccessIssue]
