"""A module's forward as a graph of units, and what it reads of its input.

Not here: where the graph may be cut (`slicer.slicing`).
"""
