"""Which cut a device uses now: its estimates of compute, link and server, and when it tries another.

Not here: the arithmetic of one plan (`slicer.planning`).
"""
