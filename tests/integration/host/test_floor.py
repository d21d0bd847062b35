"""The floor: never beyond what is open, and nothing stays open."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from regrow.host.floor import Floor

Move = tuple[bool, int]


@given(st.integers(0, 5), st.lists(st.tuples(st.booleans(), st.integers(1, 30)), max_size=80))
def test_it_is_just_below_the_first_open_input(floor: int, moves: list[Move]) -> None:
    """Whatever is opened and closed in whatever order, it is what a plain count says."""
    tested = Floor(floor)
    tested.read = 30
    counted: Counter[int] = Counter()
    for opens, seq in moves:
        if opens:
            tested.open(seq)
            counted[seq] += 1
        elif counted[seq]:
            tested.close(seq)
            counted[seq] -= 1
        first = min((n for n, count in counted.items() if count), default=None)
        assert tested.value == (30 if first is None else first - 1)
        assert tested.oldest == first
        assert tested.pending == sum(count > 0 for count in counted.values())
