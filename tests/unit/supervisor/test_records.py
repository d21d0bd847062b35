"""The record of a process, made from events in any order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from regrow_protocol.messages import EventRecord, ProcessMeta, ProcessRecord, Program
from regrow_supervisor.records import fold

META = ProcessMeta(type="main", build="b1", root="p_1", name="shop", program=Program("/a.py"), started=10.0)


def event(type_: str, time: float = 10.0, **more: object) -> EventRecord:
    fields: dict[str, object] = {"pid": "p_1", "incarnation": 0, "n": 1, "seq": 1} | more
    return EventRecord(type=type_, time=time, **fields)  # type: ignore[arg-type]


STARTED = event("started", meta=META)
FAILED = event("failed", 20.0, final=True, meta=META, data=Raw(b'{"error":"ValueError","message":"no such file"}'))


def test_a_started_process_is_running() -> None:
    """All that a list shows comes from the first event."""
    assert fold(None, "app", [(5, STARTED)]) == ProcessRecord(
        pid="p_1",
        app="app",
        type="main",
        build="b1",
        status="running",
        seq=5,
        root="p_1",
        name="shop",
        program=Program("/a.py"),
        started=10.0,
    )


def test_a_failure_is_shown_with_its_message() -> None:
    """Status, end and the text of the error; in whatever form the data is."""
    record = fold(None, "app", [(5, STARTED), (9, FAILED)])
    assert record is not None
    assert (record.status, record.ended, record.error, record.started) == ("failed", 20.0, "no such file", 10.0)
    for data, text in (
        (b'"gone"', "gone"),
        (b'{"reason":"tired"}', "tired"),
        (b'{"x":1}', '{"x":1}'),
        (b"null", "null"),
    ):
        failed = event("failed", final=True, meta=META, data=Raw(data))
        assert getattr(fold(None, "app", [(9, failed)]), "error", None) == text


def test_a_programs_own_event_named_done_ends_nothing() -> None:
    """Only `final` says that a process has ended."""
    own = [(7, event("done", 15.0)), (8, event("started", 16.0)), (9, event("restarted", 17.0))]
    assert fold(None, "app", [(5, STARTED), *own]) == fold(None, "app", [(5, STARTED)])
    assert fold(None, "app", own[:2]) is None


def test_a_restart_raises_the_incarnation_of_a_running_process() -> None:
    """It has the same pid and is still the same process in a list."""
    restarted = event("restarted", 15.0, incarnation=1)
    record = fold(None, "app", [(5, STARTED), (7, restarted)])
    assert record is not None
    assert (record.status, record.incarnation, record.type) == ("running", 1, "main")
    assert fold(None, "app", [(7, restarted), (5, STARTED)]) == record


@st.composite
def lives(draw: st.DrawFn) -> list[tuple[int, EventRecord]]:
    """What one process announces in its life, with stream sequences, events of its own among them."""
    events = [STARTED]
    for incarnation in range(1, draw(st.integers(0, 3)) + 1):
        if draw(st.booleans()):
            events.append(event("done", 11.0, incarnation=incarnation - 1))
        build = ProcessMeta(type="main", build=f"b{incarnation}", started=10.0) if draw(st.booleans()) else None
        events.append(event("restarted", 12.0, incarnation=incarnation, meta=build))
    if draw(st.booleans()):
        end = draw(st.sampled_from(["done", "failed", "cancelled"]))
        events.append(event(end, 20.0, incarnation=events[-1].incarnation, final=True, meta=META))
    gaps = draw(st.lists(st.integers(1, 5), min_size=len(events), max_size=len(events)))
    return [(sum(gaps[: at + 1]), each) for at, each in enumerate(events)]


@given(st.data(), lives())
def test_any_interleaving_ends_the_same(data: st.DataObject, life: list[tuple[int, EventRecord]]) -> None:
    """Late, repeated and reordered events make the same record as those in order."""
    in_order = fold(None, "app", life)
    shuffled = data.draw(st.permutations(life + data.draw(st.lists(st.sampled_from(life)))))
    assert fold(None, "app", shuffled) == in_order
    assert fold(in_order, "app", life) == in_order
