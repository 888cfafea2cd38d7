"""Which cut and codec: the arithmetic of one plan, and the planner that runs, with its estimates.

Not here: tables of plans for people (`slicer.planning`).
"""
