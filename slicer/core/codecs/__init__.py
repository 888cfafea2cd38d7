"""How an activation or an image becomes bytes, and back.

Not here: how the bytes travel (`protocol`).
"""
