"""What lists say of limits: what is allowed, who holds permits, how many wait."""

from __future__ import annotations

from collections import Counter

import msgspec
from msgspec import Struct
from regrow_protocol import messages as m
from regrow_protocol.bus import Bus
from regrow_protocol.errors import RegrowError
from regrow_protocol.limits import BUCKET, Holder, Limit, Permits, Waiting, permits_of
from regrow_protocol.subjects import untoken


class LimitNotFound(RegrowError, LookupError):
    """There is no limit of that name."""

    code = "limit-not-found"


class LimitRow(Struct, kw_only=True):
    """A limit in a list, or one pool of it.

    Attributes:
        concurrency, rate, period: as set; 0: any number.
        per: what it is counted by, and `pool` by which value of that; empty: all share it.
        holders: who holds permits, by the permit's id.
        waiting: how many wait for one.
    """

    name: str
    concurrency: int
    rate: int
    period: float
    per: str
    pool: str
    holders: dict[str, Holder]
    waiting: int


async def rows(bus: Bus) -> list[LimitRow]:
    """All limits, by name; of those that are counted by something a row for each pool in use."""
    limits: dict[str, Limit] = {}
    permits: dict[tuple[str, str], Permits] = {}
    waiting: list[Waiting] = []
    async for entry in bus.kv(BUCKET).items(">"):
        kind, _, rest = entry.key.partition(".")
        try:
            if kind == "limit":
                limits[untoken(rest)] = m.decode(entry.value, Limit)
            elif kind == "permits":
                permits[permits_of(entry.key)] = m.decode(entry.value, Permits)
            elif kind == "wait" and entry.value:
                waiting.append(m.decode(entry.value, Waiting))
        except msgspec.MsgspecError:  # of another version
            continue
    found: list[LimitRow] = []
    for name, limit in sorted(limits.items()):
        wait = Counter(limit.pool_of(each.type, each.tags) for each in waiting if each.limit == name)
        held = {pool: each.holders for (of, pool), each in permits.items() if of == name and each.holders}
        found += [
            LimitRow(
                name=name, concurrency=limit.concurrency, rate=limit.rate, period=limit.period, per=limit.per,
                pool=pool, holders=held.get(pool, {}), waiting=wait[pool],
            )
            for pool in sorted({*held, *wait}) or [""]
        ]  # fmt: skip
    return found
