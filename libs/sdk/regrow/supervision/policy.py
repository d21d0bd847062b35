"""When one child is started again, and how long that waits.

References:
    OTP, `supervisor`: restart types permanent, transient and temporary.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from regrow_protocol import messages as m

if TYPE_CHECKING:
    from ..operations import Child
    from ..process import Process

RestartPolicy: TypeAlias = Literal["permanent", "transient", "temporary"]
"""`permanent`: always started again. `transient`: when it failed. `temporary`: never. What failed with
`fail(…, retryable=False)` never is, nor what its parent cancelled."""

POLICIES = ("permanent", "transient", "temporary")


def checked_policy(restart: str) -> RestartPolicy:
    """The policy itself; raises ValueError for what is none."""
    if restart not in POLICIES:
        raise ValueError(f"restart must be one of {', '.join(POLICIES)}, not {restart!r}")
    return restart  # type: ignore[return-value]


@dataclass(frozen=True)
class Backoff:
    """How long a child that ended waits until it is started again.

    Attributes:
        initial: seconds before the first time.
        factor: by which each further wait is longer.
        max: seconds, at most.
        jitter: share of a wait by which it may be shorter or longer, 0 to 1.
        steady: seconds of running after which the next wait is `initial` again.
    """

    initial: float = 0.1
    factor: float = 2.0
    max: float = 60.0
    jitter: float = 0.1
    steady: float = 60.0

    def __post_init__(self) -> None:
        if self.initial < 0 or self.max < self.initial:
            raise ValueError(f"a Backoff needs 0 <= initial <= max: {self.initial}, {self.max}")
        if self.factor < 1:
            raise ValueError(f"the factor of a Backoff must be at least 1: {self.factor}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"the jitter of a Backoff must be 0 to 1: {self.jitter}")

    def in_a_row(self, before: int, ran: float) -> int:
        """How many ends in a row it is now, with one after `ran` seconds of running, and so many before that."""
        return 1 if ran >= self.steady else before + 1

    def delay(self, failures: int, seed: str) -> float:
        """Seconds to wait after so many ends in a row (1 at first); `seed` decides the jitter."""
        plain = min(self.max, self.initial * self.factor ** min(failures - 1, 64))
        spread = random.Random(seed).uniform(-self.jitter, self.jitter)  # noqa: S311 - must be repeatable
        return plain * (1.0 + spread)


DEFAULT_BACKOFF = Backoff()


class Keeper(Protocol):
    """Who decides about a child that has gone down.

    Attributes:
        stops_in_order: it stops its children itself when the body of their parent ends.
    """

    stops_in_order: bool

    def went_down(self, child: Child, message: m.Child) -> None:
        """It has ended; it is to be started again (`Relations.again`) or cancelled, now or later."""
        ...

    def ended(self, child: Child, message: m.Child) -> None:
        """It has ended for good."""
        ...


class Alone:
    """Keeps one child: starts it again after a back-off, however often.

    Args:
        process: the parent.
        backoff: between its ends and its starts.
    """

    stops_in_order = False

    def __init__(self, process: Process, backoff: Backoff) -> None:
        self._process = process
        self._backoff = backoff
        self._failures = 0
        self._began = process.clock

    def went_down(self, child: Child, message: m.Child) -> None:
        process = self._process
        if process.closing:
            return  # its cancel is on its way
        self._failures = self._backoff.in_a_row(self._failures, process.clock - self._began)
        delay = self._backoff.delay(self._failures, f"{process.seed}.{child.op.n}.{message.run}")
        process.loop.call_later(delay, self._again, child)

    def _again(self, child: Child) -> None:
        if not self._process.closing:
            self._began = self._process.clock
            self._process.relations.again(child)

    def ended(self, child: Child, message: m.Child) -> None:
        """Nothing is to be done."""
