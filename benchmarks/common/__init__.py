"""What benchmarks share: command lines, results as files, journals, an engine without Ray.

Not here: a benchmark.
"""
