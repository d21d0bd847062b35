"""The health server, asked over a real socket."""

from __future__ import annotations

import asyncio
import json
import os

import pytest
from prometheus_client import Counter, Gauge
from regrow_service.health import HealthServer
from regrow_service.metrics import CONNECTED, HANDLED, TABLE, Metric, Metrics, reference

LETTERS = Metric(Counter, "letters", "Letters.", ("to",))


async def ask(port: int, request: bytes) -> tuple[int, dict[str, str], bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *headers = head.decode().split("\r\n")
    return int(status.split()[1]), dict(h.split(": ", 1) for h in headers), body


async def test_health_follows_the_checks() -> None:
    """`/readyz` is 503 with the reason while a check fails; `/healthz` is 200 either way."""
    wrong = ""
    async with HealthServer(Metrics(), {"nats": lambda: wrong}) as server:
        status, headers, body = await ask(server.port, b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (status, json.loads(body)) == (200, {"status": "ready", "wrong": {}, "os_pid": os.getpid()})
        assert int(headers["content-length"]) == len(body)
        wrong = "not connected"
        status, _, body = await ask(server.port, b"GET /readyz?verbose HTTP/1.1\r\n\r\n")
        assert (status, json.loads(body)["wrong"]) == (503, {"nats": "not connected"})
        assert (await ask(server.port, b"GET /healthz HTTP/1.1\r\n\r\n"))[0] == 200


async def test_metrics_are_shown() -> None:
    """What was counted is in Prometheus' text format, and so is what was not counted yet."""
    metrics = Metrics([LETTERS])
    metrics[LETTERS].labels("ann").inc(2)
    metrics[CONNECTED].set(1)
    async with HealthServer(metrics, {}) as server:
        status, headers, body = await ask(server.port, b"GET /metrics HTTP/1.1\r\n\r\n")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    assert b'letters_total{to="ann"} 2.0' in body
    assert b"regrow_nats_connected 1.0" in body
    assert b"# HELP regrow_messages_handled_total" in body


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\n\r\n", 405),
        (b"hello\r\n\r\n", 400),
    ],
)
async def test_other_requests_are_refused(request_: bytes, status: int) -> None:
    """Unknown paths, methods and what is no HTTP get an answer that says so."""
    async with HealthServer(Metrics(), {}) as server:
        assert (await ask(server.port, request_))[0] == status


async def test_head_has_no_body() -> None:
    """HEAD tells the length and sends nothing."""
    async with HealthServer(Metrics(), {}) as server:
        status, headers, body = await ask(server.port, b"HEAD /healthz HTTP/1.1\r\n\r\n")
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) > 0


async def test_an_endless_request_is_dropped_and_others_are_served() -> None:
    """A client that never ends its request costs its own connection only."""
    async with HealthServer(Metrics(), {}) as server:
        assert await read_all(server.port, b"GET /" + b"x" * 40_000) == b""
        assert (await ask(server.port, b"GET /healthz HTTP/1.1\r\n\r\n"))[0] == 200


async def read_all(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        async with asyncio.timeout(20):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def test_each_metric_is_defined_once_and_documented() -> None:
    """Names are unique, every help is a sentence, and one that is in no table of a service is refused."""
    names = [metric.name for metric in TABLE]
    assert len(names) == len(set(names))
    assert all(metric.help.endswith(".") for metric in TABLE)
    assert (HANDLED.name + "_total", "counter", "consumer, outcome", HANDLED.help) in reference()
    with pytest.raises(KeyError):
        Metrics()[Metric(Gauge, "unknown", "Nothing.")]
