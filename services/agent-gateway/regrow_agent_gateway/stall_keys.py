"""The key of a running agent that expires when nothing has been heard of it for too long."""

from __future__ import annotations


def stall_key(agent: str) -> str:
    """In the bucket of the agents."""
    return f"stall.{agent}"
