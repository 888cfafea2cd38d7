"""What the whole project shares: plugins, YAML reading, validation, addresses, Ray's settings, statistics.

Not here: anything that knows a model or a request.
"""
