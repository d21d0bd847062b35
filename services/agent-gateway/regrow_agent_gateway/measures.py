"""The agent-gateway's metrics."""

from __future__ import annotations

from typing import Any

from prometheus_client import Counter, Gauge, Histogram
from regrow_service.metrics import Metric

AGENTS = Metric(Gauge, "regrow_agents", "Agents by state, as this gateway knows them.", ("state",))
CONNECTIONS = Metric(Gauge, "regrow_agent_connections", "Connections that agents hold open here.", ("door",))
CALLS = Metric(
    Counter,
    "regrow_tool_calls",
    "Tool calls of agents by what became of them: answered, failed, repeated, refused, left.",
    ("outcome",),
)
CALLING = Metric(Histogram, "regrow_tool_call_seconds", "Time from an agent's call to its answer.")
WAITING = Metric(Gauge, "regrow_tool_calls_waiting", "Tool calls that wait for their answer here.")
MESSAGES = Metric(Counter, "regrow_agent_messages", "Messages that were handed to agents.", ("door",))
REFUSED = Metric(Counter, "regrow_agent_refusals", "Requests of agents that were refused.", ("code",))
CUT = Metric(Counter, "regrow_agent_connections_cut", "Connections cut since their agent took no data.", ("door",))
STALLED = Metric(Counter, "regrow_agent_stalls", "Agents found to be stalled.")

TABLE: tuple[Metric[Any], ...] = (
    AGENTS,
    CONNECTIONS,
    CALLS,
    CALLING,
    WAITING,
    MESSAGES,
    REFUSED,
    CUT,
    STALLED,
)
