"""A recorded history as it is kept here, and the outputs of its fold."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
from msgspec import Raw, Struct
from recorded_programs import PROGRAMS
from regrow import __version__
from regrow.operations import Env
from regrow.process import Process
from regrow_protocol import messages as m
from regrow_protocol.endpoints import registry_subject

HERE = Path(__file__).parent
BUILD = "test"


class Input(Struct, frozen=True):
    """An inbox message: its sequence, recorded time (seconds since 1970) and JSON."""

    seq: int
    time: float
    message: Raw


class Output(Struct, frozen=True):
    """What was sent in the turn of input `seq`: its number `n`, where to, and the SHA-256 of its JSON (32 digits)."""

    seq: int
    n: int
    to: str
    target: str
    kind: str
    digest: str


class Recorded(Struct, frozen=True):
    """One process."""

    inputs: list[Input]
    outputs: list[Output]


class History(Struct, frozen=True):
    """One run: every process of its tree by pid."""

    program: str
    version: str
    processes: dict[str, Recorded]


def fold(pid: str, inputs: list[Input]) -> tuple[Process, list[Output]]:
    """Fold a recorded inbox."""
    env = Env("app", BUILD, 16, {type_.name: type_ for type_ in _types()})
    process = Process(env, pid)
    process.replaying = True
    outputs: list[Output] = []
    for given in inputs:
        process.apply(m.decode_input(bytes(given.message)), given.seq, given.time)
        for sent in process.take_outputs():
            if sent.target == registry_subject("app"):
                continue  # what it tells of its endpoints follows from docstrings: no replay depends on it
            body = m.encode(_compared(sent.message))
            kind = getattr(sent.message, "type", "") if sent.to == "event" else type(sent.message).__name__.lower()
            digest = hashlib.sha256(body).hexdigest()[:32]
            outputs.append(Output(given.seq, sent.n, sent.to, sent.target, kind, digest))
        process.new_local.clear()
        process.dropped_local.clear()
    return process, outputs


def _compared(message: Struct) -> Struct:
    """What of a message a replay must make again: descriptions of tools are no part of it."""
    if isinstance(message, m.Command) and message.name in ("enrol", "tools"):
        return msgspec.structs.replace(message, args=Raw(b"{}"))
    return message


def _types() -> list:  # type: ignore[type-arg]
    import recorded_programs
    from regrow import ProcessType

    assert PROGRAMS
    return [value for value in vars(recorded_programs).values() if isinstance(value, ProcessType)]


def save(name: str, processes: dict[str, list[Input]]) -> None:
    """Write a history with the outputs that it has today."""
    recorded = {pid: Recorded(inputs, fold(pid, inputs)[1]) for pid, inputs in processes.items()}
    data = msgspec.json.encode(History(name, __version__, recorded))
    (HERE / f"{name}.json").write_bytes(msgspec.json.format(data, indent=1) + b"\n")


def load(name: str) -> History:
    """Read it."""
    return msgspec.json.decode((HERE / f"{name}.json").read_bytes(), type=History)
