"""On which node replicas and devices run, and where the application listens.

Not here: what runs in them.
"""
