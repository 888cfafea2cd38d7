"""What runs a device's slices: the seam for runtimes, the head around their slices, onnxruntime.

Not here: torch (`actors.device`).
"""
