"""Slices as files: export, manifest, loading a span, the cache of a device.

Not here: how a model is cut (`slicer.slicing`).
"""
