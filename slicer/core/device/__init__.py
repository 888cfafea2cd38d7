"""One device without its runtime: a request on its way, what it does when the server is away, its records.

Not here: heads of torch and devices of a fleet (`actors.device`).
"""
