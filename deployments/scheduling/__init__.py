"""Which rows the accelerator runs next: strategies, and the queues that they share.

Not here: running them (`deployments.engine.engine`).
"""
