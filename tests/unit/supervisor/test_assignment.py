"""The assignment of partitions to hosts: even, stable, deterministic, whatever the past was."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from regrow_supervisor.assignment import balance, fill

HOSTS = [f"h_{n}" for n in range(9)]
hosts = st.sets(st.sampled_from(HOSTS))
some_hosts = st.sets(st.sampled_from(HOSTS), min_size=1)
partitions = st.integers(1, 64).map(range)


Situation = tuple[set[str], range, dict[int, str]]


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    parts = draw(partitions)
    owners = st.dictionaries(st.integers(0, len(parts) + 3), st.sampled_from([*HOSTS, "", "h_gone"]))
    return draw(some_hosts), parts, draw(owners)


def moved(before: dict[int, str], after: dict[int, str]) -> int:
    return sum(before.get(part) != host for part, host in after.items())


@given(situations())
def test_balance_is_complete_and_even(situation: Situation) -> None:
    """Every partition has a living owner, and no host has two more than another."""
    living, parts, current = situation
    result = balance(living, parts, current)
    assert sorted(result) == list(parts)
    sizes = Counter(dict.fromkeys(living, 0))
    sizes.update(result.values())
    assert set(sizes) == living
    assert max(sizes.values()) - min(sizes.values()) <= 1


@given(situations())
def test_balance_moves_as_few_as_possible(situation: Situation) -> None:
    """No even assignment keeps more partitions where they are.

    A host that holds n keeps at most min(n, its quota), and a quota is `least` or, for `more` hosts, one larger: so the
    most that can be kept is a sum that needs no assignment to be computed.
    """
    living, parts, current = situation
    held = Counter(current[part] for part in parts if current.get(part) in living)
    least, more = divmod(len(parts), len(living))
    kept_at_least = sum(min(held[host], least) for host in living)
    gains = sorted((held[host] > least for host in living), reverse=True)
    best = len(parts) - kept_at_least - sum(gains[:more])
    assert moved(current, balance(living, parts, current)) == best


@given(situations())
def test_balance_is_a_fixed_point(situation: Situation) -> None:
    """What is balanced stays as it is."""
    living, parts, current = situation
    once = balance(living, parts, current)
    assert balance(living, parts, once) == once
    assert fill(living, parts, once) == once


@given(situations())
def test_the_order_of_hosts_does_not_matter(situation: Situation) -> None:
    """Two supervisors that heard of the hosts in another order decide the same."""
    living, parts, current = situation
    assert balance(sorted(living), parts, current) == balance(sorted(living, reverse=True), parts, current)
    assert fill(sorted(living), parts, current) == fill(sorted(living, reverse=True), parts, current)


@given(situations())
def test_fill_moves_nothing_between_living_hosts(situation: Situation) -> None:
    """Every partition has a living owner afterwards, and those that had one keep it."""
    living, parts, current = situation
    result = fill(living, parts, current)
    assert sorted(result) == list(parts)
    assert set(result.values()) <= living
    assert all(result[part] == current[part] for part in parts if current.get(part) in living)


@given(some_hosts, partitions, st.sampled_from(HOSTS))
def test_a_lost_host_moves_only_its_own(living: set[str], parts: range, lost: str) -> None:
    """From a balanced state, filling after a loss gives an even one as far as the survivors' shares allow."""
    before = balance(living | {lost}, parts, {})
    survivors = living - {lost}
    after = fill(survivors, parts, before)
    if not survivors:
        assert after == {}
        return
    assert moved(before, after) == sum(host == lost for host in before.values())
    sizes = Counter(dict.fromkeys(survivors, 0))
    sizes.update(after.values())
    assert max(sizes.values()) - min(sizes.values()) <= 1


@given(partitions)
def test_without_hosts_nobody_owns(parts: range) -> None:
    """No host: no new owner, so the records stay as they are."""
    assert balance([], parts, {0: "h_1"}) == {}
    assert fill([], parts, {0: "h_1"}) == {}
