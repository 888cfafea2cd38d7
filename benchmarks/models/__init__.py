"""Benchmarks and data of models: coverage of timm, codecs, the demo's weights.

Not here: serving.
"""
