"""How a device reaches the server: transports, links, emulated links, parcels.

Not here: what is sent (`slicer.protocol`).
"""
