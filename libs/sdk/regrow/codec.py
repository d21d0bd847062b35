"""Values to JSON and back, by annotations.

What may travel: JSON types, dataclasses, msgspec Structs, TypedDicts, enums, datetimes, UUIDs, bytes (base64), sets and
tuples (as arrays), paths, process handles. A value is rebuilt by the annotation of the parameter or result it goes to;
a text where a number, a boolean or a time is asked for is read as one (`k=v` of the command line). Without an
annotation, or with one that cannot be told apart in JSON (a union of dataclasses, or of Structs without tags), it
arrives as plain JSON. Handles arrive as handles in any case.

Anything else is `NotSendable` at the call. So are NaN and the infinities: JSON has no word for them, and null is
another value. Integers of any size travel exactly, though readers in other languages may round those beyond 2**53.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
import math
import types
import typing
from collections.abc import Callable
from functools import lru_cache
from pathlib import PurePath
from typing import Any

import msgspec
from msgspec import Raw
from regrow_protocol.errors import ValueTooLarge
from regrow_protocol.messages import MAX_VALUE

from .errors import InvalidArguments, NotSendable

log = logging.getLogger("regrow.codec")

NULL = Raw(b"null")
_MARK = b'"$process"'
_BLOB = b'{"$blob":'


class Reference:
    """Base of what travels as a reference to a process: `{"$process": pid}`."""

    __slots__ = ("pid",)

    def __init__(self, pid: str) -> None:
        self.pid = pid


_handle_class: type[Reference] = Reference


def handles_are(cls: type[Reference]) -> None:
    """What a reference becomes where no annotation says: the class of handles, whose module needs this one."""
    global _handle_class
    _handle_class = cls


def _enc_hook(value: Any) -> Any:
    if isinstance(value, Reference):
        return {"$process": value.pid}
    if isinstance(value, PurePath):
        return str(value)
    msg = f"an object of type {type(value).__module__}.{type(value).__qualname__} is none of what may travel"
    raise NotImplementedError(msg)


def _builtins_hook(value: Any) -> Any:
    return "" if isinstance(value, Raw) else _enc_hook(value)  # what is JSON already has no such number in it


def _digest_hook(value: Any) -> Any:
    try:
        return _enc_hook(value)
    except NotImplementedError:
        return f"<{type(value).__module__}.{type(value).__qualname__}>"


def _dec_hook(type_: type, value: Any) -> Any:
    if isinstance(type_, type) and issubclass(type_, Reference) and isinstance(value, dict) and "$process" in value:
        return type_(value["$process"])
    if isinstance(type_, type) and issubclass(type_, PurePath) and isinstance(value, str):
        return type_(value)
    if type_ is object:
        return value
    msg = f"{type_} cannot be received"
    raise NotImplementedError(msg)


_encoder = msgspec.json.Encoder(enc_hook=_enc_hook)
_digest_encoder = msgspec.json.Encoder(enc_hook=_digest_hook)


def to_raw(value: Any, what: str = "The value") -> Raw:
    """Encode `value`; raises NotSendable or ValueTooLarge naming `what`."""
    if value is None:
        return NULL
    try:
        data = _encoder.encode(value)
    except (NotImplementedError, TypeError, OverflowError, ValueError, RecursionError) as error:
        raise _not_sendable(what, str(error) or type(error).__name__) from error
    if b"null" in data and _not_finite(msgspec.to_builtins(value, enc_hook=_builtins_hook)):
        raise _not_sendable(what, "JSON has no word for NaN and infinity")
    if data.startswith(_BLOB):
        raise _not_sendable(what, 'an object whose first key is "$blob" would be taken for a reference')
    if len(data) > MAX_VALUE:
        raise ValueTooLarge(
            f"{what} is too large: {len(data):,} bytes; at most {MAX_VALUE:,} can be sent",
            hint="write it to a file or an object store in a step, and send its name",
        )
    return Raw(data)


def _not_sendable(what: str, why: str) -> NotSendable:
    return NotSendable(
        f"{what} cannot be sent: {why}",
        hint="use JSON types, dataclasses, msgspec Structs, TypedDicts, datetimes or bytes",
    )


def _not_finite(value: Any) -> bool:
    """Whether NaN or an infinity is among builtin values."""
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(_not_finite(v) for v in value.values())
    return isinstance(value, list | tuple | set) and any(_not_finite(v) for v in value)


def digest_bytes(value: Any) -> bytes:
    """The bytes that a step's argument digest is made of; what cannot be encoded counts by its type."""
    try:
        return _digest_encoder.encode(value)
    except (TypeError, OverflowError, ValueError, RecursionError):
        return repr(type(value)).encode()


class _Decoder:
    """By one annotation: as it is written, or else with texts read as what is asked for."""

    __slots__ = ("_lax", "_strict")

    def __init__(self, type_: Any) -> None:
        try:
            self._strict = msgspec.json.Decoder(type_, dec_hook=_dec_hook)
        except TypeError:
            _warn_of(type_)
            type_ = Any
            self._strict = msgspec.json.Decoder(dec_hook=_dec_hook)
        self._lax = msgspec.json.Decoder(type_, dec_hook=_dec_hook, strict=False)

    def decode(self, raw: bytes | Raw) -> Any:
        """Raises msgspec.ValidationError when it does not fit."""
        try:
            return self._strict.decode(raw)
        except msgspec.ValidationError:
            return self._lax.decode(raw)


def _warn_of(type_: Any) -> None:
    """Say that values come as plain JSON where the program expects an object."""
    if isinstance(type_, types.UnionType) or typing.get_origin(type_) is typing.Union:
        members = typing.get_args(type_)
        if any(dataclasses.is_dataclass(t) or (isinstance(t, type) and issubclass(t, msgspec.Struct)) for t in members):
            text = (
                "values annotated %s cannot be told apart in JSON and arrive as plain JSON; Structs with tag=True can"
            )
            log.warning(text, type_)


_decoder = lru_cache(maxsize=1024)(_Decoder)
_plain = _Decoder(Any)


def from_raw(raw: bytes | Raw, type_: Any = Any) -> Any:
    """Decode JSON to `type_`; raises msgspec.MsgspecError or NotImplementedError when it does not fit."""
    if type_ is Any:
        value = _plain.decode(raw)
    else:
        try:
            decoder = _decoder(type_)
        except TypeError:  # unhashable annotation
            decoder = _Decoder(type_)
        value = decoder.decode(raw)
    return _with_handles(value) if _MARK in bytes(raw) else value


def _with_handles(value: Any) -> Any:
    if isinstance(value, dict):
        if len(value) == 1 and isinstance(pid := value.get("$process"), str):
            return _handle_class(pid)
        return {k: _with_handles(v) for k, v in value.items()}
    return [_with_handles(v) for v in value] if type(value) is list else value


def _hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations by name, without those that cannot be read here (names that only type checkers import)."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception:  # noqa: BLE001 - an annotation is an expression, which may raise anything
        written = getattr(function, "__annotations__", {})
    found: dict[str, Any] = {}
    for name, annotation in written.items():
        stand_in = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            found |= typing.get_type_hints(stand_in, getattr(function, "__globals__", {}), include_extras=True)
        except Exception as error:  # noqa: BLE001 - as above
            log.debug("the annotation of %s of %r cannot be read: %r", name, function, error)
    return found


class Signature:
    """A function's parameters and result as they travel: bind at the caller, rebuild at the callee."""

    def __init__(self, function: Callable[..., Any], what: str) -> None:
        self.what = what
        self._signature = inspect.signature(function)
        self._hints = _hints_of(function)
        self.result: Any = self._hints.get("return", Any)
        parameters = self._signature.parameters.values()
        self._kinds = {p.name: p.kind for p in parameters}
        self._simple = all(p.kind in (_NAMED, _KEYWORD) for p in parameters)
        self._rest = next((p.name for p in parameters if p.kind is _KEYWORDS), None)
        self._needed = {p.name for p in parameters if p.default is _EMPTY}
        self._positional = [p.name for p in parameters if p.kind is _NAMED]
        # How many positional arguments alone make a call.
        plain = self._simple and not any(p.kind is _KEYWORD and p.default is _EMPTY for p in parameters)
        self._enough = len(self._needed) if plain else len(self._positional) + 1

    @property
    def parameters(self) -> list[tuple[inspect.Parameter, Any]]:
        """In their order, with their annotations; Any where there is none."""
        return [(p, self._hints.get(p.name, Any)) for p in self._signature.parameters.values()]

    def takes(self, name: str) -> bool:
        """Whether a keyword `name` can be given."""
        return name in self._kinds or self._rest is not None

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Raw:
        """Arguments as one JSON object by parameter name; raises InvalidArguments or NotSendable."""
        what = f"An argument of {self.what}"
        if not kwargs and self._enough <= len(args) <= len(self._positional):
            return to_raw(dict(zip(self._positional, args, strict=False)), what)
        try:
            given = self._signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise self._mismatch(error) from error
        extra = given.pop(self._rest, {}) if self._rest is not None else {}
        if clash := (extra.keys() & self._kinds.keys()) - {self._rest}:
            raise self._mismatch(f"the keyword {min(clash)!r} is the name of another parameter")
        return to_raw(given | extra, what)

    def _mismatch(self, error: object) -> InvalidArguments:
        return InvalidArguments(f"{self.what}: {error}", hint=f"its signature is {self._signature}")

    def decode(self, raw: bytes | Raw) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments from what `encode`, or any client, sent; raises InvalidArguments."""
        try:
            given: dict[str, Any] = msgspec.json.decode(raw, type=dict[str, Raw])
        except msgspec.MsgspecError as error:
            raise InvalidArguments(f"{self.what}: arguments must be a JSON object: {error}") from error
        values: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        for name, value in given.items():
            kind = self._kinds.get(name, _KEYWORDS)
            hint = self._hints.get(self._rest or "" if kind is _KEYWORDS else name, Any)
            try:
                (extra if kind is _KEYWORDS else values)[name] = from_raw(value, list[hint] if kind is _REST else hint)
            except (msgspec.MsgspecError, NotImplementedError) as error:
                raise InvalidArguments(f"{self.what}: argument {name!r}: {error}") from error
        return self._bind(values, extra)

    def _bind(self, values: dict[str, Any], extra: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        args: list[Any] = []
        if self._simple and not extra and self._needed <= values.keys():
            return args, values
        kwargs = dict(extra)
        defaults: list[Any] = []  # of positional parameters that were not given, should a later one be
        for name, parameter in self._signature.parameters.items():
            if parameter.kind is _KEYWORD and name in values:
                kwargs[name] = values[name]
            elif parameter.kind in (_KEYWORD, _KEYWORDS):
                continue
            elif name not in values:
                if parameter.kind is not _REST:
                    defaults.append(parameter.default)
            elif given := values[name] if parameter.kind is _REST else [values[name]]:
                if _EMPTY in defaults:
                    break
                args += [*defaults, *given]
                defaults.clear()
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise self._mismatch(error) from error
        return args, kwargs


_NAMED, _KEYWORD = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
_REST, _KEYWORDS = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
_EMPTY = inspect.Parameter.empty


@lru_cache(maxsize=4096)
def result_type(function: Callable[..., Any]) -> Any:
    """The return annotation of `function`, or Any."""
    return _hints_of(function).get("return", Any)
