"""From requests to rows: gathering, decoding, waiting images, and what becomes of each row of a call.

Not here: what runs the rows (`deployments.replica.backends`).
"""
