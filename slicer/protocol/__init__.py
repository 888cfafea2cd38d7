"""What device and server say to each other.

Not here: connections (`actors.network`, `deployments.replica.ingress.http_ingress`).
"""
