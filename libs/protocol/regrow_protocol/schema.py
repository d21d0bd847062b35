"""The wire protocol as documents: JSON Schemas (2020-12) of every body, and an AsyncAPI 3.0 document of who sends what.

Both are generated: shapes and descriptions from the types of `messages` and their docstrings, addresses from the
functions of `subjects`, streams and buckets from the table of `streams`. What stands here alone is which message goes
over which channel, and the headers. `regrow schema` prints them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from types import ModuleType, UnionType
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Raw, Struct

from . import agents, endpoints, images, limits, machines, messages, schedules, streams, subjects

Json: TypeAlias = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
INPUTS: tuple[type[Struct], ...] = get_args(messages.Input)
_MODULES = (messages, images, machines, agents, endpoints, schedules, limits)
_SERVICES = (machines, agents, endpoints, limits)
_RECORD = re.compile(r"`(?P<bucket>regrow_\w+)`, key `(?P<key>[^`]+)`")


def json_schemas() -> Json:
    """One JSON Schema document: every body under `$defs` by its class's name, and `Input`, the union of an inbox."""
    copies: dict[type, type] = {}
    (union, *_), defs = msgspec.json.schema_components(
        [_without_raw_defaults(type_, copies) for type_ in (messages.Input, *_bodies())]
    )
    for cls in _bodies():
        _describe(cls, defs[cls.__name__])
    defs["Input"] = {
        "title": "Input",
        "description": "All that an inbox carries; `kind` tells which.",
        "oneOf": union["anyOf"],
    }
    return {"$schema": DIALECT, "title": "Regrow wire protocol", "$defs": dict(sorted(defs.items()))}


def asyncapi() -> Json:
    """The AsyncAPI 3.0 document; its operations are what hosts and services receive and send."""
    channels = [*_CHANNELS, *_record_channels()]
    return {
        "asyncapi": "3.0.0",
        "id": "urn:regrow:protocol",
        "info": {
            "title": "Regrow wire protocol",
            "version": metadata.version("regrow"),
            "description": _paragraphs(messages.__doc__ or "")[0]
            + "\n\nOperations are those of Regrow's own programs, hosts and services.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0.html"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "nats": {
                "host": "127.0.0.1:4222",
                "protocol": "nats",
                "description": "A NATS server with JetStream, 2.14.4 or later; `REGROW_NATS_URL` says where.",
            }
        },
        "channels": {channel.name: channel.document() for channel in channels},
        "operations": dict(_operations(channels)),
        "components": {
            "messages": {body.name: body.document() for channel in channels for body in channel.bodies},
            "schemas": _draft7(_HEADERS | json_schemas()["$defs"]),
        },
        "x-commands": {service.SERVICE: _draft7(_commands(service)) for service in _SERVICES},
        "x-entries": {name: {"$ref": f"#/components/schemas/{cls.__name__}"} for name, cls in agents.ENTRIES.items()},
        "x-events": {"down": {"$ref": f"#/components/schemas/{messages.RootDown.__name__}"}},
        "x-news": {"$ref": f"#/components/schemas/{agents.News.__name__}"},
        "x-streams": {spec.name: spec.config(1) for spec in _stream_specs()},
        "x-buckets": {
            bucket.name: {"stream": bucket.stream().name, "exact": bucket.decides} for bucket in streams.BUCKETS
        },
    }


# Bodies ---------------------------------------------------------------------------------------------------------------


def _bodies() -> Iterator[type[Struct]]:
    """Every struct of the wire that is not only a base of others."""
    for module, value in ((owner, value) for owner in _MODULES for value in vars(owner).values()):
        if isinstance(value, type) and issubclass(value, Struct) and value.__module__ == module.__name__:
            tagged = issubclass(value, messages.Message)
            if not tagged or value in INPUTS:
                yield value


def _without_raw_defaults(type_: Any, done: dict[type, type]) -> Any:
    """`type_` with every struct replaced by a like one whose `Raw` defaults are plain values.

    msgspec writes defaults into a schema, and cannot write a `Raw` one.
    """
    if isinstance(type_, type) and issubclass(type_, Struct):
        if type_ not in done:
            done[type_] = _copy_struct(type_, done)
        return done[type_]
    origin, args = get_origin(type_), get_args(type_)
    if origin is None or origin is Literal:
        return type_
    inner = tuple(_without_raw_defaults(arg, done) for arg in args)
    return Union[inner] if origin in (Union, UnionType) else origin[inner]  # noqa: UP007 - made at run time


def _copy_struct(cls: type[Struct], done: dict[type, type]) -> type[Struct]:
    hints = get_type_hints(cls, include_extras=True)
    fields: list[tuple[str, Any, Any]] = []
    for field in msgspec.structs.fields(cls):
        kept = msgspec.field()
        if field.default_factory is not msgspec.NODEFAULT:
            kept = msgspec.field(default_factory=field.default_factory)
        elif field.default is not msgspec.NODEFAULT:
            plain = msgspec.json.decode(field.default) if isinstance(field.default, Raw) else field.default
            mutable = isinstance(plain, dict | list)
            kept = msgspec.field(default_factory=partial(copy, plain)) if mutable else msgspec.field(default=plain)
        fields.append((field.name, _without_raw_defaults(hints[field.name], done), kept))
    config = cls.__struct_config__
    return msgspec.defstruct(
        cls.__name__,
        fields,
        namespace={"__doc__": cls.__doc__},
        kw_only=True,
        array_like=config.array_like,
        tag_field=config.tag_field,
        tag=config.tag,
    )


def _describe(cls: type[Struct], schema: Json) -> None:
    """Put a class's docstring where it belongs: the first part to the body, `Attributes:` to its fields."""
    schema["description"] = _summary(cls)
    described: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        described |= _attributes(base.__dict__.get("__doc__") or "")
    if "properties" in schema:
        fields = schema["properties"]
    else:
        names = [field.encode_name for field in msgspec.structs.fields(cls)]
        fields = dict(zip(names, schema["prefixItems"], strict=True))
        for name, field in fields.items():
            field["title"] = name
    for name, text in described.items():
        if name in fields:
            fields[name]["description"] = text


def _summary(cls: type[Struct]) -> str:
    return "\n\n".join(_paragraphs((cls.__doc__ or "").split("Attributes:")[0]))


def _paragraphs(text: str) -> list[str]:
    """A docstring's paragraphs, each on one line."""
    return [" ".join(part.split()) for part in inspect.cleandoc(text).split("\n\n") if part.strip()]


def _attributes(doc: str) -> dict[str, str]:
    """Descriptions by field from a docstring's `Attributes:`; `a, b: …` describes both."""
    _, _, listed = inspect.cleandoc(doc).partition("Attributes:\n")
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \S)", "\n" + listed.split("\n\n")[0]):
        names, colon, text = entry.strip().partition(":")
        if colon:
            found |= dict.fromkeys(names.replace(" ", "").split(","), " ".join(text.split()))
    return found


# Channels -------------------------------------------------------------------------------------------------------------

_MSG_ID = {"type": "string", "description": "Id of the message: a repeat within the stream's window is dropped."}
_TRACE = {"type": "string", "description": "W3C trace context of whoever sent it."}
_HEADERS: dict[str, Json] = {
    "StoredHeaders": {
        "type": "object",
        "required": ["Nats-Msg-Id"],
        "properties": {"Nats-Msg-Id": _MSG_ID, "traceparent": _TRACE},
    },
    "ScheduledHeaders": {
        "type": "object",
        "required": ["Nats-Msg-Id", "Nats-Schedule", "Nats-Schedule-Target"],
        "properties": {
            "Nats-Msg-Id": _MSG_ID,
            "Nats-Schedule": {"type": "string", "description": "`@at` and the moment, RFC 3339 in UTC."},
            "Nats-Schedule-Target": {
                "type": "string",
                "description": "The inbox that the body goes to when due.",
            },
            "traceparent": _TRACE,
        },
    },
    "RecordHeaders": {
        "type": "object",
        "properties": {
            "Nats-Expected-Last-Subject-Sequence": {
                "type": "string",
                "description": "Revision that the key must have (0: none) for the write to count.",
            },
            "Nats-TTL": {"type": "string", "description": "How long the key stands, such as `6s`."},
            "KV-Operation": {"enum": ["DEL", "PURGE"], "description": "On the mark of a key that is gone."},
        },
    },
}

_PARAMETERS = {
    "agent": "Id of the agent.",
    "call": "Stands for one tool call of a harness's session.",
    "endpoint": "Name of the endpoint. Encoded as one token.",
    "app": "The app: a set of process types, and the trust domain. Encoded as one token.",
    "build": "Hash of the program's code, the SDK's version and the Python minor version.",
    "client": "Id of a client that is not a process.",
    "host": "Id of a host.",
    "id": "Id of what the record is of.",
    "incarnation": "Number of the incarnation, 0 at first.",
    "key": "Made from the id of the entry.",
    "limit": "Name of the limit. Encoded as one token.",
    "machine": "Id of the machine.",
    "n": "Number of the operation or request.",
    "name": "A public name. Encoded as one token.",
    "node": "Name of a node: the managers that reach the machine. Encoded as one token.",
    "part": "Partition of the process: CRC-32 of its pid modulo the app's number of partitions.",
    "pid": "Id of the process.",
    "schedule": "Name of the schedule. Encoded as one token.",
    "rest": "One token or more that say what it was.",
    "service": "Name of the service.",
    "type": "The type of the event or entry. Encoded as one token.",
}


@dataclass(frozen=True)
class _Body:
    """A message of a channel: its payload's type and its kind of headers."""

    cls: type[Struct]
    headers: str = "StoredHeaders"

    @property
    def name(self) -> str:
        return f"Scheduled{self.cls.__name__}" if self.headers == "ScheduledHeaders" else self.cls.__name__

    def document(self) -> Json:
        return {
            "name": self.name,
            "title": self.name,
            "summary": _summary(self.cls).split("\n\n", maxsplit=1)[0],
            "contentType": "application/json",
            "payload": {"$ref": f"#/components/schemas/{self.cls.__name__}"},
            "headers": {"$ref": f"#/components/schemas/{self.headers}"},
        }


@dataclass(frozen=True)
class _Channel:
    """A family of subjects: its address, the stream that keeps it, what is done there, and the messages."""

    name: str
    address: str
    stream: str
    actions: tuple[Literal["send", "receive"], ...]
    bodies: tuple[_Body, ...]
    text: str

    def document(self) -> Json:
        return {
            "address": self.address,
            "title": self.name,
            "description": self.text,
            "servers": [{"$ref": "#/servers/nats"}],
            "parameters": {name: {"description": _PARAMETERS[name]} for name in re.findall(r"\{(\w+)\}", self.address)},
            "messages": {body.name: {"$ref": f"#/components/messages/{body.name}"} for body in self.bodies},
            "x-stream": self.stream,
        }


def _address(function: Callable[..., str]) -> str:
    """What a function of `subjects` or `streams` makes of its parameters' names."""
    names = inspect.signature(function).parameters
    made = function(*[f"__{name}__" for name in names])
    return re.sub(r"__([a-z]+?)_?__", r"{\1}", made)


def _subject(
    function: Callable[..., str],
    stream: str,
    actions: tuple[Literal["send", "receive"], ...],
    bodies: tuple[_Body, ...],
) -> _Channel:
    text = _paragraphs(function.__doc__ or "")[0]
    return _Channel(function.__name__, _address(function), stream, actions, bodies, text)


_INBOX_STREAM = _address(streams.inbox_stream)
_CHANNELS = (
    _subject(subjects.inbox, _INBOX_STREAM, ("receive", "send"), tuple(_Body(cls) for cls in INPUTS)),
    _subject(subjects.timer, _INBOX_STREAM, ("send",), (_Body(messages.Timer, "ScheduledHeaders"),)),
    _subject(subjects.event, streams.EVENTS, ("send",), (_Body(messages.EventRecord),)),
    _subject(subjects.reply, streams.REPLIES, ("send",), (_Body(messages.Reply), _Body(messages.Chunk))),
    _subject(machines.create_subject, streams.COMMANDS, ("receive", "send"), (_Body(messages.Command),)),
    _subject(machines.machine_subject, streams.COMMANDS, ("receive", "send"), (_Body(messages.Command),)),
    _subject(agents.enrol_subject, streams.COMMANDS, ("receive", "send"), (_Body(messages.Command),)),
    _subject(agents.agent_subject, streams.COMMANDS, ("receive", "send"), (_Body(messages.Command),)),
    _subject(agents.entry_subject, streams.AGENTS, ("receive", "send"), (_Body(agents.Entry),)),
    _subject(agents.answer_subject, streams.AGENTS, ("receive", "send"), (_Body(agents.Entry),)),
    _subject(endpoints.registry_subject, streams.COMMANDS, ("receive", "send"), (_Body(messages.Command),)),
    _subject(endpoints.call_record_subject, streams.CALLS, ("send",), (_Body(endpoints.CallRecord),)),
    _subject(limits.admission_subject, streams.COMMANDS, ("receive", "send"), (_Body(messages.Command),)),
    _subject(schedules.schedule_subject, schedules.STREAM, ("send",), (_Body(schedules.Due),)),
    _subject(schedules.due_subject, schedules.STREAM, ("receive",), (_Body(schedules.Due),)),
    _subject(subjects.dead, streams.DEAD, ("send",), (_Body(messages.DeadLetter),)),
)


def _record_channels() -> Iterator[_Channel]:
    """A channel for every record of a bucket; where it is kept is the first line of its docstring."""
    for cls in _bodies():
        found = _RECORD.match(_summary(cls))
        if found:
            address = re.sub(r"<(\w+)>", r"{\1}", f"$KV.{found['bucket']}.{found['key']}")
            name = cls.__name__[0].lower() + cls.__name__[1:]
            yield _Channel(
                name,
                address,
                f"KV_{found['bucket']}",
                ("receive", "send"),
                (_Body(cls, "RecordHeaders"),),
                _summary(cls),
            )


def _commands(service: ModuleType) -> Json:
    """What a service does, by name: the command's arguments and its answer."""
    return {
        name: {
            "args": {"$ref": f"#/$defs/{service.ARGUMENTS[name].__name__}"},
            "answer": msgspec.json.schema_components(
                [_without_raw_defaults(answer, {})], ref_template="#/$defs/{name}"
            )[0][0],
        }
        for name, answer in service.ANSWERS.items()
    }


def _operations(channels: list[_Channel]) -> Iterator[tuple[str, Json]]:
    """`sendEvent`, `receiveInbox`, …; and a call with its reply."""
    for channel in channels:
        at = f"#/channels/{channel.name}"
        for action in channel.actions:
            yield (
                f"{action}{channel.name[0].upper()}{channel.name[1:]}",
                {
                    "action": action,
                    "channel": {"$ref": at},
                    "messages": [
                        {"$ref": f"#/channels/{channel.name}/messages/{body.name}"} for body in channel.bodies
                    ],
                },
            )
    yield (
        "answerCall",
        {
            "action": "receive",
            "summary": "A call of a client that is not a process; its `reply` says where the answer goes.",
            "channel": {"$ref": "#/channels/inbox"},
            "messages": [{"$ref": "#/channels/inbox/messages/Call"}],
            "reply": {
                "channel": {"$ref": "#/channels/reply"},
                "messages": [{"$ref": "#/channels/reply/messages/Reply"}],
            },
        },
    )


def _stream_specs() -> Iterator[streams.StreamSpec]:
    yield _named_app(streams.inbox_spec("__app__"))
    yield from streams.STREAMS
    yield from (bucket.stream() for bucket in streams.BUCKETS)
    yield streams.VALUES_STREAM


def _named_app(spec: streams.StreamSpec) -> streams.StreamSpec:
    fill = partial(re.sub, "__app__", "{app}")
    return streams.StreamSpec(
        fill(spec.name), tuple(map(fill, spec.subjects)), spec.max_age, spec.duplicate_window, spec.fields
    )


def _draft7(value: Any) -> Any:
    """Schemas as AsyncAPI takes them: draft 7, where a fixed beginning of an array is `items`."""
    if isinstance(value, list):
        return [_draft7(item) for item in value]
    if not isinstance(value, dict):
        return value
    renamed = {"items" if name == "prefixItems" else name: _draft7(item) for name, item in value.items()}
    if isinstance(renamed.get("$ref"), str):
        renamed["$ref"] = renamed["$ref"].replace("#/$defs/", "#/components/schemas/")
    return renamed
