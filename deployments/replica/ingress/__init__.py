"""What clients reach: HTTP, gRPC, and the Open Inference Protocol that both of them carry.

Not here: what runs requests (`deployments.replica.request_server`).
"""
