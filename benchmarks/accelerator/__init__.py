"""Benchmarks of one engine on a GPU, and of the simulator against it.

Not here: anything with Ray.
"""
