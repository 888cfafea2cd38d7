"""What a device knows of its server, and how it finds out that the server is back.

Not here: finishing without the server (`device.fallback`).
"""
