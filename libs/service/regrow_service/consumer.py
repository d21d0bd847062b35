"""A durable consumer: every message is handled, or becomes a dead letter; one bad message never holds up the next.

Several replicas may run the same consumer: they share its messages. A message is delivered at least once, so a handler
must be idempotent (`regrow_service.idempotent`). In detail:

- At most `concurrency` messages are in hand, and no more are fetched than there are free hands. While one is in hand
  the server is told so; a replica that dies is silent, and after `ack_wait` seconds its messages come to another one.
- A handler that raises, or takes longer than `timeout`, is tried again after a back-off (`Retry`). After the last
  attempt the message is published as a `DeadLetter` and only then taken off. What does not decode, and what the
  handler refuses with `Rejected`, is a dead letter at once. A message that was delivered more often than it may be
  tried, without any end, has probably taken its handlers' processes down: it is a dead letter too.
- A handler that cannot take a message now raises `Later`: it is given back, and that is no attempt (`Forgiven`).
- To stop, set the event: nothing more is fetched, what is in hand is finished. Who cancels `run` instead gives it back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import structlog
from regrow_protocol.bus import Bus, Delivery, Received
from regrow_protocol.errors import RegrowError

from . import dead, metrics
from .forgiven import Forgiven
from .logs import get_logger
from .metrics import Metrics
from .retry import Retry

T = TypeVar("T")


class Rejected(RegrowError):
    """Raised by a handler: this message will never be handled, however often it is tried."""

    code = "rejected"


class Later(RegrowError):
    """Raised by a handler: not now. The message is given back; to another replica too.

    Attributes:
        delay: seconds until it is delivered again.
    """

    code = "later"

    def __init__(self, reason: str, *, delay: float = 0.0) -> None:
        super().__init__(reason)
        self.delay = delay


class Consumer(Generic[T]):
    """Handles the messages of one durable consumer; `run` does it.

    Args:
        bus: connected; the stream exists.
        measured: where to count.
        service: name of the service; its dead letters are on `regrow.dead.<service>.<name>.<seq>`.
        name: of the durable consumer.
        stream: that it reads.
        filters: subjects, which do not overlap; none: all of the stream.
        decode: a body to what `handle` takes; whatever it raises makes a dead letter.
        handle: called with the decoded body and the message.
        concurrency: handlers at once; 1 keeps the order, but for retries.
        retry: when a failed one is tried again, and how often in all.
        ack_wait: seconds of silence after which a replica counts as gone.
        timeout: seconds that one handling may take; None: any time, its handler sees to it.
        max_ack_pending: messages that may be in hand, or wait for a retry, over all replicas.
        only_new: when it is made, begin with what comes from then on.
        lost: called with the body and the reason before a message that decodes becomes a dead letter: to answer it.
    """

    def __init__(
        self,
        bus: Bus,
        measured: Metrics,
        *,
        service: str,
        name: str,
        stream: str,
        filters: Sequence[str] = (),
        decode: Callable[[bytes], T],
        handle: Callable[[T, Received], Awaitable[None]],
        concurrency: int = 16,
        retry: Retry | None = None,
        ack_wait: float = 2.0,
        timeout: float | None = 60.0,
        max_ack_pending: int = 1000,
        only_new: bool = False,
        lost: Callable[[T, str], Awaitable[None]] | None = None,
    ) -> None:
        self.service, self.name, self.stream = service, name, stream
        self._bus = bus
        self._filters = list(filters)
        self._decode, self._handle, self._lost = decode, handle, lost
        self._max_ack_pending = max_ack_pending
        self._from = "new" if only_new else "all"
        self._concurrency = concurrency
        self._retry = retry or Retry()
        self._forgiven = Forgiven(bus, name, self._retry.attempts)
        self._ack_wait, self._timeout = ack_wait, timeout
        self._in_hand: dict[int, Delivery] = {}
        self._freed = asyncio.Event()
        self._log = get_logger("consumer", consumer=name)
        self._handled = measured[metrics.HANDLED]
        self._seconds = measured[metrics.HANDLING].labels(name)
        self._hands = measured[metrics.IN_HAND].labels(name)

    async def run(self, stopping: asyncio.Event) -> None:
        """Consume until `stopping` is set and nothing is in hand any more."""
        pull = await self._bus.consumer(
            self.stream,
            self.name,
            self._filters,
            ack_wait=self._ack_wait,
            max_ack_pending=self._max_ack_pending,
            deliver_policy=self._from,
        )

        async def stop() -> None:
            await stopping.wait()
            await pull.close()

        try:
            async with asyncio.TaskGroup() as hands:
                stopper = hands.create_task(stop())
                keeper = hands.create_task(self._keep())
                while not stopping.is_set():
                    free = self._concurrency - len(self._in_hand)
                    if not free:
                        self._freed.clear()
                        await self._freed.wait()
                        continue
                    for delivery in await pull.fetch(free):
                        self._take(hands, delivery)
                await stopper
                while self._in_hand:
                    self._freed.clear()
                    await self._freed.wait()
                keeper.cancel()
        finally:
            await pull.close()

    def _take(self, hands: asyncio.TaskGroup, delivery: Delivery) -> None:
        seq = delivery.message.seq
        again = seq in self._in_hand
        self._in_hand[seq] = delivery  # the newest delivery is the one to be answered
        if not again:
            hands.create_task(self._work(delivery), name=f"{self.name} {seq}")
            self._hands.set(len(self._in_hand))

    async def _keep(self) -> None:
        """Tell the server what is still in hand."""
        while True:
            await asyncio.sleep(self._ack_wait / 3)
            for delivery in self._in_hand.values():
                delivery.in_progress()

    async def _work(self, delivery: Delivery) -> None:
        message = delivery.message
        answer = Delivery.nak  # what remains when this is cancelled: somebody else shall have it, now
        try:
            with structlog.contextvars.bound_contextvars(subject=message.subject, seq=message.seq):
                answer = await self._outcome(delivery)
        finally:
            answer(self._in_hand.pop(message.seq))
            self._hands.set(len(self._in_hand))
            self._freed.set()

    async def _outcome(self, delivery: Delivery) -> Callable[[Delivery], None]:
        """Handle a message; what to answer."""
        message = delivery.message
        try:
            body = self._decode(message.data)
        except Exception as error:  # noqa: BLE001 - whatever a decoder raises: it does not decode, now or later
            return await self._bury(delivery, f"does not decode: {_text(error)}")
        try:
            attempt = await self._forgiven.attempt(message.seq, delivery.attempts)
        except RegrowError as error:
            self._log.warning("not handled yet", reason=str(error))
            return lambda newest: newest.nak(self._retry.first)
        if attempt > self._retry.attempts:
            return await self._give_up(delivery, body, f"delivered {attempt} times and never finished")
        limit = asyncio.timeout(self._timeout)
        try:
            with self._seconds.time():
                async with limit:
                    await self._handle(body, message)
        except Rejected as error:
            return await self._bury(delivery, f"rejected: {error}")
        except Later as error:
            await self._forgiven.forgive(message.seq, delivery.attempts)
            self._count("later")
            return lambda newest, delay=error.delay: newest.nak(delay)
        except Exception as error:  # noqa: BLE001 - any failure of a handler is one to be tried again
            reason = f"no end within {self._timeout} s" if limit.expired() else _text(error)
            if attempt >= self._retry.attempts:
                self._log.exception("handling failed for the last time", attempt=attempt)
                return await self._give_up(delivery, body, reason)
            delay = self._retry.delay(attempt)
            self._log.warning(
                "handling failed", attempt=attempt, again_in=round(delay, 3), reason=reason, exc_info=True
            )
            self._count("retried")
            return lambda newest: newest.nak(delay)
        self._forgiven.over(message.seq)
        self._count("done")
        return Delivery.ack

    async def _give_up(self, delivery: Delivery, body: T, reason: str) -> Callable[[Delivery], None]:
        if self._lost is not None:
            try:
                async with asyncio.timeout(self._timeout or 60.0):
                    await self._lost(body, reason)
            except Exception as error:  # noqa: BLE001 - the letter says what could not be answered
                self._log.exception("what is given up could not be answered")
                reason = f"{reason}; and not answered: {_text(error)}"
        return await self._bury(delivery, reason)

    async def _bury(self, delivery: Delivery, reason: str) -> Callable[[Delivery], None]:
        """Publish the dead letter; only when it stands is the original taken off."""
        try:
            subject = await dead.bury(
                self._bus, self.service, self.name, self.stream, delivery.message, reason, delivery.attempts
            )
        except RegrowError as error:
            delay = self._retry.longest
            self._log.error("no dead letter could be written", reason=reason, error=str(error), again_in=delay)
            return lambda newest: newest.nak(delay)
        self._forgiven.over(delivery.message.seq)
        self._log.error("dead letter", reason=reason, attempts=delivery.attempts, letter=subject)
        self._count("dead")
        return lambda newest: newest.term(reason[:100])

    def _count(self, outcome: str) -> None:
        self._handled.labels(self.name, outcome).inc()


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
