"""Regrow: durable agent processes. Agents fail; their processes grow back."""

from regrow_protocol.errors import RegrowError

from .api import (
    CurrentProcess,
    bubble,
    current_process,
    done,
    emit,
    expose,
    fail,
    is_replaying,
    now,
    random,
    sleep,
    spawn,
    step,
    uuid4,
    wait,
)
from .definition import ProcessType, agent_process
from .errors import (
    CallFailed,
    EndpointNotFound,
    EventNotSeen,
    ExecutionCancelled,
    ExecutionFailed,
    InvalidArguments,
    NondeterminismError,
    NotAllowedInBody,
    NotSendable,
    ProcessEnded,
    ProcessNotFound,
    StepFailed,
)
from .handle import Event, EventStream, ProcessHandle
from .ordering import install as keep_order

__version__ = "0.1.0"

keep_order()

__all__ = [
    "CallFailed",
    "CurrentProcess",
    "EndpointNotFound",
    "Event",
    "EventNotSeen",
    "EventStream",
    "ExecutionCancelled",
    "ExecutionFailed",
    "InvalidArguments",
    "NondeterminismError",
    "NotAllowedInBody",
    "NotSendable",
    "ProcessEnded",
    "ProcessHandle",
    "ProcessNotFound",
    "ProcessType",
    "RegrowError",
    "StepFailed",
    "agent_process",
    "bubble",
    "current_process",
    "done",
    "emit",
    "expose",
    "fail",
    "is_replaying",
    "now",
    "random",
    "sleep",
    "spawn",
    "step",
    "uuid4",
    "wait",
]
