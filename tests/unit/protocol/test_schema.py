"""The generated documents are valid, whole, and true: what is really sent fits them, and what is wrong does not."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator, Draft202012Validator
from message_strategies import BODIES, INPUTS, message
from msgspec import Raw, Struct
from regrow_protocol import agents, endpoints, ids, machines, messages, schema, streams, subjects
from regrow_protocol.messages import Call, Cursor, EventRecord, Result

SCHEMAS = schema.json_schemas()
DOCUMENT = schema.asyncapi()


def validator(name: str) -> Draft202012Validator:
    """A validator of one body, with the others at hand for its references."""
    return Draft202012Validator({**SCHEMAS, "$ref": f"#/$defs/{name}"})


def draft7(name: str) -> Draft7Validator:
    """The same with the schemas of the AsyncAPI document."""
    root = {"components": DOCUMENT["components"], "allOf": [{"$ref": f"#/components/schemas/{name}"}]}
    return Draft7Validator(root)


def resolve(pointer: str) -> Any:
    """What a reference inside the AsyncAPI document points to; KeyError when nothing is there."""
    found: Any = DOCUMENT
    assert pointer.startswith("#/")
    for part in pointer[2:].split("/"):
        found = found[part]
    return found


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


# JSON Schemas ---------------------------------------------------------------------------------------------------------


def test_the_document_is_valid_json_schema() -> None:
    """As a whole and in every definition, by the metaschema of 2020-12."""
    assert SCHEMAS["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(SCHEMAS)
    for definition in SCHEMAS["$defs"].values():
        Draft202012Validator.check_schema(definition)
    assert set(references(SCHEMAS)) <= {f"#/$defs/{name}" for name in SCHEMAS["$defs"]}


def test_every_message_type_is_in_it_and_nothing_else() -> None:
    """By its class's name, together with the union that an inbox carries."""
    assert set(SCHEMAS["$defs"]) == {cls.__name__ for cls in BODIES} | {"Input"}
    assert SCHEMAS["$defs"]["Input"]["oneOf"] == [{"$ref": f"#/$defs/{cls.__name__}"} for cls in INPUTS]


@pytest.mark.parametrize("cls", BODIES, ids=lambda cls: cls.__name__)
def test_what_is_sent_fits_its_schema(cls: type[Struct]) -> None:
    """Every body that can be encoded is valid, also by the AsyncAPI document; an input also as `Input`."""
    own, as_input, in_asyncapi = validator(cls.__name__), validator("Input"), draft7(cls.__name__)

    @given(body=message(cls))
    def check(body: Any) -> None:
        sent = json.loads(messages.encode(body))
        own.validate(sent)
        in_asyncapi.validate(sent)
        if cls in INPUTS:
            as_input.validate(sent)

    check()


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("Input", {"kind": "coup"}),
        ("Input", {"endpoint": "add", "args": {}}),
        ("Call", {"kind": "call", "args": {}}),
        ("Call", {"kind": "start", "endpoint": "add", "args": {}}),
        ("Call", {"kind": "call", "endpoint": 7, "args": {}}),
        ("Call", {"kind": "call", "endpoint": "add", "args": {}, "op": [7, "call"]}),
        ("Call", {"kind": "call", "endpoint": "add", "args": {}, "op": {"n": 7}}),
        ("Call", {"kind": "call", "endpoint": "add", "args": {}, "by": ["p_1", "0", 1]}),
        ("Child", {"kind": "child", "incarnation": 0, "op": [1, "", "", "", ""], "pid": "p", "status": "fine"}),
        ("Cursor", {"epoch": 1, "floor": 2, "stuck": {"p_1": {"seq": 1}}}),
        ("Cursor", {"epoch": 1, "floor": 2, "busy": "p_1"}),
        ("EventRecord", {"pid": "p", "incarnation": 0, "n": 1, "seq": 1, "type": "x"}),
        ("DeadLetter", {"subject": "s", "reason": "r", "body": ["x"]}),
    ],
)
def test_what_is_wrong_does_not_fit(name: str, body: dict[str, Any]) -> None:
    """The schemas refuse what the decoder refuses; they are not empty."""
    with pytest.raises(jsonschema.ValidationError):
        validator(name).validate(body)
    with pytest.raises(jsonschema.ValidationError):
        draft7(name).validate(body)


@given(body=message(Call) | message(Result) | message(Cursor), data=st.data())
def test_a_required_field_is_required(body: Any, data: st.DataObject) -> None:
    """A body without one of its required fields fits no more, and does not decode either."""
    name = type(body).__name__
    sent = json.loads(messages.encode(body))
    del sent[data.draw(st.sampled_from(SCHEMAS["$defs"][name]["required"]))]
    assert not validator(name).is_valid(sent)
    if name != "Cursor":
        with pytest.raises(messages.msgspec.MsgspecError):
            messages.decode_input(json.dumps(sent).encode())


def test_bodies_and_fields_are_described_from_their_docstrings() -> None:
    """The documents can be read without the source: descriptions stand where they belong, inherited ones too."""
    call = SCHEMAS["$defs"]["Call"]
    assert call["description"].startswith("Call an endpoint. The answer goes to the inbox of `by`")
    assert "Attributes" not in call["description"]
    assert call["properties"]["endpoint"]["description"] == "its name."
    assert call["properties"]["k"]["description"].startswith("number of this request among those of the sender's")
    assert call["properties"]["at"]["description"].startswith("recorded time that replaces the stream's")
    event = SCHEMAS["$defs"]["EventRecord"]["properties"]
    assert event["pid"]["description"] == event["n"]["description"] == "its id; readers drop repeats by it."
    assert all(definition["description"] for definition in SCHEMAS["$defs"].values())


def test_arrays_name_their_elements() -> None:
    """`Ref` and `Op` travel as arrays; their schemas tell what stands where."""
    op = SCHEMAS["$defs"]["Op"]
    assert [element["title"] for element in op["prefixItems"]] == ["n", "kind", "name", "digest", "rolling"]
    assert op["minItems"] == 5
    assert op["prefixItems"][3]["description"] == "of the arguments' JSON (hex, 64 bits)."


def test_defaults_are_the_types_own() -> None:
    """What is left out means what the schema says, raw JSON included."""
    assert SCHEMAS["$defs"]["EventRecord"]["properties"]["data"]["default"] is None
    assert SCHEMAS["$defs"]["AppRecord"]["properties"]["partitions"]["default"] == messages.AppRecord().partitions
    assert "default" not in SCHEMAS["$defs"]["Result"]["properties"]["value"]
    sent = {"pid": "p", "incarnation": 0, "n": 1, "seq": 1, "type": "x", "time": 1.5}
    assert messages.decode(json.dumps(sent).encode(), EventRecord).data == Raw(b"null")


def test_a_new_document_is_the_callers_own() -> None:
    """What one caller does to the result does not show in the next."""
    changed = schema.json_schemas()
    changed["$defs"].clear()
    schema.asyncapi()["components"]["schemas"]["StoredHeaders"].clear()
    assert schema.json_schemas() == SCHEMAS
    assert schema.asyncapi() == DOCUMENT


# AsyncAPI -------------------------------------------------------------------------------------------------------------

NAME = {"type": "string", "pattern": r"^[A-Za-z0-9_\-]+$"}
REFERENCE = {
    "type": "object",
    "properties": {"$ref": {"type": "string", "pattern": "^#/"}},
    "required": ["$ref"],
    "additionalProperties": False,
}
EXTENSIONS = {r"^x-[\w\d\.\-_]+$": True}


def strict(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    """An object of the specification: no fields but its own and extensions."""
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
        "patternProperties": EXTENSIONS,
    }


def mapping(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "propertyNames": NAME, "additionalProperties": of, "minProperties": 1}


TEXT = {"type": "string", "minLength": 1}
LICENSE = strict({"name": TEXT, "url": TEXT}, ["name"])
ASYNCAPI_3 = strict(
    {
        "asyncapi": {"const": "3.0.0"},
        "id": {"type": "string", "pattern": "^urn:"},
        "info": strict(
            {
                "title": TEXT,
                "version": TEXT,
                "description": TEXT,
                "license": strict({"name": TEXT, "url": TEXT}, ["name"]),
            },
            ["title", "version"],
        ),
        "defaultContentType": TEXT,
        "servers": mapping(strict({"host": TEXT, "protocol": TEXT, "description": TEXT}, ["host", "protocol"])),
        "channels": mapping(
            strict(
                {
                    "address": TEXT,
                    "title": TEXT,
                    "description": TEXT,
                    "servers": {"type": "array", "items": REFERENCE},
                    "parameters": mapping(strict({"description": TEXT}, [])),
                    "messages": mapping(REFERENCE),
                },
                [],
            )
        ),
        "operations": mapping(
            strict(
                {
                    "action": {"enum": ["send", "receive"]},
                    "channel": REFERENCE,
                    "summary": TEXT,
                    "messages": {"type": "array", "items": REFERENCE, "uniqueItems": True},
                    "reply": strict({"channel": REFERENCE, "messages": {"type": "array", "items": REFERENCE}}, []),
                },
                ["action", "channel"],
            )
        ),
        "components": strict(
            {
                "messages": mapping(
                    strict(
                        {
                            "name": TEXT,
                            "title": TEXT,
                            "summary": TEXT,
                            "contentType": TEXT,
                            "payload": REFERENCE,
                            "headers": REFERENCE,
                        },
                        [],
                    )
                ),
                "schemas": mapping({"type": "object"}),
            },
            [],
        ),
    },
    ["asyncapi", "info", "channels", "operations", "components"],
)
"""Those objects of the AsyncAPI 3.0 specification that the document uses, with their fields as it names them."""


def test_the_document_has_the_structure_of_asyncapi_3() -> None:
    """Required fields are there, and none that the specification does not know."""
    Draft202012Validator(ASYNCAPI_3).validate(DOCUMENT)
    broken = copy.deepcopy(DOCUMENT)
    del broken["operations"]["sendEvent"]["action"]
    with pytest.raises(jsonschema.ValidationError):
        Draft202012Validator(ASYNCAPI_3).validate(broken)


def test_every_reference_leads_somewhere() -> None:
    """No dangling `$ref`; an operation's messages are references into its own channel, as the specification demands."""
    for pointer in references(DOCUMENT):
        resolve(pointer)
    for operation in DOCUMENT["operations"].values():
        prefix = operation["channel"]["$ref"] + "/messages/"
        assert operation["messages"]
        assert all(reference["$ref"].startswith(prefix) for reference in operation["messages"])
        assert resolve(operation["channel"]["$ref"])["address"]


def test_schemas_of_the_document_are_draft_7() -> None:
    """AsyncAPI's own dialect: nothing of 2020-12 is left in it."""
    for definition in DOCUMENT["components"]["schemas"].values():
        Draft7Validator.check_schema(definition)
    text = json.dumps(DOCUMENT["components"]["schemas"])
    assert "prefixItems" not in text
    assert "$defs" not in text


def test_parameters_are_those_of_the_address() -> None:
    """Each placeholder is described, and nothing else."""
    for channel in DOCUMENT["channels"].values():
        assert list(channel["parameters"]) == re.findall(r"\{(\w+)\}", channel["address"])


def test_addresses_are_what_the_functions_make() -> None:
    """A subject made for real values is the address with these values in it."""
    values = {
        "app": "shop",
        "part": 3,
        "pid": ids.new_id("p"),
        "incarnation": 2,
        "n": 41,
        "type": "sold",
        "client": "c_1",
    }
    made = {
        "inbox": subjects.inbox("shop", 3, str(values["pid"])),
        "timer": subjects.timer("shop", 3, str(values["pid"]), 2, 41),
        "event": subjects.event("shop", str(values["pid"]), "sold"),
        "reply": subjects.reply("c_1", 41),
        "dead": subjects.dead("host", "inbox"),
        "create_subject": machines.create_subject("shop"),
        "machine_subject": machines.machine_subject("shop", "node-1", "m_1"),
        "enrol_subject": agents.enrol_subject("shop"),
        "agent_subject": agents.agent_subject("shop", "a_1"),
        "entry_subject": agents.entry_subject("shop", "a_1", "sold", "beef"),
        "answer_subject": agents.answer_subject("shop", "a_1", "c0ffee"),
        "registry_subject": endpoints.registry_subject("shop"),
        "call_record_subject": endpoints.call_record_subject("shop", str(values["pid"]), "add_task"),
    }
    values |= {"key": "beef", "agent": "a_1", "call": "c0ffee", "endpoint": "add_task"}
    values |= {"type": "sold", "client": "c_1", "service": "host", "rest": "inbox", "node": "node-1", "machine": "m_1"}
    for name, subject in made.items():
        assert DOCUMENT["channels"][name]["address"].format(**values) == subject


def test_every_family_of_subjects_that_carries_a_type_has_a_channel() -> None:
    """No family of subjects is left out of the document."""
    families = {"inbox", "timer", "event", "agent", "called", "schedule", "command", "reply", "dead"}
    covered = {
        channel["address"].split(".")[1] for channel in DOCUMENT["channels"].values() if channel["address"][0] != "$"
    }
    assert families == covered


def test_every_body_goes_over_a_channel_or_inside_another() -> None:
    """No type is defined and then sent nowhere."""
    sent = {message["payload"]["$ref"].rpartition("/")[2] for message in DOCUMENT["components"]["messages"].values()}
    inside = {
        pointer.rpartition("/")[2]
        for name, definition in DOCUMENT["components"]["schemas"].items()
        if name != "Input"
        for pointer in references(definition)
    }
    spoken = [DOCUMENT[part] for part in ("x-commands", "x-entries", "x-events", "x-news")]
    asked = {reference.rpartition("/")[2] for reference in references(spoken)}
    assert {cls.__name__ for cls in BODIES} == sent | inside | asked


def test_messages_name_their_headers() -> None:
    """What is stored carries its id; a timer what makes it a schedule; a record what makes its write conditional."""
    components = DOCUMENT["components"]

    def headers(name: str) -> dict[str, Any]:
        return resolve(components["messages"][name]["headers"]["$ref"])

    assert headers("Call")["required"] == ["Nats-Msg-Id"]
    assert set(headers("EventRecord")["properties"]) == {"Nats-Msg-Id", "traceparent"}
    assert {"Nats-Schedule", "Nats-Schedule-Target"} < set(headers("ScheduledTimer")["required"])
    assert components["messages"]["ScheduledTimer"]["payload"] == components["messages"]["Timer"]["payload"]
    assert "Nats-Expected-Last-Subject-Sequence" in headers("Cursor")["properties"]
    assert not headers("Cursor").get("required")


def test_a_call_is_received_with_its_reply() -> None:
    """The one request-reply operation for clients."""
    reply = DOCUMENT["operations"]["answerCall"]["reply"]
    assert resolve(reply["channel"]["$ref"])["address"] == "regrow.reply.{client}.{n}"
    assert [resolve(resolve(message["$ref"])["$ref"])["name"] for message in reply["messages"]] == ["Reply"]


def test_streams_and_buckets_are_those_of_the_table() -> None:
    """Names and subjects as `streams` creates them; every channel's stream is one of them and takes its address."""
    listed = DOCUMENT["x-streams"]
    assert listed["REGROW_INBOX_{app}"]["subjects"] == ["regrow.inbox.{app}.>", "regrow.timer.{app}.>"]
    assert listed["REGROW_INBOX_{app}"]["allow_msg_schedules"] is True
    for spec in (*streams.STREAMS, streams.VALUES_STREAM, *(bucket.stream() for bucket in streams.BUCKETS)):
        assert listed[spec.name] == spec.config(1)
    assert set(DOCUMENT["x-buckets"]) == {bucket.name for bucket in streams.BUCKETS}
    for channel in DOCUMENT["channels"].values():
        prefixes = [subject.removesuffix(">") for subject in listed[channel["x-stream"]]["subjects"]]
        assert any(channel["address"].startswith(prefix) for prefix in prefixes), channel["address"]


def test_records_stand_where_their_docstrings_say() -> None:
    """Bucket and key of every record, with a parameter for each part of the key."""
    addresses = {name: channel["address"] for name, channel in DOCUMENT["channels"].items()}
    assert addresses["cursor"] == "$KV.regrow_cursors.{app}.{build}.{part}"
    assert addresses["ownership"] == "$KV.regrow_partitions.own.{app}.{build}.{part}"
    assert addresses["appRecord"] == "$KV.regrow_partitions.app.{app}"
    assert addresses["buildRecord"] == "$KV.regrow_partitions.build.{app}.{build}"
    assert addresses["hostRecord"] == "$KV.regrow_hosts.{app}.{host}"
    assert addresses["processRecord"] == "$KV.regrow_processes.{pid}"


def test_both_documents_are_json() -> None:
    """`regrow schema` prints them: nothing in them is more than JSON, and order is the same every time."""
    for document in (SCHEMAS, DOCUMENT):
        assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert json.dumps(schema.asyncapi()) == json.dumps(DOCUMENT)
