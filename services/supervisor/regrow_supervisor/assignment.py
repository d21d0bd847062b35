"""Which host gets which partition: pure functions from hosts and current owners to new owners.

Even: no host has two partitions more than another. Stable: of all even assignments, one that moves the fewest
partitions. Deterministic: two supervisors that see the same hosts and owners decide the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping


def balance(hosts: Collection[str], partitions: int, current: Mapping[int, str]) -> dict[int, str]:
    """The even assignment nearest to `current`.

    Args:
        hosts: who may own; without any, nobody owns (the result is empty).
        partitions: their number; partitions are 0 … partitions - 1.
        current: owners now, living or not.

    Returns:
        partition -> host, for all partitions.
    """
    if not hosts:
        return {}
    held = _held(hosts, partitions, current)
    least, more = divmod(partitions, len(hosts))
    # The hosts that hold most keep one more: each of them saves a move if it holds more than `least`.
    by_size = sorted(held, key=lambda host: (-len(held[host]), host))
    quota = {host: least + (rank < more) for rank, host in enumerate(by_size)}
    result = {part: host for host in held for part in held[host][: quota[host]]}
    return _fill(result, partitions, quota)


def fill(hosts: Collection[str], partitions: int, current: Mapping[int, str]) -> dict[int, str]:
    """Only give away what no host of `hosts` owns, to those that own least: nothing moves between living hosts."""
    if not hosts:
        return {}
    held = _held(hosts, partitions, current)
    result = {part: host for host in held for part in held[host]}
    room = {host: len(parts) for host, parts in held.items()}
    for _ in range(partitions - len(result)):
        room[min(room, key=lambda host: (room[host], host))] += 1
    return _fill(result, partitions, room)


def _held(hosts: Collection[str], partitions: int, current: Mapping[int, str]) -> dict[str, list[int]]:
    held: dict[str, list[int]] = {host: [] for host in sorted(hosts)}
    for part in range(partitions):
        owner = current.get(part)
        if owner in held:
            held[owner].append(part)
    return held


def _fill(result: dict[int, str], partitions: int, quota: Mapping[str, int]) -> dict[int, str]:
    room = dict(quota)
    for host in result.values():
        room[host] -= 1
    takers = iter([host for host in sorted(room) for _ in range(room[host])])
    return {part: result[part] if part in result else next(takers) for part in range(partitions)}
