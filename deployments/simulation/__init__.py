"""A scheduler in virtual time, with costs from a table.

Not here: real or emulated execution.
"""
