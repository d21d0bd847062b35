"""`make bench`: measure what Regrow does per second, and what it costs, under both durability settings.

    python benchmarks/run.py [--quick] [--only NAME …] [--durability safe|fast] [--patience SECONDS] [--json FILE]

It starts its own NATS servers, supervisors and hosts in temporary folders and ends them. The table goes to stdout; all
rounds go to `benchmarks/results/` as JSON. Every figure has a ratio to the raw publishes of the same run: rates to
pipelined publishes, latencies to one publish alone, sizes to one message; commands on machines to the bare call of
their library, tool calls of agents to a bare server of the same library. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import agents
import machines
import memory
import raw
import replay
import scaling
import takeover
import uvloop
import work
from figures import Base, Figure, as_json, relate, table
from harness import running, temporary_folder
from meter import Patience
from regrow_protocol.server import Durability, find_binary

NAMES = ("calls", "steps", "children", "replay", "memory", "machines", "agents", "scaling", "takeover")
RESULTS = Path(__file__).with_name("results")


def main() -> int:
    """Run what the arguments ask for; 1 when a target was missed."""
    parser = argparse.ArgumentParser(prog="make bench", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="less of everything: half a minute")
    parser.add_argument("--only", action="append", choices=NAMES, help="one benchmark; may be repeated")
    parser.add_argument("--durability", choices=("safe", "fast"), help="default: both")
    parser.add_argument("--rounds", type=int, default=0, help="of each figure; the median counts (default 3; quick: 1)")
    parser.add_argument(
        "--patience", type=float, default=0, help="seconds to spend, per durability, waiting for other load to go"
    )
    parser.add_argument("--json", type=Path, help="where the results go (default: benchmarks/results/<time>.json)")
    options = parser.parse_args()
    figures = uvloop.run(_interruptible(options))
    print(table(figures))
    path: Path = options.json or RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(as_json(figures, _about()), indent=1))
    missed = [f"{f.name} ({f.durability})" for f in figures if f.reached is False]
    print(f"\nAll rounds: {path}")
    print(f"Below the target: {', '.join(missed)}" if missed else "Every target is met.")
    return 0


async def _interruptible(options: argparse.Namespace) -> list[Figure]:
    """SIGTERM ends it as Ctrl-C does: with everything stopped."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    chosen: set[str] = set(options.only or NAMES)
    kinds: list[Durability] = [options.durability] if options.durability else ["safe", "fast"]
    found: list[Figure] = []
    with temporary_folder() as folder:
        store = None
        if "takeover" in chosen:
            _say("writing 500,000 messages of the past")
            store = await takeover.earlier_messages(folder)
        for durability in kinds:
            found += await _measure(durability, chosen, store, options)
    return found


async def _measure(durability: Durability, chosen: set[str], store: Path | None, options: Any) -> list[Figure]:
    quick: bool = options.quick
    rounds: int = options.rounds or (1 if quick else 3)
    patience = Patience(options.patience)
    async with running(durability, patience=patience) as stack:
        _say(f"{durability}: raw publishes")
        found, base = await raw.run(stack, rounds, quick)
        for name, benchmark in (("calls", work.calls), ("steps", work.steps), ("children", work.children)):
            if name in chosen:
                _say(f"{durability}: {name}")
                found += await benchmark(stack, rounds, quick)
        if "replay" in chosen:
            _say(f"{durability}: replay")
            found += await replay.run(stack, rounds, quick)
    if "memory" in chosen:
        _say(f"{durability}: memory")
        async with running(durability, patience=patience) as stack:
            found += await memory.run(stack, quick)
    if "machines" in chosen:
        # What machines of other backends cost beside the bare call depends little on how the server syncs.
        first = options.durability is not None or durability == "safe"
        backends = machines.BACKENDS if first else machines.BACKENDS[:1]
        async with running(durability, patience=patience) as stack:
            found += await machines.run(stack, rounds, quick, backends, lambda what: _say(f"{durability}: {what}"))
    if "agents" in chosen:
        _say(f"{durability}: agents")
        async with running(durability, patience=patience) as stack:
            found += await agents.run(stack, rounds, quick)
    if "scaling" in chosen:
        found += await scaling.run(durability, rounds, quick, patience, lambda what: _say(f"{durability}: {what}"))
    if "takeover" in chosen:
        ways = takeover.WAYS[:2] if quick else takeover.WAYS
        for place in (None, store):
            found += await takeover.run(durability, place, ways, patience, lambda what: _say(f"{durability}: {what}"))
    _finish(found, durability, base)
    return found


def _finish(figures: list[Figure], durability: Durability, base: Base) -> None:
    for figure in figures:
        figure.durability = durability
    relate(figures, base)


def _say(what: str) -> None:
    print(f"… {what}", file=sys.stderr, flush=True)


def _about() -> dict[str, Any]:
    """The machine and the versions."""
    server = subprocess.run([find_binary(), "--version"], capture_output=True, text=True, check=True)
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "python": platform.python_version(),
        "nats_server": server.stdout.strip(),
        "machine": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


if __name__ == "__main__":
    sys.exit(main())
