"""A program for the tests of queries: tagged processes that wait for a signal."""

from __future__ import annotations

from regrow import agent_process, emit, fail, receive, set_tags


@agent_process(tags={"kind": "parcel"})
async def parcel(to: str, good: bool = True) -> str:
    """Waits until it is sent off."""
    set_tags(to=to)
    how = await receive("go")
    emit("sent", how)
    if not good:
        fail("lost on the way")
    return to


@agent_process(limits=["loading"])
async def loaded() -> None:
    """Occupies a dock until it is sent off."""
    emit("loading")
    await receive("go")
