"""ramure's programs, on Regrow: `from regrow.ramure import …` in place of `from ramure import …`.

Bodies run in the program itself, as there: they print, use its globals, and hand each other objects. What happens is
recorded all the same: `regrow ls`, `status`, `send`, `connect` and `ssh` work, machines and agents end with their
processes, and when the program was killed `regrow resume` starts what was under way again. To be resumed where they
were, processes are written with `from regrow import …` (docs/guides/from-ramure.md).
"""

from ..machines import DockerImage, MorphImage, SSHImage
from .agent import Agent, agent, connect
from .handle import ProcessHandle
from .log import Log, LogEntry
from .machines import Image, LocalImage, LocalMachine, Machine
from .process import (
    NestedProcessWarning,
    agent_process,
    bubble,
    current_runtime,
    done,
    emit,
    expose,
    fail,
    machine,
    spawn,
    wait,
)
from .runtime import Runtime
from .stream import Event, Stream
from .types import ExecResult, ExecutionFailed

__all__ = [
    "Agent",
    "DockerImage",
    "Event",
    "ExecResult",
    "ExecutionFailed",
    "Image",
    "LocalImage",
    "LocalMachine",
    "Log",
    "LogEntry",
    "Machine",
    "MorphImage",
    "NestedProcessWarning",
    "ProcessHandle",
    "Runtime",
    "SSHImage",
    "Stream",
    "agent",
    "agent_process",
    "bubble",
    "connect",
    "current_runtime",
    "done",
    "emit",
    "expose",
    "fail",
    "machine",
    "spawn",
    "wait",
]
