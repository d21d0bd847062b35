"""The exit codes of `regrow`, by the stable code of the error. They are part of the interface: scripts rely on them.

|  code | meaning |
|---|---|
| 0 | done |
| 1 | the process that was asked for failed, or an error that has no code of its own |
| 2 | wrong options or arguments |
| 3 | the NATS server cannot be reached |
| 4 | the NATS server refuses the credentials |
| 5 | there is no such process, endpoint, app, host, dead letter, agent, grant, machine, snapshot; or several fit |
| 6 | the store is full |
| 7 | a value cannot be sent or is too large, or a message was refused |
| 8 | the program cannot be loaded, or has no process in it |
| 9 | the history does not replay |
| 10 | the data folder cannot be used |
| 11 | the embedded stack does not come up |
| 12 | the time was up |
| 13 | cancelled |
| 14 | a check found something (`regrow doctor`, `regrow check`) |
| 15 | the process is parked |
| 16 | the history cannot be used |
| 17 | no machine-manager has room for the machine |
| 70 | a defect in Regrow |
| 130 | interrupted with Ctrl-C |
"""

from __future__ import annotations

from typing import Final

from regrow_protocol.errors import RegrowError

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
FOUND_SOMETHING: Final = 14
DEFECT: Final = 70
INTERRUPTED: Final = 130

BY_ERROR: Final[dict[str, int]] = {
    "usage": USAGE,
    "invalid-name": USAGE,
    "invalid-setting": USAGE,
    "invalid-arguments": USAGE,
    "name-taken": USAGE,
    "outside-root": USAGE,
    "nats-unreachable": 3,
    "nats-access-denied": 4,
    "process-not-found": 5,
    "ambiguous-process": 5,
    "process-ended": 5,
    "endpoint-not-found": 5,
    "no-host": 5,
    "no-such-dead-letter": 5,
    "agent-not-found": 5,
    "ambiguous-agent": 5,
    "agent-ended": 5,
    "grant-not-found": 5,
    "schedule-not-found": 5,
    "limit-not-found": 5,
    "machine-not-found": 5,
    "ambiguous-machine": 5,
    "machine-lost": 5,
    "no-manager": 5,
    "storage-full": 6,
    "value-too-large": 7,
    "not-sendable": 7,
    "publish-rejected": 7,
    "bad-program": 8,
    "nondeterminism": 9,
    "data-dir-unusable": 10,
    "stack-failed": 11,
    "nats-server-error": 11,
    "stack-timeout": 12,
    "time-up": 12,
    "exec-timeout": 12,
    "execution-cancelled": 13,
    "process-cancelled": 13,
    "process-stuck": 15,
    "bad-history": 16,
    "no-capacity": 17,
}


def exit_code(error: RegrowError) -> int:
    """What `regrow` exits with after this error."""
    return BY_ERROR.get(error.code, FAILED)
