"""Processes that each own a machine with commands on it."""

from __future__ import annotations

import asyncio
from typing import Any

from regrow import LocalImage, SSHImage, agent_process, emit, machine
from regrow.machines import ExecStream


async def collect(stream: ExecStream) -> tuple[int, dict[str, list[str]]]:
    """A command's exit code, and its lines by channel."""
    lines: dict[str, list[str]] = {"stdout": [], "stderr": []}
    async for line in stream:
        lines[line.channel].append(str(line))
    return (await stream.result()).exit_code, lines


@agent_process
async def commander(ssh: dict[str, Any] | None, commands: list[str], streamed: list[str]) -> dict[str, Any]:
    """Runs commands at once on a machine of its own, some of them streamed: exit codes and outputs."""
    box = await machine(SSHImage(**ssh) if ssh else LocalImage(), wait=60)
    emit("ready", box.id)
    streams = [collect(box.exec_stream(command)) for command in streamed]
    done = await asyncio.gather(*(box.exec(command) for command in commands))
    return {
        "done": [[result.exit_code, result.stdout, result.stderr, result.duration] for result in done],
        "streamed": await asyncio.gather(*streams),
    }
