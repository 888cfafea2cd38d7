"""What stands above devices and server: the command line and the demo; later a client for applications.

``import headtail`` imports neither torch nor Ray. Nothing of ours imports this package.
"""
