"""The assignment of partitions to hosts: even, stable, deterministic, whatever the past was."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from regrow_supervisor.assignment import balance, fill

HOSTS = [f"h_{n}" for n in range(9)]
hosts = st.sets(st.sampled_from(HOSTS))
some_hosts = st.sets(st.sampled_from(HOSTS), min_size=1)
partitions = st.integers(1, 64)


@st.composite
def situations(draw: st.DrawFn) -> tuple[set[str], int, dict[int, str]]:
    count = draw(partitions)
    owners = st.dictionaries(st.integers(0, count + 3), st.sampled_from([*HOSTS, "", "h_gone"]), max_size=count + 4)
    return draw(some_hosts), count, draw(owners)


def moved(before: dict[int, str], after: dict[int, str]) -> int:
    return sum(before.get(part) != host for part, host in after.items())


@given(situations())
def test_balance_is_complete_and_even(situation: tuple[set[str], int, dict[int, str]]) -> None:
    """Every partition has a living owner, and no host has two more than another."""
    living, count, current = situation
    result = balance(living, count, current)
    assert sorted(result) == list(range(count))
    sizes = Counter(dict.fromkeys(living, 0))
    sizes.update(result.values())
    assert set(sizes) == living
    assert max(sizes.values()) - min(sizes.values()) <= 1


@given(situations())
def test_balance_moves_as_few_as_possible(situation: tuple[set[str], int, dict[int, str]]) -> None:
    """No even assignment keeps more partitions where they are.

    A host that holds n keeps at most min(n, its quota), and a quota is `least` or, for `more` hosts, one larger: so the
    most that can be kept is a sum that needs no assignment to be computed.
    """
    living, count, current = situation
    held = Counter(current[part] for part in range(count) if current.get(part) in living)
    least, more = divmod(count, len(living))
    kept_at_least = sum(min(held[host], least) for host in living)
    gains = sorted((held[host] > least for host in living), reverse=True)
    best = count - kept_at_least - sum(gains[:more])
    assert moved(current, balance(living, count, current)) == best


@given(situations())
def test_balance_is_a_fixed_point(situation: tuple[set[str], int, dict[int, str]]) -> None:
    """What is balanced stays as it is."""
    living, count, current = situation
    once = balance(living, count, current)
    assert balance(living, count, once) == once
    assert fill(living, count, once) == once


@given(situations())
def test_the_order_of_hosts_does_not_matter(situation: tuple[set[str], int, dict[int, str]]) -> None:
    """Two supervisors that heard of the hosts in another order decide the same."""
    living, count, current = situation
    assert balance(sorted(living), count, current) == balance(sorted(living, reverse=True), count, current)
    assert fill(sorted(living), count, current) == fill(sorted(living, reverse=True), count, current)


@given(situations())
def test_fill_moves_nothing_between_living_hosts(situation: tuple[set[str], int, dict[int, str]]) -> None:
    """Every partition has a living owner afterwards, and those that had one keep it."""
    living, count, current = situation
    result = fill(living, count, current)
    assert sorted(result) == list(range(count))
    assert set(result.values()) <= living
    assert all(result[part] == current[part] for part in range(count) if current.get(part) in living)


@given(some_hosts, partitions, st.sampled_from(HOSTS))
def test_a_lost_host_moves_only_its_own(living: set[str], count: int, lost: str) -> None:
    """From a balanced state, filling after a loss gives an even one as far as the survivors' shares allow."""
    before = balance(living | {lost}, count, {})
    survivors = living - {lost}
    after = fill(survivors, count, before)
    if not survivors:
        assert after == {}
        return
    assert moved(before, after) == sum(host == lost for host in before.values())
    sizes = Counter(dict.fromkeys(survivors, 0))
    sizes.update(after.values())
    assert max(sizes.values()) - min(sizes.values()) <= 1


@given(partitions)
def test_without_hosts_nobody_owns(count: int) -> None:
    """No host: no new owner, so the records stay as they are."""
    assert balance([], count, {0: "h_1"}) == {}
    assert fill([], count, {0: "h_1"}) == {}
