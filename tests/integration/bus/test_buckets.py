"""Buckets: compare-and-set, TTLs, and watchers that see everything."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from regrow_protocol import streams
from regrow_protocol.bus import Bus, Entry
from regrow_protocol.errors import InvalidName, Unreachable, WrongRevision
from regrow_protocol.server import NatsServer


async def test_create_update_and_delete_are_compare_and_set(bus: Bus, app: str) -> None:
    """A write with a stale revision raises `WrongRevision` and changes nothing; the deleted can be created again."""
    kv = bus.kv("regrow_cursors")
    first = await kv.create(app, b"1")
    with pytest.raises(WrongRevision):
        await kv.create(app, b"x")
    second = await kv.update(app, b"2", first)
    with pytest.raises(WrongRevision):
        await kv.update(app, b"x", first)
    with pytest.raises(WrongRevision):
        await kv.delete(app, first)
    assert await kv.get(app) == (b"2", second)
    await kv.delete(app, second)
    assert await kv.get(app) is None
    third = await kv.create(app, b"3")
    assert await kv.get(app) == (b"3", third)
    assert third > second
    await kv.purge(app)
    assert await kv.get(app) is None


async def test_of_many_who_create_a_key_one_wins(bus: Bus, app: str, connect: Any) -> None:
    """Concurrent creates, and concurrent updates from one revision, succeed exactly once."""
    rivals = [(await connect()).kv("regrow_partitions") for _ in range(5)]
    outcomes = await asyncio.gather(
        *[rival.create(app, b"%d" % n) for n, rival in enumerate(rivals)], return_exceptions=True
    )
    won = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert len(won) == 1
    assert all(isinstance(outcome, WrongRevision) for outcome in outcomes if not isinstance(outcome, int))
    outcomes = await asyncio.gather(
        *[rival.update(app, b"u%d" % n, won[0]) for n, rival in enumerate(rivals)], return_exceptions=True
    )
    winner = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, int)]
    assert len(winner) == 1
    assert await bus.kv("regrow_partitions").get(app) == (b"u%d" % winner[0], outcomes[winner[0]])


async def test_a_value_is_made_by_who_asks_first(bus: Bus, app: str, connect: Any) -> None:
    """Several ask at once, and all get the same."""
    rivals = [(await connect()).kv("regrow_partitions") for _ in range(5)]
    found = await asyncio.gather(*[rival.get_or_create(app, lambda n=n: b"%d" % n) for n, rival in enumerate(rivals)])
    value, _ = await bus.kv("regrow_partitions").get(app) or (b"", 0)
    assert found == [value] * 5
    assert value


async def test_keys_and_items_are_what_is_there(bus: Bus, app: str) -> None:
    """Deleted keys are not listed; filters select; values and revisions are the present ones."""
    kv = bus.kv("regrow_machines")
    for key in ("a", "b", "c", "d"):
        await kv.put(f"{app}.{key}", key.encode())
    revision = await kv.put(f"{app}.b", b"again")
    await kv.delete(f"{app}.c")
    assert await kv.keys(f"{app}.>") == [f"{app}.a", f"{app}.b", f"{app}.d"]
    items = {entry.key: (entry.value, entry.revision) async for entry in kv.items(f"{app}.*")}
    assert items[f"{app}.b"] == (b"again", revision)
    assert await kv.keys(f"{app}.none.>") == []


@pytest.mark.parametrize("key", ["", ".a", "a.", "a b", "*", "a.>"])
async def test_what_is_no_key_is_refused(bus: Bus, key: str) -> None:
    """A key that could not stand in a subject raises `InvalidName`."""
    with pytest.raises(InvalidName):
        await bus.kv("regrow_hosts").put(key, b"")
    with pytest.raises(InvalidName):
        await bus.kv("regrow_hosts").get(key)


async def test_a_watcher_sees_what_is_there_then_every_change(bus: Bus, app: str, until: Any) -> None:
    """First each key's last state, then `current`, then changes in order with their kinds."""
    kv = bus.kv("regrow_agents")
    await kv.put(f"{app}.a", b"1")
    await kv.put(f"{app}.b", b"1")
    await kv.put(f"{app}.a", b"2")
    seen: list[Entry] = []
    watcher = kv.watch(f"{app}.>", seen.append)
    await asyncio.wait_for(watcher.current, 20)
    assert [(entry.key[-1], entry.value) for entry in seen] == [("b", b"1"), ("a", b"2")]
    revision = await kv.put(f"{app}.c", b"3")
    await kv.delete(f"{app}.a")
    await kv.purge(f"{app}.b")
    await until(lambda: len(seen) == 5)
    assert [(entry.key[-1], entry.operation) for entry in seen[2:]] == [("c", "put"), ("a", "delete"), ("b", "purge")]
    assert seen[2].revision == revision
    await watcher.stop()
    await kv.put(f"{app}.c", b"4")
    assert len(seen) == 5


async def test_a_watcher_whose_callback_fails_goes_on(
    bus: Bus, app: str, caplog: pytest.LogCaptureFixture, until: Any
) -> None:
    """An exception at one entry is logged and costs no other entry."""
    kv = bus.kv("regrow_agents")
    for key in "abcd":
        await kv.put(f"{app}.{key}", b"1")
    seen: list[str] = []

    def fail(entry: Entry) -> None:
        seen.append(entry.key[-1])
        if entry.key.endswith(("b", "e")):
            raise ValueError("of the test")

    await kv.watch(f"{app}.>", fail).current
    await kv.put(f"{app}.e", b"1")
    await kv.put(f"{app}.f", b"1")
    await until(lambda: len(seen) == 6)
    assert "".join(seen) == "abcdef"
    failed = [record.getMessage()[-1] for record in caplog.records if record.levelname == "ERROR"]
    assert failed == ["b", "e"]


async def test_a_watcher_of_an_empty_bucket_is_current_at_once(bus: Bus, app: str) -> None:
    """With no key that matches, `current` comes nonetheless."""
    await asyncio.wait_for(bus.kv("regrow_limits").watch(f"{app}.>", lambda _: None).current, 20)


async def test_the_end_of_a_ttl_is_seen(bus: Bus, app: str, until: Any) -> None:
    """A key whose TTL ends is gone and its watchers see `expired` soon after; one that is renewed stays."""
    kv = bus.kv("regrow_hosts")
    seen: list[Entry] = []
    await kv.watch(f"{app}.>", seen.append).current
    start = time.time()
    revision = await kv.create(f"{app}.dies", b"1", ttl=1.0)
    kept = await kv.create(f"{app}.lives", b"1", ttl=4.0)
    renewed = time.time()
    for _ in range(3):
        kept = await kv.update(f"{app}.lives", b"1", kept, ttl=60.0)
    await until(lambda: [entry for entry in seen if entry.operation == "expired"], "the expiry")
    await until(lambda: time.time() > renewed + 4.5, "the first end of the other one")
    (expired,) = [entry for entry in seen if entry.operation == "expired"]
    assert expired.key == f"{app}.dies"
    assert expired.revision > revision
    assert 0.9 < expired.time - start < 15
    assert await kv.get(f"{app}.dies") is None
    assert await kv.get(f"{app}.lives") == (b"1", kept)
    assert await kv.create(f"{app}.dies", b"born again") > revision


async def test_a_watcher_survives_a_restart(private_server: NatsServer, connect: Any, until: Any) -> None:
    """Over a killed server each revision is seen once, and keys that ended meanwhile are seen to have ended."""
    bus = await connect(private_server.url)
    await streams.ensure(bus)
    kv = bus.kv("regrow_hosts")
    seen: list[Entry] = []
    await kv.put("stays", b"1")
    await kv.put("changes", b"1")
    await kv.put("expires", b"1", ttl=4.0)
    await kv.put("vanishes", b"1")
    await kv.watch(">", seen.append).current
    other = await connect(private_server.url)
    await asyncio.to_thread(private_server.kill)
    await until(lambda: not bus.connected)
    # the watcher is held down while the bucket changes
    reconnect, bus.nc._attempt_reconnect = bus.nc._attempt_reconnect, None
    task = bus.nc._reconnection_task
    while not task.done():
        task.cancel()  # again and again: `asyncio.wait_for` of Python 3.11 may swallow one
        await asyncio.wait([task], timeout=0.1)
    await asyncio.to_thread(private_server.restart)
    await other.kv("regrow_hosts").put("changes", b"2")
    await other.kv("regrow_hosts").drop_history("vanishes")
    async with asyncio.timeout(30):
        while await other.kv("regrow_hosts").get("expires") is not None:
            await other.nc.flush()
    bus.nc._attempt_reconnect = reconnect
    await other.kv("regrow_hosts").put("new", b"1")
    await until(lambda: [entry for entry in seen if entry.key == "new"], "the new key")
    await until(lambda: {e.key for e in seen if e.operation == "expired"} == {"expires", "vanishes"}, "both ends")
    puts = [(entry.key, entry.value) for entry in seen if entry.operation == "put"]
    assert sorted(puts) == [
        ("changes", b"1"),
        ("changes", b"2"),
        ("expires", b"1"),
        ("new", b"1"),
        ("stays", b"1"),
        ("vanishes", b"1"),
    ]


async def test_a_write_repeated_after_a_lost_acknowledgement_is_no_conflict(
    private_server: NatsServer, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compare-and-set whose acknowledgement was cut off is sent again and recognised: it returns its revision."""
    bus = await connect(private_server.url)
    await streams.ensure(bus)
    kv = bus.kv("regrow_cursors")
    revision = await kv.create("c", b"0")
    send = bus.nc.send

    def send_and_hang_up(data: bytes) -> bool:
        monkeypatch.setattr(bus.nc, "send", send)
        sent = send(data)
        bus.nc._transport._io_writer.transport.close()  # what was written goes out, the answer finds nobody
        return sent

    for k in range(5):
        reconnects = bus.nc.stats["reconnects"]
        monkeypatch.setattr(bus.nc, "send", send_and_hang_up)
        revision = await asyncio.wait_for(kv.update("c", b"%d" % k, revision), 20)
        assert bus.nc.stats["reconnects"] > reconnects
        assert await kv.get("c") == (b"%d" % k, revision)


async def test_a_write_without_a_server_is_taken_back(
    private_server: NatsServer, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It raises `Unreachable` after its time, and does not happen when the server is back."""
    monkeypatch.setattr("regrow_protocol.bus.bucket.WRITE_TIMEOUT", 0.3)
    bus = await connect(private_server.url)
    await streams.ensure(bus)
    kv = bus.kv("regrow_hosts")
    await asyncio.to_thread(private_server.kill)
    with pytest.raises(Unreachable):
        await kv.put("k", b"late")
    await asyncio.to_thread(private_server.restart)
    monkeypatch.setattr("regrow_protocol.bus.bucket.WRITE_TIMEOUT", 10)
    await kv.put("other", b"1")
    assert await kv.get("k") is None
