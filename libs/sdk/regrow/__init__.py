"""Regrow: durable agent processes. Agents fail; their processes grow back."""

from regrow_protocol.errors import RegrowError
from regrow_protocol.images import AnyImage as Image

from .agents import Agent, AgentError, AgentEvent, AgentLoss, AgentNotStarted, Grant, agent, connect
from .agents.conversation import Conversation as Log
from .api import (
    CurrentProcess,
    bubble,
    continue_as_new,
    current_process,
    done,
    emit,
    expose,
    fail,
    history_length,
    is_replaying,
    now,
    random,
    receive,
    set_tags,
    sleep,
    spawn,
    step,
    uuid4,
    wait,
)
from .current import CurrentRuntime, current_runtime
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
    Overloaded,
    ProcessEnded,
    ProcessNotFound,
    StepFailed,
)
from .failures import ProcessFailure
from .handle import Event, EventStream, ProcessHandle
from .handle import EventStream as Stream
from .limited import AdmissionFailed, limited
from .machines import DockerImage, ExecResult, LocalImage, Machine, MorphImage, SSHImage, from_snapshot, machine
from .monitoring import Down, Monitor, link, monitor, unlink
from .ordering import install as keep_order
from .patches import deprecate_patch, patched
from .supervision.errors import ChildFailure, RestartIntensityExceeded, SupervisionError
from .supervision.policy import Backoff
from .supervision.supervisor import ChildCounts, ChildInfo, Supervisor, supervise

__version__ = "0.1.0"

keep_order()

__all__ = [
    "AdmissionFailed",
    "Agent",
    "AgentError",
    "AgentEvent",
    "AgentLoss",
    "AgentNotStarted",
    "Backoff",
    "CallFailed",
    "ChildCounts",
    "ChildFailure",
    "ChildInfo",
    "CurrentProcess",
    "CurrentRuntime",
    "DockerImage",
    "Down",
    "EndpointNotFound",
    "Event",
    "EventNotSeen",
    "EventStream",
    "ExecResult",
    "ExecutionCancelled",
    "ExecutionFailed",
    "Grant",
    "Image",
    "InvalidArguments",
    "LocalImage",
    "Log",
    "Machine",
    "Monitor",
    "MorphImage",
    "NondeterminismError",
    "NotAllowedInBody",
    "NotSendable",
    "Overloaded",
    "ProcessEnded",
    "ProcessFailure",
    "ProcessHandle",
    "ProcessNotFound",
    "ProcessType",
    "RegrowError",
    "RestartIntensityExceeded",
    "SSHImage",
    "StepFailed",
    "Stream",
    "SupervisionError",
    "Supervisor",
    "agent",
    "agent_process",
    "bubble",
    "connect",
    "continue_as_new",
    "current_process",
    "current_runtime",
    "deprecate_patch",
    "done",
    "emit",
    "expose",
    "fail",
    "from_snapshot",
    "history_length",
    "is_replaying",
    "limited",
    "link",
    "machine",
    "monitor",
    "now",
    "patched",
    "random",
    "receive",
    "set_tags",
    "sleep",
    "spawn",
    "step",
    "supervise",
    "unlink",
    "uuid4",
    "wait",
]
