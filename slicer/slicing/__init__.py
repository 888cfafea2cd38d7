"""A model in slices: its boundaries, where to cut, and the proof that the slices are the model.

Not here: slices as files (`slicer.shards`).
"""
