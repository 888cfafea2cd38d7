"""The loop of one model: rows come in, steps are chosen and run, outcomes go out.

Not here: requests and answers (`deployments.replica.identity`).
"""
