"""How many requests per second are answered on time, by strategy.

Not here: latency at a fixed rate (`benchmarks.paper.paper`).
"""
