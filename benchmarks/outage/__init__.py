"""What devices do while the server is away, and when it returns.

Not here: load without faults.
"""
