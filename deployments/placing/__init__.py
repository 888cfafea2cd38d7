"""On which node replicas run, and where the application listens.

Not here: where devices run (`actors.fleet.placement`).
"""
