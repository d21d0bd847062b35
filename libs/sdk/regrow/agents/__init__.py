"""Agents: harnesses on machines that call tools of the process that made them. `agent()` makes one (ADR 0012)."""

from .agent import Agent
from .connecting import Grant, connect
from .conversation import AgentEvent, Conversation
from .errors import (
    AgentEnded,
    AgentError,
    AgentNameTaken,
    AgentNotStarted,
    AgentUnknown,
    NotItsOwner,
)
from .keeping import AgentLoss
from .starting import agent

__all__ = [
    "Agent",
    "AgentEnded",
    "AgentError",
    "AgentEvent",
    "AgentLoss",
    "AgentNameTaken",
    "AgentNotStarted",
    "AgentUnknown",
    "Conversation",
    "Grant",
    "NotItsOwner",
    "agent",
    "connect",
]
