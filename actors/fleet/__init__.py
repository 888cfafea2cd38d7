"""Many devices: the fleet file, where they are placed, the Ray actors that hold them.

Not here: when requests arrive (`actors.load.job`).
"""
