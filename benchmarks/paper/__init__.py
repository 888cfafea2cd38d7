"""The figures of the paper, measured with this project.

Not here: figures that the paper does not have.
"""
