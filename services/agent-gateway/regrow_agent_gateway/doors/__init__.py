"""What agents knock at: HTTP, server-sent events, WebSocket."""
