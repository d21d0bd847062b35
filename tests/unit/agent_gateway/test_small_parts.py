"""What needs nobody else in the gateway: tokens, URLs, names of linked agents, sums, entries as they are told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace
from regrow_agent_gateway import tokens
from regrow_agent_gateway.calls import outcome_of, text_of
from regrow_agent_gateway.conversations import entry
from regrow_agent_gateway.doors import telling
from regrow_agent_gateway.doors.sse import event
from regrow_agent_gateway.errors import InvalidRequest
from regrow_agent_gateway.links import known_as, linked
from regrow_agent_gateway.settings import parse
from regrow_agent_gateway.usage import plus
from regrow_protocol.agents import AgentRecord, Outcome, Usage, call_key
from regrow_protocol.messages import Failure, Ref
from regrow_service.settings import InvalidSetting


def record(id_: str, name: str, **more: Any) -> AgentRecord:
    return AgentRecord(id=id_, app="x", command="c.1", name=name, owner=Ref("p_1", 0, 1), harness="none", **more)


def test_a_token_opens_one_agent_of_one_store() -> None:
    """It is made of the secret and the id; whatever is not that text is refused, and nothing is raised."""
    given = tokens.token(b"secret", "a_1")
    assert given.startswith("rga_")
    assert tokens.fits(b"secret", "a_1", given)
    for secret, agent, text in (
        (b"secret", "a_2", given),
        (b"other", "a_1", given),
        (b"secret", "a_1", given.upper()),
        (b"secret", "a_1", ""),
        (b"secret", "a_1", "ä\udc80"),
    ):
        assert not tokens.fits(secret, agent, text)


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "http://127.0.0.1:7"),
        ({"REGROW_GATEWAY_HOST": "0.0.0.0"}, "http://127.0.0.1:7"),
        ({"REGROW_GATEWAY_HOST": "::1"}, "http://[::1]:7"),
        ({"REGROW_GATEWAY_HOST": "::"}, "http://[::1]:7"),
        ({"REGROW_GATEWAY_HOST": "gateway"}, "http://gateway:7"),
        ({"REGROW_GATEWAY_HOST": "127.0.0.1, 172.17.0.1"}, "http://127.0.0.1:7"),
        ({"REGROW_GATEWAY_URL": "https://agents.example.org/regrow/"}, "https://agents.example.org/regrow"),
    ],
)
def test_the_url_of_the_doors_follows_from_the_settings(environ: dict[str, str], url: str) -> None:
    """What was given, or what is listened on, as agents on this computer reach it."""
    assert parse([], environ).url(7) == url


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("", "http://host.docker.internal:7"),
        ("http://localhost:9/regrow", "http://host.docker.internal:9/regrow"),
        ("http://127.9.9.9", "http://host.docker.internal"),
        ("https://[::1]:9", "https://host.docker.internal:9"),
        ("https://localhost.example.org:9", "https://localhost.example.org:9"),
        ("https://127.example.org", "https://127.example.org"),
        ("http://10.0.0.7:9", "http://10.0.0.7:9"),
    ],
)
def test_containers_know_this_computer_by_another_name(given: str, url: str) -> None:
    """Its loopback is not theirs; any other address they reach as all do."""
    assert parse([], {"REGROW_GATEWAY_URL": given}).url(7, "docker") == url


def test_options_outweigh_the_environment_and_nonsense_is_refused() -> None:
    """As for every service."""
    settings = parse(["--port", "9", "--share-port"], {"REGROW_GATEWAY_PORT": "8"})
    assert (settings.gateway_port, settings.gateway_share_port) == (9, True)
    for wrong in ({"REGROW_GATEWAY_PORT": "x"}, {"REGROW_GATEWAY_URL": "ftp://x"}, {"REGROW_GATEWAY_MAX_BODY": "1"}):
        with pytest.raises(InvalidSetting):
            parse([], wrong)


def test_linked_agents_are_known_by_name_and_those_of_one_name_by_id_too() -> None:
    """Linking again changes nothing."""
    agent = record("a_1", "ann")
    for id_, name in (("a_2", "bob"), ("a_3", "eve"), ("a_4", "eve")):
        agent = linked(agent, record(id_, name)) or agent
    assert known_as(agent) == {"a_2": "bob", "a_3": "eve a_3", "a_4": "eve a_4"}
    assert linked(agent, record("a_2", "bob")) is None
    assert linked(replace(agent, state="ended"), record("a_5", "new")) is None


def test_usages_are_added() -> None:
    """Field by field; the model is the last that was named."""
    total = plus(plus(Usage(), Usage("m", 1, 2, 3, 4, 0.5)), Usage("", 10, 20, 30, 40, 0.25))
    assert total == Usage("m", 11, 22, 33, 44, 0.75)


def test_a_failure_is_told_in_words() -> None:
    """The class where it was a program's own exception; that another try is of no use."""
    assert text_of(Failure("ValueError", "no paper")) == "ValueError: no paper"
    assert text_of(Failure("ValueError", "ValueError")) == "ValueError"
    assert text_of(Failure("ProcessEnded", "it is over", "process-ended")) == "it is over"
    assert "of no use" in text_of(Failure("ExecutionFailed", "bad", "failed", retryable=False))


def test_an_answer_that_does_not_decode_is_a_failure() -> None:
    """Whoever wrote it; nobody waits for ever."""
    broken = outcome_of(entry("result", "x", Raw(b'{"error":7}'), call="k"))
    assert broken.error is not None
    assert broken.error.code == "call-failed"
    assert telling.outcome(Outcome()) == {"value": None}


@pytest.mark.parametrize(
    "given",
    [
        7,
        [],
        {},
        {"type": "message"},
        {"type": ["text"]},
        {"type": "text", "data": 7},
        {"type": "text", "id": 7},
        {"type": "text", "id": "a b"},
        {"type": "text", "id": "x" * 201},
    ],
)
def test_what_is_no_entry_is_refused(given: object) -> None:
    """A harness may tell text, turn, usage and note, and nothing else."""
    with pytest.raises(InvalidRequest):
        telling.told(given)


def test_an_event_is_one_line_of_json() -> None:
    """However many lines the text has."""
    made = event("message", {"text": "a\nb\r\n\ndata: x"}, 7).decode()
    head, data, end = made.partition("data: ")[0], made.partition("data: ")[2], made[-2:]
    assert (head, end) == ("id: 7\nevent: message\n", "\n\n")
    assert json.loads(data) == {"text": "a\nb\r\n\ndata: x"}


def test_a_call_is_known_by_session_and_id() -> None:
    """No two pairs share a key by being joined."""
    assert len({call_key("1", "23"), call_key("12", "3"), call_key("1", "2"), call_key("1", "23 ")}) == 4
