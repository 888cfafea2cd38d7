"""What a device is to do, and what is kept of each request.

Not here: figures over many (`actors.report.statistics`).
"""
