"""The Ray Serve application that batches the tails of all devices."""

from slicer.common.old_names import install

install()
