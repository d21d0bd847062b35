"""Recorded histories: what stands in a process's inbox, read, written as JSON and back, compared, copied into a new
process.

A history is all that a fold needs (`folding`): the inputs with their sequences and recorded times, large values
included. The events and, with `recorded_outputs`, all else that the process has sent are what a fold of it is compared
with.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Raw, Struct
from regrow_protocol import ids, streams, subjects, values
from regrow_protocol import messages as m
from regrow_protocol.bus import Bus, PubAck, Received
from regrow_protocol.errors import RegrowError

from .errors import ProcessNotFound
from .folding import Folding, Recorded, Sent

FORMAT = "regrow-history/1"
AT_ONCE = 16
"""Inboxes that are read at the same time."""


class BadHistory(RegrowError):
    """This is no history, or not one that can be used for this."""

    code = "bad-history"


class History(Struct, kw_only=True, omit_defaults=True):
    """The history of one process.

    Attributes:
        format: of this file.
        app, pid, type: of the process.
        build: that folds it now.
        partitions: of the app.
        root: pid of the root of its tree; its own for a root.
        program: where the root's code was, where known.
        floor: outputs of inputs up to this sequence must have been recorded.
        inputs: all of its inbox.
        events: all that it announced.
    """

    format: str = FORMAT
    app: str
    pid: str
    type: str
    build: str
    partitions: int
    root: str = ""
    program: m.Program | None = None
    floor: int = 0
    inputs: list[Recorded]
    events: list[m.EventRecord] = []

    @property
    def ended(self) -> bool:
        """Its final event is there."""
        return bool(self.events) and self.events[-1].final


async def read(bus: Bus, app: str, pid: str, partitions: int) -> History:
    """The history of a process, large values included.

    Raises:
        ProcessNotFound: it never began.
    """
    stream = streams.inbox_stream(app)
    part = ids.partition_of(pid, partitions)
    subject = subjects.inbox(app, part, pid)
    last = await bus.last(stream, subject)
    if last is None:
        raise ProcessNotFound(f"There is no process {pid} in app {app}", hint="`regrow ls --all` lists them")
    # First of all the cursor, then the events, then the inbox: what it says is out stands there.
    floors = {build: cursor async for build, cursor in _cursors(bus, app, part)}
    events = await _events(bus, app, pid)
    inputs = [await _recorded(bus, each) for each in await bus.history(stream, subject, 1, last.seq)]
    start, build = current_start(inputs)
    if start is None:
        raise ProcessNotFound(f"Process {pid} has not begun: nobody has started it", hint="`regrow ls` lists processes")
    floor = 0
    if (cursor := floors.get(build)) is not None:
        floor = min(cursor.floor, cursor.stuck[pid].seq - 1 if pid in cursor.stuck else cursor.floor)
    root = start.root or pid
    program = start.program or await _program_of(bus, app, root, partitions)
    return History(
        app=app, pid=pid, type=start.type, build=build, partitions=partitions, root=root, program=program, floor=floor,
        inputs=inputs, events=events,
    )  # fmt: skip


async def _cursors(bus: Bus, app: str, part: int):
    async for entry in bus.kv("regrow_cursors").items(f"{subjects.token(app)}.*.{part}"):
        yield entry.key.split(".")[1], m.decode(entry.value, m.Cursor)


async def _recorded(bus: Bus, received: Received) -> Recorded:
    message = received.data
    if values.has_blob(message):
        message = m.encode(await values.inflate(m.decode_input(message), bus.get_value))
    return Recorded(received.seq, received.time, Raw(message))


async def _events(bus: Bus, app: str, pid: str) -> list[m.EventRecord]:
    """What it announced, each once, in order: a repeat may stand in the stream long after the first."""
    found: dict[int, m.EventRecord] = {}
    wanted = subjects.events_of(app, pid)
    last = await bus.last(streams.EVENTS, wanted)
    for received in await bus.history(streams.EVENTS, wanted, 1, last.seq) if last is not None else []:
        record: m.EventRecord = m.decode(received.data, m.EventRecord)
        found.setdefault(record.seq, await values.inflate(record, bus.get_value))
    return [found[seq] for seq in sorted(found)]


async def _program_of(bus: Bus, app: str, root: str, partitions: int) -> m.Program | None:
    inbox = subjects.inbox(app, ids.partition_of(root, partitions), root)
    found, _ = await bus.get_batch(streams.inbox_stream(app), inbox, 1, batch=1)
    message = decode_or_none(found[0].data) if found else None
    return message.program if isinstance(message, m.Start) else None


def decode_or_none(data: bytes | Raw) -> m.Input | None:
    """The input that an inbox message is; None for what is none, which hosts put aside."""
    try:
        return m.decode_input(data)
    except msgspec.MsgspecError:
        return None


def current_start(inputs: Sequence[Recorded]) -> tuple[m.Start | None, str]:
    """The start of the current incarnation, and the build that folds it now."""
    start: m.Start | None = None
    build = ""
    for recorded in inputs:
        message = decode_or_none(recorded.message)
        if isinstance(message, m.Start) and (start is None or message.incarnation > start.incarnation):
            start, build = message, message.build
        elif isinstance(message, m.Upgrade) and start is not None:
            build = message.build
    return start, build


# As JSON --------------------------------------------------------------------------------------------------------------


def encode(history: History) -> bytes:
    """The history as a JSON document."""
    return msgspec.json.format(m.encode(history), indent=1) + b"\n"


def decode(data: bytes) -> History:
    """The history in a JSON document; raises BadHistory."""
    try:
        history = msgspec.json.decode(data, type=History)
    except msgspec.MsgspecError as error:
        raise BadHistory(f"This is no exported history: {error}", hint="`regrow export PID` writes one") from error
    if history.format != FORMAT:
        raise BadHistory(
            f"The history has format {history.format}, not {FORMAT}", hint="export it with this version of Regrow"
        )
    for recorded in history.inputs:
        try:
            m.decode_input(recorded.message)
        except msgspec.MsgspecError as error:
            raise BadHistory(f"Input {recorded.seq} of the history does not decode: {error}") from error
    return history


# Comparing ------------------------------------------------------------------------------------------------------------


class Difference(Struct, frozen=True):
    """An output that is not the recorded one.

    Attributes:
        id: `<pid>.<incarnation>.<n>`.
        seq: of the input whose turn it belongs to; 0 when the fold does not send it.
        what: in which way they differ: `other`, `missing` (in the record) or `extra` (only in the record).
        recorded, sent: the messages' JSON, null where there is none.
    """

    id: str
    seq: int
    what: str
    recorded: Raw = Raw(b"null")
    sent: Raw = Raw(b"null")


class Comparison(Struct):
    """What comes of comparing a fold with the record.

    Attributes:
        equal: outputs that are as recorded.
        expired: replies to clients that are no longer kept.
        awaited: outputs of the last inputs that are not recorded yet.
        differences: what would make a difference to somebody.
    """

    equal: int = 0
    expired: int = 0
    awaited: int = 0
    differences: list[Difference] = []


def compare(folding: Folding, recorded: Mapping[str, Raw], *, floor: int, partly: bool = False) -> Comparison:
    """Compare what a fold sends with what is recorded, by id.

    Args:
        folding: of the history.
        recorded: messages by id.
        floor: outputs of inputs up to it must be recorded.
        partly: not all inputs were folded, so more may be recorded than the fold sends.
    """
    result = Comparison()
    for sent in folding.sent:
        known = recorded.get(sent.id)
        if known is None:
            if sent.to in ("reply", "command"):  # a command is gone once it was handled
                result.expired += 1
            elif sent.seq <= floor:
                result.differences.append(Difference(sent.id, sent.seq, "missing", sent=sent.message))
            else:
                result.awaited += 1
        elif msgspec.json.decode(known) == msgspec.json.decode(sent.message):
            result.equal += 1
        else:
            result.differences.append(Difference(sent.id, sent.seq, "other", known, sent.message))
    if not partly:
        made = {sent.id for sent in folding.sent}
        result.differences += [Difference(id_, 0, "extra", known) for id_, known in recorded.items() if id_ not in made]
    return result


def recorded_events(history: History) -> dict[str, Raw]:
    """The events of a history by id."""
    return {f"{history.pid}.{event.incarnation}.{event.n}": Raw(m.encode(event)) for event in history.events}


async def recorded_outputs(bus: Bus, history: History, sent: Sequence[Sent]) -> dict[str, Raw]:
    """What a process has sent, by id: its events, and what stands of it where, by `sent`, it sends to."""
    found = recorded_events(history)
    own = re.compile(rf"{re.escape(history.pid)}\.\d+\.\d+")
    gate = asyncio.Semaphore(AT_ONCE)
    stream = streams.inbox_stream(history.app)

    async def inbox(target: str) -> list[Received]:
        subject = subjects.inbox(history.app, ids.partition_of(target, history.partitions), target)
        async with gate:
            last = await bus.last(stream, subject)
            return await bus.history(stream, subject, 1, last.seq) if last is not None else []

    async def reply(subject: str) -> list[Received]:
        async with gate:
            last = await bus.last(streams.REPLIES, subject)
            return [last] if last is not None else []

    inboxes = {each.target for each in sent if each.to == "inbox"}
    replies = {each.target for each in sent if each.to == "reply"}
    for messages in await asyncio.gather(*map(inbox, sorted(inboxes)), *map(reply, sorted(replies))):
        for received in messages:
            id_ = received.header("Nats-Msg-Id") or ""
            if own.fullmatch(id_) and id_ not in found:
                found[id_] = await _whole(bus, received)
    return found


async def _whole(bus: Bus, received: Received) -> Raw:
    if not values.has_blob(received.data):
        return Raw(received.data)
    type_ = m.Reply if received.subject.startswith("regrow.reply.") else m.Input
    return Raw(m.encode(await values.inflate(m.decode(received.data, type_), bus.get_value)))


# Copying --------------------------------------------------------------------------------------------------------------


def copied(history: History, build: str, *, at: int | None = None, program: m.Program | None = None) -> list[m.Input]:
    """The inputs of a new process that begins as a copy of a history (`forking`).

    Args:
        history: of the process to copy.
        build: that shall fold the new one.
        at: sequence of the last input to copy; None for all.
        program: what the new one's start says of its code; None: what the history does.

    Raises:
        BadHistory: nothing is left, or it cannot be copied.
    """
    part = [each for each in history.inputs if at is None or each.seq <= at]
    start, _ = current_start(part)
    if start is None:
        first, last = history.inputs[0].seq, history.inputs[-1].seq
        raise BadHistory(f"Process {history.pid} has not begun at {at}", hint=f"its inputs are {first} to {last}")
    began = next(each.seq for each in part if _is(each, start))
    inputs: list[m.Input] = []
    for each in part:
        message = m.decode_input(each.message)
        if isinstance(message, m.Act) and not (at is None and history.ended):
            raise BadHistory(
                f'Process {history.pid} has a body with resume="restart", which cannot go on from a copy',
                hint="start it again from its arguments: `regrow start`",
            )
        of_this = each.seq == began or (each.seq > start.since and not isinstance(message, m.Start))
        if start.carry is not None and each.seq in start.carry.spent and isinstance(message, m.Cancel):
            message = m.Link(off=True, by=message.by, k=message.k)  # which nobody is: only its number counts
        if of_this and not isinstance(message, m.Upgrade | m.Resume):
            time = message.at if message.at is not None else each.time
            inputs.append(msgspec.structs.replace(message, at=time))
    index = next(i for i, message in enumerate(inputs) if isinstance(message, m.Start))
    carry = msgspec.structs.replace(start.carry, events=0, watchers=[]) if start.carry is not None else None
    inputs[index] = msgspec.structs.replace(
        inputs[index], build=build, since=0, name="", program=program or history.program, carry=carry,
        forks=_forks(start.forks, history.pid, len(inputs)),
    )  # fmt: skip
    return inputs


def _is(recorded: Recorded, start: m.Start) -> bool:
    message = decode_or_none(recorded.message)
    return isinstance(message, m.Start) and message.incarnation == start.incarnation


def _forks(before: Sequence[m.Fork], pid: str, inputs: int) -> list[m.Fork]:
    forks: list[m.Fork] = []
    for fork in before:
        if fork.inputs > inputs:
            return [*forks, m.Fork(fork.pid, inputs)]
        forks.append(fork)
    return [*forks, m.Fork(pid, inputs)]


async def publish(bus: Bus, app: str, pid: str, partitions: int, inputs: Sequence[m.Input]) -> int:
    """Write the inbox of a new process; returns the sequence of its last input.

    Raises:
        PublishRejected, WrongRevision: there is something on its subject already.
    """
    stream = streams.inbox_stream(app)
    subject = subjects.inbox(app, ids.partition_of(pid, partitions), pid)
    loop = asyncio.get_running_loop()
    acknowledged: list[asyncio.Future[PubAck]] = []
    for number, message in enumerate(inputs):
        payload = m.encode(message)
        if len(payload) > m.MAX_INLINE:
            message, blobs = values.deflate(message)
            for blob in blobs:
                await bus.put_value(blob)
            payload = m.encode(message)
        headers = {"Nats-Expected-Last-Subject-Sequence": "0"} if number == 0 else None
        future: asyncio.Future[PubAck] = loop.create_future()
        acknowledged.append(future)
        bus.publish_soon(stream, subject, payload, f"{pid}.copy.{number}", headers=headers, done=_settles(future))
        await bus.ready(stream)
        if number == 0:
            await future
    return [await future for future in acknowledged][-1].seq


def _settles(future: asyncio.Future[PubAck]):
    def done(outcome: PubAck | BaseException) -> None:
        if future.done():
            return
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    return done
