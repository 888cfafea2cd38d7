"""Ray actors that are client devices, fleets of them, and the load job that drives them."""

from slicer.common.old_names import install

install()
