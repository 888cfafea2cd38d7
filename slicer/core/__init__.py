"""What both ends of a split share, and all that a small device needs: messages, codecs, client, planner, the device.

It imports numpy, Pillow and aiohttp, never torch, pydantic or Ray, and imports itself by relative names only:
``clients/python`` ships this folder as it stands, under a name of its own.
"""
