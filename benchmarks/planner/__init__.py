"""How good the cuts are that devices choose.

Not here: the server's strategies.
"""
