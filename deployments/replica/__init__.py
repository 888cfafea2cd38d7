"""One replica of the Serve deployment: admission, decoding, the engines, answers, HTTP, metrics.

Not here: where replicas run (`deployments.placing`).
"""
