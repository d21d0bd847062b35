"""What is attached to an agent: registry, gateway and process together."""

from __future__ import annotations

from typing import Any

import pytest
from http_agent import Harness, Refused, command, gateway, harness
from regrow.testing import Runtime
from regrow_protocol import messages
from regrow_protocol.bus import Bus
from regrow_protocol.endpoints import Attach, Detach, registry_subject
from shops import calls, eventually, shop

__all__ = ["gateway", "harness"]


async def test_attached_endpoints_are_tools(rt: Runtime, bus: Bus, harness: Harness) -> None:
    """They come and go with the grant, as it limits them; wrong arguments are refused; each call is recorded."""
    process = await rt.start(shop)
    args = Attach(process.pid, harness.id, only=["sell", "burn"], prefix="shop_", rate=3)
    granted = messages.decode(await command(bus, rt.app, registry_subject(rt.app), "attach", args), str)

    async def tools() -> Any:
        found = {each["name"]: each for each in (await harness.ask("/tools"))["tools"]}
        return found if "shop_sell" in found else None

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
        return await tools() is None

    await eventually(gone, "their end")
    with pytest.raises(Refused):
        await harness.ask("/tools/shop_sell", {"item": "d"})
    recorded = await calls(bus, process.pid)
    assert {each.caller for each in recorded.values()} == {harness.id}
    assert {each.endpoint for each in recorded.values()} == {"sell", "burn"}
