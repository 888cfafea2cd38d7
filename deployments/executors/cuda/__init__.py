"""The executor for CUDA: graphs, streams, memory of activations.

Not here: anything that runs without a GPU.
"""
