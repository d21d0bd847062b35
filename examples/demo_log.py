"""What the log of a survey says about its run: which processes were recovered, what was lost, what was recorded twice.

Nothing here is counted while it happens. The streams are read afterwards: every input of every process and every event.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from regrow_protocol import messages as m
from regrow_protocol import streams, subjects
from regrow_protocol.agents import Entry, conversation
from regrow_protocol.bus import Bus
from survey import FILES_PER_STEP


@dataclass(frozen=True)
class Log:
    """What stands in the streams.

    Attributes:
        inputs: sequence, process, input.
        events: sequence, when it was stored (seconds since 1970), event.
        entries: agent, entry of its conversation.
    """

    inputs: list[tuple[int, str, m.Input]]
    events: list[tuple[int, float, m.EventRecord]]
    entries: list[tuple[str, Entry]] = field(default_factory=list[tuple[str, Entry]])


@dataclass
class Verdict:
    """What a log says.

    Attributes:
        processes: that were started.
        recovered: that were alive when the host was killed and ended as `done` afterwards.
        steps: executions of steps, as their results tell.
        results: recorded outcomes of steps, calls and children.
        agents, calls, answers: agents that have called tools, their calls, and the recorded answers to those.
        silence: seconds between the last event before the kill and the first one after it.
        lost, twice: what should stand in the log once and does not; empty after a good run.
    """

    processes: int = 0
    recovered: int = 0
    steps: int = 0
    results: int = 0
    agents: int = 0
    calls: int = 0
    answers: int = 0
    silence: float = 0.0
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)


async def read_log(bus: Bus, app: str) -> Log:
    """All inputs and events of an app, and what its agents said and did."""
    stream = streams.inbox_stream(app)
    inputs = await bus.history(stream, f"regrow.inbox.{subjects.token(app)}.>", up_to=await bus.last_seq(stream))
    last = await bus.last_seq(streams.EVENTS)
    events = await bus.history(streams.EVENTS, subjects.events_of(app), up_to=last)
    last = await bus.last_seq(streams.AGENTS)
    entries = await bus.history(streams.AGENTS, conversation(app, "*"), up_to=last)
    return Log(
        [(message.seq, subjects.pid_of(message.subject), m.decode_input(message.data)) for message in inputs],
        [(message.seq, message.time, m.decode(message.data, m.EventRecord)) for message in events],
        [(message.subject.split(".")[3], m.decode(message.data, Entry)) for message in entries],
    )


def judge(log: Log, killed_at: tuple[int, int]) -> Verdict:
    """What `log` says; `killed_at`: the last input and the last event that stood there when the host was dead."""
    starts = {pid: (seq, message) for seq, pid, message in log.inputs if isinstance(message, m.Start)}
    finals = {event.pid: (seq, event) for seq, _, event in log.events if event.final}
    before = [time for seq, time, _ in log.events if seq <= killed_at[1]]
    after = [time for seq, time, _ in log.events if seq > killed_at[1]]
    verdict = Verdict(processes=len(starts))
    for pid, (seq, _) in starts.items():
        ended, final = finals.get(pid, (0, None))
        verdict.recovered += seq <= killed_at[0] and ended > killed_at[1] and final is not None and final.type == "done"
    for _, _, message in log.inputs:
        verdict.results += isinstance(message, (m.Result, m.Child))
        if isinstance(message, m.Result) and message.op.kind == "step":
            verdict.steps += message.attempts
    calls = _calls(log, "call")
    verdict.agents, verdict.calls = len({agent for agent, _ in calls}), len(calls)
    verdict.answers = _calls(log, "result").total()
    if before and after:
        verdict.silence = min(after) - max(before)
    verdict.lost += _without_end(starts, finals) + _without_answer(log) + _without_result(log)
    verdict.lost += _unanswered(log) + _missing_events(log)
    verdict.twice += _twice(log)
    return verdict


def _without_end(starts: dict[str, tuple[int, m.Start]], finals: dict[str, tuple[int, m.EventRecord]]) -> list[str]:
    return [f"the end of {start.type} {pid}" for pid, (_, start) in starts.items() if pid not in finals]


def _without_answer(log: Log) -> list[str]:
    """Calls and children whose outcome is not in the inbox of the process that asked."""
    answered = {(pid, message.op.n) for _, pid, message in log.inputs if isinstance(message, (m.Result, m.Child))}
    lost: list[str] = []
    for _, pid, message in log.inputs:
        if not isinstance(message, (m.Start, m.Call)) or message.by is None:
            continue
        if (message.by.pid, message.by.n) not in answered:
            what = message.type if isinstance(message, m.Start) else f"{message.endpoint}()"
            lost.append(f"the outcome of {what} of {pid} for {message.by.pid}")
    return lost


def _without_result(log: Log) -> list[str]:
    """Steps of workers: as many `measure` as the recorded result of `list_files` demands."""
    wanted: dict[str, int] = {}
    found: Counter[str] = Counter()
    for _, pid, message in log.inputs:
        if isinstance(message, m.Result) and message.op.kind == "step" and isinstance(message.value, m.Raw):
            if message.op.name == "list_files":
                files = len(m.decode(message.value, list[str]))
                wanted[pid] = -(-files // FILES_PER_STEP)
            elif message.op.name == "measure":
                found[pid] += 1
    workers = [pid for _, pid, message in log.inputs if isinstance(message, m.Start) and message.type == "worker"]
    unlisted = [f"the list of files of worker {pid}" for pid in workers if pid not in wanted]
    return unlisted + [
        f"{wanted[pid] - found[pid]} steps of worker {pid}" for pid in workers if found[pid] < wanted.get(pid, 0)
    ]


def _calls(log: Log, type_: str) -> Counter[tuple[str, str]]:
    """How often each call of an agent stands in the conversations, or its answer: once."""
    return Counter((agent, entry.call) for agent, entry in log.entries if entry.type == type_)


def _unanswered(log: Log) -> list[str]:
    """Calls of agents."""
    answers = _calls(log, "result")
    return [f"the answer to call {call} of {agent}" for agent, call in _calls(log, "call") if not answers[agent, call]]


def _missing_events(log: Log) -> list[str]:
    """Events of a process are numbered from 1; its last one is its end."""
    numbers: dict[str, set[int]] = {}
    for _, _, event in log.events:
        numbers.setdefault(event.pid, set()).add(event.seq)
    return [
        f"event {number} of {pid}"
        for pid, seen in numbers.items()
        for number in range(1, max(seen))
        if number not in seen
    ]


def _twice(log: Log) -> list[str]:
    """What is there more than once, by the id that makes it the same."""
    seen: Counter[tuple[object, ...]] = Counter()
    for _, pid, message in log.inputs:
        match message:
            case m.Result() | m.Child():
                seen[message.op.kind, message.op.name, pid, message.incarnation, message.op.n] += 1
            case m.Start():
                seen["start", message.type, pid, message.incarnation] += 1
            case m.Call() if message.by is not None:
                seen["call of", message.endpoint, pid, *message_id(message.by)] += 1
            case m.ToolCall():
                seen["tool call", message.endpoint, pid, message.call] += 1
            case m.Event():
                seen["forwarded event", message.event.type, pid, message.n, message.event.pid, message.event.seq] += 1
            case _:
                pass
    for _, _, event in log.events:
        seen["event", event.type, event.pid, event.incarnation, event.n] += 1
    for agent, entry in log.entries:
        seen[f"{entry.type} of an agent", agent, entry.call or entry.id] += 1
    return [" ".join(map(str, key)) for key, count in seen.items() if count > 1]


def message_id(by: m.Ref) -> tuple[str, int, int]:
    """Who sent a request, as a key."""
    return by.pid, by.incarnation, by.n
