"""Time that can be real or virtual.

Not here: anything that waits for a request.
"""
