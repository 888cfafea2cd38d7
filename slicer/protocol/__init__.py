"""What device and server say to each other.

Not here: connections (`actors.network`, `deployments.replica.http_ingress`).
"""
