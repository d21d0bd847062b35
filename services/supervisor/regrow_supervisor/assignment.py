"""Which host gets which partition: pure functions from hosts and current owners to new owners.

Even: no host has two partitions more than another. Stable: of all even assignments, one that moves the fewest
partitions. Deterministic: two supervisors that see the same hosts and owners decide the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping


def balance(hosts: Collection[str], parts: Collection[int], current: Mapping[int, str]) -> dict[int, str]:
    """The even assignment nearest to `current`.

    Args:
        hosts: who may own; without any, nobody owns (the result is empty).
        parts: the partitions to assign.
        current: owners now, living or not.

    Returns:
        partition -> host, for all of `parts`.
    """
    if not hosts:
        return {}
    held = _held(hosts, parts, current)
    least, more = divmod(len(parts), len(hosts))
    # The hosts that hold most keep one more: each of them saves a move if it holds more than `least`.
    by_size = sorted(held, key=lambda host: (-len(held[host]), host))
    quota = {host: least + (rank < more) for rank, host in enumerate(by_size)}
    return _complete({part: host for host in held for part in held[host][: quota[host]]}, parts, quota)


def fill(hosts: Collection[str], parts: Collection[int], current: Mapping[int, str]) -> dict[int, str]:
    """Only give away what no host of `hosts` owns, to those that own least: nothing moves between living hosts."""
    if not hosts:
        return {}
    held = _held(hosts, parts, current)
    kept = {part: host for host in held for part in held[host]}
    quota = {host: len(own) for host, own in held.items()}
    for _ in range(len(parts) - len(kept)):
        quota[min(quota, key=lambda host: (quota[host], host))] += 1
    return _complete(kept, parts, quota)


def _held(hosts: Collection[str], parts: Collection[int], current: Mapping[int, str]) -> dict[str, list[int]]:
    held: dict[str, list[int]] = {host: [] for host in sorted(hosts)}
    for part in sorted(parts):
        owner = current.get(part)
        if owner in held:
            held[owner].append(part)
    return held


def _complete(kept: dict[int, str], parts: Collection[int], quota: Mapping[str, int]) -> dict[int, str]:
    room = dict(quota)
    for host in kept.values():
        room[host] -= 1
    takers = iter([host for host in sorted(room) for _ in range(room[host])])
    return {part: kept[part] if part in kept else next(takers) for part in sorted(parts)}
