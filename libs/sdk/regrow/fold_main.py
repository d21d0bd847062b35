"""`python -m regrow.fold_main HISTORY TARGET`: fold an exported history with a program, in an interpreter like a
host's.

The answer is one line of JSON on `--answer-fd`: `Answer`. What the body prints is dropped, as hosts do when they
replay. With `--pdb` the debugger stops in the body: where it does something else than recorded, else in the turn of
`--stop-at`, else at its first line.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import pdb
import sys
import sysconfig
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
from msgspec import Raw, Struct
from regrow_protocol.errors import RegrowError
from regrow_protocol.messages import Op

from . import history as histories
from .folding import Folding, fold
from .host.main import HASH_SEED
from .operations import Env
from .process import Process
from .program import LoadedProgram, load

_MACHINERY = (str(Path(__file__).parent), sysconfig.get_path("stdlib"), "<")
"""Where files begin that no body is in: the SDK, the standard library, what has no file."""


class Answer(Struct, omit_defaults=True):
    """What the program says: a fold, or why there is none.

    Attributes:
        build: of the program.
        folding: what the fold came to.
        code, message, hint: of the error.
    """

    build: str = ""
    folding: Folding | None = None
    code: str = ""
    message: str = ""
    hint: str = ""


def main(argv: list[str] | None = None) -> int:
    """Fold; the exit code is 0 whenever there is an answer."""
    if os.environ.get("PYTHONHASHSEED") != HASH_SEED:
        os.environ["PYTHONHASHSEED"] = HASH_SEED
        os.execv(sys.executable, [sys.executable, "-m", "regrow.fold_main", *(sys.argv[1:] if argv is None else argv)])  # noqa: S606
    parser = argparse.ArgumentParser(prog="python -m regrow.fold_main", description="Fold a history with a program.")
    parser.add_argument("history", type=Path)
    parser.add_argument("target", help="a Python file, or the name of a module")
    parser.add_argument("--until", type=int, default=None, help="sequence of the last input to apply")
    parser.add_argument("--build", default="", help="only fold if the program has this build")
    parser.add_argument("--pdb", action="store_true", help="stop in the body")
    parser.add_argument(
        "--stop-at", type=int, default=None, help="with --pdb: sequence of the input in whose turn to stop"
    )
    parser.add_argument("--answer-fd", type=int, default=1)
    options = parser.parse_args(argv)
    with os.fdopen(options.answer_fd, "wb") as answer:
        os.set_inheritable(options.answer_fd, False)
        answer.write(msgspec.json.encode(_answer(options)) + b"\n")
    return 0


def _answer(options: argparse.Namespace) -> Answer:
    try:
        history = histories.decode(options.history.read_bytes())
        with contextlib.nullcontext() if options.pdb else _muted():
            program = load(options.target)
            if options.build and options.build != program.build:
                return Answer(program.build)
            folding = _fold(history, program, options.until)
        if options.pdb:
            _debug(history, program, options, folding)
    except RegrowError as error:
        return Answer(code=error.code, message=error.message, hint=error.hint)
    return Answer(program.build, folding)


def _fold(history: histories.History, program: LoadedProgram, until: int | None, **options: Any) -> Folding:
    with _muted():
        return fold(
            history.pid, history.inputs, program.types, app=history.app, partitions=history.partitions, until=until,
            **options,
        )  # fmt: skip


@contextlib.contextmanager
def _muted() -> Generator[None]:
    """Nothing that the program prints or logs is seen."""
    disabled = logging.root.manager.disable
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):  # noqa: PTH123
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)


# The debugger ---------------------------------------------------------------------------------------------------------


def in_a_body(frame: FrameType) -> bool:
    """Whether this is the program's own code, or a library's that it uses."""
    file = frame.f_code.co_filename
    return "site-packages" in file or not file.startswith(_MACHINERY)


class BodyDebugger(pdb.Pdb):
    """Steps through bodies only; `q` ends the program."""

    def __init__(self) -> None:
        super().__init__(nosigint=True)
        self.prompt = "(regrow) "

    def stop_here(self, frame: FrameType) -> bool:
        """Whether to stop in this frame: never in what runs the body."""
        return in_a_body(frame) and super().stop_here(frame)

    def user_call(self, frame: FrameType, argument_list: None) -> None:
        """A function begins or a coroutine goes on: its first line is the place to stop at."""

    def stop_soon(self) -> None:
        """Stop at the next line of a body."""
        self.set_trace(sys._getframe(1))

    def stop_here_now(self, frame: FrameType) -> None:
        """Stop at the line that `frame` is at."""
        self.reset()
        caller: FrameType | None = frame
        while caller is not None:
            caller.f_trace = self.trace_dispatch
            self.botframe = caller
            caller = caller.f_back
        self.set_step()
        sys.settrace(self.trace_dispatch)
        self.interaction(frame, None)

    def do_quit(self, arg: str) -> bool | None:
        """End the replay."""
        del arg
        sys.settrace(None)
        self.stdout.flush()
        os._exit(0)

    do_q = do_exit = do_EOF = do_quit  # noqa: N815 - pdb's own names


class _Watched(Process):
    """Stops before operation `stop_before`."""

    stop_before = 0
    debugger: BodyDebugger

    def operation(self, kind: str, name: str, args: bytes | Raw = b"") -> Op:
        if self.n + 1 == self.stop_before and not self.gone:
            frame: FrameType | None = sys._getframe(1)
            while frame is not None and not in_a_body(frame):
                frame = frame.f_back
            if frame is not None:
                self.debugger.stop_here_now(frame)
        return super().operation(kind, name, args)


def _debug(history: histories.History, program: LoadedProgram, options: argparse.Namespace, folding: Folding) -> None:
    """Fold once more, stopping."""
    debugger = BodyDebugger()
    if folding.diverged and options.stop_at is None:
        print(f"*** {folding.diverged}", file=debugger.stdout)

        def watched(env: Env, pid: str) -> Process:
            process = _Watched(env, pid, trace=True)
            process.stop_before, process.debugger = folding.operation, debugger
            return process

        _plain_fold(history, program, options.until, make=watched)
        return
    stop_at = options.stop_at if options.stop_at is not None else history.inputs[0].seq

    def before_turn(seq: int) -> None:
        if seq == stop_at:
            debugger.stop_soon()

    _plain_fold(history, program, options.until, before_turn=before_turn)
    sys.settrace(None)


def _plain_fold(history: histories.History, program: LoadedProgram, until: int | None, **options: Any) -> None:
    fold(
        history.pid,
        history.inputs,
        program.types,
        app=history.app,
        partitions=history.partitions,
        until=until,
        **options,
    )


if __name__ == "__main__":
    sys.exit(main())
