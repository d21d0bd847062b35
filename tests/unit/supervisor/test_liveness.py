"""Who is judged dead, and when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from regrow_protocol.messages import HostRecord
from regrow_supervisor.liveness import Liveness

TTL = 2.0
HOST = HostRecord(host="h_1", app="shop", build="b1", types=["main"])


def watched(until: float, start: float = 0.0) -> Liveness:
    """A judge whose probes were answered every 0.25 s from `start` until `until`."""
    liveness = Liveness(TTL)
    probe(liveness, start, until)
    return liveness


def probe(liveness: Liveness, start: float, until: float) -> None:
    for tick in range(int((until - start) * 4) + 1):
        liveness.probed(start + tick / 4)


def test_an_expiry_kills_when_the_bucket_was_available_for_a_whole_ttl() -> None:
    """The ordinary death."""
    liveness = watched(10)
    assert liveness.put("shop.h_1", HOST) is None
    assert liveness.verdict("shop.h_1", 10.0) == "alive"
    assert liveness.gone("shop.h_1", deleted=False, now=10.1) == HOST
    assert liveness.verdict("shop.h_1", 10.1) == "dead"


def test_a_deletion_kills_at_once() -> None:
    """Whoever deletes the key knows: the host itself, or the launcher that saw it end."""
    liveness = Liveness(TTL)
    liveness.put("shop.h_1", HOST)
    assert liveness.gone("shop.h_1", deleted=True, now=0.0) == HOST
    assert liveness.verdict("shop.h_1", 0.0) == "dead"


def test_an_expiry_after_a_reconnect_waits_for_one_more_ttl() -> None:
    """A server that was down let keys expire: their hosts have a whole TTL to come back."""
    liveness = watched(10)
    liveness.put("shop.h_1", HOST)
    liveness.lost()
    probe(liveness, 15.0, 15.5)
    assert liveness.gone("shop.h_1", deleted=False, now=15.5) is None
    assert liveness.verdict("shop.h_1", 15.5) == "doubtful"
    probe(liveness, 15.75, 16.75)
    assert liveness.judge(16.9) == []
    probe(liveness, 17.0, 17.0)
    assert liveness.judge(17.05) == [("shop.h_1", HOST)]
    assert liveness.judge(17.05) == []
    assert liveness.verdict("shop.h_1", 17.05) == "dead"


def test_a_doubtful_host_that_renews_lives() -> None:
    """It is the host it was, not a new one."""
    liveness = watched(10)
    liveness.put("shop.h_1", HOST)
    liveness.lost()
    liveness.gone("shop.h_1", deleted=False, now=15.0)
    assert liveness.put("shop.h_1", HOST) == HOST
    probe(liveness, 15.0, 20.0)
    assert liveness.judge(20.0) == []
    assert liveness.verdict("shop.h_1", 20.0) == "alive"


def test_a_paused_server_kills_nobody() -> None:
    """The connection stays up, but probes are not answered: what expired then proves nothing, whichever comes first."""
    for answer_first in (True, False):
        liveness = watched(10)
        liveness.put("shop.h_1", HOST)
        if answer_first:
            liveness.probed(15.0)
        assert liveness.gone("shop.h_1", deleted=False, now=15.0) is None
        liveness.probed(15.01)
        assert liveness.judge(15.02) == []
        assert liveness.verdict("shop.h_1", 15.02) == "doubtful"


def test_a_failed_probe_is_an_outage() -> None:
    """Even if the next one succeeds."""
    liveness = watched(10)
    liveness.put("shop.h_1", HOST)
    liveness.probed(None)
    liveness.probed(10.2)
    assert liveness.gone("shop.h_1", deleted=False, now=10.3) is None


def test_a_host_without_a_key_is_doubtful_at_first_and_unknown_after_a_ttl() -> None:
    """A supervisor that has just started finds owners without a key."""
    liveness = watched(1.0)
    assert liveness.verdict("shop.h_9", 1.1) == "doubtful"
    probe(liveness, 1.25, 2.0)
    assert liveness.verdict("shop.h_9", 2.1) == "unknown"


@given(
    outages=st.lists(st.tuples(st.floats(0, 30), st.floats(0.8, 12)), max_size=3),
    lag=st.floats(0, 0.3),
)
def test_no_living_host_is_ever_judged_dead(outages: list[tuple[float, float]], lag: float) -> None:
    """Outages of any length at any time: a host that renews whenever it can outlives all of them.

    A small model of the world in ticks of 0.05 s: during an outage neither probes nor renewals get through, while the
    key's time to live runs on; afterwards the host renews within `lag`.
    """
    liveness = Liveness(TTL)
    key, stands, renewed, renew_at = "shop.h_1", False, 0.0, 0.0
    for tick in range(900):
        now = tick * 0.05
        down = any(start <= now < start + length for start, length in outages)
        was_down = any(start <= now - 0.05 < start + length for start, length in outages)
        if was_down and not down:
            renew_at = now + lag
        if stands and not down and now - renewed >= TTL:
            stands = False
            assert liveness.gone(key, deleted=False, now=now) is None
        if not down and now >= renew_at:
            liveness.put(key, HOST)
            stands, renewed, renew_at = True, now, now + 0.4
        if not down and tick % 5 == 0:
            liveness.probed(now)
        assert liveness.judge(now) == []
        assert key not in liveness.present or liveness.verdict(key, now) == "alive"
