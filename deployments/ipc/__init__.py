"""What passes between front processes and the core that owns an accelerator: rows in shared memory, messages by socket.

Not here: what a front does with a request (`deployments.replica`), what a core does with a row (`deployments.core`).
"""
