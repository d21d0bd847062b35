"""What an agent may be told is wrong; each has the HTTP status that it is told with.

The text is for a model: what happened, and what it can do about it.
"""

from __future__ import annotations

from typing import ClassVar

from regrow_protocol.errors import RegrowError


class AgentError(RegrowError):
    """Base of these errors.

    Attributes:
        status: of HTTP.
    """

    code = "agent-error"
    status: ClassVar[int] = 400


class Unauthorized(AgentError):
    """No token, one that is none, or another agent's: the three are told in the same words."""

    code = "unauthorized"
    status = 401


class AgentEnded(AgentError):
    """The agent has ended: its token opens nothing any more."""

    code = "agent-ended"
    status = 403


class SessionOver(AgentError):
    """The harness was started again since: this one's session is over."""

    code = "session-over"
    status = 409


class ToolNotFound(AgentError):
    """The agent has no such tool, or not any more."""

    code = "tool-not-found"
    status = 404


class InvalidArguments(AgentError):
    """The arguments do not fit the tool's schema."""

    code = "invalid-arguments"
    status = 400


class InvalidRequest(AgentError):
    """A request that cannot be understood."""

    code = "invalid-request"
    status = 400


class TooLarge(AgentError):
    """A request is larger than what is taken."""

    code = "too-large"
    status = 413


class TooMany(AgentError):
    """Too many calls at a time, or more than was granted."""

    code = "too-many"
    status = 429


class NotNow(AgentError):
    """The store does not answer, or the gateway stops: the same request may be made again, here or elsewhere."""

    code = "not-now"
    status = 503
