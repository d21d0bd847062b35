"""An agent's conversation as it stands in its stream, for people."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
from msgspec.structs import replace
from regrow_protocol import agents, streams
from regrow_protocol import messages as m
from regrow_protocol.bus import Bus

from .listing import clock, short

CATCH_UP = 2.0
"""Seconds after which the stream is looked at again, whatever the subscription says."""
WIDTH = 2000


async def entries(bus: Bus, record: agents.AgentRecord, *, follow: bool) -> AsyncIterator[agents.Entry]:
    """The entries of a conversation in their order, each once; with `follow` until the agent has ended."""
    filter_ = agents.conversation(record.app, record.id)
    news = asyncio.Event()
    sid = bus.nc.raw_subscribe(filter_, lambda *_: news.set()) if follow else None
    seen, known = 0, set[str]()
    try:
        while True:
            news.clear()
            for received in await bus.history(streams.AGENTS, filter_, seen + 1):
                seen = received.seq
                try:
                    entry = m.decode(received.data, agents.Entry)
                except msgspec.MsgspecError:  # of another version
                    continue
                if entry.id in known:
                    continue
                known.add(entry.id)
                yield replace(entry, seq=received.seq)
                if entry.type == "ended":
                    return
            if not follow:
                return
            try:
                async with asyncio.timeout(CATCH_UP):
                    await news.wait()
            except TimeoutError:
                continue
    finally:
        if sid is not None:
            bus.nc.raw_unsubscribe(sid)


def line(entry: agents.Entry) -> str:
    """An entry as one line or more."""
    data = msgspec.json.decode(entry.data)
    if not isinstance(data, dict):
        data = {}
    match entry.type:
        case "message":
            text = f"{data.get('sender') or 'owner'} → {data.get('text', '')}"
        case "text":
            text = str(data.get("text", ""))
        case "call":
            text = f"{data.get('tool')}({short(msgspec.json.encode(data.get('args')), WIDTH)})"
        case "result" if data.get("error"):
            text = f"error: {data['error'].get('message')}"
        case "result":
            text = short(msgspec.json.encode(data.get("value")), WIDTH)
        case _:
            text = " ".join(f"{name}={value}" for name, value in data.items() if value not in ("", 0, 0.0, None))
    return f"{clock(entry.time)}  {entry.type:<10}  {text}".rstrip()
