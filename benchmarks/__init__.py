"""Every figure that the project publishes, and the scripts that measure it. docs/benchmarks.md says which."""
