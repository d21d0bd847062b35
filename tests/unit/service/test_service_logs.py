"""Structured logs."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from regrow_service import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Give pytest its own logging back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_a_service_writes_json_with_its_ids() -> None:
    """One JSON object per line: service, bound ids, context, level, time and event."""
    out = io.StringIO()
    logs.configure("supervisor", out=out)
    with structlog.contextvars.bound_contextvars(command="x_1"):
        logs.get_logger("hosts", host="h_1").info("host died", moved=3)
    line = json.loads(out.getvalue())
    expected = {"service": "supervisor", "command": "x_1", "host": "h_1", "moved": 3, "level": "info"}
    assert expected.items() <= line.items()
    assert line["event"] == "host died"
    assert line["timestamp"].endswith("Z")


def test_an_exception_is_one_line() -> None:
    """A traceback stays inside its JSON object."""
    out = io.StringIO()
    logs.configure("supervisor", form="json", out=out)
    try:
        raise ValueError("no")
    except ValueError:
        logs.get_logger("x").exception("failed", odd=object())
    (line,) = out.getvalue().splitlines()
    assert "ValueError: no" in json.loads(line)["exception"]


def test_other_libraries_take_the_same_way() -> None:
    """What nats-py writes through `logging` has the same form."""
    out = io.StringIO()
    logs.configure("supervisor", out=out)
    logging.getLogger("nats.aio.client").error("encountered %s", "error")
    line = json.loads(out.getvalue())
    assert (line["event"], line["logger"]) == ("encountered error", "nats.aio.client")


def test_levels_below_are_not_written() -> None:
    """`level` is the least that is written."""
    out = io.StringIO()
    logs.configure("supervisor", level="warning", out=out)
    logs.get_logger("x").info("no")
    logs.get_logger("x").warning("yes")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["yes"]


def test_a_terminal_gets_readable_lines() -> None:
    """The console form is no JSON and shows the fields."""
    out = io.StringIO()
    logs.configure("supervisor", form="console", out=out)
    logs.get_logger("x").info("host died", host="h_1")
    assert "host died" in out.getvalue()
    assert "host=h_1" in out.getvalue()
