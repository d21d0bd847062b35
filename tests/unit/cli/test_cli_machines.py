"""Machines in lists, what of them is garbage, and the two sides of a copy."""

from __future__ import annotations

import os

import pytest
from msgspec import Raw
from regrow_cli.copying import Place, place, sides
from regrow_cli.durations import seconds
from regrow_cli.errors import UsageError
from regrow_cli.machine_gc import unneeded
from regrow_cli.machine_output import DESCRIPTORS, Output
from regrow_cli.machines import Kept, row_of
from regrow_cli.using_machines import _beginning, _named
from regrow_protocol.images import Image
from regrow_protocol.machines import MachineRecord, SnapshotRecord, State
from regrow_protocol.messages import Failure, Ref


def _machine(id_: str, state: State = "ready", **more: object) -> MachineRecord:
    image = Image("snapshot", Raw(b'{"id":"s_used"}')) if more.pop("used", False) else Image("local")
    given = {"app": "a", "command": "c", "node": "n", "image": image} | more
    return MachineRecord(id=id_, state=state, **given)  # type: ignore[arg-type]


def _snapshot(id_: str, name: str = "", machine: str = "m_gone", created: float = 10.0) -> SnapshotRecord:
    return SnapshotRecord(
        id=id_, app="a", machine=machine, backend="local", image=Image("local"), name=name, created=created
    )


def test_a_machine_without_a_manager_is_shown_as_such() -> None:
    """One that runs, on a node where nobody reaches it; one that has ended needs nobody."""
    assert row_of(Kept(_machine("m_1"), 5.0), {"n"}).state == "ready"
    assert row_of(Kept(_machine("m_1"), 5.0), {"other"}).state == "no-manager"
    assert row_of(Kept(_machine("m_1", "requested", node=""), 5.0), set()).state == "requested"
    ended = row_of(Kept(_machine("m_1", "stopped", reason="asked", owner=Ref("p_1", 0, 1)), 5.0), set())
    assert (ended.state, ended.ended, ended.reason, ended.owner) == ("stopped", 5.0, "asked", "p_1")
    failed = row_of(Kept(_machine("m_1", "failed", failure=Failure("NoCapacity", "no room")), 5.0), set())
    assert (failed.backend, failed.reason) == ("local", "no room")


def test_a_name_means_the_machine_and_not_its_forks() -> None:
    """While it is there; then its forks are what the name fits."""
    first, second = _machine("m_1", name="box"), _machine("m_2", name="box", source="m_1")
    third = _machine("m_3", name="box", source="m_2")
    assert _named([first, second, third], "box") == [first]
    assert _named([second, third], "box") == [second]
    assert _named([first], "") == []
    assert _named([first, _machine("m_4", name="box")], "box")[1:] != []


def test_a_prefix_may_lack_the_letter() -> None:
    """`m_01` and `01` are the same; an empty one is none."""
    one, two = _machine("m_01a"), _machine("m_01b")
    assert _beginning([one, two], "m_01a") == _beginning([one, two], "01a") == [one]
    assert _beginning([one, two], "01") == [one, two]
    assert _beginning([one, two], "") == _beginning([one, two], "s_01") == []


def test_snapshots_that_somebody_needs_stay() -> None:
    """Those with a name, young ones, those of machines that run, and those that running machines were made from."""
    machines = [
        Kept(_machine("m_alive"), 0.0),
        Kept(_machine("m_ended", "stopped"), 0.0),
        Kept(_machine("m_x", used=True), 0.0),
    ]
    known = [
        _snapshot("s_1"),
        _snapshot("s_2", machine="m_ended"),
        _snapshot("s_3", name="p_01m7 failed"),
        _snapshot("s_named", name="before"),
        _snapshot("s_phrase", name="it failed"),
        _snapshot("s_young", created=99.0),
        _snapshot("s_alive", machine="m_alive"),
        _snapshot("s_used"),
    ]
    assert [each.id for each in unneeded(known, machines, before=50.0)] == ["s_1", "s_2", "s_3"]
    ended = [Kept(_machine("m_x", "stopped", used=True), 0.0)]
    assert [each.id for each in unneeded([_snapshot("s_used")], ended, before=50.0)] == ["s_used"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("box:out/report", Place("box", "out/report")),
        ("box:", Place("box", ".")),
        ("m_01:/abs:with colon", Place("m_01", "/abs:with colon")),
        ("report", Place("", "report")),
        ("./a:b", Place("", "./a:b")),
        ("/tmp/a:b", Place("", "/tmp/a:b")),
        (":odd", Place("", ":odd")),
    ],
)
def test_a_place(given: str, expected: Place) -> None:
    """What stands before the first colon is a machine, unless it has a slash."""
    assert place(given) == expected


@pytest.mark.parametrize(("source", "target"), [("a", "b"), ("m:a", "n:b"), ("", "m:b")])
def test_one_side_is_a_machine(source: str, target: str) -> None:
    """Neither, both, and an empty path are wrong usage."""
    with pytest.raises(UsageError):
        sides(source, target)


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 90), ("1.5s", 1.5), ("30m", 1800), ("12h", 43200), ("7d", 604800)]
)
def test_time_spans(text: str, expected: float) -> None:
    """A number and perhaps a unit."""
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "x", "-1", "5w", "1d2h", "inf"])
def test_what_is_no_time_span(text: str) -> None:
    """Anything else is wrong usage."""
    with pytest.raises(UsageError):
        seconds(text)


async def test_output_is_written_in_order_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces that come twice or overlap are written once, each channel to its own descriptor."""
    out, err = os.pipe(), os.pipe()
    monkeypatch.setitem(DESCRIPTORS, "stdout", out[1])
    monkeypatch.setitem(DESCRIPTORS, "stderr", err[1])
    output = Output()
    output.push("stdout", 0, b"ab\xff")
    output.push("stderr", 0, b"!")
    output.push("stdout", 0, b"ab\xff")
    output.push("stdout", 2, b"\xffcd")
    output.push("stdout", 9, b"early")
    await output.finish()
    assert (os.read(out[0], 99), os.read(err[0], 99)) == (b"ab\xffcd", b"!")
    assert not output.broken.done()
    for descriptor in (*out, *err):
        os.close(descriptor)


async def test_a_reader_that_is_slow_or_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full pipe does not hold up the loop; one without a reader is told, and what still comes is dropped."""
    read, write = os.pipe()
    monkeypatch.setitem(DESCRIPTORS, "stdout", write)
    output = Output()
    output.push("stdout", 0, b"x" * 1_000_000)  # nobody reads yet: a write that waits for that would never end
    assert len(os.read(read, 10)) == 10
    os.close(read)
    assert isinstance(await output.broken, BrokenPipeError)
    output.push("stdout", 1_000_000, b"more")
    await output.finish()
    os.close(write)
