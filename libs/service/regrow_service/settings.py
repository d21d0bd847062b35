"""Settings come from the environment, and each is declared once: its name, type, bounds, default and meaning.

A settings class is a frozen `msgspec.Struct`; the field `nats_url` is read from `REGROW_NATS_URL`. What the field's
`Meta` says is what validates the value and what the reference prints (`table`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct
from regrow_protocol.errors import RegrowError

PREFIX = "REGROW_"
_ANY_CASE = ("log_format", "log_level")


class InvalidSetting(RegrowError):
    """A value in the environment that is not what the setting takes."""

    code = "invalid-setting"


class ServiceSettings(Struct, frozen=True, kw_only=True):
    """What every service takes."""

    nats_url: Annotated[str, Meta(description="The NATS server, or several separated by commas.")] = (
        "nats://127.0.0.1:4222"
    )
    health_host: Annotated[str, Meta(description="Address that the health server binds to.")] = "127.0.0.1"
    health_port: Annotated[
        int, Meta(ge=0, le=65535, description="Its port; 0: the system chooses one, and the log names it.")
    ] = 0
    log_format: Annotated[
        str, Meta(pattern="^(auto|json|console)$", description="`json`, `console`, or `auto`: console on a terminal.")
    ] = "auto"
    log_level: Annotated[
        str, Meta(pattern="^(debug|info|warning|error)$", description="The least level that is written.")
    ] = "info"
    stop_deadline: Annotated[
        float, Meta(ge=0, description="Seconds from SIGTERM in which what is in hand may finish.")
    ] = 10.0


S = TypeVar("S", bound=ServiceSettings)


def read(type_: type[S], environ: Mapping[str, str] | None = None) -> S:
    """The settings of `type_` from the environment; an empty variable counts as not set.

    Raises:
        InvalidSetting: a value does not fit; the message names the variable.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(type_):
        name = PREFIX + field.name.upper()
        if not (text := environ.get(name, "")):
            continue
        try:
            values[field.name] = msgspec.convert(
                text.lower() if field.name in _ANY_CASE else text, field.type, strict=False
            )
        except msgspec.ValidationError as error:
            raise InvalidSetting(f"{name}={text!r} cannot be used: {error}", hint=_meaning(field.type)) from error
    return type_(**values)


def table(type_: type[ServiceSettings]) -> list[tuple[str, str, str]]:
    """(variable, default, meaning) of every setting, for the reference."""
    return [
        (PREFIX + field.name.upper(), str(field.default), _meaning(field.type))
        for field in msgspec.structs.fields(type_)
    ]


def _meaning(annotation: object) -> str:
    metadata: tuple[object, ...] = getattr(annotation, "__metadata__", ())
    return next((m.description or "" for m in metadata if isinstance(m, Meta)), "")
