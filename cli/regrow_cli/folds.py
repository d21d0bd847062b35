"""Folding a history in a process of its own (`regrow.fold_main`): with the hosts' hash seed, free to hang and crash."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from pathlib import Path

import msgspec
from regrow import history as histories
from regrow.fold_main import Answer
from regrow.host.main import HASH_SEED

from .errors import Reported, TimeUp
from .programs import folder_of


async def fold_elsewhere(
    history: histories.History,
    target: str,
    *,
    until: int | None = None,
    build: str = "",
    timeout: float | None = None,
) -> Answer:
    """Fold a history with a program.

    Args:
        history: of the process.
        target: the program.
        until: sequence of the last input to apply.
        build: fold only if the program has this build; the answer has no folding otherwise.
        timeout: seconds; then TimeUp.

    Raises:
        Reported: the program cannot be loaded, or has no such process.
        TimeUp: it took too long: its body hangs, perhaps.
    """
    options = [f"--until={until}"] if until is not None else []
    options += [f"--build={build}"] if build else []
    answer = await _run(history, target, options, asyncio.subprocess.DEVNULL, timeout)
    if answer is None:
        raise Reported("The fold ended without an answer", code="fold-failed", hint=f"run it by hand: python {target}")
    if answer.code:
        raise Reported(answer.message, code=answer.code, hint=answer.hint)
    return answer


async def debug(history: histories.History, target: str, *, until: int | None = None) -> None:
    """Fold a history under the debugger, on this terminal.

    Raises:
        Reported: the program cannot be loaded, or has no such process.
    """
    options = ["--pdb", *([f"--until={until}", f"--stop-at={until}"] if until is not None else [])]
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # Ctrl-C is the debugger's
    try:
        answer = await _run(history, target, options, None, None)
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    if answer is not None and answer.code:
        raise Reported(answer.message, code=answer.code, hint=answer.hint)


async def _run(
    history: histories.History, target: str, options: list[str], streams: int | None, timeout: float | None
) -> Answer | None:
    """Run the folding program; None when it ended without an answer."""
    cwd = folder_of(history.program) if history.program is not None else None
    with tempfile.TemporaryDirectory(prefix="regrow-fold-") as folder:
        file = Path(folder, "history.json")
        await asyncio.to_thread(file.write_bytes, msgspec.json.encode(history))
        told, tell = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "regrow.fold_main", str(file), target, f"--answer-fd={tell}", *options,
                stdin=streams, stdout=streams, stderr=streams, pass_fds=(tell,), cwd=cwd,
                env={**os.environ, "PYTHONHASHSEED": HASH_SEED},
            )  # fmt: skip
        finally:
            os.close(tell)
        try:
            async with asyncio.timeout(timeout):
                line = await asyncio.to_thread(_read_all, told)
                await process.wait()
        except TimeoutError:
            raise TimeUp(f"Folding {history.pid} took more than {timeout:g} s") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()  # which also ends the reading thread: the pipe's other end is closed
                await process.wait()
    return msgspec.json.decode(line, type=Answer) if line else None


def _read_all(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        return file.read()
