"""What can go wrong with an agent, as its user meets it; the codes of most are the agent-gateway's."""

from __future__ import annotations

from ..errors import CallFailed, define


class AgentError(CallFailed):
    """The agent-gateway could not do what was asked for."""

    code = "agent-error"


@define
class AgentUnknown(AgentError, LookupError):
    """There is no such agent, or it belongs to another process."""

    code = "agent-unknown"


@define
class AgentEnded(AgentError):
    """The agent was stopped, or has ended with its process."""

    code = "agent-ended"


class AgentNameTaken(AgentError, ValueError):
    """A living agent of the same process has that name."""

    code = "name-taken"


class AgentNotStarted(AgentError):
    """Its harness ended, or was killed, before it had come to the gateway.

    Attributes:
        exit_code: of the harness; None where it is not known.
        output: the end of what it showed.
    """

    code = "agent-not-started"

    def __init__(self, message: str, *, hint: str = "", exit_code: int | None = None, output: str = "") -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code
        self.output = output


class NotItsOwner(AgentError):
    """What only the process that made the agent can do."""

    code = "not-its-owner"
