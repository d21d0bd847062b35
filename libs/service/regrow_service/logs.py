"""Structured logs: one JSON object per line for machines, a readable line on a terminal; always on stderr.

`configure` is called once per program. What nats-py and other libraries write through `logging` takes the same way and
form. Ids (pid, host, command, trace) are bound: by `log.bind(...)` for an object, by
`structlog.contextvars.bound_contextvars(...)` for what a task does from there on.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger, Processor

Logger = FilteringBoundLogger


def configure(service: str, *, form: str = "auto", level: str = "info", out: TextIO | None = None) -> None:
    """Set logging up for this program.

    Args:
        service: bound to every line.
        form: `json`, `console`, or `auto` (console when `out` is a terminal).
        level: `debug`, `info`, `warning` or `error`.
        out: where lines go; stderr by default.
    """
    out = out or sys.stderr
    assert out is not None, "a service has a stderr"
    terminal = out.isatty()
    readable = form == "console" or (form == "auto" and terminal)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S.%f" if readable else "iso", utc=not readable),
    ]
    last: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=terminal)]
        if readable
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_to_json)]
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # tests configure more than once
    )
    structlog.contextvars.bind_contextvars(service=service)


def get_logger(name: str, **ids: object) -> Logger:
    """A logger with `ids` bound to every line of it."""
    return structlog.get_logger(name).bind(**ids)


def _to_json(line: dict[str, Any], **_: object) -> str:
    return msgspec.json.encode(line, enc_hook=repr).decode()
