"""The wire formats of models' APIs, for the scripted model: what was asked, and an answer, whole or as a stream."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

USAGE = (100, 10)
"""Tokens that every answer says it took and gave."""


class Say(NamedTuple):
    """The model ends its turn with a text."""

    text: str


class Call(NamedTuple):
    """The model calls a tool, by the name that its agent's owner gave it."""

    tool: str
    args: dict[str, Any]


@dataclass
class Turn:
    """A part of a conversation.

    Attributes:
        role: `user`, `assistant` or `tool`.
        text: that was said, or what the tool answered.
        calls: of the assistant.
    """

    role: str
    text: str = ""
    calls: list[Call] = field(default_factory=list[Call])


@dataclass(frozen=True)
class Asked:
    """A request to a model.

    Attributes:
        turns: the whole conversation; what an assistant says in one go is one turn.
        tools: offered, by name: the namespace that each is in, or "".
        stream: whether the answer shall come as a stream.
    """

    model: str
    system: str
    turns: list[Turn]
    tools: dict[str, str]
    stream: bool

    def tool(self, name: str) -> str | None:
        """The offered tool that is meant: harnesses put something before the names of tools that they got by MCP."""
        if name in self.tools:
            return name
        return next((each for each in self.tools if each.endswith((f"__{name}", f"_{name}"))), None)

    @property
    def digest(self) -> str:
        """Of the conversation: the same request gets the same ids."""
        told = repr([(turn.role, turn.text, turn.calls) for turn in self.turns])
        return hashlib.blake2b(told.encode(), digest_size=12).hexdigest()


Event = tuple[str, Any]
"""Type (empty: none) and data of a server-sent event."""


class Format(NamedTuple):
    """An API.

    Attributes:
        parse: the request's JSON.
        whole, stream: an answer to what was asked; a call's tool is named as it was offered.
    """

    parse: Callable[[dict[str, Any]], Asked]
    whole: Callable[[Asked, Say | Call], dict[str, Any]]
    stream: Callable[[Asked, Say | Call], Iterator[Event]]


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = [part if isinstance(part, str) else part.get("text", "") for part in content or []]
    return "\n".join(part for part in parts if part)


def _add(turns: list[Turn], role: str, text: str, calls: list[Call] | None = None) -> None:
    last = turns[-1] if turns else None
    if role == "assistant" and last is not None and last.role == role:
        last.text = "\n".join(part for part in (last.text, text) if part)
        last.calls += calls or []
    else:
        turns.append(Turn(role, text, calls or []))


# Chat completions -----------------------------------------------------------------------------------------------------


def _parse_chat(request: dict[str, Any]) -> Asked:
    turns: list[Turn] = []
    system: list[str] = []
    for each in request["messages"]:
        role, text = each["role"], _text(each.get("content"))
        if role in ("system", "developer"):
            system.append(text)
            continue
        calls = [
            Call(call["function"]["name"], json.loads(call["function"]["arguments"] or "{}"))
            for call in each.get("tool_calls") or []
        ]
        _add(turns, role, text, calls)
    tools = {tool["function"]["name"]: "" for tool in request.get("tools") or []}
    return Asked(request["model"], "\n".join(system), turns, tools, bool(request.get("stream")))


def _chat_usage() -> dict[str, int]:
    return {"prompt_tokens": USAGE[0], "completion_tokens": USAGE[1], "total_tokens": sum(USAGE)}


def _whole_chat(asked: Asked, step: Say | Call) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": step.text if isinstance(step, Say) else None}
    if isinstance(step, Call):
        function = {"name": step.tool, "arguments": json.dumps(step.args)}
        message["tool_calls"] = [{"id": f"call_{asked.digest}", "type": "function", "function": function}]
    reason = "stop" if isinstance(step, Say) else "tool_calls"
    return {
        "id": f"chatcmpl-{asked.digest}", "object": "chat.completion", "created": 0, "model": asked.model,
        "choices": [{"index": 0, "message": message, "finish_reason": reason}], "usage": _chat_usage(),
    }  # fmt: skip


def _stream_chat(asked: Asked, step: Say | Call) -> Iterator[Event]:
    def chunk(delta: dict[str, Any] | None, reason: str | None = None) -> Event:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason}]
        made = {"id": f"chatcmpl-{asked.digest}", "object": "chat.completion.chunk", "created": 0, "model": asked.model}
        return "", made | {"choices": choices} | ({"usage": _chat_usage()} if delta is None else {})

    yield chunk({"role": "assistant"})
    if isinstance(step, Say):
        yield chunk({"content": step.text})
        yield chunk({}, "stop")
    else:
        begun = {"id": f"call_{asked.digest}", "type": "function", "function": {"name": step.tool, "arguments": ""}}
        yield chunk({"tool_calls": [{"index": 0, **begun}]})
        yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": json.dumps(step.args)}}]})
        yield chunk({}, "tool_calls")
    yield chunk(None)
    yield "", "[DONE]"


# Messages -------------------------------------------------------------------------------------------------------------


def _parse_messages(request: dict[str, Any]) -> Asked:
    turns: list[Turn] = []
    for each in request["messages"]:
        content: Any = each["content"]
        blocks: list[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if each["role"] == "assistant":
            calls = [Call(block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"]
            _add(turns, "assistant", _text(blocks), calls)
            continue
        for block in blocks:
            if block["type"] == "tool_result":
                _add(turns, "tool", _text(block.get("content")))
        text = _text([block for block in blocks if block["type"] == "text"])
        if text:
            _add(turns, "user", text)
    tools = {tool["name"]: "" for tool in request.get("tools") or []}
    return Asked(request["model"], _text(request.get("system")), turns, tools, bool(request.get("stream")))


def _block(asked: Asked, step: Say | Call, *, empty: bool = False) -> dict[str, Any]:
    if isinstance(step, Say):
        return {"type": "text", "text": "" if empty else step.text}
    return {"type": "tool_use", "id": f"toolu_{asked.digest}", "name": step.tool, "input": {} if empty else step.args}


def _whole_messages(asked: Asked, step: Say | Call) -> dict[str, Any]:
    return {
        "id": f"msg_{asked.digest}", "type": "message", "role": "assistant", "model": asked.model,
        "content": [_block(asked, step)], "stop_reason": "end_turn" if isinstance(step, Say) else "tool_use",
        "stop_sequence": None, "usage": {"input_tokens": USAGE[0], "output_tokens": USAGE[1]},
    }  # fmt: skip


def _stream_messages(asked: Asked, step: Say | Call) -> Iterator[Event]:
    def event(type_: str, **data: Any) -> Event:
        return type_, {"type": type_, **data}

    whole = _whole_messages(asked, step)
    usage = {"input_tokens": USAGE[0], "output_tokens": 1}
    yield event("message_start", message=whole | {"content": [], "stop_reason": None, "usage": usage})
    yield event("content_block_start", index=0, content_block=_block(asked, step, empty=True))
    if isinstance(step, Say):
        delta = {"type": "text_delta", "text": step.text}
    else:
        delta = {"type": "input_json_delta", "partial_json": json.dumps(step.args)}
    yield event("content_block_delta", index=0, delta=delta)
    yield event("content_block_stop", index=0)
    ended = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield event("message_delta", delta=ended, usage={"output_tokens": USAGE[1]})
    yield event("message_stop")


# Responses ------------------------------------------------------------------------------------------------------------


def _parse_responses(request: dict[str, Any]) -> Asked:
    turns: list[Turn] = []
    system = [request.get("instructions") or ""]
    given: Any = request["input"]
    for item in [{"role": "user", "content": given}] if isinstance(given, str) else given:
        type_ = item.get("type", "message")
        if type_ == "message":
            if item["role"] in ("system", "developer"):
                system.append(_text(item["content"]))
            else:
                _add(turns, item["role"], _text(item["content"]))
        elif type_ == "function_call":
            _add(turns, "assistant", "", [Call(item["name"], json.loads(item["arguments"] or "{}"))])
        elif type_ == "function_call_output":
            _add(turns, "tool", _text(item["output"]))
    tools: dict[str, str] = {}
    for tool in request.get("tools") or []:
        if tool.get("type") == "namespace":
            tools |= {inner["name"]: tool["name"] for inner in tool["tools"]}
        elif "name" in tool:
            tools[tool["name"]] = ""
    return Asked(request["model"], "\n".join(system), turns, tools, bool(request.get("stream")))


def _item(asked: Asked, step: Say | Call, *, empty: bool = False) -> dict[str, Any]:
    status = "in_progress" if empty else "completed"
    if isinstance(step, Say):
        content = [] if empty else [{"type": "output_text", "text": step.text, "annotations": []}]
        made = {"type": "message", "id": f"msg_{asked.digest}", "role": "assistant", "content": content}
        return made | {"status": status}
    return {
        "type": "function_call", "id": f"fc_{asked.digest}", "call_id": f"call_{asked.digest}", "name": step.tool,
        "arguments": "" if empty else json.dumps(step.args), "status": status,
        **({"namespace": asked.tools[step.tool]} if asked.tools.get(step.tool) else {}),
    }  # fmt: skip


def _whole_responses(asked: Asked, step: Say | Call) -> dict[str, Any]:
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    usage = {"input_tokens": USAGE[0], "output_tokens": USAGE[1], "total_tokens": sum(USAGE), **details}
    return {
        "id": f"resp_{asked.digest}", "object": "response", "created_at": 0, "model": asked.model,
        "status": "completed", "output": [_item(asked, step)], "usage": usage,
    }  # fmt: skip


def _stream_responses(asked: Asked, step: Say | Call) -> Iterator[Event]:
    whole, item = _whole_responses(asked, step), _item(asked, step)
    at = {"item_id": item["id"], "output_index": 0}
    steps: list[Event] = [
        ("response.created", {"response": whole | {"status": "in_progress", "output": [], "usage": None}}),
        ("response.output_item.added", {"output_index": 0, "item": _item(asked, step, empty=True)}),
    ]
    if isinstance(step, Say):
        at = {**at, "content_index": 0}
        part = {"type": "output_text", "text": "", "annotations": []}
        steps += [
            ("response.content_part.added", {**at, "part": part}),
            ("response.output_text.delta", {**at, "delta": step.text}),
            ("response.output_text.done", {**at, "text": step.text}),
            ("response.content_part.done", {**at, "part": {**part, "text": step.text}}),
        ]
    else:
        steps += [
            ("response.function_call_arguments.delta", {**at, "delta": item["arguments"]}),
            ("response.function_call_arguments.done", {**at, "arguments": item["arguments"]}),
        ]
    steps += [
        ("response.output_item.done", {"output_index": 0, "item": item}),
        ("response.completed", {"response": whole}),
    ]
    for number, (type_, data) in enumerate(steps):
        yield type_, {"type": type_, "sequence_number": number, **data}


FORMATS = {
    "/v1/chat/completions": Format(_parse_chat, _whole_chat, _stream_chat),
    "/v1/messages": Format(_parse_messages, _whole_messages, _stream_messages),
    "/v1/responses": Format(_parse_responses, _whole_responses, _stream_responses),
}
"""By path."""
