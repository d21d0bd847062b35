"""The commands: each module registers its own with `register(app)`; they appear in the help in this order.

A command imports what is heavy inside its function: every command pays for what stands at the top of all modules.
"""

MODULES = (
    "run", "host", "start", "ls", "status", "events", "call", "signal", "cancel", "retry", "resume",
    "schedule", "limits", "gc",
    "check", "replay", "fork", "export", "hosts", "dead", "schema",
    "endpoints", "calls", "grants",
    "agents", "send", "log", "connect", "machines", "exec", "ssh", "cp", "snapshot", "up", "down", "doctor",
)  # fmt: skip
