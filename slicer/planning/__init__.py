"""Which cut is best for a device and a link, from a profile; the table of `headtail slice --plan`.

Not here: planning while requests run (`slicer.core.planning`).
"""
