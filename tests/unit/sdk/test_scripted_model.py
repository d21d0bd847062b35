"""The model for tests does what its user's lines say, in three APIs, whatever is asked twice."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from regrow.testing.scripted_model import Asked, Call, Say, ScriptedModel, Turn, obey

TOLD = 'Hi.\n>> call add {"a": 1}\n>> say It is done.'
SCHEMA: dict[str, Any] = {"type": "object"}


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedModel]:
    with ScriptedModel() as running:
        yield running


def post(model: ScriptedModel, path: str, body: dict[str, Any]) -> str:
    request = urllib.request.Request(f"{model.url}{path}", json.dumps(body).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode()


def events(text: str) -> list[Any]:
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(each) for each in data if each != "[DONE]"]


def asked(*turns: Turn, tools: tuple[str, ...] = ("add",)) -> Asked:
    return Asked("scripted", "", list(turns), dict.fromkeys(tools, ""), stream=False)


def test_each_turn_of_the_model_answers_one_line() -> None:
    """Lines wait over the messages of a conversation; a turn without a line to answer takes none."""
    call = Turn("assistant", calls=[Call("add", {"a": 1})])
    assert obey(asked(Turn("user", TOLD))) == Call("add", {"a": 1})
    assert obey(asked(Turn("user", TOLD), call, Turn("tool", "3"))) == Say("It is done.")
    done = [Turn("user", TOLD), call, Turn("tool", "3"), Turn("assistant", "It is done.")]
    assert obey(asked(*done)) == Say("Ready.")
    idle = [Turn("user", "Hello?"), Turn("assistant", "Ready."), Turn("user", TOLD)]
    assert obey(asked(*idle)) == Call("add", {"a": 1})
    busy = [Turn("user", ">> call add"), Turn("assistant"), Turn("tool"), Turn("user", ">> say Heard.")]
    assert obey(asked(*busy)) == Say("Heard.")
    twice = [*done, Turn("user", f"[Again.]\n{TOLD}")]
    assert obey(asked(*twice)) == Say("Ready.")


def test_tools_are_found_under_the_names_that_harnesses_give_them() -> None:
    """Those that came by MCP have something before their name."""
    assert asked(tools=("mcp__gateway__add",)).tool("add") == "mcp__gateway__add"
    assert asked(tools=("gateway_add", "add")).tool("add") == "add"
    assert asked(tools=("badd",)).tool("add") is None


def test_chat_completions(model: ScriptedModel) -> None:
    """A call and then a text; a request that is repeated gets the same id."""
    tools = [{"type": "function", "function": {"name": "add", "parameters": SCHEMA}}]
    body = {"model": "m", "messages": [{"role": "user", "content": TOLD}], "tools": tools}
    whole = json.loads(post(model, "/v1/chat/completions", body))["choices"][0]
    streamed = events(post(model, "/v1/chat/completions", {**body, "stream": True}))
    (call,) = whole["message"]["tool_calls"]
    assert (whole["finish_reason"], call["function"]) == ("tool_calls", {"name": "add", "arguments": '{"a": 1}'})
    deltas = [each["choices"][0]["delta"] for each in streamed if each["choices"]]
    assert deltas[1]["tool_calls"][0]["id"] == call["id"]
    assert deltas[2]["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'
    assert streamed[-1]["usage"]["total_tokens"] > 0
    body["messages"] += [whole["message"], {"role": "tool", "tool_call_id": call["id"], "content": "3"}]
    assert json.loads(post(model, "/v1/chat/completions", body))["choices"][0]["message"]["content"] == "It is done."


def test_messages(model: ScriptedModel) -> None:
    """As above; the namespace before the tool's name is kept."""
    tools = [{"name": "mcp__gateway__add", "input_schema": SCHEMA}]
    said: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "text", "text": TOLD}]}]
    body = {"model": "m", "max_tokens": 9, "messages": said, "tools": tools}
    whole = json.loads(post(model, "/v1/messages", body))
    (use,) = whole["content"]
    assert (whole["stop_reason"], use["name"], use["input"]) == ("tool_use", "mcp__gateway__add", {"a": 1})
    streamed = {each["type"]: each for each in events(post(model, "/v1/messages", {**body, "stream": True}))}
    assert streamed["content_block_start"]["content_block"] == {**use, "input": {}}
    assert json.loads(streamed["content_block_delta"]["delta"]["partial_json"]) == {"a": 1}
    result = {"type": "tool_result", "tool_use_id": use["id"], "content": "3"}
    said += [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    assert json.loads(post(model, "/v1/messages", body))["content"] == [{"type": "text", "text": "It is done."}]
    assert json.loads(post(model, "/v1/messages/count_tokens", body))["input_tokens"] > 0


def test_responses(model: ScriptedModel) -> None:
    """As above; a tool in a namespace is called with it."""
    inner = {"type": "function", "name": "add", "parameters": SCHEMA}
    tools = [{"type": "namespace", "name": "mcp__gateway", "tools": [inner]}]
    said: list[Any] = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": TOLD}]}]
    body = {"model": "m", "input": said, "tools": tools}
    (call,) = json.loads(post(model, "/v1/responses", body))["output"]
    assert (call["name"], call["namespace"], json.loads(call["arguments"])) == ("add", "mcp__gateway", {"a": 1})
    streamed = {each["type"]: each for each in events(post(model, "/v1/responses", {**body, "stream": True}))}
    assert streamed["response.completed"]["response"]["output"] == [call]
    said += [call, {"type": "function_call_output", "call_id": call["call_id"], "output": "3"}]
    streamed = {each["type"]: each for each in events(post(model, "/v1/responses", {**body, "stream": True}))}
    assert streamed["response.output_text.done"]["text"] == "It is done."


def test_what_it_cannot_do_is_said(model: ScriptedModel) -> None:
    """A tool that is not offered, arguments that are none, a request that is none."""
    for line, said in ((">> call add {}", "I have no tool add."), (">> call add {x", "These are no arguments: {x")):
        body = {"model": "m", "messages": [{"role": "user", "content": line}]}
        assert json.loads(post(model, "/v1/messages", body))["content"][0]["text"] == said
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(model, "/v1/messages", {})
    caught.value.close()
    assert caught.value.code == 400
