"""Runs steps on the host's ordinary loop; sync functions in threads. Only the outcome enters the inbox."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from msgspec import UNSET, Raw, UnsetType
from regrow_protocol.messages import Failure

from .. import scope
from ..codec import to_raw
from ..errors import failure_of
from ..operations import Step

log = logging.getLogger("regrow.steps")

Outcome = tuple[Raw | UnsetType, Failure | None, int]


class StepRunner:
    """Runs steps with their retries, back-off and timeout."""

    def __init__(self, threads: int = 32) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="regrow-step")
        self.running = 0

    async def run(self, step: Step, allowed: Callable[[], Awaitable[None]]) -> Outcome:
        """(value, failure, attempts) of a step; waits for `allowed` before each try."""
        policy = step.policy
        attempt = 0
        self.running += 1
        try:
            while True:
                await allowed()
                attempt += 1
                try:
                    async with asyncio.timeout(policy.timeout):
                        result = await self._once(step)
                    value = to_raw(result, f"The result of step {step.pending.op.name!r}")
                except Exception as error:  # noqa: BLE001 - the body's to handle
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

    async def _once(self, step: Step) -> Any:
        if inspect.iscoroutinefunction(step.function):
            return await step.function(*step.args, **step.kwargs)
        context = contextvars.copy_context()
        context.run(scope.ambient.set, None)
        call = functools.partial(context.run, step.function, *step.args, **step.kwargs)
        result = await asyncio.get_running_loop().run_in_executor(self._pool, call)
        return await result if inspect.isawaitable(result) else result

    def close(self) -> None:
        """Take no more steps; threads that run go on to their end."""
        self._pool.shutdown(wait=False, cancel_futures=True)
