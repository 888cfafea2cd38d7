"""The loop of one accelerator: rows come in, steps are chosen and run, outcomes go out.

Not here: requests and answers (`deployments.replica.replies`).
"""
