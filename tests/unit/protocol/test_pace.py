"""A publisher learns from its flushes which way of grouping is faster."""

from __future__ import annotations

from regrow_protocol.bus.pace import PROBE, PROBE_EVERY, Pace


def _learn(pace: Pace, single: float, rounds: int = 300) -> int:
    """Flushes of 100 where a single costs `single` seconds and a batch 2.2 ms; how many went as batches."""
    batches = 0
    for _ in range(rounds):
        count = pace.limit(100)
        if pace.prefers_batch(count):
            batches += 1
            pace.took(count, 0.0022 + count * 0.000015, batch=True)
        else:
            pace.took(count, count * single, batch=False)
    return batches


def test_with_a_sync_for_each_message_many_go_as_batches_and_few_as_singles() -> None:
    """At 0.2 ms for a single, a hundred go as a batch, and five as singles."""
    pace = Pace()
    assert _learn(pace, 0.0002) > 280
    assert not pace.prefers_batch(5)


def test_without_syncs_singles_stay_singles() -> None:
    """At 0.012 ms for a single no number of messages is worth a batch."""
    pace = Pace()
    assert _learn(pace, 0.000012) < PROBE_EVERY
    assert not pace.prefers_batch(400)


def test_it_notices_when_the_disk_becomes_fast() -> None:
    """After many batches a few singles are tried, so a cheaper way does not stay unknown."""
    pace = Pace()
    _learn(pace, 0.0002)
    assert pace.prefers_batch(100) or pace.limit(100) == PROBE
    _learn(pace, 0.000012, rounds=20 * PROBE_EVERY)
    assert not pace.prefers_batch(100)


def test_one_hiccup_changes_nothing() -> None:
    """A single flush that took a second does not turn the choice."""
    pace = Pace()
    _learn(pace, 0.000012)
    pace.took(100, 1.0, batch=False)
    for _ in range(3):
        pace.took(100, 100 * 0.000012, batch=False)
    assert not pace.prefers_batch(100)
