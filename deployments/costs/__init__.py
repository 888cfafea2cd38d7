"""What a step costs: cost tables by accelerator, model, slice and batch size.

Not here: what a device costs (`slicer.profiles.device_profile`).
"""
