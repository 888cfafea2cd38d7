"""Small things that every room of the core shares: addresses, texts of errors, time.

Not here: what needs pydantic, YAML or Ray (`slicer.common` beside the core).
"""
