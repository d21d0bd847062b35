"""What is asked of a process that there is not: it never was, or its history was removed. Whoever asks is told so.

A `start` is the first message of its inbox, so nothing is to be waited for. It is no matter of the fold, which takes up
what came before a late `start` all the same; the first answer counts. Hosts of several builds answer, under equal ids.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET
from regrow_protocol import messages as m
from regrow_protocol.messages import Ref

from ..endpoints import answer_to
from ..errors import ProcessNotFound, failure_of
from ..failures import failed_record
from ..operations import Output
from ..process import Process


def answer(process: Process, message: m.Input, seq: int) -> None:
    """Tell whoever sent input `seq` to a process that has no start; adds to its outputs.

    Parts of copied histories, which are stored before their start, ask nothing.
    """
    if message.at is not None:
        return
    why = "it never was, or it ended long ago and its history was removed"
    failure = failure_of(ProcessNotFound(f"There is no process {process.pid}: {why}"))
    failure = msgspec.structs.replace(failure, retryable=False)
    output = None
    if isinstance(message, m.ToolCall):
        message = m.Call(endpoint=message.endpoint, args=message.args, reply=message.reply, client=message.agent)
    if isinstance(message, m.Call):
        output = answer_to(process, message, UNSET, failure, lambda: seq)
    elif isinstance(message, m.Watch) and (by := message.by) is not None:
        event = failed_record(process.pid, message.after + 1, process.clock, failure)
        output = Output("inbox", by.pid, m.Event(incarnation=by.incarnation, n=by.n, event=event), seq)
    elif isinstance(message, m.Link) and (by := message.by) is not None and not message.off:
        told = m.Exit(by=Ref(process.pid, 0, 0), status="failed", error=failure)
        output = Output("inbox", by.pid, told, seq)
    if output is not None:
        process.outputs.append(output)
