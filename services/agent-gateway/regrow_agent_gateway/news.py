"""What a gateway tells the owner of an agent, each once: as calls of an endpoint that the owner has for it."""

from __future__ import annotations

from msgspec import Raw
from regrow_protocol import messages
from regrow_protocol.agents import AgentRecord, Entry, News, news_endpoint
from regrow_protocol.messages import Call

from .inboxes import Inboxes


async def tell(inboxes: Inboxes, agent: AgentRecord, entry: Entry) -> None:
    """Tell the owner of an entry of its agent's conversation: `registered`, `stalled` or `lost`.

    Raises:
        Unreachable: it may or may not be told; call again.
    """
    news = News(what=entry.type, session=entry.session, data=entry.data)  # type: ignore[arg-type]
    id_ = f"{agent.id}.{entry.type}.{entry.id}"
    call = Call(
        endpoint=news_endpoint(agent.id),
        args=Raw(messages.encode(news)),
        client=id_,
        k=1,
        wait=True,
    )
    await inboxes.put(agent.app, agent.owner.pid, call, id_)
