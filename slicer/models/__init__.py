"""Which models there are, how they are built and filled with weights, and how images become their input.

Not here: anything about cuts.
"""
