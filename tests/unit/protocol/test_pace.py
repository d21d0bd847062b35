"""A publisher learns from its flushes which way of grouping is faster."""

from __future__ import annotations

import pytest
from regrow_protocol.bus.pace import PROBE, Pace


class Machine:
    """What flushes take on it, in seconds."""

    def __init__(self, *, one: float, more: float, batch: float) -> None:
        self.one = one
        self.more = more
        self.batch = batch

    def flush(self, pace: Pace, waiting: int) -> bool:
        """One flush of what waits, as a publisher does it; true if it went as a batch."""
        count = min(waiting, pace.limit(waiting))
        batch = pace.prefers_batch(count)
        seconds = self.batch + count * 0.000_017 if batch else self.one + (count - 1) * self.more
        pace.took(count, seconds, batch=batch)
        return batch

    def share(self, pace: Pace, waiting: int, flushes: int = 400) -> float:
        """Of so many flushes, the part that went as batches."""
        return sum(self.flush(pace, waiting) for _ in range(flushes)) / flushes


def synced() -> Machine:
    """A sync for each single, batches staged in memory."""
    return Machine(one=0.000_4, more=0.000_2, batch=0.000_8)


def unsynced() -> Machine:
    """No syncs: a further single costs next to nothing."""
    return Machine(one=0.000_08, more=0.000_012, batch=0.000_8)


def test_with_a_sync_for_each_message_many_go_as_batches_and_few_as_singles() -> None:
    """Where a single costs 0.2 ms, a hundred go as a batch, and two or three as singles."""
    pace = Pace()
    assert synced().share(pace, 100) > 0.9
    assert synced().share(pace, 2) == 0
    assert synced().share(pace, 3) == 0


def test_without_syncs_singles_stay_singles() -> None:
    """Where a single costs 0.012 ms, no number of messages is worth a batch."""
    pace = Pace()
    assert unsynced().share(pace, 100) < 0.1
    assert unsynced().share(pace, 400) < 0.1


@pytest.mark.parametrize(("before", "after", "batches"), [(synced, unsynced, False), (unsynced, synced, True)])
def test_it_notices_when_the_disk_changes(before: type, after: type, batches: bool) -> None:
    """The other way is tried now and then, so a change for good does not stay unknown."""
    pace = Pace()
    before().share(pace, 100)
    after().share(pace, 100, flushes=3000)
    assert (after().share(pace, 100) > 0.9) is batches


def test_trials_become_rare() -> None:
    """In the long run the slower way is tried less than once in a hundred flushes, and with few messages."""
    pace = Pace()
    machine = synced()
    machine.share(pace, 100, flushes=2000)
    tried = [pace.limit(100) for _ in range(2000) if not machine.flush(pace, 100)]
    assert len(tried) < 20
    assert PROBE < 100


def test_one_hiccup_changes_nothing() -> None:
    """A single flush that took a second does not turn the choice."""
    pace = Pace()
    unsynced().share(pace, 100)
    pace.took(100, 1.0, batch=False)
    assert unsynced().share(pace, 100) < 0.1
