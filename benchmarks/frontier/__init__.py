"""The frontier of bytes and fidelity: `frontier.py`, the ways to send an image, and what an answer is worth.

Not here: what a codec costs in microseconds (`benchmarks.models.codec_cost`).
"""
