"""Partitions find living owners: hosts join, leave, die, drain, under one supervisor or two, through outages.

A computer may stand still for a moment: what must be quick is done several times, and the quickest counts.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable

import pytest
from fleet import FakeHost, Fleet, chance
from regrow_protocol import messages
from regrow_protocol.messages import AppRecord
from regrow_protocol.server import NatsServer
from regrow_protocol.subjects import token

Until = Callable[..., Awaitable[None]]


async def test_the_first_host_gets_all_at_once(fleet: Fleet, until: Until) -> None:
    """Also of an app that was never seen, whose number of partitions is recorded then: within 0.5 s."""
    await fleet.supervise()
    await ready(fleet, until)
    took: list[float] = []
    for app in ("one", "two", "three", "four"):
        host = await fleet.host(app=app)
        await until(lambda host=host, app=app: fleet.owned_by(host, app=app))
        took.append(fleet.decisions[-1].at - host.renewed)
        found = await fleet.bus.kv("regrow_partitions").get(f"app.{token(app)}")
        assert found is not None
        assert messages.decode(found[0], AppRecord) == AppRecord(partitions=16)
    assert min(took) < 0.5, took


async def test_an_apps_number_of_partitions_stays(fleet: Fleet, until: Until) -> None:
    """What was recorded first counts."""
    await fleet.bus.kv("regrow_partitions").create(f"app.{token(fleet.app)}", messages.encode(AppRecord(partitions=5)))
    await fleet.supervise()
    one, two = await fleet.host(), await fleet.host()
    await until(lambda: fleet.owned_by(one, two, partitions=5))


async def test_a_joining_host_moves_few(fleet: Fleet, until: Until) -> None:
    """Exactly its share moves, each under the next epoch."""
    await fleet.supervise()
    hosts: list[FakeHost] = []
    for moves in (16, 8, 5, 4):
        before = len(fleet.decisions)
        hosts.append(await fleet.host())
        await until(lambda: fleet.owned_by(*hosts))
        await quiet(fleet, until)
        assert len(fleet.decisions) - before == moves
    assert fleet.epochs_are_gapless()


@pytest.mark.parametrize("how", ["delete", "purge"])
async def test_a_leaving_hosts_partitions_are_taken_over_at_once(fleet: Fleet, until: Until, how: str) -> None:
    """Its key is taken away: within 0.5 s the others have its share, and nothing else moves."""
    await fleet.supervise()
    hosts = [await fleet.host() for _ in range(4)]
    await until(lambda: fleet.owned_by(*hosts))
    await quiet(fleet, until)
    took: list[float] = []
    while len(hosts) > 1:
        before = len(fleet.decisions)
        leaving = hosts.pop(0)
        lost = [part for part, host in fleet.own().items() if host == leaving.id]
        at = await leaving.leave(how)
        await until(lambda: fleet.owned_by(*hosts))
        took.append(fleet.decisions[-1].at - at)
        await quiet(fleet, until)
        assert {int(d.key.rsplit(".", 1)[1]) for d in fleet.decisions[before:]} == set(lost)
        assert len(fleet.decisions) - before == len(lost)
    assert min(took) < 0.5, took


async def test_a_silent_hosts_partitions_are_taken_over_after_its_ttl(fleet: Fleet, until: Until) -> None:
    """Not before its key has expired, and within a second after; with the TTL that is the default."""
    fleet.ttl = 2.0
    await fleet.supervise()
    hosts = [await fleet.host() for _ in range(6)]
    await until(lambda: fleet.owned_by(*hosts))
    took: list[float] = []
    while len(hosts) > 1 and min(took, default=99.0) > 3.0:
        await ready(fleet, until)
        before = len(fleet.decisions)
        silent = hosts.pop(0)
        await silent.vanish()
        await until(lambda: fleet.owned_by(*hosts))
        assert fleet.decisions[before].at - silent.renewed >= 1.9
        took.append(fleet.decisions[-1].at - silent.renewed)
    assert min(took) <= 3.0, took


async def test_without_hosts_owners_stay_until_one_comes(fleet: Fleet, until: Until) -> None:
    """The next host gets all, at once."""
    await fleet.supervise()
    host = await fleet.host()
    await until(lambda: fleet.owned_by(host))
    took: list[float] = []
    for epoch in (2, 3, 4):
        gone = host
        await gone.leave()
        other = await fleet.host(app=f"another {epoch}")
        await until(lambda other=other: fleet.owned_by(other, app=other.record.app))
        assert fleet.owned_by(gone)
        host = await fleet.host()
        await until(lambda host=host: fleet.owned_by(host))
        took.append(fleet.decisions[-1].at - host.renewed)
        assert {o.epoch for key, o in fleet.owners.items() if token(fleet.app) in key} == {epoch}
    assert min(took) < 0.5, took


async def test_a_draining_host_gives_all_away(fleet: Fleet, until: Until) -> None:
    """While it still lives; but it keeps what nobody else can take."""
    await fleet.supervise()
    one, two = await fleet.host(), await fleet.host()
    await until(lambda: fleet.owned_by(one, two))
    await one.drain()
    await until(lambda: fleet.owned_by(two))
    await two.drain()
    third = await fleet.host(build="b2")
    await until(lambda: fleet.owned_by(third, build="b2"))
    assert fleet.owned_by(two)


async def test_builds_and_apps_do_not_mix(fleet: Fleet, until: Until) -> None:
    """Each build's partitions belong to its own hosts."""
    await fleet.supervise()
    a1, a2, b = await fleet.host("b1"), await fleet.host("b2"), await fleet.host("b1", app="an app.with >*")
    await until(lambda: fleet.owned_by(a1) and fleet.owned_by(a2, build="b2"))
    await until(lambda: fleet.owned_by(b, app="an app.with >*"))


async def test_more_hosts_than_partitions(fleet: Fleet, until: Until) -> None:
    """Some have none."""
    await fleet.bus.kv("regrow_partitions").create(f"app.{token(fleet.app)}", messages.encode(AppRecord(partitions=2)))
    await fleet.supervise()
    hosts = [await fleet.host() for _ in range(3)]
    await until(lambda: sorted(fleet.shares().values()) == [1, 1])
    assert set(fleet.shares()) <= {host.id for host in hosts}


async def test_records_that_do_not_decode_harm_nobody(fleet: Fleet, until: Until) -> None:
    """Junk in either bucket: other hosts are assigned, and a junk owner is left alone by those who cannot read it."""
    await fleet.bus.kv("regrow_hosts").put("x.h_1", b"junk")
    await fleet.bus.kv("regrow_hosts").put("alone", b"{}")
    await fleet.bus.kv("regrow_partitions").put("own.x.y.z", b"junk")
    await fleet.bus.kv("regrow_partitions").put("app.x", b"\xff")
    await fleet.supervise()
    host = await fleet.host()
    await until(lambda: fleet.owned_by(host))
    await fleet.bus.kv("regrow_hosts").put("x.h_2", b"[]")
    second = await fleet.host()
    await until(lambda: fleet.owned_by(host, second))


async def test_two_supervisors_agree(fleet: Fleet, until: Until) -> None:
    """Hosts come and go at random under two supervisors: in the end all is owned evenly, no epoch was written twice,
    and
    no more moved than one supervisor would have moved."""
    await fleet.supervise()
    await fleet.supervise()
    await ready(fleet, until)
    dice = chance(7)
    living = [await fleet.host()]
    await until(lambda: fleet.owned_by(*living))
    for _ in range(8):
        await quiet(fleet, until)
        before = len(fleet.decisions)
        if len(living) > 1 and dice.random() < 0.5:
            lost = living.pop(dice.randrange(len(living)))
            expected = fleet.shares()[lost.id]
            await lost.leave()
        else:
            living.append(await fleet.host())
            expected = 16 // len(living)
        await until(lambda: fleet.owned_by(*living))
        await quiet(fleet, until)
        assert len(fleet.decisions) - before == expected
    assert fleet.epochs_are_gapless()


async def test_one_of_two_supervisors_is_killed(fleet: Fleet, until: Until) -> None:
    """The other goes on; nothing moves by that, and the next death is handled long before a TTL is over."""
    fleet.ttl = 20.0
    one = await fleet.supervisor_program()
    await fleet.supervise()
    hosts = [await fleet.host() for _ in range(3)]
    await until(lambda: fleet.owned_by(*hosts))
    await quiet(fleet, until)
    before = len(fleet.decisions)
    one.send_signal(signal.SIGKILL)
    await one.wait()
    at = await hosts[0].leave()
    await until(lambda: fleet.owned_by(*hosts[1:]))
    assert fleet.decisions[-1].at - at < fleet.ttl / 2
    assert len(fleet.decisions) - before <= 6


async def test_a_new_supervisor_moves_nothing_and_finds_who_died_before(fleet: Fleet, until: Until) -> None:
    """Restarted with living hosts it writes nothing; an owner without a key is replaced after one TTL of watching."""
    stop = await fleet.supervise()
    hosts = [await fleet.host() for _ in range(2)]
    await until(lambda: fleet.owned_by(*hosts))
    await quiet(fleet, until)
    before = len(fleet.decisions)
    stop.set()
    await hosts[0].vanish()
    await fleet.bus.kv("regrow_hosts").drop_history(f"{token(fleet.app)}.{hosts[0].id}")
    await fleet.supervise()
    await until(lambda: fleet.owned_by(hosts[1]))
    moved = fleet.decisions[before:]
    assert {decision.host for decision in moved} == {hosts[1].id}
    assert len(moved) == 8


async def test_an_outage_kills_nobody(fleet: Fleet, private_server: NatsServer, until: Until) -> None:
    """NATS is down for two TTLs, keys expire: no partition moves; the next real death is noticed."""
    fleet.ttl = 2.0
    await fleet.supervise()
    await fleet.supervise()
    hosts = [await fleet.host() for _ in range(3)]
    await until(lambda: fleet.owned_by(*hosts))
    await ready(fleet, until)
    before = len(fleet.decisions)
    await asyncio.to_thread(private_server.kill)
    await out_of_reach(hosts, 2, until)
    await asyncio.to_thread(private_server.restart)
    await slowly_back(hosts, until)
    await ready(fleet, until)
    assert len(fleet.decisions) == before
    await hosts[0].vanish()
    await until(lambda: fleet.owned_by(*hosts[1:]))


@pytest.mark.parametrize("ttls", [1.25, 2.5])
async def test_a_paused_server_kills_nobody(
    fleet: Fleet, private_server: NatsServer, until: Until, ttls: float
) -> None:
    """No connection is lost, but nothing is answered, and keys expire the moment the server goes on."""
    fleet.ttl = 2.0
    await fleet.supervise()
    hosts = [await fleet.host() for _ in range(3)]
    await until(lambda: fleet.owned_by(*hosts))
    await ready(fleet, until)
    before = len(fleet.decisions)
    private_server.signal(signal.SIGSTOP)
    await out_of_reach(hosts, ttls, until)
    private_server.signal(signal.SIGCONT)
    await slowly_back(hosts, until)
    await ready(fleet, until)
    assert len(fleet.decisions) == before


async def test_a_host_that_dies_in_an_outage_is_found_after_it(
    fleet: Fleet, private_server: NatsServer, until: Until
) -> None:
    """It gets one more TTL, not more."""
    await fleet.supervise()
    hosts = [await fleet.host() for _ in range(2)]
    await until(lambda: fleet.owned_by(*hosts))
    await ready(fleet, until)
    await asyncio.to_thread(private_server.kill)
    await hosts[0].vanish()
    await passed(1.5 * fleet.ttl, until)
    back = time.monotonic()  # supervisors may be connected before this thread knows that the server runs
    await asyncio.to_thread(private_server.restart)
    before = len(fleet.decisions)
    await until(lambda: fleet.owned_by(hosts[1]))
    assert fleet.decisions[before].at - back >= fleet.ttl - 0.1


async def passed(seconds: float, until: Until) -> None:
    """Wait for real time: an outage has no other condition."""
    end = time.monotonic() + seconds
    await until(lambda: time.monotonic() >= end)


async def out_of_reach(hosts: list[FakeHost], ttls: float, until: Until) -> None:
    """An outage of so many TTLs, in which no host can renew its key."""
    for host in hosts:
        await host.vanish()
    await passed(ttls * hosts[0].ttl, until)


async def slowly_back(hosts: list[FakeHost], until: Until) -> None:
    """One host needs longer to reconnect than the others, half a TTL: its key is seen to expire."""
    slow, *quick = hosts
    for host in quick:
        host.resume()
    await passed(0.5 * slow.ttl, until)
    slow.resume()


async def quiet(fleet: Fleet, until: Until) -> None:
    """Wait until the supervisors have had time to balance, and nothing was decided meanwhile."""
    await until(lambda: not fleet.decisions or time.monotonic() - fleet.decisions[-1].at > 0.45)


async def ready(fleet: Fleet, until: Until) -> None:
    """Wait until supervisors have watched for a whole TTL."""
    await passed(fleet.ttl + 0.7, until)
