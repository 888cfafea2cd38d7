"""The executor for CUDA: graphs, streams, memory of activations.

Not here: executors for other hardware (`deployments.executors`).
"""
