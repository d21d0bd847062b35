"""The demo's verdict: every kind of loss and repetition in a log is seen, and a whole log is called whole."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from regrow_protocol import messages as m
from regrow_protocol.agents import Entry
from regrow_protocol.messages import Op, Ref

EXAMPLES = Path(__file__).parents[3] / "examples"
FILES = [f"f{n}.py" for n in range(9)]


@pytest.fixture(scope="module")
def demo_log() -> Iterator[ModuleType]:
    """The module, imported as the demo imports it."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        import demo_log

        yield demo_log
    finally:
        sys.path.remove(str(EXAMPLES))


def op(n: int, kind: str, name: str) -> Op:
    return Op(n, kind, name, "d", f"r{n}")


def raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def start(type_: str, by: Ref | None = None) -> m.Start:
    return m.Start(type=type_, args=raw({}), build="b", by=by, parent=by)


def step(n: int, name: str, value: Any = None, attempts: int = 1) -> m.Result:
    return m.Result(incarnation=0, op=op(n, "step", name), value=raw(value), attempts=attempts)


def event(pid: str, seq: int, type_: str = "measured", *, final: bool = False) -> m.EventRecord:
    return m.EventRecord(pid=pid, incarnation=0, n=seq * 10, seq=seq, type=type_, time=0.0, final=final)


def whole(log_type: Callable[..., Any]) -> Any:
    """A log of a survey with one worker of nine files (three measuring steps), killed after its first."""
    worker = event("p_w", 1, "started")
    inputs: list[tuple[str, m.Input]] = [
        ("p_s", start("survey")),
        ("p_s", step(1, "find_packages", [])),
        ("p_p", start("pool", Ref("p_s", 0, 2))),
        ("p_p", m.Call(endpoint="add_task", args=raw({}), by=Ref("p_s", 0, 3), k=1, op=op(3, "call", "add_task"))),
        ("p_s", m.Result(incarnation=0, op=op(3, "call", "add_task"), value=raw(1))),
        ("p_w", start("worker", Ref("p_p", 0, 4))),
        ("p_p", m.Event(incarnation=0, n=5, event=worker)),
        ("p_w", step(1, "list_files", FILES)),
        ("p_w", step(2, "measure", attempts=2)),
        # the host is killed here
        ("p_w", step(3, "measure")),
        ("p_w", step(4, "measure")),
        ("p_p", m.Child(incarnation=0, op=op(4, "spawn", "worker"), pid="p_w", status="done")),
        ("p_s", m.Child(incarnation=0, op=op(2, "spawn", "pool"), pid="p_p", status="done")),
    ]
    events = [
        event("p_s", 1, "started"),
        event("p_p", 1, "started"),
        worker,
        # the host is killed here
        event("p_w", 2),
        event("p_w", 3, "done", final=True),
        event("p_p", 2, "done", final=True),
        event("p_s", 2, "done", final=True),
    ]
    return log_type(
        [(seq, pid, message) for seq, (pid, message) in enumerate(inputs, 1)],
        [(seq, 100.0 + seq, record) for seq, record in enumerate(events, 1)],
    )


KILLED_AT = (9, 3)


def test_a_whole_log_is_whole(demo_log: ModuleType) -> None:
    """Nothing lost, nothing twice, all three processes recovered; attempts of steps are counted, not results."""
    verdict = demo_log.judge(whole(demo_log.Log), KILLED_AT)
    assert (verdict.lost, verdict.twice) == ([], [])
    assert (verdict.processes, verdict.recovered, verdict.steps, verdict.results) == (3, 3, 6, 8)
    assert verdict.silence == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("killed_at", "recovered"), [((0, 0), 0), ((1, 1), 1), ((4, 2), 2), ((12, 5), 2), ((13, 6), 1), ((13, 7), 0)]
)
def test_recovered_is_what_was_alive_at_the_kill_and_ended_later(
    demo_log: ModuleType, killed_at: tuple[int, int], recovered: int
) -> None:
    """Neither what had ended before nor what was started only afterwards."""
    assert demo_log.judge(whole(demo_log.Log), killed_at).recovered == recovered


def test_a_process_that_failed_afterwards_was_not_recovered(demo_log: ModuleType) -> None:
    """Only `done` counts."""
    log = whole(demo_log.Log)
    seq, time, final = log.events[-1]
    log.events[-1] = (seq, time, msgspec.structs.replace(final, type="failed"))
    assert demo_log.judge(log, KILLED_AT).recovered == 2


@pytest.mark.parametrize(
    ("without", "lost"),
    [
        (2, []),  # the package list shows in the table, which the demo compares
        (5, ["the outcome of add_task() of p_p for p_s"]),
        (8, ["the list of files of worker p_w"]),
        (9, ["1 steps of worker p_w"]),
        (11, ["1 steps of worker p_w"]),
        (12, ["the outcome of worker of p_w for p_p"]),
        (13, ["the outcome of pool of p_p for p_s"]),
    ],
)
def test_a_result_that_is_missing_is_lost(demo_log: ModuleType, without: int, lost: list[str]) -> None:
    """Of a step, a call or a child."""
    log = whole(demo_log.Log)
    inputs = [entry for entry in log.inputs if entry[0] != without]
    assert demo_log.judge(replace(log, inputs=inputs), KILLED_AT).lost == lost


@pytest.mark.parametrize(
    ("without", "lost"),
    [
        (4, ["event 2 of p_w"]),
        (3, ["event 1 of p_w"]),
        (5, ["the end of worker p_w"]),
        (7, ["the end of survey p_s"]),
    ],
)
def test_an_event_that_is_missing_is_lost(demo_log: ModuleType, without: int, lost: list[str]) -> None:
    """In the middle of a process's life or at its end."""
    log = whole(demo_log.Log)
    events = [entry for entry in log.events if entry[0] != without]
    assert demo_log.judge(replace(log, events=events), KILLED_AT).lost == lost


@pytest.mark.parametrize("which", range(1, 14))
def test_an_input_that_is_there_twice_is_seen(demo_log: ModuleType, which: int) -> None:
    """Whatever it is, also if the second one differs in what it says."""
    log = whole(demo_log.Log)
    _, pid, message = log.inputs[which - 1]
    log.inputs.append((14, pid, msgspec.structs.replace(message, at=5.0)))
    assert len(demo_log.judge(log, KILLED_AT).twice) == 1


@pytest.mark.parametrize("which", range(1, 8))
def test_an_event_that_is_there_twice_is_seen(demo_log: ModuleType, which: int) -> None:
    """By its id, not by its content."""
    log = whole(demo_log.Log)
    log.events.append((8, 200.0, msgspec.structs.replace(log.events[which - 1][2], data=raw("other"))))
    assert len(demo_log.judge(log, KILLED_AT).twice) == 1


def conversation(*entries: tuple[str, str]) -> list[tuple[str, Entry]]:
    return [("a_1", Entry(id=f"{type_} {call}", type=type_, call=call)) for type_, call in entries]


def test_each_call_of_an_agent_is_answered_once(demo_log: ModuleType) -> None:
    """One without an answer is lost, one with two is answered twice; what else is said does not matter."""
    log = whole(demo_log.Log)
    calls = conversation(("call", "1"), ("call", "2"), ("result", "1"), ("text", ""))
    verdict = demo_log.judge(replace(log, entries=[*calls, *conversation(("result", "2"))]), KILLED_AT)
    assert (verdict.agents, verdict.calls, verdict.answers, verdict.lost, verdict.twice) == (1, 2, 2, [], [])
    assert demo_log.judge(replace(log, entries=calls), KILLED_AT).lost == ["the answer to call 2 of a_1"]
    again = demo_log.judge(replace(log, entries=calls + calls[:3]), KILLED_AT)
    assert again.twice == ["call of an agent a_1 1", "call of an agent a_1 2", "result of an agent a_1 1"]


def test_a_call_of_an_agent_that_came_to_its_owner_twice_is_seen(demo_log: ModuleType) -> None:
    """By its id."""
    log = whole(demo_log.Log)
    called = m.ToolCall(agent="a_1", call="1", endpoint="a_1/measure", args=raw({}), reply="r")
    twice = [*log.inputs, (14, "p_p", called), (15, "p_p", called)]
    assert demo_log.judge(replace(log, inputs=twice), KILLED_AT).twice == ["tool call a_1/measure p_p 1"]


def test_the_same_operation_of_another_incarnation_or_process_is_another(demo_log: ModuleType) -> None:
    """Numbers repeat between processes and incarnations."""
    log = whole(demo_log.Log)
    log.inputs.append((14, "p_w", msgspec.structs.replace(step(3, "measure"), incarnation=1)))
    log.inputs.append((15, "p_x", step(3, "measure")))
    assert demo_log.judge(log, KILLED_AT).twice == []
