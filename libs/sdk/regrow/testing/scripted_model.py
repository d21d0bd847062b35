"""A model for tests: an HTTP server on loopback that any harness can be pointed at, and that does what it is told.

It speaks chat completions, messages and responses, and keeps nothing: what it does next follows from the conversation
that it is sent, so retries, resumed conversations and the harness's own side calls do not confuse it. By default it
obeys the lines that begin with `>>` in what its user says, one in each of its turns, in their order:

```
Do this, please.
>> call add {"a": 1, "b": 2}
>> say It is done.
```

The same lines again (a message that came twice) are obeyed once. When no line is left it says `Ready.`. A request that
does not offer the tool gets a text (it asks for a title, say).
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from ._model_formats import FORMATS, USAGE, Asked, Call, Event, Say, Turn

__all__ = ["MODEL", "USAGE", "Asked", "Call", "Say", "ScriptedModel", "Turn", "obey"]

MODEL = "scripted"
"""Name of the model, and of its provider where there are several."""

_LINE = re.compile(r"^\s*>>\s*(say|call)\s+(.*?)\s*$", re.MULTILINE)

Script = Callable[[Asked], Say | Call]
"""What the model does next."""


def obey(asked: Asked) -> Say | Call:
    """The first line for the model that no turn of its has answered yet."""
    waiting: list[Say | Call] = []
    said: set[tuple[tuple[str, str], ...]] = set()
    for turn in asked.turns:
        lines = tuple(_LINE.findall(turn.text)) if turn.role == "user" else ()
        if lines and lines not in said:
            said.add(lines)
            waiting += [_step(kind, rest) for kind, rest in lines]
        elif turn.role == "assistant" and waiting:
            del waiting[0]
    return waiting[0] if waiting else Say("Ready.")


def _step(kind: str, rest: str) -> Say | Call:
    if kind == "say":
        return Say(rest)
    tool, _, args = rest.partition(" ")
    for text in (args or "{}", args.rstrip('"').replace('\\"', '"')):  # some harness quotes what it was told
        try:
            return Call(tool, json.loads(text))
        except ValueError:
            continue
    return Say(f"These are no arguments: {args}")


class ScriptedModel:
    """The server, while the context is open.

    Args:
        script: called for each request, in a thread of its own.
        host: address that it listens at.
        name: how harnesses name that.

    Attributes:
        asked: the requests so far.
    """

    def __init__(self, script: Script = obey, *, host: str = "127.0.0.1", name: str = "") -> None:
        self.asked: list[Asked] = []
        self._script = script
        self._server = _Server((host, 0), _Handler)
        self._name = name or host
        self._server.answer = self._answer
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Of the server, without `/v1`."""
        return f"http://{self._name}:{self._server.server_port}"

    def pi_models(self) -> str:
        """A `models.json` for pi, for the option `models` of that harness; its model is `scripted/scripted`."""
        model = {"id": MODEL, "contextWindow": 200_000, "maxTokens": 4096}
        provider = {"baseUrl": f"{self.url}/v1", "api": "openai-completions", "apiKey": "none", "models": [model]}
        return json.dumps({"providers": {MODEL: provider}})

    def __enter__(self) -> ScriptedModel:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, asked: Asked) -> Say | Call:
        self.asked.append(asked)
        step = self._script(asked)
        if isinstance(step, Call):
            offered = asked.tool(step.tool)
            return Say(f"I have no tool {step.tool}.") if offered is None else Call(offered, step.args)
        return step


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    answer: Callable[[Asked], Say | Call]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Harnesses are killed, and hang up: tests print nothing."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        path = self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        if path.endswith("/count_tokens"):
            self._send(200, {"input_tokens": USAGE[0]})
            return
        format_ = FORMATS.get(path)
        if format_ is None:
            self._send(404, {"error": {"type": "not_found_error", "message": path}})
            return
        try:
            asked = format_.parse(json.loads(body))
            step = self.server.answer(asked)
        except Exception as error:  # noqa: BLE001 - the harness is told; a test sees what it made of that
            self._send(400, {"error": {"type": "invalid_request_error", "message": f"{type(error).__name__}: {error}"}})
            return
        if asked.stream:
            self._begin(200, "text/event-stream")
            for event in format_.stream(asked, step):
                self.wfile.write(_encoded(event))
        else:
            self._send(200, format_.whole(asked, step))

    def do_GET(self) -> None:
        self._send(200, {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": MODEL}]})

    def do_HEAD(self) -> None:
        self._begin(200, "text/plain")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Tests print nothing."""

    def _begin(self, status: int, kind: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("connection", "close")
        self.end_headers()

    def _send(self, status: int, data: Any) -> None:
        self._begin(status, "application/json")
        self.wfile.write(json.dumps(data).encode())


def _encoded(event: Event) -> bytes:
    type_, data = event
    head = f"event: {type_}\n" if type_ else ""
    return f"{head}data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()
