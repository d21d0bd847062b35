"""Back-off with jitter."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from regrow_service.retry import Retry


@given(st.integers(1, 10_000))
def test_delays_grow_to_the_longest(attempt: int) -> None:
    """Each lies between half of its whole and the whole, the longest at most; no attempt number overflows."""
    retry = Retry(first=0.1, factor=2.0, longest=30.0)
    whole = min(30.0, 0.1 * 2.0 ** min(attempt - 1, 20))
    assert whole / 2 <= retry.delay(attempt) <= whole


def test_delays_differ() -> None:
    """What failed together does not come back together."""
    assert len({Retry().delay(3) for _ in range(20)}) > 1
