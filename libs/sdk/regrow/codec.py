"""Values to JSON and back, by annotations.

What may travel: JSON types, dataclasses, msgspec Structs, TypedDicts, enums, datetimes, UUIDs, bytes (base64), sets and tuples
(as arrays), process handles. A value is rebuilt by the annotation of the parameter or result it goes to; without an
annotation it arrives as plain JSON. Anything else is `NotSendable` at the call. NaN and infinities are JSON's null.
"""

from __future__ import annotations

import inspect
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

NULL = Raw(b"null")


class Reference:
    """Base of what travels as a reference to a process: `{"$process": pid}`."""

    __slots__ = ("pid",)

    def __init__(self, pid: str) -> None:
        self.pid = pid


def _enc_hook(value: Any) -> Any:
    if isinstance(value, Reference):
        return {"$process": value.pid}
    if isinstance(value, PurePath):
        return str(value)
    msg = f"objects of type {type(value).__module__}.{type(value).__qualname__} cannot be sent"
    raise NotImplementedError(msg)


def _digest_hook(value: Any) -> Any:
    try:
        return _enc_hook(value)
    except NotImplementedError:
        return f"<{type(value).__module__}.{type(value).__qualname__}>"


def _dec_hook(type_: type, value: Any) -> Any:
    if isinstance(type_, type) and issubclass(type_, Reference) and isinstance(value, dict) and "$process" in value:
        return type_(value["$process"])
    if isinstance(type_, type) and issubclass(type_, PurePath):
        return type_(value)
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
        raise NotSendable(
            f"{what} cannot be sent: {error or type(error).__name__}",
            hint="use JSON types, dataclasses, msgspec Structs, TypedDicts, datetimes or bytes",
        ) from error
    if len(data) > MAX_VALUE:
        raise ValueTooLarge(
            f"{what} is too large: {len(data):,} bytes; at most {MAX_VALUE:,} can be sent",
            hint="write it to a file or an object store in a step, and send its name",
        )
    return Raw(data)


def digest_bytes(value: Any) -> bytes:
    """The bytes that a step's argument digest is made of; what cannot be encoded counts by its type."""
    try:
        return _digest_encoder.encode(value)
    except (TypeError, OverflowError, ValueError, RecursionError):
        return repr(type(value)).encode()


@lru_cache(maxsize=1024)
def _decoder(type_: Any) -> msgspec.json.Decoder[Any]:
    try:
        return msgspec.json.Decoder(type_, dec_hook=_dec_hook, strict=False)
    except TypeError:  # an annotation msgspec has no rule for: plain JSON
        return msgspec.json.Decoder(dec_hook=_dec_hook)


def from_raw(raw: bytes | Raw, type_: Any = Any) -> Any:
    """Decode JSON to `type_`; raises msgspec.ValidationError when it does not fit."""
    try:
        decoder = _decoder(type_)
    except TypeError:  # unhashable annotation
        decoder = msgspec.json.Decoder(type_, dec_hook=_dec_hook, strict=False)
    return decoder.decode(raw)


class Signature:
    """A function's parameters and result as they travel: bind at the caller, rebuild at the callee."""

    def __init__(self, function: Callable[..., Any], what: str) -> None:
        self.what = what
        self._signature = inspect.signature(function)
        try:
            hints = typing.get_type_hints(function)
        except (NameError, TypeError, AttributeError):  # names only known to type checkers
            hints = {}
        self.result: Any = hints.get("return", Any)
        self._hints = hints
        self._kinds = {name: p.kind for name, p in self._signature.parameters.items()}
        self._simple = all(
            kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
            for kind in self._kinds.values()
        )
        parameters = self._signature.parameters.values()
        self._needed = {p.name for p in parameters if p.default is inspect.Parameter.empty}
        self._positional = [p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        self._required = sum(p.default is inspect.Parameter.empty for p in parameters)

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Raw:
        """Arguments as one JSON object by parameter name; raises InvalidArguments or NotSendable."""
        if self._simple and not kwargs and self._required <= len(args) <= len(self._positional):
            return to_raw(dict(zip(self._positional, args, strict=False)), f"An argument of {self.what}")
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidArguments(f"{self.what}: {error}", hint=f"its signature is {self._signature}") from error
        return to_raw(bound.arguments, f"An argument of {self.what}")

    def decode(self, raw: bytes | Raw) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments from what `encode`, or any client, sent; raises InvalidArguments."""
        try:
            given: dict[str, Any] = msgspec.json.decode(raw, type=dict[str, Raw])
        except msgspec.MsgspecError as error:
            raise InvalidArguments(f"{self.what}: arguments must be a JSON object: {error}") from error
        values: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        for name, value in given.items():
            kind = self._kinds.get(name)
            if kind is None:
                extra[name] = from_raw(value)
                continue
            hint = self._hints.get(name, Any)
            if kind is inspect.Parameter.VAR_POSITIONAL:
                hint = list[hint]
            elif kind is inspect.Parameter.VAR_KEYWORD:
                hint = dict[str, hint]
            try:
                values[name] = from_raw(value, hint)
            except (msgspec.MsgspecError, NotImplementedError) as error:
                raise InvalidArguments(f"{self.what}: argument {name!r}: {error}") from error
        return self._bind(values, extra)

    def _bind(self, values: dict[str, Any], extra: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        args: list[Any] = []
        if self._simple:
            if not extra and self._needed <= values.keys():
                return args, values
            kwargs = values | extra
        else:
            kwargs = dict(extra)
            for name, kind in self._kinds.items():
                if name not in values:
                    continue
                if kind is inspect.Parameter.VAR_POSITIONAL:
                    args.extend(values[name])
                elif kind is inspect.Parameter.VAR_KEYWORD:
                    kwargs.update(values[name])
                elif kind is inspect.Parameter.KEYWORD_ONLY:
                    kwargs[name] = values[name]
                else:
                    args.append(values[name])
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidArguments(f"{self.what}: {error}", hint=f"its signature is {self._signature}") from error
        return args, kwargs


@lru_cache(maxsize=4096)
def signature_of(function: Callable[..., Any], what: str) -> Signature:
    """The cached Signature of a module-level function."""
    return Signature(function, what)


@lru_cache(maxsize=4096)
def result_type(function: Callable[..., Any]) -> Any:
    """The return annotation of `function`, or Any."""
    try:
        return typing.get_type_hints(function).get("return", Any)
    except (NameError, TypeError, AttributeError):
        return Any
