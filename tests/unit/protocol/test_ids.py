"""Ids sort by time, are one subject token, and a derived one is always the same."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from regrow_protocol import ids

PREFIXES = [ids.PROCESS, ids.AGENT, ids.MACHINE, ids.HOST, ids.CLIENT, ids.COMMAND]
SHAPE = re.compile(r"[pamhcx]_[0-9abcdefghjkmnpqrstvwxyz]{26}")
MOMENTS = st.floats(0, 30_000_000_000)  # seconds: 1970 to the year 2920


def _milliseconds(id_: str) -> int:
    value = 0
    for digit in id_.split("_")[1][:10]:
        value = value * 32 + ids.ALPHABET.index(digit)
    return value


def test_every_prefix_is_its_own() -> None:
    """An id tells what it is the id of."""
    assert len(set(PREFIXES)) == len(PREFIXES)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_new_id_has_the_documented_shape(prefix: str) -> None:
    """Prefix, underscore, 26 digits of Crockford's base 32 in lower case."""
    id_ = ids.new_id(prefix)
    assert id_.startswith(f"{prefix}_")
    assert SHAPE.fullmatch(id_)


def test_new_ids_do_not_repeat() -> None:
    """Many ids of one millisecond differ in their 80 random bits."""
    assert len({ids.new_id("p") for _ in range(20_000)}) == 20_000


def test_new_ids_sort_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later millisecond gives a larger id, whatever its random part, also where a digit carries over."""
    moments = [0, 1, 31, 32, 1023, 1024, 1_790_000_000_000, 1_790_000_000_001, 2**50 - 1]
    made: list[str] = []
    for moment in moments:
        monkeypatch.setattr(ids.time, "time_ns", lambda moment=moment: moment * 1_000_000)
        made.append(ids.new_id("p"))
    assert [_milliseconds(id_) for id_ in made] == moments
    assert made == sorted(made)


@given(seed=st.text(), at=MOMENTS)
def test_a_derived_id_is_a_function_of_its_seed_and_time(seed: str, at: float) -> None:
    """The same parent operation names the same child, as often as it is replayed."""
    id_ = ids.derived_id("p", seed, at)
    assert id_ == ids.derived_id("p", seed, at)
    assert SHAPE.fullmatch(id_)
    assert _milliseconds(id_) == int(at * 1000)


def test_derived_ids_stay_what_they_are_in_recorded_histories() -> None:
    """The derivation is part of the wire contract: a new release names old children as before."""
    assert ids.derived_id("p", "p_parent.0.7", 1_790_000_000.123) == "p_01m3250v3v7f3whresph2t8qs3"
    assert ids.derived_id("p", "", 0.0) == "p_0000000000dygxhz7xe684dnv2"


@given(seeds=st.lists(st.text(), min_size=2, max_size=50, unique=True), at=MOMENTS)
def test_different_seeds_give_different_ids(seeds: list[str], at: float) -> None:
    """No two operations name the same child."""
    assert len({ids.derived_id("p", seed, at) for seed in seeds}) == len(seeds)


@given(moments=st.lists(MOMENTS, min_size=2, max_size=20), seed=st.text())
def test_derived_ids_sort_by_their_time(moments: list[float], seed: str) -> None:
    """Children list in the order in which they were spawned, to the millisecond."""
    made = [ids.derived_id("p", seed, at) for at in sorted(moments)]
    assert all(a <= b for a, b in pairwise(made))


@given(partitions=st.integers(1, 1024), seed=st.text(), at=MOMENTS)
def test_a_partition_is_in_range_and_stable(partitions: int, seed: str, at: float) -> None:
    """A process belongs to one of the app's partitions, and always to the same."""
    pid = ids.derived_id("p", seed, at)
    part = ids.partition_of(pid, partitions)
    assert 0 <= part < partitions
    assert part == ids.partition_of(pid, partitions)


def test_partitions_stay_where_recorded_subjects_say() -> None:
    """The hash is part of the wire contract: it must not depend on the Python or its hash seed."""
    assert ids.partition_of("p_00000000000000000000000000", 16) == 5
    assert ids.partition_of("p_01m3250v3v7f3whresph2t8qs3", 16) == 12
    assert ids.partition_of("p_01m3250v3v7f3whresph2t8qs3", 7) == 6


def test_processes_spread_over_the_partitions() -> None:
    """No partition gets far more than its share."""
    counts = [0] * 16
    for n in range(16_000):
        counts[ids.partition_of(ids.derived_id("p", f"p_parent.0.{n}", 1_790_000_000 + n), 16)] += 1
    assert min(counts) > 800
    assert max(counts) < 1200
