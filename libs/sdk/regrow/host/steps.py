"""Runs steps on the host's ordinary loop; sync functions in threads. Only the outcome enters the inbox.

Whatever a step's function raises is its outcome, `SystemExit` too: nothing that a program does in a step ends its
host's loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from msgspec import UNSET, Raw, UnsetType
from regrow_protocol.bus import Bus
from regrow_protocol.messages import Failure

from .. import scope
from ..codec import to_raw
from ..errors import failure_of
from ..operations import Step

log = logging.getLogger("regrow.steps")

Outcome = tuple[Raw | UnsetType, Failure | None, int]


class StepRunner:
    """Runs steps with their retries, back-off and timeout.

    A sync function's time begins when it has a thread. One that goes on after its time is over keeps its thread; when
    half of the threads are lost so, there is a new set of them.

    Args:
        threads: for sync functions.
        bus: for steps that move what does not fit into a message.

    Attributes:
        running: steps that have no outcome yet.
        executing: those whose function runs at this moment.
    """

    def __init__(self, threads: int = 32, bus: Bus | None = None) -> None:
        self._bus = bus
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="regrow-step")
        self._free = asyncio.Semaphore(threads)
        self._lost = 0
        self.running = 0
        self.executing = 0

    async def run(self, step: Step, may_start: Callable[[], Awaitable[None]]) -> Outcome:
        """(value, failure, attempts) of a step; waits for `may_start` before each try."""
        policy = step.policy
        attempt = 0
        if self._bus is not None:
            scope.bus.set(self._bus)
        self.running += 1
        try:
            while True:
                attempt += 1
                try:
                    value = to_raw(await self._try(step, may_start), f"The result of step {step.pending.op.name!r}")
                except BaseException as error:
                    task = asyncio.current_task()
                    if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                        raise
                    timed_out = isinstance(error, TimeoutError) and policy.timeout is not None and not str(error)
                    if attempt <= policy.retries:
                        log.info("step %s failed (try %d): %r", step.pending.op.name, attempt, error)
                        await asyncio.sleep(policy.delay(attempt))
                        continue
                    failure = failure_of(error)
                    if timed_out:
                        text = f"step {step.pending.op.name!r} timed out after {policy.timeout:g} s"
                        failure = Failure("TimeoutError", text, "timeout")
                    return UNSET, failure, attempt
                else:
                    return value, None, attempt
        finally:
            self.running -= 1

    async def _try(self, step: Step, may_start: Callable[[], Awaitable[None]]) -> Any:
        if inspect.iscoroutinefunction(step.function):
            await may_start()
            self.executing += 1
            try:
                async with asyncio.timeout(step.policy.timeout):
                    return await step.function(*step.args, **step.kwargs)
            finally:
                self.executing -= 1
        free = self._free
        await free.acquire()
        running: asyncio.Future[tuple[Any, BaseException | None]] | None = None
        try:
            await may_start()
            self.executing += 1
            running = self._in_thread(step)
            async with asyncio.timeout(step.policy.timeout):
                result, error = await asyncio.shield(running)
                if error is not None:
                    raise error
                return await result if inspect.isawaitable(result) else result
        finally:
            self.executing -= running is not None
            if running is None or running.done():
                free.release()
            else:
                self._lose_thread(running, free)

    def _in_thread(self, step: Step) -> asyncio.Future[tuple[Any, BaseException | None]]:
        context = contextvars.copy_context()
        context.run(scope.ambient.set, None)
        return asyncio.get_running_loop().run_in_executor(self._pool, lambda: context.run(_outcome, step))

    def _lose_thread(self, running: asyncio.Future[Any], free: asyncio.Semaphore) -> None:
        """Nobody waits for it any more, but it goes on."""
        self._lost += 1

        def ended(_: object) -> None:
            free.release()
            if free is self._free:
                self._lost -= 1

        running.add_done_callback(ended)
        if self._lost > self._threads // 2:
            log.warning("%d sync steps go on although their time is over: new threads", self._lost)
            self._pool.shutdown(wait=False)
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="regrow-step")
            self._free = asyncio.Semaphore(self._threads)
            self._lost = 0

    async def is_hanging(self) -> bool:
        """After `close`: whether some thread goes on. The interpreter would wait for it."""
        for _ in range(50):
            if not any(thread.name.startswith("regrow-step") for thread in threading.enumerate()):
                return False
            await asyncio.sleep(0.01)
        return True

    def close(self) -> None:
        """Take no more steps; threads that run go on to their end."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _outcome(step: Step) -> tuple[Any, BaseException | None]:
    """In the thread: a future cannot carry StopIteration, and SystemExit would end the loop that waits for it."""
    try:
        return step.function(*step.args, **step.kwargs), None
    except BaseException as error:  # noqa: BLE001 - the body's to handle
        return None, error
