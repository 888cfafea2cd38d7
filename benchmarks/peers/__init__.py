"""HeadTail beside what one would use instead, on one emulated accelerator: `peers.py`, its load generator, its servers.

`servers` holds what runs in a peer's own process; nothing there imports more of ours than `accelerator.py`, which
needs the standard library only.
"""
