"""What an export is: its manifest, its files' digests, a bounded cache of them.

Not here: tensors in files (`slicer.shards` beside the core).
"""
