"""Adapters of the Link port: WebSocket, HTTP long-poll, and the baton between them."""
