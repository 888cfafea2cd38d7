"""An executor and rows that tests of schedulers use.

Not here: anything that a real run uses.
"""
