"""How a device on its own reaches a server: what it asks, and HTTP.

Not here: the Serve handle and emulated links (`actors.network`).
"""
