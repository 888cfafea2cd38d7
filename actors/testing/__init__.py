"""A server without Ray, for tests of devices.

Not here: anything that a real run uses.
"""
