"""What answers admitted rows: the engine, or `@serve.batch` around each tail.

Not here: how rows are admitted (`deployments.replica.admission`).
"""
