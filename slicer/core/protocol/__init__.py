"""What device and server say to each other.

Not here: connections (`client`, `network`, `deployments.replica.ingress.http_ingress`).
"""
