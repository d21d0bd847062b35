"""What is attached to an agent: registry, gateway and process together."""

from __future__ import annotations

from typing import Any

import pytest
from http_agent import Harness, Refused, command, gateway, harness
from regrow.testing import Runtime
from regrow_protocol import messages
from regrow_protocol.bus import Bus
from regrow_protocol.endpoints import Attach, Detach, registry_subject
from regrow_protocol.streams import EVENTS
from regrow_protocol.subjects import token
from shops import calls, eventually, kept, shop

__all__ = ["gateway", "harness"]


async def test_attached_endpoints_are_tools(rt: Runtime, bus: Bus, harness: Harness) -> None:
    """They come and go with the grant, as it limits them; wrong arguments are refused; each call is recorded."""
    process = await rt.start(shop)
    args = Attach(process.pid, harness.id, only=["sell", "burn"], prefix="shop_", rate=3)
    granted = messages.decode(await command(bus, rt.app, registry_subject(rt.app), "attach", args), str)

    async def tools() -> Any:
        found = {each["name"]: each for each in (await harness.ask("/tools"))["tools"]}
        return found if {"shop_sell", "shop_burn"} <= found.keys() else None

    found = await eventually(tools, "the tools")
    assert {name for name in found if name.startswith("shop_")} == {"shop_sell", "shop_burn"}
    assert await harness.ask("/tools/shop_sell", {"item": "a", "count": 2}) == 2
    with pytest.raises(Refused, match="argument 'item' must be a string, not 7"):
        await harness.ask("/tools/shop_sell", {"item": 7})
    with pytest.raises(Refused, match="nothing left"):
        await harness.ask("/tools/shop_burn", {})
    assert await harness.ask("/tools/shop_sell", {"item": "b"}) == 3
    with pytest.raises(Refused, match="a minute"):
        await harness.ask("/tools/shop_sell", {"item": "c"})
    await command(bus, rt.app, registry_subject(rt.app), "detach", Detach(granted))

    async def gone() -> bool:
        return not any(each["name"].startswith("shop_") for each in (await harness.ask("/tools"))["tools"])

    await eventually(gone, "their end")
    with pytest.raises(Refused):
        await harness.ask("/tools/shop_sell", {"item": "d"})

    async def recorded() -> Any:
        found = await calls(bus, process.pid)
        return found if {each.endpoint for each in found.values()} >= {"sell", "burn"} else None

    records = (await eventually(recorded, "the records")).values()
    assert {each.caller for each in records} == {harness.id}
    assert {each.endpoint for each in records} == {"sell", "burn"}


async def test_what_is_attached_stays_so_over_restarts(rt: Runtime, bus: Bus, harness: Harness) -> None:
    """The process comes back under its pid, and so do its tools."""
    process = await rt.start(kept)

    async def child() -> Any:
        return next((each.pid for each in await records(rt) if each.meta and each.meta.parent == process.pid), None)

    pid = await eventually(child, "the shop")
    args = Attach(pid, harness.id, only=["sell", "close"])
    await command(bus, rt.app, registry_subject(rt.app), "attach", args)

    async def insist(tool: str, args: Any) -> Any:
        """A call's answer, once the tool is there: after a restart they come back one by one."""

        async def ask() -> list[Any]:
            try:
                return [await harness.ask(f"/tools/{tool}", args)]
            except Refused as refused:
                if "tool-not-found" not in str(refused):
                    raise
                return []

        (answer,) = await eventually(ask, tool)
        return answer

    for run in range(3):

        async def opened(run: int = run) -> bool:
            types = [record.type for record in await records(rt) if record.pid == pid]
            return types.count("restarted") == run

        await eventually(opened, f"opening {run}")
        assert await insist("sell", {"item": "a"}) == 1
        await insist("close", {})


async def records(rt: Runtime) -> list[messages.EventRecord]:
    found = await rt.bus.history(EVENTS, f"regrow.event.{token(rt.app)}.>")
    return [messages.decode(received.data, messages.EventRecord) for received in found]
