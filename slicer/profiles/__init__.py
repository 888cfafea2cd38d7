"""What a device is: its times, memory and energy per slice, measured or shipped.

Not here: cost tables of an accelerator (`deployments.costs.cost_model`).
"""
