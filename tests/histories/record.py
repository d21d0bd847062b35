"""Record the histories of this folder on a real server: `python tests/histories/record.py NAME…`.

Those of `staged.py` need services, whose answers differ from machine to machine, and are staged without a server. A
history that is there is never recorded again: it stands for all processes that run with an older version.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from folded import HERE, Input, save
from msgspec import Raw
from recorded_programs import PROGRAMS
from regrow import ExecutionFailed, testing
from regrow_protocol import subjects
from staged import STAGED


async def record(name: str) -> None:
    """Run a program once and keep the inboxes of its tree."""
    type_, args, drive = PROGRAMS[name]
    if name in STAGED:
        inboxes = STAGED[name](type_, args)
        save(name, inboxes)
        sys.stdout.write(f"{name}: {len(inboxes)} processes, {sum(map(len, inboxes.values()))} inputs, staged\n")
        return
    async with testing.runtime(force_replay=False) as rt:
        process = await rt.start(type_, *args)
        if drive is not None:
            await drive(process)
        try:
            outcome = repr(await process.result(60))
        except ExecutionFailed as error:
            outcome = repr(error)
        inboxes: dict[str, list[Input]] = {}
        for part in range(rt.host.env.partitions):
            for received in await rt.bus.history(rt.host.inbox_stream, subjects.inbox_partition(rt.app, part), 1):
                given = Input(received.seq, received.time, Raw(received.data))
                inboxes.setdefault(subjects.pid_of(received.subject), []).append(given)
        save(name, inboxes)
    sys.stdout.write(f"{name}: {len(inboxes)} processes, {sum(map(len, inboxes.values()))} inputs: {outcome}\n")


async def main(names: list[str]) -> None:
    """Record what is named, or all that is missing."""
    for name in names or PROGRAMS:
        if (HERE / f"{name}.json").exists():
            sys.stdout.write(f"{name}: is there\n")
            continue
        await record(name)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
