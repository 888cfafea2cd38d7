"""The parts put together for a person: the demo, and the command that starts everything.

Above `slicer`, `actors` and `deployments`, which never import it.
"""
