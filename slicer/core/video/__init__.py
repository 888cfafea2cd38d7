"""Frames of video files, by their timestamps.

Not here: when a camera asks which frame (`actors.load.video`).
"""
