"""What is kept of each request: where its time went.

Not here: figures over many (`actors.report.result`).
"""
