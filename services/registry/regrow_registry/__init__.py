"""The registry: exposed endpoints, grants to agents, and calls from outside."""
