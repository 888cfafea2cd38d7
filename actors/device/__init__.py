"""A client device: its head, a request on its way, what it does when the server is away.

Not here: many devices (`actors.fleet.fleet`).
"""
