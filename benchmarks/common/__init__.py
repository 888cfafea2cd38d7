"""What benchmarks share: results as files, journals, an engine without Ray.

Not here: a benchmark.
"""
