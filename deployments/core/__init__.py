"""What owns an accelerator: builds the models, loads them, warms up, runs the engine; in a process of its own or not.

Not here: HTTP, decoding and answers (`deployments.replica`).
"""
