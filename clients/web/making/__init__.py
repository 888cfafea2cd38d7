"""The conformance vectors' makers, one file each; `clients.web.make_vectors` writes what they give."""
