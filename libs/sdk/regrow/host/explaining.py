"""Why a process diverged: its history is folded once more with a trace of its operations, which name their lines."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from regrow_protocol import messages as m
from regrow_protocol import values
from regrow_protocol.bus import Received

from ..divergence import Diverged
from ..patches import moved_in
from ..process import Process
from .entering import muted, outside_tasks
from .inputs import read_input

if TYPE_CHECKING:
    from .host import Host

log = logging.getLogger("regrow.host")

SLICE = 200


async def explain(host: Host, subject: str, pid: str, up_to: int) -> str | None:
    """The error for people: the recorded operation against the attempted one, with its line; None when it fits now.

    Args:
        subject: the inbox of process `pid`.
        up_to: the input that did not fit.
    """
    history = await host.bus.history(host.inbox_stream, subject, 1, up_to)
    process = Process(host.env, pid, trace=True)
    process.moved = moved_in((read_input(received), received.seq) for received in history)
    process.replaying = True
    try:
        for at in range(0, len(history), SLICE):
            inputs = [await _read(host, received) for received in history[at : at + SLICE]]
            error: BaseException | None = await outside_tasks(_fold, host, process, inputs)
            if isinstance(error, Diverged):
                return str(error.explain(pid))
            if error is not None:
                log.warning("process %s does not even come to input %d: %r", pid, up_to, error)
                return None
    finally:
        await outside_tasks(_leave, host, process)
    return None


async def _read(host: Host, received: Received) -> tuple[m.Input | None, Received]:
    message = read_input(received)
    if message is None:
        return None, received  # it was put aside when it came
    if values.has_blob(received.data):
        message = await values.inflate(message, host.bus.get_value)
    return message, received


def _fold(host: Host, process: Process, inputs: list[tuple[m.Input | None, Received]]) -> BaseException | None:
    with muted():
        for message, received in inputs:
            if message is None:
                continue
            host.watchdog.enter(process.id, received.seq)
            error: BaseException | None = None
            try:
                process.apply(message, received.seq, received.time)
            except BaseException as caught:  # noqa: BLE001 - told to whoever asked
                error = caught
            error = host.watchdog.leave() or error
            if error is not None:
                return error
            process.take_outputs()
    return None


def _leave(host: Host, process: Process) -> None:
    host.watchdog.enter(process.id, process.applied)
    try:
        process.leave()
    finally:
        host.watchdog.leave()
