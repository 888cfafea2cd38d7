"""Benchmarks of the way through Serve, and of fleets.

Not here: strategies (`benchmarks.goodput.goodput`).
"""
