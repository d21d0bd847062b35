"""Public processes from any NATS client: found, described, called, refused; two registries serve them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from nats.aio.client import Client as NatsClient
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout
from nats.micro.service import ServiceInfo, ServiceStats
from regrow.testing import Runtime
from regrow.testing.registries import Registry
from regrow_protocol import ids, streams, subjects
from regrow_protocol.bus import Bus
from shops import called, calls, eventually, holder, moody, record, request, shop, street, twins


async def _all(outside: NatsClient, subject: str, count: int) -> list[dict[str, Any]]:
    """The first `count` answers."""
    inbox = outside.new_inbox()
    answers = await outside.subscribe(inbox)
    await outside.publish(subject, b"", reply=inbox)
    found = [json.loads((await answers.next_msg(timeout=30)).data) for _ in range(count)]
    await answers.unsubscribe()
    return found


async def _both(outside: NatsClient, name: str) -> list[dict[str, Any]]:
    """What both registries say of a shop, once both serve all of it."""

    async def infos() -> Any:
        inbox = outside.new_inbox()
        answers = await outside.subscribe(inbox)
        await outside.publish(f"$SRV.INFO.{name}", b"", reply=inbox)
        try:
            found = [json.loads((await answers.next_msg(timeout=1)).data) for _ in range(2)]
        except NatsTimeout:
            return None
        finally:
            await answers.unsubscribe()
        return found if all(len(info["endpoints"]) == 6 for info in found) else None

    return await eventually(infos, "both registries")


async def test_it_is_a_micro_service(rt: Runtime, outside: NatsClient, bus: Bus, name: str) -> None:
    """Each registry answers PING, INFO and STATS for it; INFO has the schemas; requests are shared and counted."""
    tree = await rt.start(street, name)
    pid = await holder(bus, name)
    infos = await _both(outside, name)
    sold = [int((await request(outside, f"regrow.api.{name}.sell", b'{"item":"tea"}')).data) for _ in range(20)]
    assert sold == [*range(1, 21)]
    assert {each["type"] for each in await _all(outside, f"$SRV.PING.{name}", 2)} == {"io.nats.micro.v1.ping_response"}
    assert len({info["id"] for info in infos}) == 2
    assert {info["metadata"]["pid"] for info in infos} == {pid}
    sell = next(each for each in infos[0]["endpoints"] if each["name"] == "sell")
    assert (sell["subject"], sell["queue_group"]) == (f"regrow.api.{name}.sell", "q")
    assert json.loads(sell["metadata"]["schema"])["properties"]["item"]["description"] == "what is sold."
    stats = [await _all(outside, f"$SRV.STATS.{name}.{info['id']}", 1) for info in infos]
    counts = [each["num_requests"] for (stat,) in stats for each in stat["endpoints"] if each["name"] == "sell"]
    assert sum(counts) == 20
    assert await _all(outside, "$SRV.PING", 2)
    info, stat = ServiceInfo.from_dict(infos[0]), ServiceStats.from_dict(stats[0][0])
    assert (info.name, stat.name, len(info.endpoints), len(stat.endpoints)) == (name, name, 6, 6)

    await request(outside, f"regrow.api.{name}.close")
    assert await tree.result(45) == [["tea"] * 20]
    await eventually(lambda: _unserved(outside, f"regrow.api.{name}.sell"), "its end, in both registries")
    ended = await record(bus, pid)
    assert ended is not None
    assert (ended.ended, ended.endpoints) == (True, {})


WRONG = [
    (b"{}", "argument 'item' is missing (it takes item (a string), count (an integer, optional), kind (one of"),
    (b'{"item":7}', "argument 'item' must be a string, not 7"),
    (b'{"item":"a","kind":"stolen"}', 'argument \'kind\' must be one of "new", "used", not "stolen"'),
    (b'{"item":"a","size":1}', "there is no argument 'size'"),
    (b"[1]", "the arguments must be a JSON object, not [1]"),
    (b"item", "the arguments are no JSON"),
    (b"\xff\x00", "the arguments are no JSON"),
]


async def test_wrong_arguments_never_reach_the_process(rt: Runtime, outside: NatsClient, bus: Bus, name: str) -> None:
    """They are refused with 400 and a text that says what is wrong and what is right."""
    await rt.start(street, name)
    pid = await holder(bus, name)
    for body, says in WRONG:
        answer = await request(outside, f"regrow.api.{name}.sell", body)
        assert answer.headers is not None
        assert answer.headers["Nats-Service-Error-Code"] == "400"
        assert says in json.loads(answer.data)["message"]
    inbox = subjects.inbox(rt.app, ids.partition_of(pid, 16), pid)
    kinds = [json.loads(each.data)["kind"] for each in await bus.history(streams.inbox_stream(rt.app), inbox)]
    assert kinds == ["start"]

    async def recorded() -> bool:
        found = await calls(bus, pid)
        return [each.error.code for each in found.values() if each.error] == ["invalid-arguments"] * len(WRONG)

    await eventually(recorded, "their records")


async def test_failures_and_records(rt: Runtime, outside: NatsClient, bus: Bus, name: str) -> None:
    """An endpoint that raises is a 500 on one line; what is too large says so; every call leaves a record."""
    await rt.start(street, name)
    pid = await holder(bus, name)
    burnt = await request(outside, f"regrow.api.{name}.burn", **{"Regrow-Caller": "tester"})
    assert burnt.headers is not None
    assert burnt.headers["Nats-Service-Error"] == "nothing left | but ashes"
    assert burnt.headers["Nats-Service-Error-Code"] == "500"
    assert json.loads(burnt.data)["error"] == "LookupError"
    whole = await request(outside, f"regrow.api.{name}.large", b'{"size":500000}')
    assert len(whole.data) == 500_002
    refused = await request(outside, f"regrow.api.{name}.large", b'{"size":2000000}')
    assert refused.headers is not None
    assert "too large" in refused.headers["Nats-Service-Error"]

    async def three() -> Any:
        found = await calls(bus, pid)
        return found if len(found) == 3 else None

    records = sorted((await eventually(three, "three records")).values(), key=lambda each: each.started)
    assert [(each.endpoint, each.size) for each in records] == [("burn", 0), ("large", 500_002), ("large", 2_000_002)]
    assert records[0].caller == "tester"
    assert records[0].error is not None
    assert records[0].error.message == "nothing left\nbut ashes"
    assert all(each.duration > 0 and each.app == rt.app and each.caller for each in records)


async def test_calls_wait_for_a_process_that_recovers(rt: Runtime, outside: NatsClient, bus: Bus, name: str) -> None:
    """While no host runs, a call waits; the next host answers it. A parked one is woken by it."""
    await rt.start(street, name)
    pid = await holder(bus, name)
    await request(outside, f"regrow.api.{name}.sell", b'{"item":"one"}')
    await rt.crash_host()
    waiting = asyncio.ensure_future(outside.request(f"regrow.api.{name}.sell", b'{"item":"two"}', timeout=30))
    with pytest.raises(NatsTimeout):
        await outside.request(f"regrow.api.{name}.sell", b'{"item":"three"}', timeout=0.3)

    async def all_called() -> bool:
        return await called(bus, rt.app, pid) == 3

    await eventually(all_called, "both calls")
    await rt.start_host()
    assert (await waiting).data in (b"2", b"3")  # they may go through different registries
    await eventually(lambda: _parked(rt), "all are parked")
    assert (await request(outside, f"regrow.api.{name}.sell", b'{"item":"four"}')).data == b"4"


async def _unserved(outside: NatsClient, subject: str) -> bool:
    try:
        await outside.request(subject, b'{"item":"tea"}', timeout=20)
    except NoRespondersError:
        return True
    return False


async def _parked(rt: Runtime) -> bool:
    return not any(partition.residents for partition in rt.host.partitions.values())


async def test_a_registry_dies_during_calls(
    rt: Runtime, outside: NatsClient, bus: Bus, name: str, registries: list[Registry]
) -> None:
    """Whoever asks again under the same id gets the answer of the first time; nothing is done twice."""
    tree = await rt.start(street, name)
    await holder(bus, name)
    subject = f"regrow.api.{name}.sell"

    async def insist(number: int) -> int:
        while True:
            try:
                body = json.dumps({"item": str(number)}).encode()
                answer = await outside.request(subject, body, timeout=1, headers={"Nats-Msg-Id": f"{name}-{number}"})
            except (NatsTimeout, NoRespondersError):
                continue
            if not answer.headers:
                return int(answer.data)

    await request(outside, subject, b'{"item":"first"}')
    selling = [asyncio.ensure_future(insist(number)) for number in range(100)]
    await selling[3]
    registries[0].kill()
    await selling[40]
    await registries[0].start_async()
    registries[1].kill()
    sold = await asyncio.gather(*selling)
    await registries[1].start_async()
    assert sorted(sold) == [*range(2, 102)]
    again = [await insist(number) for number in (7, 93)]
    assert again == [sold[7], sold[93]]
    await request(outside, f"regrow.api.{name}.close")
    (items,) = await tree.result(45)
    assert sorted(items) == sorted(["first", *map(str, range(100))])


async def test_of_several_the_first_has_the_name(rt: Runtime, outside: NatsClient, bus: Bus, name: str) -> None:
    """The next one gets it when that has ended; other names are others'."""
    tree = await rt.start(twins, name)
    first = await holder(bus, name)
    await request(outside, f"regrow.api.{name}.sell", b'{"item":"a"}')
    assert (await request(outside, f"regrow.api.{name}.sell", b'{"item":"b"}')).data == b"2"
    await request(outside, f"regrow.api.{name}.close")

    async def other() -> str:
        now = await holder(bus, name)
        return now if now != first else ""

    await eventually(other, "the heir")

    async def empty() -> bool:
        return (await request(outside, f"regrow.api.{name}.sell", b'{"item":"c"}')).data == b"1"

    await eventually(empty, "the heir's first sale")
    await request(outside, f"regrow.api.{name}.close")
    results = await tree.result(45)
    assert sorted(results, key=len) == [["c"], ["a", "b"]]


async def test_a_later_incarnation_exposes_less(rt: Runtime, bus: Bus, name: str) -> None:
    """What it does not expose again is withdrawn; what it does stays callable."""
    process = await rt.start(moody, name)

    async def exposed() -> Any:
        found = await record(bus, process.pid)
        return found if found is not None and set(found.endpoints) == {"steady", "once", "close"} else None

    await eventually(exposed, "three endpoints")
    await rt.kill_host()

    async def fewer() -> Any:
        found = await record(bus, process.pid)
        return found if found is not None and set(found.endpoints) == {"steady", "close"} else None

    assert (await eventually(fewer, "two endpoints")).incarnation == 0
    assert await process.call("steady") == 1


async def test_unnamed_processes_are_listed_and_not_public(rt: Runtime, outside: NatsClient, bus: Bus) -> None:
    """They have a record, and no subject."""
    process = await rt.start(shop)

    async def listed() -> Any:
        found = await record(bus, process.pid)
        return found if found is not None and len(found.endpoints) == 6 else None

    found = await eventually(listed, "its record")
    assert (found.name, found.type, found.app) == ("", "shop", rt.app)
    with pytest.raises(NoRespondersError):
        await outside.request(f"regrow.api.{process.pid}.sell", b'{"item":"a"}', timeout=20)
